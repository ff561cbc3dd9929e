"""The settings ``cluster=NAME`` and ``cluster.KEY=VALUE`` among the operands of a call."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from cli.conftest import CommandLine
from protoseg.cli.context import Context
from protoseg.errors import UsageError


def make_context(*operands: str) -> Context:
    """The context of a call with these operands and the default folders."""
    folders = dict.fromkeys(("experiments", "runs", "results", "data", "weights", "clusters"))
    return Context(Namespace(verb="plan", operands=list(operands), json=False, **folders))


def usage_error(*operands: str) -> str:
    """The message for wrong settings of a cluster."""
    with pytest.raises(UsageError) as caught:
        _ = make_context(*operands).cluster
    return str(caught.value)


def test_cluster_settings_are_no_overrides_of_runs() -> None:
    context = make_context(
        "quickstart", "cluster=testbed", "seed=3", "cluster.time=90", "~cluster.memory"
    )
    assert context.operands == ["quickstart", "seed=3"]
    assert context.cluster is not None
    assert (context.cluster.name, context.cluster.time) == ("testbed", "1:30:00")
    assert context.cluster.memory == ""
    matrices, overrides = context.matrices()
    assert overrides == ["seed=3"]
    assert {run.spec.seed for run in matrices[0].runs} == {3}


def test_without_cluster_settings_there_is_no_profile() -> None:
    assert make_context("quickstart", "seed=3").cluster is None


def test_cluster_is_a_valid_name_of_a_matrix() -> None:
    assert make_context("cluster", "clusters.yaml").operands == ["cluster", "clusters.yaml"]


def test_profiles_are_read_from_the_folder_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text("partition: a\n")
    monkeypatch.setenv("PROTOSEG_CLUSTERS", str(tmp_path))
    profile = make_context("cluster=mine").cluster
    assert profile is not None
    assert profile.partition == "a"
    assert usage_error("cluster=testbed") == f"{tmp_path}: unknown cluster 'testbed'. Known: mine."


@pytest.mark.parametrize(
    ("operands", "message"),
    [
        (["cluster=testbet"], "unknown cluster 'testbet'. Did you mean 'testbed'? Known: eight_"),
        (["cluster="], "unknown cluster ''. Known: eight_gpus, one_h200, testbed."),
        (["cluster=../slurm/testbed"], "unknown cluster '../slurm/testbed'."),
        (["cluster=testbed,one_h200"], "unknown cluster 'testbed,one_h200'."),
        (["cluster.time=90"], "cluster.time=90: changes a cluster profile, but no profile is "),
        (["~cluster.time"], "~cluster.time: changes a cluster profile, but no profile is named. "),
        (
            ["cluster=testbed", "cluster=one_h200"],
            "cluster: given 2 times: testbed, one_h200. Name ",
        ),
        (["cluster=testbed", "cluster.time=soon"], "cluster testbed: time: 'soon' is no"),
        (["cluster=testbed", "cluster.tme=90"], "cluster testbed: unknown key 'tme'. Did you mea"),
    ],
)
def test_wrong_cluster_settings_are_reported(operands: list[str], message: str) -> None:
    assert message in usage_error(*operands)


def test_plan_prints_the_batch_scripts(protoseg: CommandLine) -> None:
    result = protoseg("plan", "quickstart", "cluster=testbed", "cluster.array_size=5", "--sbatch")
    assert (result.status, result.err) == (0, "")
    assert result.out.count("#!/bin/bash\n") == 2
    assert "#SBATCH --array=0-4\n" in result.out
    assert "#SBATCH --array=0-3\n" in result.out
    assert "#SBATCH --time=0:30:00\n" in result.out


@pytest.mark.parametrize("verb", ["plan", "sweep", "train"])
def test_an_unknown_profile_is_wrong_usage(protoseg: CommandLine, verb: str) -> None:
    names = [] if verb == "train" else ["quickstart"]
    result = protoseg(verb, *names, "cluster=nowhere")
    assert (result.status, result.out) == (2, "")
    assert f"protoseg {verb}: " in result.err
    assert "unknown cluster 'nowhere'" in result.err
    assert result.err.count("\n") == 1
