"""What an iteration takes, of real models on made-up crops; and what does not fit into memory."""

from __future__ import annotations

import errno
import math
import mmap
import os
from pathlib import Path

import pytest
import torch

from protoseg import files
from protoseg.config.fields import plain
from protoseg.errors import UsageError
from protoseg.training import timing
from protoseg.training.build.components import build_components
from protoseg.training.build.config import build_config
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
        ("backbone=mit_b0", "schedule.batch_size=2"),  # whose weights are not here
        (*WEAK, *WITHOUT_K),
    ],
    ids=["prototypes", "contrast", "bf16", "mit_b0", "weak"],
)
def test_an_iteration_of_every_method_is_timed(
    overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "SECONDS", math.inf)
    told: list[int] = []
    found = timing.measure(small_spec(*overrides), 3, told.append)
    assert 0 < found["fastest"] <= found["seconds"] <= found["slowest"]
    assert found["iterations"] == 3
    assert told == [1, 2, 3]
    assert found["memory_mib"] > 0


def test_a_slow_one_is_timed_less_often_but_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "SECONDS", 0.0)
    assert timing.measure(small_spec(), 1000)["iterations"] == 1


def test_a_batch_is_what_a_loader_hands_over(shapes_root: Path) -> None:
    spec = small_spec()
    made = timing.batch_of(spec)
    loaded = next(
        iter(build_components(build_config(spec, data_root=shapes_root), None).train_loader)
    )
    assert made.keys() == loaded.keys()
    assert len(made["inputs"]) == len(made["data_samples"]) == len(loaded["inputs"]) == 4
    for ours, real in zip(made["inputs"], loaded["inputs"], strict=True):
        assert (ours.shape, ours.dtype) == (real.shape, real.dtype)
    for sample, real in zip(made["data_samples"], loaded["data_samples"], strict=True):
        ours, truth = sample.gt_sem_seg.data, real.gt_sem_seg.data
        assert (ours.shape, ours.dtype) == (truth.shape, truth.dtype)
        assert set(ours.unique().tolist()) <= {*range(len(spec.dataset.classes)), 255}


def test_a_timing_trains_the_model() -> None:
    spec = small_spec()
    model, optimizer = timing.network(spec)
    before = {name: value.clone() for name, value in model.named_parameters()}
    model.train_step(timing.batch_of(spec), optim_wrapper=optimizer)
    assert any(not value.equal(before[name]) for name, value in model.named_parameters())


def test_what_does_not_fit_is_an_answer_and_no_end(tmp_path: Path) -> None:
    spec = small_spec("schedule.batch_size=1000000", "augmentation.crop_size=[100000,100000]")
    request, answer = tmp_path / "request.json", tmp_path / "answer.json"
    files.write_json(request, {"spec": plain(spec), "iterations": 1, "threads": 1})
    pid = os.fork()  # it limits its own memory for good
    if not pid:
        os._exit(timing.main([str(request), str(answer)]))
    assert os.waitpid(pid, 0)[1] == 0
    assert files.read_json(answer)["reason"] == "out_of_memory"


@pytest.mark.parametrize(("mib", "fits"), [(100, True), (500, False)])
def test_no_more_is_taken_than_is_free(
    monkeypatch: pytest.MonkeyPatch, mib: int, fits: bool
) -> None:
    monkeypatch.setattr(timing, "free_bytes", lambda proc, group: 300 * 2**20)
    pid = os.fork()
    if not pid:
        status = 3
        try:
            timing.stay_within_memory()
            # New pages: a tensor might fit into memory that the process has freed and kept.
            mmap.mmap(-1, mib * 2**20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            status = 0
        except OSError as error:
            status = 1 if error.errno == errno.ENOMEM else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == (0 if fits else 1)


def test_free_memory_is_that_of_the_machine_or_of_the_container(tmp_path: Path) -> None:
    assert timing.free_bytes(tmp_path, tmp_path) is None
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable:    500 kB\n")
    assert timing.free_bytes(tmp_path, tmp_path) == 500 * 1024
    (tmp_path / "memory.current").write_text("300000\n")
    (tmp_path / "memory.stat").write_text("anon 200000\ninactive_file 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert timing.free_bytes(tmp_path, tmp_path) == 500 * 1024
    (tmp_path / "memory.max").write_text("400000\n")
    assert timing.free_bytes(tmp_path, tmp_path) == 200000


def test_half_precision_wants_a_gpu_as_in_training() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        timing.measure(small_spec("precision=fp16"), 1)
