"""Import paths that documents, batch scripts and plugins of users name: each still works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import DEADLINE

ROOT = Path(__file__).resolve().parents[2]
SILENT = {"protoseg.dispatch.task"}
"""Old paths without a warning: only batch scripts use them."""

OLD_NAMES = {
    "protoseg.spec.fields": (
        *("number", "added", "field_types", "items", "size", "build", "NO_BOUNDS", "convert"),
        "plain",
    ),
    "protoseg.spec.methods": (
        *("MethodSpec", "ParametricMethod", "PixelQueryMethod", "QueryDecoderMethod"),
        *("PrototypeMethod", "ContrastSpec"),
    ),
    "protoseg.spec.schema": (
        *("METHOD_VERSION", "HIGHEST_LABEL", "BackboneSpec", "DecoderSpec", "DatasetSpec"),
        *("AugmentationSpec", "ScheduleSpec", "EvaluationSpec", "RunSpec"),
    ),
    "protoseg.spec.compose": (
        *("Setting", "parse_overrides", "parse_sweep", "Composer", "compose_file", "REFERENCE"),
    ),
    "protoseg.datasets.stream": (
        *("CHECK", "Draw", "SegmentationFolder", "LoadLabels", "LoadImageLabels", "permutation"),
        "StatelessSampler",
    ),
    "protoseg.models.maps": ("project", "rows_to_map"),
    "protoseg.report.latex": ("SPECIALS", "SPANNING", "SMALLER", "escape", "to_latex"),
    "protoseg.dispatch.task": ("main",),
}
"""Module that has moved -> the public names that its old path must keep for one release."""
KEPT_NAMES = {
    "protoseg.cli": ("main",),
    "protoseg.core.collective": ("all_sum", "rank", "world_size"),
    "protoseg.models": (
        *("CamHead", "CamNetwork", "ParametricHead", "PixelQueryHead", "PrototypeHead"),
        *("QueryDecoderHead", "TinyNet"),
    ),
    "protoseg.models.wrapped_head": ("WrappedHead",),
    "protoseg.training.worker": ("main",),
}
"""Module that keeps its path -> names that others use."""
SLOW = ("protoseg.datasets", "protoseg.models", "protoseg.core")
"""Packages whose import takes seconds, because of torch and mmseg."""
PROGRAM = """
import importlib, json, sys, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    module = importlib.import_module(sys.argv[1])
own = [str(w.message) for w in caught if "protoseg" in str(w.message)]
print(json.dumps([[name for name in sys.argv[2:] if not hasattr(module, name)], own]))
"""


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a new Python process with the package of the checkout."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )


def list_modules(names: dict[str, tuple[str, ...]]) -> list[object]:
    """The modules as parameters; those that import torch belong to the second tier."""
    return [
        pytest.param(module, marks=[pytest.mark.slow] if module.startswith(SLOW) else [])
        for module in names
    ]


@pytest.mark.parametrize("module", list_modules(OLD_NAMES | KEPT_NAMES))
def test_a_module_has_its_names_in_a_new_process(module: str) -> None:
    names = (OLD_NAMES | KEPT_NAMES)[module]
    done = run_python("-c", PROGRAM, module, *names)
    assert done.returncode == 0, done.stderr
    missing, warnings = json.loads(done.stdout)
    assert missing == []
    assert bool(warnings) == (module in OLD_NAMES and module not in SILENT)


@pytest.mark.parametrize(
    "module",
    [
        "protoseg.dispatch.task",
        "protoseg.training.worker",
        "protoseg.cli",
    ],
)
def test_a_module_that_is_run_by_name_prints_its_usage(module: str) -> None:
    done = run_python("-m", module)
    assert done.returncode == 2
    assert "usage" in done.stderr.lower()
