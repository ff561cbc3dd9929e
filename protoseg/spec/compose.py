"""Old path of `protoseg.config.compose` and `protoseg.config.overrides`, kept for one release."""

from protoseg.config.compose import *  # noqa: F403
from protoseg.config.hydra.interpolations import *  # noqa: F403
from protoseg.config.overrides import *  # noqa: F403
from protoseg.deprecation import warn_moved

warn_moved(__name__, "protoseg.config.compose")
