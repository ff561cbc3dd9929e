"""Old path of `protoseg.models.layers`, kept for one release."""

from protoseg.deprecation import warn_moved
from protoseg.models.layers import build_projection as project
from protoseg.models.layers import rows_to_map

__all__ = ["project", "rows_to_map"]

warn_moved(__name__, "protoseg.models.layers")
