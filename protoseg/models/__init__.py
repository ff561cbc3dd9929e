"""Heads and backbones for mmseg; importing this package registers them (``custom_imports``)."""

from protoseg.models.parametric_head import ParametricHead
from protoseg.models.prototype_head import PrototypeHead
from protoseg.models.tiny import TinyNet

__all__ = ["ParametricHead", "PrototypeHead", "TinyNet"]
