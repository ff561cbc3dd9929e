"""The levels of determinism: part of the spec, set up as they say, and with the same bits here."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from protoseg.config.fields import plain
from protoseg.config.identity import run_id, spec_from_dict
from protoseg.config.load_matrix import load_matrix
from protoseg.errors import UsageError
from protoseg.models.tiny_backbone import TinyNet
from protoseg.runs.folder import RunFolder
from protoseg.runs.states import Reason
from protoseg.training import determinism, worker
from protoseg.training.signals import StopRequest
from training.small import composer, make_folder, record_of, result, small_spec

SHORT = ("schedule.iterations=3", "schedule.warmup_iterations=1")
PAPER = ("method=paper", "method.num_prototypes=3")
RELEASED = ("method=released", "method.num_prototypes=3")
PARAMETRIC = ("method=parametric", "method.num_prototypes=3", "~method.momentum")


@pytest.fixture(autouse=True)
def _torch_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(determinism.CUBLAS, raising=False)
    backends = torch.backends
    before = (
        backends.cudnn.deterministic,
        backends.cudnn.benchmark,
        backends.cudnn.allow_tf32,
        backends.cuda.matmul.allow_tf32,
    )
    yield
    torch.use_deterministic_algorithms(False)
    backends.cudnn.deterministic, backends.cudnn.benchmark = before[:2]
    backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32 = before[2:]
    os.environ.pop(determinism.CUBLAS, None)


def train(place: Path, data: Path, *overrides: str) -> tuple[RunFolder, Reason | None, str]:
    """What the worker makes of a small run, in this process."""
    folder = make_folder(place, small_spec(*overrides), data)
    launch = json.loads(folder.launch.read_text())
    reason, message = worker._train(folder, folder.read_spec() or {}, launch, StopRequest())
    return folder, reason, message


# Part of the spec


def test_specs_from_before_the_levels_keep_their_ids() -> None:
    spec = small_spec()
    assert spec.determinism == "seeded"
    old = plain(spec)
    del old["determinism"]
    assert run_id(spec_from_dict(old, "record")) == run_id(spec)
    assert run_id(small_spec("determinism=seeded")) == run_id(spec)
    assert run_id(small_spec("determinism=bitwise")) != run_id(spec)


def test_it_can_be_overridden_and_be_an_axis() -> None:
    runs = load_matrix(composer(), "quickstart", ["determinism=seeded,bitwise"]).runs
    plainly = load_matrix(composer(), "quickstart").runs
    assert len(runs) == len({run.run_id for run in runs}) == 2 * len(plainly)
    assert {run.run_id for run in plainly} < {run.run_id for run in runs}
    with pytest.raises(UsageError, match=r"determinism.* 'bitwize'. Did you mean 'bitwise'\?"):
        small_spec("determinism=bitwize")


# What it sets


def test_seeded_changes_nothing() -> None:
    determinism.apply("seeded")
    assert not torch.are_deterministic_algorithms_enabled()
    assert determinism.CUBLAS not in os.environ


def test_bitwise_sets_all_that_it_says() -> None:
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = True
    determinism.apply("bitwise")
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert os.environ[determinism.CUBLAS] == ":4096:8"


def test_a_work_space_that_is_fine_is_kept_and_another_one_refused() -> None:
    os.environ[determinism.CUBLAS] = ":16:8"
    determinism.apply("bitwise")
    assert os.environ[determinism.CUBLAS] == ":16:8"
    os.environ[determinism.CUBLAS] = ":0:0"
    with pytest.raises(UsageError, match=r"^CUBLAS_WORKSPACE_CONFIG: ':0:0' .* unset, or set it"):
        determinism.apply("bitwise")


def test_the_level_of_the_spec_is_what_the_worker_sets(data: Path, tmp_path: Path) -> None:
    for level, expected in (("seeded", False), ("bitwise", True)):
        _, reason, message = train(tmp_path, data, *PARAMETRIC, *SHORT, f"determinism={level}")
        assert reason is None, message
        assert torch.are_deterministic_algorithms_enabled() == expected


def test_an_operation_without_a_fixed_order_is_one_sentence(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = TinyNet.forward

    def hasty(self: TinyNet, image: torch.Tensor) -> Any:
        torch.zeros(3).put_(torch.tensor([1, 1]), torch.tensor([1.0, 2.0]))
        return forward(self, image)

    monkeypatch.setattr(TinyNet, "forward", hasty)
    folder, reason, message = train(tmp_path, data, *PAPER, *SHORT, "determinism=bitwise")
    assert reason is Reason.BAD_CONFIG
    assert message.startswith("determinism: torch has no form of put_ with a fixed order on ")
    assert "determinism=seeded" in message
    assert not folder.record.exists()
    determinism.apply("seeded")
    assert determinism.refusal(RuntimeError("put_ is broken")) is None
    assert determinism.refusal(ValueError("x does not have a deterministic implementation")) is None


# The same bits


@pytest.mark.skipif(torch.cuda.is_available(), reason="only on a CPU are they bound to agree")
@pytest.mark.parametrize("method", [PAPER, RELEASED, PARAMETRIC], ids=lambda m: m[0])
def test_on_a_cpu_both_levels_end_with_the_same_bits(
    data: Path, tmp_path: Path, method: tuple[str, ...]
) -> None:
    seeded, reason, message = train(tmp_path, data, *method, *SHORT)
    assert reason is None, message
    bitwise, reason, message = train(tmp_path, data, *method, *SHORT, "determinism=bitwise")
    assert reason is None, message
    first, second = result(seeded), result(bitwise)
    assert first.pop("spec") | {"determinism": "bitwise"} == second.pop("spec")
    assert first == second
    digests = [record_of(run)["provenance"]["state_sha256"] for run in (seeded, bitwise)]
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    "overrides",
    [
        (*PAPER, "method.distance=euclidean", "decoder=fcn", "decoder.in_index=[3]"),
        (*RELEASED, "method.distance=huber", "method.init=pixels", "precision=bf16"),
        (*PARAMETRIC, "decoder=upernet", "decoder.channels=32", "decoder.auxiliary=false"),
        (*PAPER, "backbone=mit_b0", "backbone.weights=''", "schedule.iterations=2"),
    ],
    ids=["euclidean-fcn", "huber-bf16", "parametric-upernet", "mit"],
)
def test_bitwise_takes_what_we_train_and_gives_the_same_bits_twice(
    data: Path, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    found = []
    for place in (tmp_path / "first", tmp_path / "second"):
        folder, reason, message = train(place, data, *SHORT, *overrides, "determinism=bitwise")
        assert reason is None, message
        found.append((result(folder), record_of(folder)["provenance"]["state_sha256"]))
    assert found[0] == found[1]


# The digest of what a training ended with


def test_the_record_names_the_last_weights(data: Path, tmp_path: Path) -> None:
    folder, reason, message = train(tmp_path, data, *PAPER, *SHORT)
    assert reason is None, message
    state = torch.load(folder.checkpoints / "iter_00000003.pth", weights_only=True)["model"]
    assert any(".bank." in name for name in state), "the prototypes are among them"
    expected = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        expected.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        expected.update(tensor.numpy().tobytes())
    assert record_of(folder)["provenance"]["state_sha256"] == expected.hexdigest()


def test_a_digest_knows_every_bit_name_type_and_shape() -> None:
    state = {"b": torch.arange(4.0), "a": torch.tensor(3), "c": torch.ones(2, 2).bool()}
    digest = determinism.state_digest(state)
    assert determinism.state_digest(dict(sorted(state.items()))) == digest
    others = [
        {**state, "b": torch.tensor([0.0, 1.0, 2.0, 3.0000002])},
        {**state, "b": torch.tensor([-0.0, 1.0, 2.0, 3.0])},
        {**state, "b": torch.arange(4.0).view(2, 2)},
        {**state, "b": torch.arange(4.0).view(torch.int32)},
        {"b": state["b"], "a": state["a"], "d": state["c"]},
    ]
    digests = {determinism.state_digest(other) for other in others}
    assert len(digests | {digest}) == len(others) + 1
    turned = torch.arange(6.0).view(2, 3).T
    assert determinism.state_digest({"x": turned}) == determinism.state_digest(
        {"x": turned.contiguous()}
    )
