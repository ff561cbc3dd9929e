"""The device that trains: name, driver and peak memory of the GPU, or of the CPU and process."""

from __future__ import annotations

import functools
import platform
import re
import resource
from pathlib import Path
from typing import Any

import torch

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


@functools.cache
def get_device_name() -> str:
    """The name of the GPU, or "CPU " and the name of the processor."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return "CPU " + line.partition(":")[2].strip()
    except OSError:
        pass
    return "CPU " + (platform.processor() or platform.machine())


def describe_accelerator() -> dict[str, Any] | None:
    """torch's CUDA and cuDNN versions, compute capability and driver version; None on a CPU."""
    if not torch.cuda.is_available():
        return None
    cudnn = torch.backends.cudnn
    return {
        "cuda": torch.version.cuda,
        "cudnn": cudnn.version() if cudnn.is_available() else None,
        "capability": ".".join(map(str, torch.cuda.get_device_capability())),
        "driver": read_driver_version(NVIDIA_DRIVER),
    }


@functools.cache
def get_torch_libraries() -> dict[str, str | None]:
    """The versions of the CUDA, cuDNN and oneDNN libraries that torch was built with.

    None for a library that this build does not have. The CUDA build of torch reports them also on
    a machine without a GPU.
    """
    cudnn = torch.backends.cudnn.version()
    onednn = re.search(r"(?:MKL-DNN|oneDNN) v(\S+)", torch.__config__.show())
    return {
        "cuda": torch.version.cuda,
        "cudnn": None if cudnn is None else str(cudnn),
        "onednn": onednn[1] if onednn else None,
    }


def read_driver_version(file: Path) -> str | None:
    """The driver version in the version file of NVIDIA's kernel module; None if not found."""
    try:
        match = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", file.read_text())
    except OSError:
        return None
    return match[1] if match else None


def get_peak_memory_mib() -> float:
    """Peak memory in MiB: allocated on the GPU, or resident of this process on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
