"""Tables in the style of the paper: published rows, pairs with arrows, brackets, verdicts."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path

import pytest
from typesetting import NEEDS_LATEX, typeset

from protoseg.config.compose import Composer
from protoseg.config.matrix import Matrix, PublishedSpec
from protoseg.config.overrides import Setting
from protoseg.errors import ProtosegError, UsageError
from protoseg.report.formats import files
from protoseg.report.tables.model import Table
from protoseg.report.tables.parameter_cells import count_classifier_parameters
from report.lab import Lab, cell, make_matrix, make_spec, method, methods_matrix, with_table
from report.tables.test_builder import A, B, finish_all, footnotes

ROOT = Path(__file__).parents[3]
NUMBERS = """
source: The Paper, Table 1
dataset: camvid
split: val
rows:
  - {label: Other, method: Other, backbone: R101, params_m: 62.7, miou: 44.1, note: elsewhere}
  - {label: parametric 1, method: Base, backbone: B2, params_m: "27.80", inside: 0.12, miou: 45.0}
  - {label: prototype 10, method: Ours, backbone: B2, params_m: 27.37, inside: 0, miou: 46.4}
"""


def paper_like(lab: Lab, numbers: str = NUMBERS, **changes: object) -> Matrix:
    """A matrix with two paired rows and three published ones."""
    (lab.published / "numbers.yaml").write_text(numbers)
    fields = {
        "file": "numbers",
        "match": {"label": "label"},
        "parameters": "params_m",
        "brackets": "inside",
        "labels": {"method": "Method", "backbone": "Backbone"},
    }
    spec = PublishedSpec(**(fields | changes))  # type: ignore[arg-type]
    matrix = methods_matrix([A, B], metrics=("miou", "learnable"), published=spec)
    return with_table(matrix, pairs={B: A})


def shown(table: Table) -> dict[str, list[str]]:
    return {row.label: [c.plain for c in row.cells] for row in table.rows}


def test_without_results_only_published_values_are_shown(lab: Lab) -> None:
    table = lab.table(paper_like(lab))
    assert [column.plain for column in table.header] == [
        *("Method", "Backbone", "mIoU", "Δ", "Published [a]", "Verdict"),
        *("Params (M)", "Published (M) [a]"),
    ]
    assert shown(table) == {
        "Other, R101": ["Other", "R101", "", "", "44.1 [b]", "", "", "62.7"],
        A: ["Base", "B2", "not run", "–", "45.0", "", "", "27.80 (0.12)"],
        B: ["Ours", "B2", "not run", "", "46.4 ↑1.4", "", "", "27.37 (0)"],
    }
    assert [row.rule for row in table.rows] == [False, True, False]
    assert "Verdict" not in footnotes(table)
    assert "Published: elsewhere." in footnotes(table)


def test_measured_values_are_compared_with_published_ones(lab: Lab) -> None:
    finish_all(lab, {A: [45.0, 45.1, 44.9], B: [44.0, 44.1, 43.8]})
    table = lab.table(paper_like(lab))
    assert shown(table)[A] == [
        *("Base", "B2", "45.00 ± 0.10", "–", "45.0", "reproduced"),
        *("3.72 (0.0008)", "27.80 (0.12)"),
    ]
    assert shown(table)[B] == [
        *("Ours", "B2", "43.97 ± 0.15", "↓1.03 ± 0.06", "46.4 ↑1.4", "below"),
        *("3.72 (0)", "27.37 (0)"),
    ]
    assert "to the baseline it is paired with" in footnotes(table)
    assert "is within 0.5 points of it" in footnotes(table)
    wide = lab.table(paper_like(lab, margin=3.0))
    assert cell(wide, B, "verdict").text == "reproduced"
    assert "is within 3 points of it" in footnotes(wide)


def test_two_seeds_or_other_data_give_no_verdict(lab: Lab) -> None:
    finish_all(lab, {A: [45.0, 45.1], B: [80.0]})
    table = lab.table(paper_like(lab))
    assert cell(table, A, "verdict").plain == "can not tell (2 seeds)"
    assert cell(table, B, "verdict").plain == "can not tell (1 seed)"
    other = NUMBERS.replace("split: val", "split: test")
    table = lab.table(paper_like(lab, other))
    assert cell(table, A, "verdict").plain == "other data"
    assert "for camvid test (measured here: camvid val)" in footnotes(table)
    table = lab.table(paper_like(lab, other + "measured_as: [camvid val]\n"))
    assert cell(table, A, "verdict").plain == "can not tell (2 seeds)"
    assert "measured here" not in footnotes(table)


def test_another_metric_setting_or_unnamed_data_gives_no_verdict(lab: Lab) -> None:
    finish_all(lab, {A: [45.0, 45.1, 44.9]})
    other = NUMBERS.replace("miou: 45.0", "macc: 45.0, miou: 45.0")
    assert (
        cell(lab.table(paper_like(lab, other, value="macc")), A, "verdict").plain == "other metric"
    )
    nameless = NUMBERS.replace("dataset: camvid\nsplit: val\n", "")
    table = lab.table(paper_like(lab, nameless))
    assert cell(table, A, "verdict").plain == "data not named"
    assert "(measured here: camvid val; its data are not named)" in footnotes(table)
    changed = dataclasses.replace(paper_like(lab), overrides=("schedule.iterations=9", "seed=0"))
    assert cell(lab.table(changed), A, "verdict").plain == "other setting"
    seeds = dataclasses.replace(paper_like(lab), overrides=("seed=0,1,2",))
    assert cell(lab.table(seeds), A, "verdict").plain == "reproduced"


def test_an_unknown_published_value_gives_no_verdict_and_no_arrow(lab: Lab) -> None:
    finish_all(lab, {A: [45.0, 45.1, 44.9], B: [46.0, 46.1, 46.2]})
    table = lab.table(paper_like(lab, NUMBERS.replace("miou: 45.0", "miou: null")))
    assert cell(table, A, "published").plain == "unknown"
    assert cell(table, A, "verdict").plain == ""
    assert cell(table, B, "published").plain == "46.4"


@pytest.mark.parametrize(
    ("name", "cells"),
    [("New, B2", ["New", "B2"]), ("New", ["New", ""]), ("New, B2, wide", ["New, B2, wide", ""])],
)
def test_an_unpublished_setting_is_labelled_with_its_name(
    lab: Lab, name: str, cells: list[str]
) -> None:
    ours = next(line for line in NUMBERS.splitlines() if "method: Ours" in line)
    table = lab.table(with_table(paper_like(lab, NUMBERS.replace(ours, "")), names={B: name}))
    assert shown(table)[name] == [*cells, "not run", "", "–", "", "", "–"]


def test_rows_of_two_axes_have_rules_and_pairs_within_the_other_axis(lab: Lab) -> None:
    planned = []
    for name in (A, B):
        for data in ("easy", "hard"):
            for seed in range(3):
                spec = make_spec(
                    seed,
                    method={"kind": name.split()[0], "num_prototypes": int(name.split()[1])},
                    dataset={"name": data},
                )
                planned.append((spec, {"label": name, "dataset": data}))
                lab.finish(spec, 50 + (9 + seed / 10) * (name == B) + 20 * (data == "hard") + seed)
    table = lab.table(make_matrix(planned, pairs={B: A}))
    assert cell(table, f"{B}, hard", "delta").plain == "↑9.10 ± 0.10"
    assert cell(table, f"{A}, easy", "delta").plain == "–"
    assert [row.rule for row in table.rows] == [False, False, True, False]
    assert [row.label for row in table.rows if row.cells[2].bold] == [f"{B}, easy", f"{B}, hard"]
    assert "Values of different data or evaluation are not compared." in footnotes(table)


def test_every_format_shows_published_values_and_verdicts(lab: Lab) -> None:
    finish_all(lab, {A: [45.0, 45.1, 44.9], B: [44.0, 44.1, 43.8]})
    table = lab.table(paper_like(lab))
    text = files.to_markdown(table)
    assert "| Other  | R101     |" in text
    assert "46.4 ↑1.4" in text
    lines = list(csv.DictReader(io.StringIO(files.to_csv(table))))
    assert len(lines) == 3 * 2
    entries = {(e["row"], e["metric"]): e for e in lines}
    measured = entries[B, "miou"]
    assert (measured["method"], measured["backbone"], measured["verdict"]) == (
        "Ours",
        "B2",
        "below",
    )
    assert (measured["published"], entries[B, "learnable"]["published"]) == ("46.4", "27.37")
    assert (measured["published_delta"], measured["source"]) == ("1.4", table.footnotes[-2].text)
    assert "The Paper, Table 1." in measured["source"]
    params = entries[A, "learnable"]
    assert (float(params["brackets"]), params["published_brackets"]) == (0.000771, "0.12")
    assert entries["Other, R101", "miou"]["note"] == "Published: elsewhere."
    reference = entries["Other, R101", "miou"]
    assert (reference["mean"], reference["published"], reference["n"]) == ("", "44.1", "0")
    page = files.to_html(table)
    assert page.count('<tr class="rule">') == 1
    assert '<td class="label" title="n = 3 of 3">below</td>' in page
    source = files.to_latex(table)
    assert source.count(r"\midrule") == 2
    assert r"46.4 $\uparrow$1.4 & below" in source
    assert r"\textit{}" not in source


@NEEDS_LATEX
def test_latex_of_a_wide_table_and_of_ticks_compiles(lab: Lab, tmp_path: Path) -> None:
    finish_all(lab, {A: [45.0, 45.1, 44.9], B: [44.0, 44.1]})
    wide = lab.table(with_table(paper_like(lab), metrics=("miou", "macc", "aacc", "learnable")))
    ticks = NUMBERS.replace("backbone: B2", "backbone: true")
    sources = [files.to_latex(t) for t in (wide, lab.table(paper_like(lab, ticks)))]
    assert r"\begin{table*}" in sources[0]
    assert r"$\surd$" in sources[1]
    typeset(sources, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"methd": "Method"}}, "published.labels: unknown field 'methd'"),
        ({"parameters": "params"}, "published.parameters: unknown field 'params'"),
        ({"brackets": "insid"}, "published.brackets: unknown field 'insid'"),
    ],
)
def test_mistakes_are_named(lab: Lab, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as error:
        lab.table(paper_like(lab, **changes))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("miou: 45.0", "miou: .nan", "row 2: miou: expected a number, or null for an unknown"),
        (
            "miou: 45.0",
            "miou: 45.0*",
            "expected a number, or null for an unknown value",
        ),
        ('params_m: "27.80"', "params_m: [27]", "row 2: params_m: expected a number, or null"),
        ("inside: 0.12", 'inside: "0,12"', "row 2: inside: expected a number, or null"),
        (
            "split: val",
            "split: val\nmeasured_as: 5",
            "measured_as: expected data sets",
        ),
        ("rows:", "parts: 3\nrows:", "expected 'rows' with a list, or 'parts' with a list each."),
        ("rows:", "rows: 5\nold:", "expected 'rows' with a list, or 'parts' with a list each."),
    ],
)
def test_a_wrong_published_file_is_refused_with_its_path(
    lab: Lab, old: str, new: str, message: str
) -> None:
    assert old in NUMBERS
    with pytest.raises(ProtosegError) as error:
        lab.table(paper_like(lab, NUMBERS.replace(old, new, 1)))
    assert str(error.value).startswith(f"{lab.published / 'numbers.yaml'}: ")
    assert message in str(error.value)


def test_measured_as_may_be_a_single_name(lab: Lab) -> None:
    finish_all(lab, {A: [45.0, 45.1, 44.9]})
    other = NUMBERS.replace("split: val", "split: test\nmeasured_as: camvid val")
    assert cell(lab.table(paper_like(lab, other)), A, "verdict").plain == "reproduced"


def test_unknown_pairs_and_labels_with_columns_are_refused(lab: Lab) -> None:
    with pytest.raises(UsageError, match="no row is labelled 'nobody'"):
        lab.table(with_table(methods_matrix([A, B]), pairs={B: "nobody"}))
    planned = [(method(A), {"label": A, "k": 1}), (method(B), {"label": B, "k": 1})]
    matrix = with_table(
        make_matrix(planned), columns=("k",), published=paper_like(lab).table.published
    )
    with pytest.raises(UsageError, match="Keep one of the two"):
        lab.table(matrix)


@pytest.mark.parametrize("k", [1, 10])
@pytest.mark.parametrize("decoder", ["segformer_128", "fcn_hr48"])
def test_the_number_in_brackets_counts_the_classifier(decoder: str, k: int) -> None:
    from protoseg.training.builders.parameter_counts import count_spec_parameters

    composer = Composer(ROOT / "experiments")
    settings = {"backbone": "mobilenet_v2", "decoder": decoder, "dataset": "camvid"}
    for name, learned in (("parametric", True), ("paper", False)):
        chosen = {**settings, "method": name, "method.num_prototypes": k}
        spec = composer.spec([Setting(key, value) for key, value in chosen.items()], "test")
        assert count_classifier_parameters(spec) == count_spec_parameters(spec).classifier
        assert (count_spec_parameters(spec).classifier > 0) is learned
