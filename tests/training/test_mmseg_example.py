"""docs/examples: the head in an mmseg config, trained with mmengine's Runner."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import start_forked
from waiting import DEADLINE, finish

from training.small import REPOSITORY

EXAMPLE = REPOSITORY / "docs" / "examples" / "prototype_segformer.py"
PAGE = REPOSITORY / "docs" / "mmseg.md"

PROGRAM = """
import json, sys
from mmengine.config import Config
from mmengine.runner import Runner

config = Config.fromfile(sys.argv[1])
config.merge_from_dict(json.loads(sys.argv[2]))
assert not [name for name in sys.modules if name.startswith("protoseg.training")]
runner = Runner.from_cfg(config)
runner.train()
first = runner.model.state_dict()
config.load_from = config.work_dir + "/iter_4.pth"
config.experiment_name = "restored"
restored = Runner.from_cfg(config)
metrics = restored.test()
second = restored.model.state_dict()
name = "decode_head.bank.prototypes"
print(json.dumps({
    "modules": sorted(name for name in sys.modules if name.startswith("protoseg.")),
    "same": bool((first[name] == second[name]).all()),
    "metrics": {name: float(value) for name, value in metrics.items()},
}))
"""


def make_options(root: Path, work: Path) -> dict[str, Any]:
    """Config values for the built-in data instead of ADE20K: folders, classes, sizes, schedule."""

    def loader(split: str, pipeline: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "batch_size": 2,
            "num_workers": 0,
            "persistent_workers": False,
            "sampler": {"type": "InfiniteSampler" if split == "train" else "DefaultSampler"},
            "dataset": {
                "type": "BaseSegDataset",
                "data_root": str(root),
                "data_prefix": {
                    "img_path": f"images/{split}",
                    "seg_map_path": f"annotations/{split}",
                },
                "img_suffix": ".png",
                "metainfo": {"classes": ["ground", "disk", "box", "triangle", "ring", "bar"]},
                "reduce_zero_label": False,
                "pipeline": pipeline,
            },
        }

    load = [{"type": "LoadImageFromFile"}]
    labels = [{"type": "LoadAnnotations"}, {"type": "PackSegInputs"}]
    val = {**loader("val", load + labels), "batch_size": 1}
    return {
        "work_dir": str(work),
        "train_dataloader": loader("train", load + labels),
        "val_dataloader": val,
        "test_dataloader": val,
        "model.data_preprocessor.size": [48, 48],
        "model.backbone.init_cfg": None,
        "model.decode_head.decode_head.num_classes": 6,
        "model.decode_head.decode_head.channels": 32,
        "train_cfg.max_iters": 4,
        "train_cfg.val_interval": 4,
        "default_hooks.checkpoint.interval": 4,
        "randomness": {"seed": 0},
        "log_level": "ERROR",
    }


@pytest.mark.slow
def test_mmengines_runner_trains_evaluates_and_restores_the_prototypes(
    shapes_root: Path, tmp_path: Path
) -> None:
    overrides = json.dumps(make_options(shapes_root, tmp_path / "work"))
    # A new process, because protoseg.training must not be imported.
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(EXAMPLE), overrides],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr[-4000:]
    printed = json.loads(finished.stdout.splitlines()[-1])
    assert printed["same"], "mmengine's checkpoint restores the prototypes"
    assert {"mIoU", "mAcc", "aAcc"} <= printed["metrics"].keys()
    assert 0 <= printed["metrics"]["mIoU"] <= 100
    assert {name.split(".")[1] for name in printed["modules"]} <= {"models", "core"}
    state = torch.load(tmp_path / "work" / "iter_4.pth", weights_only=False)["state_dict"]
    prototypes = state["decode_head.bank.prototypes"]
    assert prototypes.shape == (6, 10, 32)
    torch.testing.assert_close(prototypes.norm(dim=-1).cpu(), torch.ones(6, 10))
    assert state["decode_head.bank.updates"].max() == 4
    assert "decode_head.head.conv_seg.weight" not in state


def test_the_page_shows_the_complete_example() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert EXAMPLE.read_text() in blocks


def test_the_pages_short_config_builds(tmp_path: Path) -> None:
    """The page shows the parametric variant as a change of the example."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (parametric,) = [block for block in blocks if "ParametricHead" in block]
    path = tmp_path / "parametric.py"
    path.write_text(parametric)
    (tmp_path / "prototype_segformer.py").write_text(EXAMPLE.read_text())
    program = (
        "import sys; from mmengine.config import Config; from mmseg.registry import MODELS;"
        "from mmengine.registry import init_default_scope; init_default_scope('mmseg');"
        "c = Config.fromfile(sys.argv[1]);"
        "h = MODELS.build(c.model.decode_head); print(type(h).__name__, h.num_prototypes)"
    )
    process = start_forked(program, [str(path)], modules=["mmseg.models"])
    printed, _ = finish(process)
    assert process.returncode == 0, printed
    assert printed.split()[-2:] == ["ParametricHead", "10"]


@pytest.mark.parametrize("path", re.findall(r"`(docs/[\w/.]+)`", PAGE.read_text()))
def test_files_that_the_page_names_exist(path: str) -> None:
    assert (REPOSITORY / path).exists()
