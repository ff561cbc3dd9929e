"""Formats of a table, parsed back."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typesetting import NEEDS_LATEX, typeset
from waiting import DEADLINE

from protoseg.cli import main
from protoseg.config.matrix import Matrix
from protoseg.errors import UsageError
from protoseg.report.formats import files
from protoseg.report.tables.model import Table
from report.lab import Lab, cell, make_matrix, make_spec, method, methods_matrix, with_table
from report.tables.test_builder import A, B, finish_all, pivot_matrix

NASTY = '<b>x</b> & 50% a_b | `c` $d$ #e {f} ~g ^h \\i *j* [k](l) "m"\nλ ± [red]n[/red]\x1b[31m'
SHOWN = '<b>x</b> & 50% a_b | `c` $d$ #e {f} ~g ^h \\i *j* [k](l) "m" λ ± [red]n[/red][31m'


def mixed_matrix(lab: Lab) -> Matrix:
    """A matrix of done, partial, failed and missing rows; a label has special characters."""
    finish_all(lab, {A: [70, 71, 72, 71], B: [80.1, 80.9, 82, 81], "prototype 1": [75, 76.2, 77]})
    lab.fail(method("prototype 1", 3), "out_of_memory")
    lab.fail(method("prototype 5", 0), "bad_data")
    names = {A: NASTY, "label": NASTY}
    rows = [A, B, "prototype 1", "prototype 5"]
    matrix = methods_matrix(rows, range(4), names=names, caption=NASTY)
    return with_table(
        matrix, metrics=("miou", "macc", "parameters"), baseline={"label": A}, note=NASTY
    )


@pytest.fixture
def mixed(lab: Lab) -> Table:
    return lab.table(mixed_matrix(lab))


def test_csv_has_unrounded_numbers(mixed: Table) -> None:
    lines = list(csv.DictReader(io.StringIO(files.to_csv(mixed))))
    assert len(lines) == 4 * 3
    first, ours = lines[0], next(e for e in lines if e["row"] == B and e["metric"] == "miou")
    assert (first["row"], first["label"], first["delta"]) == (SHOWN, A, "")
    shown, delta = cell(mixed, B, "miou"), cell(mixed, B, "delta")
    assert float(ours["mean"]) == shown.value
    assert float(ours["std"]) == shown.std
    assert float(ours["delta"]) == delta.value
    assert float(ours["delta_std"]) == delta.std
    assert (ours["n"], ours["delta_n"], ours["bold"], ours["unit"]) == ("4", "4", "true", "%")
    assert ours["run_ids"].split() == list(shown.run_ids)
    missing = next(e for e in lines if e["row"] == "prototype 5")
    assert (missing["mean"], missing["n"], missing["expected_n"]) == ("", "0", "4")
    assert missing["status"] == "3 not run, 1 failed: bad_data"
    for line in lines:
        for key in ("mean", "std", "delta", "delta_std", "published"):
            assert line[key] == "" or float(line[key]) == float(line[key])


def test_csv_notes_why_a_difference_is_missing(mixed: Table) -> None:
    lines = list(csv.DictReader(io.StringIO(files.to_csv(mixed))))
    notes = {e["row"]: e["note"] for e in lines if e["metric"] == "miou"}
    assert notes["prototype 1"] == "3 of 4 seeds, without seed 3 (failed: out_of_memory)."
    assert notes["prototype 5"] == "Δ: no result."
    assert notes[B] == ""


def test_csv_has_the_pivot_values(lab: Lab) -> None:
    lines = list(csv.DictReader(io.StringIO(files.to_csv(lab.table(pivot_matrix(lab))))))
    deltas = {(e["method"], e["method.num_prototypes"]): e["delta"] for e in lines}
    assert deltas["parametric", "1"] == ""
    assert float(deltas["prototype", "10"]) == pytest.approx(3.1)


def _pipes(line: str) -> int:
    return len(re.findall(r"(?<!\\)\|", line))


def test_markdown_has_all_columns_and_escapes(mixed: Table) -> None:
    text = files.to_markdown(mixed)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 4
    assert {_pipes(line) for line in lines} == {len(mixed.header) + 1}
    assert "<b>" not in text
    assert r"50% a\_b \| \`c\` \$d\$ \#e" in text
    assert "**81.00** ± 0.78" in text
    assert r"*3 not run, 1 failed: bad\_data*" in text
    assert "(3 of 4 seeds)<sup>a</sup>" in text
    assert "- <sup>a</sup> 3 of 4 seeds, without seed 3" in text


class Page(HTMLParser):
    """Parses the text of each cell, and all tags with their classes."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(f"{tag}.{dict(attrs).get('class')}")
        if tag not in ("meta", "link"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data


def test_html_cells_are_parsed_back(mixed: Table) -> None:
    page = Page()
    page.feed(files.to_html(mixed))
    assert page.open == []
    assert {len(row) for row in page.rows} == {len(mixed.header)}
    assert page.rows[1][0] == SHOWN
    assert page.rows[2][1] == "81.00 ± 0.78"
    assert "b.None" not in page.tags
    assert page.tags.count("strong.None") == 2  # in mIoU and in mAcc
    assert page.tags.count("td.status") == sum(
        shown.kind == "status" for row in mixed.rows for shown in row.cells
    )


def test_html_has_the_groups_of_a_pivot_table(lab: Lab) -> None:
    page = Page()
    page.feed(files.to_html(lab.table(pivot_matrix(lab))))
    assert page.rows[0] == ["", "num_prototypes = 1", "num_prototypes = 10"]
    assert page.rows[1] == ["method", "mIoU", "Δ", "mIoU", "Δ"]


def test_latex_is_balanced(mixed: Table) -> None:
    source = files.to_latex(mixed)
    assert re.findall(r"\\begin\{([\w*]+)\}", source) == ["table*", "tabular", "minipage"]
    assert re.findall(r"\\end\{([\w*]+)\}", source) == ["tabular", "minipage", "table*"]
    bare = re.sub(r"\\[\\{}&%$#_]", "", source)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert r"\textless{}b\textgreater{}x" in source
    assert r"\textbf{81.00} & {\scriptsize{}$\pm$0.78}" in source
    assert r"\label{tab:test}" in source
    (alignment,) = re.findall(r"tabular\}\{@\{\}(.*)@\{\}\}$", source, re.MULTILINE)
    columns = len(re.findall("[lrc]", alignment))
    body = source.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert len(body) == 4
    for line in body:
        ands = len(re.findall(r"(?<!\\)&", line)) + line.count(r"\multicolumn{2}")
        assert ands == columns - 1


def awkward(lab: Lab) -> str:
    """LaTeX with row labels that a rule could take as its argument."""
    values = {A: "[0.5, 1]", B: "*starred*", "label": "[size]"}
    return files.to_latex(lab.table(methods_matrix([A, B], names=values)))


def test_a_row_label_is_not_an_argument_of_the_rule_above(lab: Lab) -> None:
    source = awkward(lab)
    assert "    {}[size] & " in source
    assert "    {}[0.5, 1] & " in source
    assert "    {}*starred* & " in source
    assert "\n    {}" not in files.to_latex(lab.table(methods_matrix([A])))


def test_a_letter_that_latex_cannot_show_is_refused_before_a_file_is_written(
    lab: Lab, tmp_path: Path
) -> None:
    table = lab.table(methods_matrix([A, B], names={A: "Ж"}))
    with pytest.raises(UsageError, match=f"{table.name}: LaTeX cannot show 'Ж'"):
        files.write_table_files(table, tmp_path / "tables")
    assert not (tmp_path / "tables").exists()


@NEEDS_LATEX
def test_latex_compiles(lab: Lab, mixed: Table, tmp_path: Path) -> None:
    pivot = lab.table(pivot_matrix(lab, names={"prototype": "κ = Ω, Ε ≤ 5 × λ – µ ≈ ς"}))
    typeset([files.to_latex(mixed), files.to_latex(pivot), awkward(lab)], tmp_path)


def test_two_columns_of_one_name_are_refused(lab: Lab) -> None:
    names = {"method.num_prototypes=1": "same", "method.num_prototypes=10": "same"}
    with pytest.raises(UsageError, match="several columns are called 'same'"):
        lab.table(pivot_matrix(lab, names=names))


@pytest.fixture(scope="module")
def tables_of_all_matrices(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The LaTeX sources of the tables of all matrices, without run folders."""
    folder = tmp_path_factory.mktemp("tables")
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["tables", "--runs", str(folder / "none"), "--out", str(folder)]) == 0
    sources = [path.read_text() for path in sorted(folder.glob("*.tex"))]
    assert len(sources) > 30
    return sources


@NEEDS_LATEX
@pytest.mark.parametrize("columns", [1, 2])
def test_the_tables_of_all_matrices_fit_the_text(
    columns: int, tables_of_all_matrices: list[str], tmp_path: Path
) -> None:
    typeset(tables_of_all_matrices, tmp_path, columns=columns)


def test_write_all_writes_only_changed_files(lab: Lab, tmp_path: Path) -> None:
    matrix, folder = mixed_matrix(lab), tmp_path / "tables"
    paths = files.write_table_files(lab.table(matrix), folder)
    names = [
        "test.md",
        "test.csv",
        "test.html",
        "test.tex",
        "test_comparisons.tex",
        "test_comparisons.csv",
        "test_per_class.csv",
    ]
    assert [path.name for path in paths] == names
    assert sorted(os.listdir(folder)) == sorted(names)
    before = {path: (path.read_bytes(), path.stat().st_ino) for path in paths}
    assert files.write_table_files(lab.table(matrix), folder) == paths
    assert {path: (path.read_bytes(), path.stat().st_ino) for path in paths} == before
    lab.finish(method("prototype 5", 1), 60.0)
    files.write_table_files(lab.table(matrix), folder)
    assert all(path.read_bytes() != before[path][0] for path in paths)


def test_the_per_class_file_is_updated_without_records(lab: Lab, tmp_path: Path) -> None:
    for seed, sky in enumerate([50.0, 52.0, None]):
        classes = [{"name": "sky", "iou": sky}, {"name": "moon", "iou": None}]
        lab.finish(method(A, seed), 70.0, per_class=classes)
    matrix = methods_matrix([A])
    path = files.write_table_files(lab.table(matrix), tmp_path / "t")[-1]
    sky, moon = csv.DictReader(path.read_text().splitlines())
    assert (sky["class"], sky["mean"], sky["n"], moon["mean"], moon["n"]) == (
        *("sky", "51.0", "2"),
        *("", "0"),
    )
    assert float(sky["std"]) == pytest.approx(2**0.5)
    for record in lab.records.iterdir():
        record.unlink()
    assert files.write_table_files(lab.table(matrix), tmp_path / "t")[-1] == path
    assert len(path.read_text().splitlines()) == 1


def test_a_table_name_that_is_no_file_name_is_refused(lab: Lab) -> None:
    matrix = make_matrix([(make_spec(), {"label": "x"})], name="../x")
    with pytest.raises(UsageError, match="is not a file name"):
        files.write_table_files(lab.table(matrix), lab.folder / "t")


def test_importing_the_report_does_not_import_torch_or_scipy() -> None:
    code = (
        "import sys, protoseg.report.formats.files, protoseg.report.explanation; "
        "print(*{'torch', 'mmseg', 'scipy', 'pandas'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=DEADLINE
    )
    assert result.stdout.strip() == ""
