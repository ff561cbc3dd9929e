"""Deprecated: this module is now `protoseg.models.layers`."""

import warnings

from protoseg.models.layers import build_projection as project
from protoseg.models.layers import rows_to_map

__all__ = ["project", "rows_to_map"]

warnings.warn(
    "protoseg.models.maps is deprecated; use protoseg.models.layers",
    DeprecationWarning,
    stacklevel=2,
)
