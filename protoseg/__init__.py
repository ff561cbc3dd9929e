"""protoseg: a benchmark and ablation harness for prototype-based semantic segmentation."""

__version__ = "0.1.0"
