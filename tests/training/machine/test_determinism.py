"""The levels of determinism: in the spec, in torch's settings, and in the bits of a run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from protoseg.config.fields import to_plain
from protoseg.config.identity import read_spec, run_id
from protoseg.config.load_matrix import load_matrix
from protoseg.errors import UsageError
from protoseg.models.tiny_backbone import TinyNet
from protoseg.runs.folder import RunFolder
from protoseg.runs.states import Reason
from protoseg.training import worker
from protoseg.training.machine import determinism
from protoseg.training.signals import StopRequest
from training.small import composer, make_folder, record_of, result, small_spec

SHORT = ("schedule.iterations=3", "schedule.warmup_iterations=1")
PAPER = ("method=paper", "method.num_prototypes=3")
RELEASED = ("method=released", "method.num_prototypes=3")
PARAMETRIC = ("method=parametric", "method.num_prototypes=3", "~method.momentum")


@pytest.fixture(autouse=True)
def _restore_torch_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
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


def train(folder: Path, data: Path, *overrides: str) -> tuple[RunFolder, Reason | None, str]:
    """Train a small run in this process: its folder, and the worker's reason and message."""
    run = make_folder(folder, small_spec(*overrides), data)
    launch = json.loads(run.launch.read_text())
    reason, message = worker._train_run(run, run.read_spec() or {}, launch, StopRequest())
    return run, reason, message


# In the spec


def test_old_specs_without_a_level_keep_their_run_ids() -> None:
    spec = small_spec()
    assert spec.determinism == "seeded"
    old = to_plain(spec)
    del old["determinism"]
    assert run_id(read_spec(old, "record")) == run_id(spec)
    assert run_id(small_spec("determinism=seeded")) == run_id(spec)
    assert run_id(small_spec("determinism=bitwise")) != run_id(spec)


def test_the_level_can_be_overridden_and_be_a_matrix_axis() -> None:
    runs = load_matrix(composer(), "quickstart", ["determinism=seeded,bitwise"]).runs
    default_runs = load_matrix(composer(), "quickstart").runs
    assert len(runs) == len({run.run_id for run in runs}) == 2 * len(default_runs)
    assert {run.run_id for run in default_runs} < {run.run_id for run in runs}
    with pytest.raises(UsageError, match=r"determinism.* 'bitwize'. Did you mean 'bitwise'\?"):
        small_spec("determinism=bitwize")


# In torch's settings


def test_seeded_changes_no_setting() -> None:
    determinism.apply_level("seeded")
    assert not torch.are_deterministic_algorithms_enabled()
    assert determinism.CUBLAS not in os.environ


def test_bitwise_sets_all_its_settings() -> None:
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = True
    determinism.apply_level("bitwise")
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert os.environ[determinism.CUBLAS] == ":4096:8"


def test_a_deterministic_cublas_workspace_is_kept_and_another_is_refused() -> None:
    os.environ[determinism.CUBLAS] = ":16:8"
    determinism.apply_level("bitwise")
    assert os.environ[determinism.CUBLAS] == ":16:8"
    os.environ[determinism.CUBLAS] = ":0:0"
    with pytest.raises(UsageError, match=r"^CUBLAS_WORKSPACE_CONFIG: ':0:0' .* unset, or set it"):
        determinism.apply_level("bitwise")


def test_the_worker_sets_the_level_of_the_spec(data: Path, tmp_path: Path) -> None:
    for level, expected in (("seeded", False), ("bitwise", True)):
        _, reason, message = train(tmp_path, data, *PARAMETRIC, *SHORT, f"determinism={level}")
        assert reason is None, message
        assert torch.are_deterministic_algorithms_enabled() == expected


def test_a_nondeterministic_operation_is_one_sentence(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = TinyNet.forward

    def forward_nondeterministic(self: TinyNet, image: torch.Tensor) -> Any:
        torch.zeros(3).put_(torch.tensor([1, 1]), torch.tensor([1.0, 2.0]))
        return forward(self, image)

    monkeypatch.setattr(TinyNet, "forward", forward_nondeterministic)
    folder, reason, message = train(tmp_path, data, *PAPER, *SHORT, "determinism=bitwise")
    assert reason is Reason.BAD_CONFIG
    assert message.startswith("determinism: torch has no deterministic kernel of put_ on ")
    assert "determinism=seeded" in message
    assert not folder.record.exists()
    determinism.apply_level("seeded")
    assert determinism.describe_refusal(RuntimeError("put_ is broken")) is None
    assert (
        determinism.describe_refusal(ValueError("x does not have a deterministic implementation"))
        is None
    )


# In the bits of a run


@pytest.mark.skipif(torch.cuda.is_available(), reason="the levels agree only on a CPU")
@pytest.mark.parametrize("method", [PAPER, RELEASED, PARAMETRIC], ids=lambda m: m[0])
def test_both_levels_give_the_same_bits_on_a_cpu(
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
def test_bitwise_gives_the_same_bits_twice(
    data: Path, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    results = []
    for parent in (tmp_path / "first", tmp_path / "second"):
        folder, reason, message = train(parent, data, *SHORT, *overrides, "determinism=bitwise")
        assert reason is None, message
        results.append((result(folder), record_of(folder)["provenance"]["state_sha256"]))
    assert results[0] == results[1]


# The digest of the model at the end of training


def test_the_record_holds_the_digest_of_the_last_checkpoint(data: Path, tmp_path: Path) -> None:
    folder, reason, message = train(tmp_path, data, *PAPER, *SHORT)
    assert reason is None, message
    state = torch.load(folder.checkpoints / "iter_00000003.pth", weights_only=True)["model"]
    assert any(".bank." in name for name in state), "the digest covers the prototypes"
    expected = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        expected.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        expected.update(tensor.numpy().tobytes())
    assert record_of(folder)["provenance"]["state_sha256"] == expected.hexdigest()


def test_the_digest_depends_on_bits_names_types_and_shapes() -> None:
    state = {"b": torch.arange(4.0), "a": torch.tensor(3), "c": torch.ones(2, 2).bool()}
    digest = determinism.hash_state(state)
    assert determinism.hash_state(dict(sorted(state.items()))) == digest
    others = [
        {**state, "b": torch.tensor([0.0, 1.0, 2.0, 3.0000002])},
        {**state, "b": torch.tensor([-0.0, 1.0, 2.0, 3.0])},
        {**state, "b": torch.arange(4.0).view(2, 2)},
        {**state, "b": torch.arange(4.0).view(torch.int32)},
        {"b": state["b"], "a": state["a"], "d": state["c"]},
    ]
    digests = {determinism.hash_state(other) for other in others}
    assert len(digests | {digest}) == len(others) + 1
    transposed = torch.arange(6.0).view(2, 3).T
    assert determinism.hash_state({"x": transposed}) == determinism.hash_state(
        {"x": transposed.contiguous()}
    )
