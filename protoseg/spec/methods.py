"""Old path of `protoseg.config.methods`, kept for one release."""

from protoseg.config.methods import *  # noqa: F403
from protoseg.deprecation import warn_moved

warn_moved(__name__, "protoseg.config.methods")
