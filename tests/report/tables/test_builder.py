"""Cells, footnotes and refusals of `build_table`."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

import numpy as np
import pytest

from protoseg.config.identity import run_id
from protoseg.config.matrix import Matrix, PublishedSpec
from protoseg.config.methods import WeakContrastMethod
from protoseg.errors import ProtosegError, UsageError
from protoseg.report.formats import files
from protoseg.report.tables.model import Table
from protoseg.runs import claim
from report.lab import Lab, cell, make_matrix, make_spec, method, methods_matrix, with_table

A, B = "parametric 1", "prototype 10"
AGAINST_A = {"baseline": {"label": A}}


def finish_all(lab: Lab, values: dict[str, list[float]]) -> None:
    for name, mious in values.items():
        for seed, miou in enumerate(mious):
            lab.finish(method(name, seed), miou)


def footnotes(table: Table) -> str:
    return "\n".join(note.text for note in table.footnotes)


def test_cells_have_mean_std_n_and_paired_delta(lab: Lab) -> None:
    ours, theirs = [71.0, 72.5, 71.5], [70.0, 71.0, 70.9]
    finish_all(lab, {A: theirs, B: ours})
    table = lab.table(methods_matrix([A, B], metrics=("miou", "aacc"), **AGAINST_A))
    shown = cell(table, B, "miou")
    assert shown.value == pytest.approx(np.mean(ours))
    assert shown.std == pytest.approx(np.std(ours, ddof=1))
    assert (shown.n, shown.expected_n, len(shown.run_ids)) == (3, 3, 3)
    assert shown.plain == "71.67 ± 0.76"
    delta = cell(table, B, "delta")
    differences = np.subtract(ours, theirs)
    assert delta.value == pytest.approx(differences.mean())
    assert delta.std == pytest.approx(differences.std(ddof=1))
    assert delta.plain == "+1.03 ± 0.45"
    assert cell(table, A, "delta").plain == "–"
    assert cell(table, B, "aacc").plain == "91.67 ± 0.76"
    assert [column.key for column in table.header] == ["label", "miou", "delta", "aacc"]
    assert "n = 3" in footnotes(table)


def test_one_seed_has_no_spread(lab: Lab) -> None:
    finish_all(lab, {A: [70.0], B: [71.0]})
    table = lab.table(methods_matrix([A, B], seeds=[0], **AGAINST_A))
    assert cell(table, B, "miou").plain == "71.00"
    assert cell(table, B, "delta").plain == "+1.00"
    assert cell(table, B, "miou").std is None
    assert "n = 1 seed" in footnotes(table)


def test_partial_and_missing_results_are_named(lab: Lab) -> None:
    finish_all(lab, {A: [70.0, 71.0, 72.0], B: [75.0, 76.0]})
    lab.fail(method(B, 2), "out_of_memory")
    for seed in range(3):
        lab.fail(method("prototype 1", seed), "code_error")
    held = claim.acquire(lab.start(method("parametric 10", 0)).claim)
    assert held is not None
    names = [A, B, "prototype 1", "parametric 10", "prototype 5"]
    table = lab.table(methods_matrix(names, metrics=("miou", "parameters"), **AGAINST_A))
    held.release()
    assert cell(table, B, "miou").plain == "75.50 ± 0.71 (2 of 3 seeds) [a]"
    assert "2 of 3 seeds, without seed 2 (failed: out_of_memory)." in footnotes(table)
    assert cell(table, B, "delta").plain == "+5.00 ± 0.00 [a]"
    assert cell(table, "prototype 1", "miou").plain == "failed: code_error"
    assert cell(table, "prototype 1", "delta").plain == "failed"
    assert cell(table, "parametric 10", "miou").plain == "2 not run, 1 running"
    assert cell(table, "parametric 10", "parameters").plain == "no result"
    assert cell(table, "prototype 5", "miou").plain == "not run"
    for row in table.rows:
        for shown in row.cells:
            assert "nan" not in shown.plain
            assert (shown.kind == "status") <= (shown.value is None)


def test_a_damaged_record_is_a_status_and_a_warning(lab: Lab) -> None:
    lab.finish(method(A, 0), 70.0).write_text("{")
    table = lab.table(methods_matrix([A], seeds=[0]))
    assert cell(table, A, "miou").plain == "damaged record"
    assert len(lab.store.warnings) == 1


def test_a_record_without_the_metric_is_named(lab: Lab) -> None:
    lab.finish(method(A, 0), 70.0, metrics={"miou": None})
    table = lab.table(methods_matrix([A], seeds=[0], metrics=("miou", "macc")))
    assert cell(table, A, "miou").plain == "not in the record"
    assert cell(table, A, "macc").plain == "78.00 (1 seed)"


def test_delta_uses_only_shared_seeds(lab: Lab) -> None:
    finish_all(lab, {B: [75.0, 76.0, 80.0]})
    lab.finish(method(A, 1), 70.0)
    lab.finish(method(A, 2), 71.0)
    table = lab.table(methods_matrix([A, B], **AGAINST_A))
    delta = cell(table, B, "delta")
    assert (delta.value, delta.n, delta.expected_n) == (7.5, 2, 3)
    assert delta.std == pytest.approx(math.sqrt(4.5))
    note = next(note.text for note in table.footnotes if note.mark == delta.mark)
    assert note == "2 of 3 seeds, without seed 0 (baseline not run)."


def test_delta_without_a_baseline_result_has_a_status(lab: Lab) -> None:
    lab.finish(method(B, 0), 75.0)
    matrix = methods_matrix([A, B], **AGAINST_A)
    assert cell(lab.table(matrix), B, "delta").plain == "baseline not run"
    lab.finish(method(A, 1), 70.0)
    assert cell(lab.table(matrix), B, "delta").plain == "no shared seed"


def test_the_baseline_has_equal_other_axes_but_not_dependent_ones(lab: Lab) -> None:
    planned = []
    for method_kind, rate in (("parametric", 1e-3), ("prototype", 2e-3)):
        for k in (1, 10):
            spec = make_spec(
                method={"kind": method_kind, "num_prototypes": k}, schedule={"learning_rate": rate}
            )
            planned.append((spec, {"method": method_kind, "rate": rate, "k": k}))
            lab.finish(spec, 60.0 + k + (5 if method_kind == "prototype" else 0))
    matrix = make_matrix(planned, rows=("method", "k"), baseline={"method": "parametric"})
    table = lab.table(matrix)
    assert table.rows[0].label == "parametric, 1"
    assert cell(table, "prototype, 10", "delta").value == pytest.approx(5.0)
    assert cell(table, "parametric, 10", "delta").plain == "–"
    holed = make_matrix(planned[1:], rows=("method", "k"), baseline={"method": "parametric"})
    assert cell(lab.table(holed), "prototype, 1", "delta").plain == "no baseline"


def test_only_distinguishable_values_are_bold(lab: Lab) -> None:
    near, far = [70.0, 71.0, 70.5], [75.0, 76.0, 75.4]
    finish_all(lab, {A: near, B: far})
    matrix = methods_matrix([A, B, "prototype 1"])
    assert cell(lab.table(matrix), B, "miou").bold
    finish_all(lab, {"prototype 1": [74.0, 77.0, 75.2]})
    table = lab.table(matrix)
    assert not any(shown.bold for row in table.rows for shown in row.cells)
    assert "No value is bold here." in footnotes(table)


def test_ties_and_two_seeds_are_not_bold(lab: Lab) -> None:
    finish_all(lab, {A: [70.0, 71.0, 72.0], B: [70.0, 71.0, 72.0]})
    table = lab.table(methods_matrix([A, B]))
    assert not cell(table, A, "miou").bold
    finish_all(lab, {"prototype 1": [1.0, 2.0], "prototype 5": [91.0, 92.0]})
    table = lab.table(methods_matrix(["prototype 1", "prototype 5"], seeds=range(2)))
    assert not cell(table, "prototype 5", "miou").bold


def bold_cells(table: Table) -> list[tuple[str, str]]:
    """Row and column of each bold value."""
    return [
        (row.label, column.key)
        for row in table.rows
        for column, shown in zip(table.header, row.cells, strict=True)
        if shown.bold
    ]


def finish_all_metrics(lab: Lab, values: dict[str, list[tuple[float, float, float]]]) -> None:
    """Write records with (mIoU, mAcc, aAcc) for each seed."""
    for name, of_seeds in values.items():
        for seed, metrics in enumerate(of_seeds):
            parts = dict(zip(("miou", "macc", "aacc"), metrics, strict=True))
            lab.finish(method(name, seed), parts["miou"], metrics=parts)


def test_each_quality_column_has_its_bold_value(lab: Lab) -> None:
    finish_all_metrics(
        lab,
        {
            A: [(70.0, 80.0, 91.0), (71.0, 81.0, 92.0), (72.0, 82.0, 93.5)],
            B: [(74.0, 81.0, 90.0), (71.5, 82.1, 90.9), (72.5, 83.3, 92.0)],
        },
    )
    table = lab.table(methods_matrix([A, B], metrics=("miou", "macc", "aacc")))
    assert bold_cells(table) == [(A, "aacc"), (B, "macc")]
    assert "Bold: the best value of its column (mIoU, mAcc, aAcc)" in footnotes(table)


def test_costs_are_not_bold(lab: Lab) -> None:
    # They are measured on different machines, and BOLD_RULE names the quality metrics alone.
    for seed in range(3):
        lab.finish(method(A, seed), 70.0, cost={"seconds": 100.0 + seed})
        lab.finish(method(B, seed), 70.0, cost={"seconds": 200.0 + 2 * seed})
    table = lab.table(methods_matrix([A, B], metrics=("seconds",)))
    assert bold_cells(table) == []
    assert "Bold" not in footnotes(table)


def test_a_lead_below_the_printed_digit_is_not_bold_beside_an_equal_number(lab: Lab) -> None:
    leads = [0.0010, 0.0012, 0.0011]
    values = [70.0, 71.0, 72.0]
    finish_all(lab, {A: values, B: [v + lead for v, lead in zip(values, leads, strict=True)]})
    table = lab.table(methods_matrix([A, B], **AGAINST_A))
    assert cell(table, A, "miou").text == cell(table, B, "miou").text == "71.00"
    assert bold_cells(table) == []
    assert table.family is not None
    assert table.family.comparisons[0].interval is not None
    assert table.family.comparisons[0].interval[0] > 0


def test_a_lead_without_spread_is_not_bold_but_noted(lab: Lab) -> None:
    finish_all(lab, {A: [70.0, 71.0, 72.0], B: [75.0, 76.0, 77.0]})
    matrix = methods_matrix([A, B])
    assert bold_cells(lab.table(matrix)) == []
    note = "In mIoU a difference is the same for every seed, so it has no interval."
    assert f"{note} No value is bold here." in footnotes(lab.table(matrix))
    lab.finish(method(B, 2), 77.5)
    assert bold_cells(lab.table(matrix)) == [(B, "miou")]
    assert note not in footnotes(lab.table(matrix))


def per_class(present: float, absent: float | None) -> list[dict[str, object]]:
    """Two classes with ground truth and one without, which a run may predict."""
    return [
        *({"name": name, "iou": present, "pixels": 1000} for name in ("sky", "road")),
        {"name": "car", "iou": absent, "pixels": 0},
    ]


def test_a_value_that_is_not_the_best_in_print_is_not_bold(lab: Lab) -> None:
    # B is better in the classes with ground truth, but predicts a class without.
    for seed in range(3):
        ours, theirs = 60.0 + seed + seed / 10, 54.0 + seed
        lab.finish(method(A, seed), theirs, per_class=per_class(theirs, None))
        lab.finish(method(B, seed), ours * 2 / 3, per_class=per_class(ours, 0.0))
    matrix = methods_matrix([A, B], metrics=("miou", "miou_present"))
    assert bold_cells(lab.table(matrix)) == [(B, "miou_present")]


def test_mixed_protocols_are_refused_unless_an_axis_names_them(lab: Lab) -> None:
    slide = {"mode": "slide", "crop_size": [512, 512], "stride": [384, 384]}
    whole, slid = make_spec(), make_spec(evaluation=slide)
    with pytest.raises(ProtosegError) as error:
        lab.table(make_matrix([(whole, {"label": "a"}), (slid, {"label": "b"})]))
    text = "'camvid val (101 images, 3 classes), whole image, single scale, no flip'"
    assert text in str(error.value)
    assert "sliding window 512×512, stride 384×384" in str(error.value)
    assert "evaluation.mode" in str(error.value)
    both = [(whole, {"evaluation.mode": "whole"}), (slid, {"evaluation.mode": "slide"})]
    assert len(lab.table(make_matrix(both)).rows) == 2
    other = make_spec(dataset={"name": "other"})
    with pytest.raises(ProtosegError, match=r"dataset\.name"):
        lab.table(make_matrix([(whole, {"label": "a"}), (other, {"label": "b"})]))
    # An axis for the data set does not name the sliding window.
    with pytest.raises(ProtosegError, match=r"evaluation\.mode"):
        lab.table(
            make_matrix([(whole, {"dataset": "x", "l": 1}), (slid, {"dataset": "x", "l": 2})])
        )


@pytest.mark.parametrize(
    ("method", "text"),
    [
        (WeakContrastMethod(scales=(0.5, 1.0), flip=False), "scales 0.5 + 1, no flip"),
        (WeakContrastMethod(), "scales 0.5 + 1 + 1.5 + 2, and flipped"),
    ],
)
def test_the_footnote_of_pseudo_masks_names_scales_and_flip(
    lab: Lab, method: WeakContrastMethod, text: str
) -> None:
    spec = dataclasses.replace(make_spec(), method=method)
    notes = footnotes(lab.table(make_matrix([(spec, {"label": "a"})])))
    assert f", whole image, {text}, at the best background threshold." in notes


def test_values_of_different_data_sets_are_not_bold(lab: Lab) -> None:
    planned = []
    for data, value in (("easy", 90.0), ("hard", 10.0)):
        for seed in range(3):
            spec = make_spec(seed, dataset={"name": data})
            planned.append((spec, {"dataset": data}))
            lab.finish(spec, value + seed)
    table = lab.table(make_matrix(planned))
    assert not any(shown.bold for row in table.rows for shown in row.cells)


def test_a_cell_with_several_settings_is_refused(lab: Lab) -> None:
    planned = [(method(A), {"k": 1, "row": "x"}), (method(B, 1), {"k": 10, "row": "x"})]
    with pytest.raises(UsageError, match="Add k to table"):
        lab.table(make_matrix(planned, rows=("row",)))


def pivot_matrix(lab: Lab, **table: object) -> Matrix:
    planned = []
    for method_kind in ("parametric", "prototype"):
        for k in (1, 10):
            for seed in range(3):
                spec = make_spec(seed, method={"kind": method_kind, "num_prototypes": k})
                planned.append((spec, {"method": method_kind, "method.num_prototypes": k}))
                lab.finish(spec, 60 + k + (method_kind == "prototype") * (3 + seed / 10))
    table = {"columns": ("method.num_prototypes",), "baseline": {"method": "parametric"}, **table}
    return make_matrix(planned, **table)


def test_columns_form_a_pivot_table(lab: Lab) -> None:
    table = lab.table(pivot_matrix(lab, names={"method.num_prototypes": "K", "prototype": "Ours"}))
    keys = [column.key for column in table.header]
    assert keys == ["method", "1/miou", "1/delta", "10/miou", "10/delta"]
    assert table.header[3].plain == "K = 10 mIoU"
    assert [row.label for row in table.rows] == ["parametric", "Ours"]
    assert cell(table, "Ours", "10/delta").value == pytest.approx(3.1)
    assert cell(table, "Ours", "1/miou").bold
    assert cell(table, "parametric", "10/miou").plain == "70.00 ± 0.00"
    assert {(c.group, c.name) for c in table.per_class} >= {("1", "sky"), ("10", "car")}


def write_published(lab: Lab, rows: str, extra: str = "dataset: camvid\nsplit: val\n") -> None:
    (lab.published / "numbers.yaml").write_text(f"source: The Paper, Table 1\n{extra}{rows}\n")


def test_masks_of_other_scales_are_not_compared(lab: Lab) -> None:
    planned = []
    for name, scales in (("few", [1.0]), ("many", [0.5, 1.0, 2.0])):
        for seed in range(3):
            spec = dataclasses.replace(
                make_spec(seed), method=WeakContrastMethod(scales=tuple(scales))
            )
            planned.append((spec, {"label": name, "method.scales": scales}))
            lab.finish(spec, 30 + 10 * (name == "many") + seed)
    with pytest.raises(ProtosegError, match=r"they differ in method\.scales"):
        lab.table(make_matrix([(spec, {"label": axes["label"]}) for spec, axes in planned]))
    table = lab.table(make_matrix(planned, baseline={"method.scales": [1.0]}))
    assert cell(table, "many, [0.5, 1, 2]", "delta").plain == "other data"
    assert not any(c.bold for row in table.rows for c in row.cells)


def test_delta_across_data_sets_is_a_status(lab: Lab) -> None:
    planned = []
    for data in ("easy", "hard"):
        for seed in range(3):
            spec = make_spec(seed, dataset={"name": data})
            planned.append((spec, {"dataset": data}))
            lab.finish(spec, 50 + 20 * (data == "hard") + seed)
    table = lab.table(make_matrix(planned, baseline={"dataset": "easy"}))
    delta = cell(table, "hard", "delta")
    assert (delta.kind, delta.plain, delta.value) == ("status", "other data", None)
    assert cell(table, "easy", "delta").plain == "–"


def test_overrides_are_named_in_every_format_and_in_the_label(lab: Lab) -> None:
    finish_all(lab, {A: [70.0, 71.0, 72.0]})
    matrix = methods_matrix([A])
    plain = files.to_latex(lab.table(matrix))
    more = dataclasses.replace(matrix, overrides=("seed=0,1,2",))
    assert "Made with overrides" not in footnotes(lab.table(more))
    changed = dataclasses.replace(matrix, overrides=("seed=0,1,2", "precision=bf16", "~a.b"))
    table = lab.table(changed)
    text = "Made with overrides: precision=bf16, ~a.b. Title and caption are those of the matrix"
    assert table.footnotes[0].text.startswith(text)
    for form in (files.to_markdown, files.to_html, files.to_latex):
        assert "Made with overrides: precision=bf16, " in form(table).replace("\\", "")
    source = files.to_latex(table)
    assert "% Made by `protoseg tables test seed=0,1,2 precision=bf16 ~a.b`;" in source
    assert r"\label{tab:test-seed-0-1-2-precision-bf16-a.b}" in source
    assert r"\label{tab:test}" in plain


def test_published_values_have_their_own_column(lab: Lab) -> None:
    rows = """rows:
  - {method: Parametric, miou: 45.0}
  - {method: PROTOSEG, miou: null, note: lost}"""
    write_published(lab, rows)
    finish_all(lab, {A: [70.0]})
    spec = PublishedSpec("numbers", match={"label": "method"})
    matrix = methods_matrix(
        [A, B, "prototype 1"],
        seeds=[0],
        names={A: "Parametric", B: "ProtoSeg"},
        published=spec,
    )
    table = lab.table(matrix)
    published = cell(table, "Parametric", "published")
    assert (published.kind, published.plain, published.n, published.run_ids) == (
        "published",
        "45.0",
        0,
        (),
    )
    assert cell(table, "Parametric", "miou").plain == "70.00"
    assert cell(table, "ProtoSeg", "published").plain == "unknown [b]"
    assert cell(table, "prototype 1", "published").plain == "–"
    header = table.header[table.column("published")]
    assert header.mark == "a"
    assert "not measured by this project: The Paper, Table 1." in footnotes(table)
    write_published(lab, rows, "dataset: ade20k\nsplit: val\n")
    assert "for ade20k val (measured here: camvid val)" in footnotes(lab.table(matrix))


def test_published_parts_match_numbers_and_mistakes_are_named(lab: Lab) -> None:
    write_published(lab, "parts:\n  p:\n    - {k: 1, miou: 1.5}\n    - {k: 10, miou: 2.5}")
    matrix = make_matrix([(method("prototype 10"), {"method.num_prototypes": 10})])

    def shown(**changes: object) -> str:
        fields = {"part": "p", "match": {"method.num_prototypes": "k"}, **changes}
        spec = PublishedSpec(**{"file": "numbers", **fields})  # type: ignore[arg-type]
        return cell(lab.table(with_table(matrix, published=spec)), "10", "published").plain

    assert shown() == "2.5"
    for mistake, text in (
        ({"file": "number"}, "Did you mean 'numbers'"),
        ({"part": "q"}, "Known: p"),
        ({"value": "mio"}, "Did you mean 'miou'"),
        ({"match": {"method.num_prototypes": "kk"}}, "unknown field 'kk'"),
        ({"match": {"k": "k"}}, "unknown axis 'k'"),
        ({"match": {}}, "2 published rows match"),
    ):
        with pytest.raises(UsageError) as error:
            shown(**mistake)
        assert text in str(error.value)
    (lab.published / "numbers.yaml").write_text("rows: []")
    with pytest.raises(ProtosegError, match="has no 'source'"):
        shown()


def test_parameters_have_prototype_numbers_in_brackets(lab: Lab) -> None:
    for seed in range(3):
        lab.finish(method(A, seed), 70.0)
        lab.finish(method(B, seed), 70.0, parameters={"learnable": 27_370_000 + seed})
        count = {"learnable": 27_370_000, "prototype": 0}
        lab.finish(method("prototype 1", seed), 70.0, parameters=count)
    table = lab.table(methods_matrix([A, B, "prototype 1"], metrics=("miou", "parameters")))
    assert cell(table, A, "parameters").plain == "3.72 (0.28)"
    assert cell(table, B, "parameters").plain == "differ between seeds"
    assert cell(table, "prototype 1", "parameters").plain == "27.37 (0)"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"metrics": ("mio",)}, "Did you mean 'miou'? Known: aacc"),
        ({"metrics": ()}, "name at least one of miou"),
        ({"baseline": {"label": "none"}}, "no run has label=none. Known: label=parametric 1"),
        ({"baseline": {"lable": A}}, "Did you mean 'label'"),
        ({"rows": ("labl",)}, "table.rows: unknown axis 'labl'"),
        ({"columns": ("x",)}, "table.columns: unknown axis 'x'"),
        ({"names": {A: "same", B: "same"}}, "several rows are called 'same'"),
    ],
)
def test_mistakes_are_named(lab: Lab, changes: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError) as error:
        lab.table(with_table(methods_matrix([A, B]), **changes))
    assert text in str(error.value)
    assert error.value.exit_code == 2


def test_provenance_lists_commits_dates_and_devices(lab: Lab) -> None:
    lab.finish(method(A, 0), 70.0)
    dirty = {"commit": "f" * 40, "dirty": True, "device": {"name": "CPU"}}
    lab.finish(method(A, 1), 70.0, provenance=dirty)
    table = lab.table(methods_matrix([A]))
    provenance = table.provenance
    assert (provenance.records, provenance.dirty, provenance.devices) == (
        2,
        1,
        ("CPU", "NVIDIA H200"),
    )
    assert provenance.sentence == (
        "2 records; commits 0123456789, ffffffffff; 1 with uncommitted changes; "
        "finished 2026-01-02 to 2026-01-03; on CPU, NVIDIA H200."
    )
    assert (
        lab.table(methods_matrix([B])).provenance.sentence == "No run of this table has finished."
    )


def test_each_of_many_planned_runs_is_looked_up_once(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = [
        (make_spec(seed, method={"num_prototypes": k}), {"k": k})
        for k in range(1, 401)
        for seed in range(5)
    ]
    for spec, _ in planned[:50]:
        lab.finish(spec, 50.0 + spec.seed)
    lookups: Counter[str] = Counter()
    find = lab.store.find
    monkeypatch.setattr(lab.store, "find", lambda name: (lookups.update([name]), find(name))[1])
    table = lab.table(make_matrix(planned, baseline={"k": 1}, metrics=("miou", "parameters")))
    assert (len(lookups), set(lookups.values())) == (2000, {1})
    assert (len(table.rows), table.provenance.records) == (400, 50)
    assert cell(table, "10", "miou").n == 5
    assert run_id(planned[0][0]) in cell(table, "1", "miou").run_ids
