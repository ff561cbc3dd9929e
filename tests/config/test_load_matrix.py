"""Matrices: expansion of a YAML file into runs, and the errors of a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config.conftest import EXPERIMENTS
from protoseg.cli.stages import make_example
from protoseg.config.compose import Composer
from protoseg.config.hydra.folders import ConfigFolders
from protoseg.config.load_matrix import list_matrices, load_matrix
from protoseg.config.matrix import FamilySpec, ImageGroupsSpec, Matrix
from protoseg.errors import UsageError

Expand = Callable[..., Matrix]


def axes(matrix: Matrix) -> list[dict[str, Any]]:
    return [run.axes for run in matrix.runs]


def expect_error(expand: Expand, text: str, *overrides: str) -> str:
    """The message for an invalid matrix, which must be one line."""
    with pytest.raises(UsageError) as caught:
        expand(text, *overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", list_matrices(ConfigFolders(EXPERIMENTS)))
def test_every_matrix_of_the_repository_expands(composer: Composer, name: str) -> None:
    matrix = load_matrix(composer, name)
    if matrix.tuning is not None:
        assert {len(row.trials) for row in matrix.tuning.rows} == {matrix.tuning.block.trials}
        matrix = make_example(matrix)
    assert matrix.name == name
    assert matrix.title != name, "the file has no title"
    assert matrix.table.caption
    ids = [run.run_id for run in matrix.runs]
    assert len(ids) == len(set(ids)) > 1
    labels = {str(run.axes.get("label")) for run in matrix.runs}
    assert not matrix.table.baseline or matrix.table.baseline.get("label", "None") in labels


def test_an_empty_file_gives_one_run_with_the_defaults(expand: Expand, composer: Composer) -> None:
    matrix = expand("")
    (run,) = matrix.runs
    assert (run.spec, run.axes) == (composer.spec([], "test"), {})
    assert (matrix.name, matrix.title, matrix.axes) == ("m", "m", ())


def test_a_grid_gives_all_combinations_in_the_order_of_the_file(expand: Expand) -> None:
    matrix = expand("grid: {method.momentum: [0.9, 0.99], method.num_prototypes: [1, 2, 3]}")
    assert [tuple(a.values()) for a in axes(matrix)] == [
        (0.9, 1), (0.9, 2), (0.9, 3), (0.99, 1), (0.99, 2), (0.99, 3),
    ]  # fmt: skip
    assert matrix.axes == ("method.momentum", "method.num_prototypes")
    assert [run.spec.method.num_prototypes for run in matrix.runs] == [1, 2, 3] * 2  # type: ignore[attr-defined]


def test_the_axes_of_a_zip_advance_together(expand: Expand) -> None:
    matrix = expand("zip: {backbone: [tiny, mit_b0], schedule.iterations: [20, 30]}")
    values = [(run.spec.backbone.name, run.spec.schedule.iterations) for run in matrix.runs]
    assert values == [("tiny", 20), ("mit_b0", 30)]


def test_rows_zip_and_grid_multiply(expand: Expand) -> None:
    matrix = expand(
        """
        rows: [{label: a, method: paper}, {label: b, method: released}]
        zip: {schedule.iterations: [20, 30], schedule.batch_size: [1, 2]}
        grid: {method.momentum: [0.5, 0.6]}
        seeds: [3, 4]
        """
    )
    assert len(matrix.runs) == 2 * 2 * 2 * 2
    assert matrix.axes == (
        "label", "schedule.iterations", "schedule.batch_size", "method.momentum",
    )  # fmt: skip
    assert [run.spec.seed for run in matrix.runs] == [3, 4] * 8
    assert [a["label"] for a in axes(matrix)] == ["a"] * 8 + ["b"] * 8


def test_the_label_replaces_the_keys_of_its_row_as_axis(expand: Expand) -> None:
    matrix = expand("rows: [{label: a, method.momentum: 0.5}, {label: b}]")
    assert axes(matrix) == [{"label": "a"}, {"label": "b"}]


def test_the_seed_is_not_an_axis(expand: Expand) -> None:
    matrix = expand("seeds: [0, 7]")
    assert [(run.spec.seed, run.axes) for run in matrix.runs] == [(0, {}), (7, {})]
    assert [run.spec.seed for run in expand("seeds: 5").runs] == [5]
    assert [run.spec.seed for run in expand("").runs] == [0]


def test_axes_replace_the_base_and_overrides_replace_both(expand: Expand) -> None:
    text = """
        base: {schedule: cpu_300, schedule.iterations: 5, method.momentum: 0.1}
        grid: {method.momentum: [0.2, 0.3]}
        """
    (first, _) = expand(text).runs
    assert (first.spec.schedule.iterations, first.spec.schedule.learning_rate) == (5, 1e-3)
    assert first.spec.method.momentum == 0.2  # type: ignore[attr-defined]
    (first, _) = expand(text, "schedule.iterations=19", "schedule=quickstart").runs
    assert (first.spec.schedule.iterations, first.spec.schedule.learning_rate) == (19, 1e-2)


WINDOW = "evaluation.mode=slide needs it, [height, width]; set it, or choose an evaluation with"
WARMUP = (
    "is not less than the 5 iterations of the run; lower it, or set schedule.iterations higher."
)


@pytest.mark.parametrize(
    ("text", "overrides", "sentence"),
    [
        ("base: {evaluation.mode: slide}", (), f"m.yaml: run 1: evaluation.crop_size: {WINDOW}"),
        (
            "rows: [{label: a}, {label: b, evaluation: slide_512, evaluation.stride: []}]",
            (),
            f"m.yaml: b: evaluation.stride: {WINDOW}",
        ),
        ("", ("schedule.iterations=5",), f"run 1: schedule.warmup_iterations: 10 {WARMUP}"),
        (
            "grid: {schedule.warmup_iterations: [4, 5]}",
            ("schedule.iterations=5",),
            f"m.yaml: run 2: schedule.warmup_iterations: 5 {WARMUP}",
        ),
        (
            "base: {evaluation.every: 21}",
            ("schedule.iterations=20",),
            "run 1: evaluation.every: 21 is more than the 20 iterations of the run; lower it, or",
        ),
        (
            "",
            ("evaluation.every=-1",),
            "run 1: evaluation.every: -1 is out of range; allowed: at least 0.",
        ),
        (
            "base: {evaluation: slide_512}",
            ("evaluation.mode=whole",),
            "run 1: evaluation.crop_size and evaluation.stride: evaluation.mode=whole has no",
        ),
        (
            "base: {evaluation: slide_512}\nseeds: [0]",
            ("evaluation.stride=[512,513]",),
            "run 1: evaluation.stride: [512, 513] is more than the window [512, 512], which",
        ),
        (
            "base: {dataset: ade20k}",
            (),
            "run 1: evaluation.split: unknown split of ade20k 'val'. Known: training, validation.",
        ),
        (
            "",
            ("dataset.train_split=trian",),
            "run 1: dataset.train_split: unknown split of shapes 'trian'. Did you mean 'train'?",
        ),
        (
            "",
            ("augmentation.ratio_range=[2.0,0.5]",),
            "run 1: augmentation.ratio_range: 2.0 is more than 0.5; the order is [smallest, ",
        ),
        (
            "",
            ("decoder.in_index=[0,4]",),
            "run 1: decoder.in_index: expected at least one of the feature maps 0 to 3 of tiny, ",
        ),
        ("", ("decoder.in_index=[]",), "feature maps 0 to 3 of tiny, found []."),
    ],
)
def test_values_that_do_not_fit_together_are_refused_before_training(
    expand: Expand, text: str, overrides: tuple[str, ...], sentence: str
) -> None:
    assert sentence in expect_error(expand, text, *overrides)


def test_a_swept_override_replaces_the_seeds_or_adds_an_axis(expand: Expand) -> None:
    text = "{seeds: [0, 1, 2], grid: {method.num_prototypes: [1, 2]}}"
    assert [run.spec.seed for run in expand(text, "seed=5,6").runs] == [5, 6, 5, 6]
    assert [run.spec.seed for run in expand(text, "seed=9").runs] == [9, 9]
    assert [run.spec.seed for run in expand(text, "seed=range(0,2)").runs] == [0, 1, 0, 1]
    matrix = expand(text, "seed=0", "method.momentum=0.5,0.6")
    assert matrix.axes == ("method.num_prototypes", "method.momentum")
    assert len(matrix.runs) == 4


def test_a_text_in_a_grid_is_a_hydra_sweep(expand: Expand) -> None:
    matrix = expand(
        'grid: {method.num_prototypes: "range(1,4)", method.distance: "cosine,euclidean"}'
    )
    assert [tuple(a.values()) for a in axes(matrix)][:3] == [
        (1, "cosine"), (1, "euclidean"), (2, "cosine"),
    ]  # fmt: skip
    assert [a["backbone"] for a in axes(expand("grid: {backbone: tiny}"))] == ["tiny"]


def test_a_single_value_is_an_axis_with_one_value(expand: Expand) -> None:
    assert axes(expand("grid: {method.num_prototypes: 4}")) == [{"method.num_prototypes": 4}]


def test_exclude_drops_the_points_that_match_all_its_keys(expand: Expand) -> None:
    grid = "grid: {method.num_prototypes: [1, 2, 3], method.distance: [cosine, huber]}\n"
    points = [tuple(a.values()) for a in axes(expand(grid))]
    one = expand(grid + "exclude: {method.num_prototypes: 2, method.distance: huber}")
    assert [tuple(a.values()) for a in axes(one)] == [p for p in points if p != (2, "huber")]
    several = expand(grid + "exclude: [{method.num_prototypes: [1, 3]}, {method.distance: huber}]")
    assert [tuple(a.values()) for a in axes(several)] == [(2, "cosine")]
    assert len(expand(grid + "exclude: [{}]").runs) == len(points)


@pytest.mark.parametrize("pattern", ["{method: relesed}", '{method.num_prototypes: "5"}'])
def test_an_exclude_without_a_match_is_an_error(expand: Expand, pattern: str) -> None:
    grid = "grid: {method: [paper, released], method.num_prototypes: [1, 5]}\n"
    with pytest.raises(UsageError, match=r"exclude: .* matches no run"):
        expand(grid + f"exclude: [{pattern}]")


def test_a_baseline_without_a_run_is_an_error(expand: Expand) -> None:
    grid = "grid: {method: [paper, released]}\n"
    with pytest.raises(UsageError, match=r"'relesed'\. Did you mean 'released'"):
        expand(grid + "table: {baseline: {method: relesed}}")


def test_a_table_can_declare_comparisons_and_groups_of_images(expand: Expand) -> None:
    table = expand("table: {comparisons: {pairs: [[a, b]]}, image_groups: {block: 10}}").table
    assert table.comparisons == FamilySpec(pairs=(("a", "b"),))
    assert table.image_groups == ImageGroupsSpec(block=10)
    assert expand(
        "{rows: [{label: a}], table: {comparisons: {axis: label}}}"
    ).table.comparisons == (FamilySpec(axis="label"))
    assert expand("table: {expected_spread: 0.8}").table.expected_spread == 0.8
    table = expand("title: x").table
    assert (table.comparisons, table.image_groups, table.expected_spread) == (None, None, 0.0)


def test_a_table_can_name_published_numbers(expand: Expand) -> None:
    published = expand("table: {published: {file: zhou2022, match: {}}}").table.published
    assert published is not None
    assert (published.file, published.value) == ("zhou2022", "miou")
    assert expand("table: {published: null}").table.published is None


def test_an_interpolation_takes_the_value_of_the_axis(expand: Expand) -> None:
    matrix = expand(
        "{base: {method.huber_delta: '${method.kappa}'}, grid: {method.kappa: [0.1, 0.2]}}"
    )
    assert [run.spec.method.huber_delta for run in matrix.runs] == [0.1, 0.2]  # type: ignore[attr-defined]


def test_the_same_settings_give_the_same_run_id_in_all_matrices(expand: Expand) -> None:
    alone = expand("base: {method.num_prototypes: 4}").runs[0]
    swept = expand("grid: {method.num_prototypes: [3, 4]}").runs[1]
    labelled = expand("rows: [{label: x, method: paper, method.num_prototypes: 4}]").runs[0]
    assert alone.run_id == swept.run_id == labelled.run_id


def test_a_matrix_is_found_by_relative_and_absolute_path(
    composer: Composer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "my table ü.yaml"
    path.write_text("title: Mine")
    monkeypatch.chdir(tmp_path)
    for name in (str(path), path.name, f"./{path.name}"):
        assert load_matrix(composer, name).title == "Mine"
    assert load_matrix(composer, path.name).name == "my table ü"
    with pytest.raises(UsageError, match=r"^nowhere\.yaml: no such matrix file\.$"):
        load_matrix(composer, "nowhere.yaml")


def test_a_copied_folder_has_its_own_matrices(copied_experiments: Path) -> None:
    (copied_experiments / "matrices" / "mine.yaml").write_text("title: Mine")
    assert "mine" in list_matrices(ConfigFolders(copied_experiments))
    assert load_matrix(Composer(copied_experiments), "mine").title == "Mine"


MESSAGES = {
    "grit: {}": "m.yaml: unknown key 'grit'. Did you mean 'grid'? Known: base, exclude, grid, ",
    "- a": "m.yaml: the file: expected keys and values, found ['a'].",
    "base: [a]": "m.yaml: base: expected keys and values, found ['a'].",
    "base: {bakbone: tiny}": "m.yaml: run 1: unknown key 'bakbone'. Did you mean 'backbone'?",
    "base: {backbone: tini}": "m.yaml: run 1: unknown backbone 'tini'. Did you mean 'tiny'? Known",
    "base: {backbone: {name: x}}": "backbone: expected the name of an option, found {'name': 'x'}",
    "base: {seed: 3}": "m.yaml: 'seed' cannot be set here; list the seeds under 'seeds'.",
    "grid: {seed: [1, 2]}": "m.yaml: 'seed' cannot be set here; list the seeds under 'seeds'.",
    "rows: [{label: a, seed: 1}]": "'seed' cannot be set here; list the seeds under 'seeds'.",
    "grid: [1]": "m.yaml: grid: axes: expected keys and values, found [1].",
    "grid: {method.momentum: []}": "m.yaml: grid.method.momentum: no values; give at least one, or",
    "grid: {method.momentum: ''}": "momentum: expected a number, found ''.",
    "grid: {method.momentum: [0.5, 2]}": "run 2: method.momentum: 2.0 is out of range; allowed: at",
    "grid: {method.num_prototypes: [0]}": "run 1: method.num_prototypes: 0 is out of range; allow",
    "grid: {method.momentum: '0.5,'}": "override 'method.momentum=0.5,': ",
    "zip: {method.momentum: [0.1, 0.2], method.kappa: [1]}": (
        "m.yaml: zip: all axes need the same number of values; method.momentum has 2, "
        "method.kappa has 1."
    ),
    "rows: []": "m.yaml: rows: expected a list of at least one row, found [].",
    "rows: {label: a}": "m.yaml: rows: expected a list of at least one row, found {'label': 'a'}.",
    "rows: [{method: paper}]": "m.yaml: rows: each row needs a label.",
    "rows: [3]": "m.yaml: a row: expected keys and values, found 3.",
    "rows: [{label: a}, {label: a, method.momentum: 0.1}]": (
        "m.yaml: rows: the label 'a' is used twice; rename one."
    ),
    "rows: [{label: a}, {label: b}]": "m.yaml: 'a' and 'b' are the same run (shapes-tiny-segforme",
    "grid: {method.ce_weight: [1, 1.0]}": (
        "m.yaml: {method.ce_weight: 1} and {method.ce_weight: 1.0} are the same run (shapes-tiny-"
    ),
    "rows: [{label: a, method.momentum: 0.1, grid: 3}]": "m.yaml: a: unknown key 'grid'.",
    "{rows: [{label: a, method.momentum: 0.1}], grid: {method.momentum: [0.2]}}": (
        "m.yaml: 'method.momentum' is set in two of rows, zip, grid and overrides; keep one."
    ),
    "{zip: {method.momentum: [0.1]}, grid: {method.momentum: [0.2]}}": "is set in two of",
    "{grid: {method.momentum: [0.1]}, exclude: {method.momentum: 0.1}}": (
        "m.yaml: every run is excluded; keep at least one."
    ),
    "{grid: {method.momentum: [0.1]}, exclude: {method.momentun: 0.1}}": (
        "m.yaml: exclude: unknown axis 'method.momentun'. Did you mean 'method.momentum'? Known"
    ),
    "exclude: [3]": "m.yaml: exclude: expected keys and values, found 3.",
    "seeds: []": "m.yaml: seeds: expected a list of whole numbers from 0, found [].",
    "seeds: many": "m.yaml: seeds: expected a list of whole numbers from 0, found 'many'.",
    "seeds: [0, a]": "m.yaml: seeds[1]: expected a whole number, found 'a'.",
    "seeds: [0.5]": "m.yaml: seeds[0]: expected a whole number, found 0.5.",
    "seeds: [true]": "m.yaml: seeds[0]: expected a whole number, found True.",
    "seeds: [-1]": "m.yaml: seeds[0]: -1 is out of range; allowed: at least 0 and at most 21474836",
    "seeds: [99999999999]": "m.yaml: seeds[0]: 99999999999 is out of range; allowed: at least 0",
    "seeds: [1, 1]": "m.yaml: seeds: [1, 1] has a seed twice; remove one.",
    "table: {metric: [miou]}": "m.yaml: table: unknown key 'metric'. Did you mean 'metrics'? Known",
    "table: 3": "m.yaml: table: expected a mapping of settings, found 3.",
    "table: {rows: [method.momentum]}": "m.yaml: table.rows: unknown axis 'method.momentum'. Known",
    "{rows: [{label: a}], table: {columns: [lable]}}": (
        "m.yaml: table.columns: unknown axis 'lable'. Did you mean 'label'? Known: label."
    ),
    "{rows: [{label: a}], table: {baseline: {lable: a}}}": (
        "m.yaml: table.baseline: unknown axis 'lable'. Did you mean 'label'? Known: label."
    ),
    "{rows: [{label: a}], table: {comparisons: {}}}": (
        "m.yaml: table.comparisons: set one of axis and pairs."
    ),
    "{rows: [{label: a}], table: {comparisons: {axis: label, pairs: [[a, b]]}}}": (
        "m.yaml: table.comparisons: set one of axis and pairs."
    ),
    "{rows: [{label: a}], table: {comparisons: {axis: lable}}}": (
        "m.yaml: table.comparisons.axis: unknown axis 'lable'. Did you mean 'label'? Known: label."
    ),
    "table: {comparisons: {pair: [[a, b]]}}": (
        "m.yaml: table.comparisons: unknown key 'pair'. Did you mean 'pairs'? Known"
    ),
    "table: {comparisons: {pairs: [[a, b, c]]}}": "m.yaml: table.comparisons.pairs[0]: ",
    "table: {comparisons: {pairs: [a, b]}}": "m.yaml: table.comparisons.pairs[0]: ",
    "table: {comparisons: {pairs: [[a, a]]}}": (
        "m.yaml: table.comparisons.pairs: 'a' and 'a' is one row twice. Remove it."
    ),
    "table: {comparisons: {pairs: [[a, b], [b, a]]}}": (
        "m.yaml: table.comparisons.pairs: 'b' and 'a' is listed twice. Remove it."
    ),
    "table: {image_groups: {}}": "m.yaml: table.image_groups: set one of block and pattern.",
    "table: {image_groups: {block: 10, pattern: x}}": (
        "m.yaml: table.image_groups: set one of block and pattern."
    ),
    "table: {image_groups: {block: -1}}": "m.yaml: table.image_groups.block: -1 is out of range",
    "table: {image_groups: {block: many}}": (
        "m.yaml: table.image_groups.block: expected a whole number, found 'many'."
    ),
    "table: {expected_spread: -1}": "m.yaml: table.expected_spread: -1",
    "table: {published: {fil: x}}": "m.yaml: table.published: unknown key 'fil'. Did you mean 'fi",
    "title: a\ntitle: b": "m.yaml: not a readable YAML file: while constructing a mapping",
    "grid: {a: [1]": "m.yaml: not a readable YAML file: while parsing a flow mapping",
}


@pytest.mark.parametrize("text", MESSAGES)
def test_an_invalid_matrix_gives_one_sentence(expand: Expand, text: str) -> None:
    assert MESSAGES[text] in expect_error(expand, text)


def test_a_matrix_that_is_not_utf8_gives_one_sentence(composer: Composer, tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_bytes(b"title: \xff\n")
    with pytest.raises(UsageError, match=r"m\.yaml: not a readable YAML file: "):
        load_matrix(composer, str(path))


def test_an_unknown_matrix_name_suggests_the_nearest(composer: Composer) -> None:
    with pytest.raises(UsageError) as caught:
        load_matrix(composer, "quikstart")
    assert str(caught.value).startswith(
        "experiments/matrices: unknown matrix 'quikstart'. Did you mean 'quickstart'? Known: "
    )


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["method=paper"], "override 'method': m.yaml sets it for each run; change it there, or"),
        (["method.momentum=0.5"], "override 'method.momentum': m.yaml sets it for each run;"),
        (["method.momentum=0.5,0.6"], "'method.momentum' is set in two of"),
        (["label=x"], "override 'label': m.yaml sets it for each run"),
        (["method.kappa=1,2", "method.kappa=3"], "override 'method.kappa': m.yaml sets it for eac"),
        (["seed=a"], "override seed[0]: expected a whole number, found 'a'."),
        (["seed=1,1"], "override seed: [1, 1] has a seed twice; remove one."),
        (["~seed"], "override seed[0]: expected a whole number, found None."),
        (["dataset=camvit"], "m.yaml: a: unknown dataset 'camvit'. Did you mean 'camvid'?"),
    ],
)
def test_an_invalid_override_gives_one_sentence(
    expand: Expand, overrides: list[str], sentence: str
) -> None:
    text = "rows: [{label: a, method: paper}, {label: b, method: paper, method.momentum: 0.1}]"
    assert sentence in expect_error(expand, text, *overrides)
