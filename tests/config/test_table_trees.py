"""The trees of classes that the metrics of a matrix need, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from protoseg.config.compose import Composer
from protoseg.config.hierarchy.parse import parse_tree
from protoseg.config.hierarchy.table_trees import describe_short_branches, get_level, needs_tree
from protoseg.config.hierarchy.tree import make_hierarchy
from protoseg.config.load_matrix import load_matrix
from protoseg.config.matrix import Matrix
from protoseg.config.tuning.expand import make_trial_matrix
from protoseg.errors import UsageError

Expand = Callable[..., Matrix]
CAMVID = "base: {dataset: camvid, backbone: mobilenet_v2}\n"
TABLE = "table: {metrics: [miou, miou@2]}\n"


def test_a_matrix_has_the_tree_of_its_data_set_if_a_metric_needs_it(expand: Expand) -> None:
    assert expand(CAMVID).trees == {}
    ((name, tree),) = expand(CAMVID + TABLE).trees.items()
    assert (name[0], len(name[1]), tree.level_sizes) == ("camvid", 11, (11, 7))
    distance = expand(CAMVID + "table: {metrics: [mistake_distance]}\n")
    assert distance.trees == {name: tree}


def test_a_level_metric_changes_no_run(expand: Expand) -> None:
    plain, levels = expand(CAMVID), expand(CAMVID + TABLE)
    assert [run.run_id for run in plain.runs] == [run.run_id for run in levels.runs]


def test_each_data_set_of_a_matrix_has_its_tree(expand: Expand) -> None:
    text = "base: {backbone: mobilenet_v2}\ngrid: {dataset: [camvid, cityscapes]}\n"
    trees = expand(text + TABLE).trees
    assert {name: tree.level_sizes for (name, _), tree in trees.items()} == {
        "camvid": (11, 7),
        "cityscapes": (19, 7),
    }


def test_a_data_set_without_a_tree_is_refused(expand: Expand) -> None:
    with pytest.raises(UsageError) as error:
        expand("base: {dataset: shapes}\n" + TABLE)
    assert str(error.value) == (
        "m.yaml: table.metrics: miou@2 needs a tree of classes, and the data set shapes has none. "
        "Set dataset.hierarchy to a file of experiments/hierarchy, or remove the metric."
    )
    with pytest.raises(UsageError, match="mistake_distance needs a tree of classes"):
        expand("base: {dataset: shapes}\ntable: {metrics: [mistake_distance]}\n")


def test_the_tree_of_an_earlier_matrix_is_not_used(expand: Expand) -> None:
    assert expand(CAMVID + TABLE).trees
    with pytest.raises(UsageError, match="the data set camvid has none"):
        expand(CAMVID + TABLE, "~dataset.hierarchy")
    with pytest.raises(UsageError, match="the data set mine has none"):
        expand(CAMVID + TABLE, "dataset.name=mine", "~dataset.hierarchy")


def test_a_level_that_a_tree_does_not_have_is_refused(expand: Expand) -> None:
    with pytest.raises(UsageError) as error:
        expand(CAMVID + "table: {metrics: [miou@2, macc@3]}\n")
    assert str(error.value) == (
        "m.yaml: table.metrics: macc@3: the tree of camvid has levels 1 to 2. Name one of these "
        "levels, or remove the metric."
    )
    # One of two data sets has three levels.
    text = "base: {backbone: mobilenet_v2}\ngrid: {dataset: [ccp, camvid]}\n"
    assert expand(text.replace(", camvid", "") + "table: {metrics: [miou@3]}\n").trees
    with pytest.raises(UsageError, match=r"miou@3: the tree of camvid has levels 1 to 2\."):
        expand(text + "table: {metrics: [miou@3]}\n")


def test_a_tree_that_does_not_fit_is_refused_by_tables_that_need_it(expand: Expand) -> None:
    assert expand(CAMVID, "dataset.hierarchy=lip").trees == {}
    with pytest.raises(UsageError, match=r"hierarchy/lip\.yaml: .*: no class of the data set\."):
        expand(CAMVID + TABLE, "dataset.hierarchy=lip")
    with pytest.raises(UsageError, match=r"unknown hierarchy 'camvit'\. Did you mean 'camvid'\?"):
        expand(CAMVID + TABLE, "dataset.hierarchy=camvit")


TREES = """\
base: {dataset: camvid, backbone: mobilenet_v2, method: prototype_hierarchical}
rows:
  - {label: a, dataset.hierarchy: camvid}
  - {label: b, dataset.hierarchy: {all: [sky, building, pole, road, pavement, tree, sign, fence],
     rest: [car, pedestrian, bicyclist]}}
"""


def test_two_trees_of_one_data_set_cannot_be_compared(expand: Expand) -> None:
    assert len({run.spec.dataset.hierarchy for run in expand(TREES).runs}) == 2
    with pytest.raises(UsageError) as error:
        expand(TREES + TABLE)
    assert str(error.value) == (
        "m.yaml: table.metrics: miou@2 needs one tree for each data set, and rows differ in "
        "dataset.hierarchy. Set it in base, or make one matrix for each tree."
    )


TUNE = """\
tune:
  search: {schedule.learning_rate: [1.0e-3, 2.0e-3]}
  grid: true
  base: {schedule.iterations: 100}
  select: {metric: miou@2, on: holdout, share: 0.2, blocks: 5, gap: 1}
"""


def test_a_search_that_selects_by_a_level_has_the_tree(expand: Expand) -> None:
    matrix = expand(CAMVID + TUNE)
    assert not matrix.runs
    assert [name for name, _ in matrix.trees] == ["camvid"]
    assert make_trial_matrix(matrix).trees == matrix.trees
    with pytest.raises(UsageError, match=r"tune\.select\.metric: miou@2 needs a tree"):
        expand("base: {dataset: shapes}\n" + TUNE)
    assert expand(CAMVID + TABLE + TUNE.replace("miou@2", "miou")).trees == matrix.trees


def test_only_metrics_of_a_level_need_a_tree() -> None:
    levels = {"miou": 1, "miou@2": 2, "miou_present@9": 9, "aacc@3": 3, "mistake_distance": 1}
    assert {name: get_level(name) for name in levels} == levels
    assert [name for name in levels if not needs_tree(name)] == ["miou"]
    for name in ("miou@1", "miou@10", "seconds@2", "parameters"):
        assert (get_level(name), needs_tree(name)) == (1, False)


def test_classes_on_short_branches_are_described() -> None:
    classes = ["sky", "pole", "sign", "road"]
    data = {"sky": None, "thing": {"object": ["pole", "sign"]}, "flat": ["road"]}
    parsed = parse_tree(data, classes, "test")
    assert parsed.padded == ("sky", "road")
    assert list(describe_short_branches("camvid", parsed.hierarchy)) == [
        "camvid: sky is its own group on levels 2 to 3.",
        "camvid: road is its own group on level 2.",
    ]
    two = make_hierarchy([("a", "a"), ("b", "b"), ("g", "c"), ("g", "d")])
    assert list(describe_short_branches("x", two)) == ["x: a, b are their own groups on level 2."]


def test_every_committed_tree_fits_and_is_described(composer: Composer, tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    described = {}
    for name in ("camvid", "cityscapes", "ccp", "ccp_10"):
        path.write_text(f"base: {{dataset: {name}}}\n{TABLE}")
        ((_, tree),) = load_matrix(composer, str(path)).trees.items()
        described[name] = list(describe_short_branches(name, tree))
    assert described == {
        "camvid": ["camvid: sky is its own group on level 2."],
        "cityscapes": ["cityscapes: sky is its own group on level 2."],
        "ccp": ["ccp: background is its own group on levels 2 to 3."],
        "ccp_10": ["ccp_10: background is its own group on levels 2 to 3."],
    }
