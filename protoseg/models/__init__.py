"""Heads and backbones for mmseg. Importing this package registers them (``custom_imports``)."""

import sys
import warnings

with warnings.catch_warnings():
    # mmcv warns if it is imported without its compiled ops. Nothing here uses them, and the warning
    # would be printed before every table.
    warnings.filterwarnings("ignore", "Fail to import ``MultiScaleDeformableAttention``")
    # mmseg imports timm if it is installed, which takes seconds. `import_timm` does it if needed.
    without_timm = "timm" not in sys.modules
    if without_timm:
        sys.modules["timm"] = None  # type: ignore[assignment]
    try:
        import mmseg.models  # noqa: F401
    finally:
        if without_timm:
            del sys.modules["timm"]

from protoseg.models.cam_head import CamHead
from protoseg.models.cam_network import CamNetwork
from protoseg.models.hierarchical_head import HierarchicalHead
from protoseg.models.parametric_head import ParametricHead
from protoseg.models.pixel_query_head import PixelQueryHead
from protoseg.models.prototype_head import PrototypeHead
from protoseg.models.prototype_hierarchical_head import PrototypeHierarchicalHead
from protoseg.models.query_decoder_head import QueryDecoderHead
from protoseg.models.timm_backbone import TimmBackbone
from protoseg.models.tiny_backbone import TinyNet

__all__ = [
    "CamHead",
    "CamNetwork",
    "HierarchicalHead",
    "ParametricHead",
    "PixelQueryHead",
    "PrototypeHead",
    "PrototypeHierarchicalHead",
    "QueryDecoderHead",
    "TimmBackbone",
    "TinyNet",
]
