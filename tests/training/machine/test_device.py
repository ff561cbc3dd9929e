"""The device: driver version, name and peak memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from protoseg.training.machine.device import (
    get_device_name,
    get_peak_memory_mib,
    get_torch_libraries,
    read_driver_version,
)

pytestmark = pytest.mark.install


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5\n", "550.54.15"),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.10  Release Build\n",
            "570.86.10",
        ),
        ("something else", None),
    ],
)
def test_the_driver_version_is_read_from_the_kernel_modules_file(
    tmp_path: Path, text: str, version: str | None
) -> None:
    (tmp_path / "version").write_text(text)
    assert read_driver_version(tmp_path / "version") == version
    assert read_driver_version(tmp_path / "nowhere") is None


def test_the_device_has_a_name_and_a_peak_memory() -> None:
    assert get_device_name().startswith("CPU ") != torch.cuda.is_available()
    before = get_peak_memory_mib()
    tensor = torch.ones(2**24, device="cuda" if torch.cuda.is_available() else "cpu")
    assert get_peak_memory_mib() >= max(before, tensor.nbytes / 2**20)


def test_the_libraries_of_the_torch_build_have_versions() -> None:
    libraries = get_torch_libraries()
    build = torch.__version__.partition("+")[2]
    assert (libraries["cuda"] is not None) == build.startswith("cu"), (build, libraries)
    if torch.backends.mkldnn.is_available():
        assert libraries["onednn"] in torch.__config__.show().replace("(", " ").split("v", 1)[1]
        assert str(libraries["onednn"]).count(".") >= 1
