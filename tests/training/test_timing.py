"""Timing of iterations with real models and synthetic crops, and the limit on memory."""

from __future__ import annotations

import errno
import math
import mmap
import os
from pathlib import Path

import pytest
import torch

from protoseg import files
from protoseg.config.fields import to_plain
from protoseg.errors import UsageError
from protoseg.training import timing
from protoseg.training.builders.components import build_components
from protoseg.training.builders.config import build_config
from training.small import small_spec

WEAK = (
    *("method=weak_contrast", "decoder=cam", "decoder.in_index=[2]", "decoder.channels=64"),
    "augmentation.cat_max_ratio=1",
)
WITHOUT_K = ("~method.num_prototypes", "~method.momentum")


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("contrast=pixel_small", "contrast.anchors=16"),
        ("method=parametric", "~method.momentum", "precision=bf16"),
        ("backbone=mit_b0", "schedule.batch_size=2"),  # its weights file is not available here
        (*WEAK, *WITHOUT_K),
    ],
    ids=["prototypes", "contrast", "bf16", "mit_b0", "weak"],
)
def test_an_iteration_of_every_method_is_timed(
    overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "SECONDS", math.inf)
    progress: list[int] = []
    times = timing.time_iterations(small_spec(*overrides), 3, progress.append)
    assert 0 < times["fastest"] <= times["seconds"] <= times["slowest"]
    assert times["iterations"] == 3
    assert progress == [1, 2, 3]
    assert times["memory_mib"] > 0


def test_at_least_one_iteration_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "SECONDS", 0.0)
    assert timing.time_iterations(small_spec(), 1000)["iterations"] == 1


def test_a_synthetic_batch_has_the_form_of_a_loaded_one(shapes_root: Path) -> None:
    spec = small_spec()
    synthetic = timing.make_batch(spec)
    loaded = next(
        iter(build_components(build_config(spec, data_root=shapes_root), None).train_loader)
    )
    assert synthetic.keys() == loaded.keys()
    assert len(synthetic["inputs"]) == len(synthetic["data_samples"]) == len(loaded["inputs"]) == 4
    for image, real in zip(synthetic["inputs"], loaded["inputs"], strict=True):
        assert (image.shape, image.dtype) == (real.shape, real.dtype)
    for sample, real in zip(synthetic["data_samples"], loaded["data_samples"], strict=True):
        labels, truth = sample.gt_sem_seg.data, real.gt_sem_seg.data
        assert (labels.shape, labels.dtype) == (truth.shape, truth.dtype)
        assert set(labels.unique().tolist()) <= {*range(len(spec.dataset.classes)), 255}


def test_a_timing_trains_the_model() -> None:
    spec = small_spec()
    model, optimizer = timing.build_network(spec)
    before = {name: value.clone() for name, value in model.named_parameters()}
    model.train_step(timing.make_batch(spec), optim_wrapper=optimizer)
    assert any(not value.equal(before[name]) for name, value in model.named_parameters())


def test_a_model_that_does_not_fit_is_reported_as_out_of_memory(tmp_path: Path) -> None:
    spec = small_spec("schedule.batch_size=1000000", "augmentation.crop_size=[100000,100000]")
    request, answer = tmp_path / "request.json", tmp_path / "answer.json"
    files.write_json(request, {"spec": to_plain(spec), "iterations": 1, "threads": 1})
    pid = os.fork()  # the limit on memory cannot be raised again
    if not pid:
        os._exit(timing.main([str(request), str(answer)]))
    assert os.waitpid(pid, 0)[1] == 0
    assert files.read_json(answer)["reason"] == "out_of_memory"


@pytest.mark.parametrize(("mib", "fits"), [(100, True), (500, False)])
def test_memory_is_limited_to_the_free_memory(
    monkeypatch: pytest.MonkeyPatch, mib: int, fits: bool
) -> None:
    monkeypatch.setattr(timing, "read_free_bytes", lambda proc, group: 300 * 2**20)
    pid = os.fork()
    if not pid:
        status = 3
        try:
            timing.limit_memory()
            # New pages, because a tensor might fit into memory that the process has kept.
            mmap.mmap(-1, mib * 2**20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            status = 0
        except OSError as error:
            status = 1 if error.errno == errno.ENOMEM else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == (0 if fits else 1)


def test_free_memory_is_the_smaller_of_machine_and_container(tmp_path: Path) -> None:
    assert timing.read_free_bytes(tmp_path, tmp_path) is None
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable:    500 kB\n")
    assert timing.read_free_bytes(tmp_path, tmp_path) == 500 * 1024
    (tmp_path / "memory.current").write_text("300000\n")
    (tmp_path / "memory.stat").write_text("anon 200000\ninactive_file 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert timing.read_free_bytes(tmp_path, tmp_path) == 500 * 1024
    (tmp_path / "memory.max").write_text("400000\n")
    assert timing.read_free_bytes(tmp_path, tmp_path) == 200000


def test_fp16_needs_a_gpu_as_in_training() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        timing.time_iterations(small_spec("precision=fp16"), 1)
