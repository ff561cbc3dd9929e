"""Old path of `protoseg.config.fields`, kept for one release."""

from protoseg.config.fields import *  # noqa: F403
from protoseg.config.fields import to_plain as plain  # noqa: F401
from protoseg.deprecation import warn_moved

warn_moved(__name__, "protoseg.config.fields")
