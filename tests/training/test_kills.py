"""A short kill campaign: workers killed at random times give the same bits as uninterrupted ones.

The full campaign is `python tests/campaigns/kills/campaign.py` (reports: results/campaigns). The
only difference is that here the workers are forked from a process that has imported torch.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar

import pytest
from campaigns.kills import campaign
from campaigns.kills.campaign import leftovers, train
from campaigns.kills.compare import compare
from campaigns.kills.report import Run, hits
from campaigns.kills.workers import VARIANTS, Attempt, composed
from forked import ForkedProcess
from waiting import DEADLINE

from protoseg.datasets.layout import find_root
from protoseg.runs.folder import RunFolder
from training.small import start_worker

NUMBERS = {variant.words: number for number, variant in enumerate(VARIANTS)}


class ForkedAttempt(Attempt):
    """An attempt whose workers are forked from the server of this session."""

    start_seconds: ClassVar[float] = 0.6

    def worker(self, variables: dict[str, str], group: int) -> ForkedProcess:
        return start_worker(
            self.folder, environment=variables, process_group=group, output=self.beside
        )


FORKED = (ForkedAttempt, ForkedAttempt)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the data set that all runs use."""
    folder = tmp_path_factory.mktemp("generated")
    find_root(composed(VARIANTS[0], 0).dataset, folder)
    return folder


@pytest.fixture
def workspace(generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(campaign, "LEAVE_SECONDS", DEADLINE)
    (tmp_path / "data").symlink_to(generated)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("description", "kills"),
    [
        ("released, K = 3", 6),
        ("released, K = 3, stochastic depth", 4),
        ("released, K = 2, pixel contrast", 4),
        ("released, K = 3, metrics on the way", 6),
        ("hierarchical, random triplets", 4),
    ],
)
def test_a_run_killed_at_random_times_gives_the_same_bits(
    description: str, kills: int, workspace: Path
) -> None:
    number = NUMBERS[description]
    for seed in range(11, 16):
        folder = workspace / str(seed)
        folder.mkdir()
        (folder / "data").symlink_to(workspace / "data")
        run = train(Run(VARIANTS[number], seed=number), number, kills, seed, folder, *FORKED)
        if run.wrong or hits([run]):
            break
        # If this process gets no CPU time for a while, all kills may come after the run's end.
    assert run.wrong == []
    assert run.same is not None
    assert run.fire is not None
    assert (run.same.differing, run.same.names) == (0, [])
    assert run.same.numbers > 100_000
    killed = hits([run])
    assert killed
    assert run.fire.attempts > len(killed)
    assert leftovers(set(run.fire.groups)) == []


@pytest.mark.slow
def test_the_comparison_detects_one_bit(workspace: Path) -> None:
    """One bit in a weight, and one in a point of the loss curve."""
    import torch

    from protoseg import files
    from protoseg.training import checkpoint

    run = train(Run(VARIANTS[1], seed=1), 1, 1, 2, workspace, *FORKED)
    (uninterrupted,) = (path for path in (workspace / "peace").iterdir() if path.is_dir())
    other = RunFolder(workspace / "other" / uninterrupted.name)
    shutil.copytree(uninterrupted, other.path)
    assert run.same is not None
    assert compare(RunFolder(uninterrupted), other).differing == 0
    newest, _ = checkpoint.find_newest(other.checkpoints)
    state = torch.load(newest.path, weights_only=True)
    weight = state["model"]["backbone.stages.0.0.weight"]
    weight.view(torch.int32)[0, 0, 0, 0] ^= 1
    state["extra"]["curve"][7][1]["loss"] += 1e-12
    torch.save(state, newest.path)
    files.write_json(newest.path.with_suffix(".json"), checkpoint._make_digest_entry(newest.path))
    difference = compare(RunFolder(uninterrupted), other)
    assert difference.names[0] == "model.backbone.stages.0.0.weight (1 bits)"
    assert difference.names[1].startswith("extra.curve[7][1].loss (")
    assert difference.differing >= 2
