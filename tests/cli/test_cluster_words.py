"""``cluster=NAME`` and ``cluster.KEY=VALUE`` among the words of a call."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from cli.conftest import CommandLine
from protoseg.cli.context import Context
from protoseg.errors import UsageError


def context(*words: str) -> Context:
    places = dict.fromkeys(("experiments", "runs", "results", "data", "weights", "clusters"))
    return Context(Namespace(words=list(words), json=False, **places))


def refusal(*words: str) -> str:
    with pytest.raises(UsageError) as caught:
        _ = context(*words).cluster
    return str(caught.value)


def test_words_about_a_cluster_are_not_overrides_of_runs() -> None:
    given = context("quickstart", "cluster=testbed", "seed=3", "cluster.time=90", "~cluster.memory")
    assert given.words == ["quickstart", "seed=3"]
    assert given.cluster is not None
    assert (given.cluster.name, given.cluster.time) == ("testbed", "1:30:00")
    assert given.cluster.memory == ""
    matrices, overrides = given.matrices()
    assert overrides == ["seed=3"]
    assert {run.spec.seed for run in matrices[0].runs} == {3}


def test_without_such_words_there_is_no_cluster() -> None:
    assert context("quickstart", "seed=3").cluster is None


def test_a_matrix_may_be_called_cluster() -> None:
    assert context("cluster", "clusters.yaml").words == ["cluster", "clusters.yaml"]


def test_profiles_of_one_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text("partition: a\n")
    monkeypatch.setenv("PROTOSEG_CLUSTERS", str(tmp_path))
    found = context("cluster=mine").cluster
    assert found is not None
    assert found.partition == "a"
    assert refusal("cluster=testbed") == f"{tmp_path}: unknown cluster 'testbed'. Known: mine."


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["cluster=testbet"], "unknown cluster 'testbet'. Did you mean 'testbed'? Known: eight_"),
        (["cluster="], "unknown cluster ''. Known: eight_gpus, one_h200, testbed."),
        (["cluster=../slurm/testbed"], "unknown cluster '../slurm/testbed'."),
        (["cluster=testbed,one_h200"], "unknown cluster 'testbed,one_h200'."),
        (["cluster.time=90"], "cluster.time=90: changes a cluster profile, and none is named; "),
        (["~cluster.time"], "~cluster.time: changes a cluster profile, and none is named; add "),
        (["cluster=testbed", "cluster=one_h200"], "cluster: named 2 times: testbed, one_h200; a "),
        (["cluster=testbed", "cluster.time=soon"], "cluster testbed: time: 'soon' is no time lim"),
        (["cluster=testbed", "cluster.tme=90"], "cluster testbed: unknown key 'tme'. Did you mea"),
    ],
)
def test_one_clear_sentence(words: list[str], sentence: str) -> None:
    assert sentence in refusal(*words)


def test_the_batch_scripts_are_shown(protoseg: CommandLine) -> None:
    answer = protoseg("plan", "quickstart", "cluster=testbed", "cluster.array_size=5", "--sbatch")
    assert (answer.status, answer.err) == (0, "")
    assert answer.out.count("#!/bin/bash\n") == 2
    assert "#SBATCH --array=0-4\n" in answer.out
    assert "#SBATCH --array=0-3\n" in answer.out
    assert "#SBATCH --time=0:30:00\n" in answer.out


@pytest.mark.parametrize("verb", ["plan", "sweep", "train"])
def test_a_wrong_profile_is_wrong_usage(protoseg: CommandLine, verb: str) -> None:
    words = [] if verb == "train" else ["quickstart"]
    answer = protoseg(verb, *words, "cluster=nowhere")
    assert (answer.status, answer.out) == (2, "")
    assert f"protoseg {verb}: " in answer.err
    assert "unknown cluster 'nowhere'" in answer.err
    assert answer.err.count("\n") == 1
