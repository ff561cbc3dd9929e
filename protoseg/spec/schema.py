"""Old path of `protoseg.config.schema`, kept for one release."""

from protoseg.config.schema import *  # noqa: F403
from protoseg.deprecation import warn_moved

warn_moved(__name__, "protoseg.config.schema")
