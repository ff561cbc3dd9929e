"""Collects the values that the golden files hold, from the code as it is now.

Almost everything comes from the command line. The few modules of protoseg that are imported here
may move: change the import here, not the golden files.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from protoseg.cli import main

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(__file__).with_name("data")
RECORDS = ROOT / "results" / "records"
SMALL_MODEL = "backbone=tiny method=released_2026_11 contrast=pixel"

SENTENCES = frozenset(
    {
        # plan, status, logs: why an attempt ended, what could not be read.
        *("message", "problems", "not_timed", "recipe_notes"),
        # tables: the texts of footnotes; their marks are compared in the printed cells.
        *("source", "note"),
        # explain, figures, verify: sentences below a cell, a figure and a check.
        *("notes", "missing", "what"),
        # tables, figures: problems, and the files that were written.
        *("warnings", "written"),
        # weights, data: a folder of this machine, alone or within a sentence.
        *("folder", "here"),
    }
)
"""Keys of the JSON output whose values are free text for people; they are not compared."""
FLOAT_TOLERANCE = 1e-12
"""Relative: intervals come from scipy, whose last bit differs between builds."""


@contextlib.contextmanager
def use_empty_folders() -> Iterator[Path]:
    """Run the command line in the checkout, without runs, data and settings of this machine."""
    folder = Path(tempfile.mkdtemp(prefix="golden-"))
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PROTOSEG_", "SLURM", "SBATCH"))
    }
    own = {
        "PROTOSEG_RUNS": str(folder / "runs"),
        "PROTOSEG_DATA": str(folder / "data"),
        "PROTOSEG_CACHE": str(folder / "cache"),
        "SLURM_CONF": "/dev/null",
    }
    try:
        with mock.patch.dict(os.environ, kept | own, clear=True), contextlib.chdir(ROOT):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def call_cli(*arguments: str) -> tuple[int, str, str]:
    """Run ``protoseg WORDS`` in this process.

    Returns:
        Exit status, standard output, standard error.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(list(arguments))
    return status, out.getvalue(), err.getvalue()


def read_json_output(*arguments: str) -> Any:
    """The output of ``protoseg WORDS --json`` without its sentences.

    Raises:
        AssertionError: the exit status is not 0.
    """
    status, out, err = call_cli(*arguments, "--json")
    assert status == 0, f"protoseg {' '.join(arguments)}: exit status {status}: {err}"
    return remove_sentences(json.loads(out))


def remove_sentences(value: Any) -> Any:
    """A copy of plain data without the keys in `SENTENCES`."""
    if isinstance(value, dict):
        return {k: remove_sentences(v) for k, v in value.items() if k not in SENTENCES}
    return [remove_sentences(v) for v in value] if isinstance(value, list) else value


def digest_json(value: Any) -> str:
    """The first 16 hex digits of the SHA-256 of plain data."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def list_matrices() -> list[str]:
    """The names of all committed matrices; a bundle is none."""
    paths = sorted((ROOT / "experiments" / "matrices").glob("*.yaml"))
    return [path.stem for path in paths if not is_bundle(path)]


def list_untuned_matrices() -> list[str]:
    """The names of the matrices without a search, whose plans and tables need no choice."""
    folder = ROOT / "experiments" / "matrices"
    return [n for n in list_matrices() if "\ntune:" not in (folder / f"{n}.yaml").read_text()]


def list_bundles() -> list[str]:
    """The names of all committed bundles."""
    paths = sorted((ROOT / "experiments" / "matrices").glob("*.yaml"))
    return [path.stem for path in paths if is_bundle(path)]


def is_bundle(path: Path) -> bool:
    """Whether a YAML file of experiments/matrices names other matrices."""
    return re.search(r"^matrices\s*:", path.read_text(), re.MULTILINE) is not None


def list_recorded_matrices() -> list[str]:
    """The names of the matrices that have at least one record."""
    recorded = {path.stem for path in RECORDS.glob("*.json")}
    golden = read_golden("identities")
    return [n for n in list_untuned_matrices() if recorded & {run_id for run_id, _ in golden[n]}]


# Identities.


def collect_identities(matrix: str) -> list[list[str]]:
    """Run id and spec digest of every run of a matrix, in its order.

    Of a matrix with a search: those of all trials, then of each row with the values of the first.
    """
    from protoseg.config.compose import Composer
    from protoseg.config.identity import run_id, spec_digest
    from protoseg.config.load_matrix import load_matrix

    loaded = load_matrix(Composer(ROOT / "experiments"), matrix)
    specs = [run.spec for run in loaded.runs]
    if loaded.tuning is not None:
        specs += [trial.run.spec for row in loaded.tuning.rows for trial in row.trials]
        specs += [row.example for row in loaded.tuning.rows]
    return [[run_id(spec), spec_digest(spec)] for spec in specs]


def list_records() -> list[str]:
    """The run ids of all committed records."""
    return sorted(path.stem for path in RECORDS.glob("*.json"))


def collect_record(run_id: str) -> dict[str, str]:
    """The identity of a committed record, each value computed anew from what was read.

    Raises:
        AssertionError: reading and writing it does not give the same file.
    """
    from protoseg.config.fields import to_plain
    from protoseg.config.identity import read_spec, spec_digest
    from protoseg.config.identity import run_id as run_id_of
    from protoseg.files import canonical_json, write_json
    from protoseg.runs.record import read_record

    path = RECORDS / f"{run_id}.json"
    record = read_record(path)
    spec = read_spec(record["spec"], run_id)
    assert to_plain(spec, identity=True) == record["spec"], f"{run_id}: another spec reads back"
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        copy = Path(folder) / path.name
        write_json(copy, record, durable=False)
        assert copy.read_bytes() == path.read_bytes(), f"{run_id}: another file is written"
    assert spec_digest(spec) == record["spec_digest"], f"{run_id}: another spec digest"
    return {
        "run_id": run_id_of(spec),
        "spec_digest": spec_digest(spec),
        "canonical_sha256": hashlib.sha256(canonical_json(record)).hexdigest(),
    }


# Values.


def collect_plan(matrix: str) -> dict[str, Any]:
    """What ``plan`` and ``status`` print of a matrix.

    Raises:
        AssertionError: both print different runs.
    """
    plan = read_json_output("plan", matrix)
    status = read_json_output("status", matrix)
    shared = {key: plan[key] for key in status}
    assert shared == status, "plan and status differ"
    return plan


def collect_bundle(bundle: str) -> dict[str, Any]:
    """What ``plan`` prints of a bundle; of each run its id and its matrices."""
    plan = read_json_output("plan", bundle)
    return plan | {"runs": [[run["run_id"], *run["matrices"]] for run in plan["runs"]]}


def collect_job_arrays(arguments: str) -> Any:
    """The job arrays that ``plan WORDS`` would submit."""
    return read_json_output("plan", *arguments.split())["arrays"]


def collect_table(matrix: str) -> dict[str, Any]:
    """A table: its values, and the cells as printed in Markdown, LaTeX and HTML."""
    with tempfile.TemporaryDirectory(prefix="golden-") as name:
        folder = Path(name)
        entries = read_json_output("tables", matrix, "--out", name)["tables"][matrix]
        texts = {path.suffix: path.read_text() for path in folder.glob(f"{matrix}.*")}
        by_class = folder / f"{matrix}_per_class.csv"
        classes = by_class.read_text().splitlines() if by_class.exists() else []
    return {
        "columns": list(entries[0]),
        "values": [list(entry.values()) for entry in entries],
        "markdown": [line for line in texts[".md"].splitlines() if line.startswith("|")],
        "latex": [
            line.strip() for line in texts[".tex"].splitlines() if line.rstrip().endswith(r"\\")
        ],
        "html": re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", texts[".html"], re.DOTALL),
        "classes": classes,
    }


def collect_explanations(matrix: str) -> dict[str, Any]:
    """What ``explain`` prints of one cell of every row; the columns take turns."""
    values: dict[str, Any] = {}
    columns = 1
    while call_cli("explain", matrix, "#1", f"#{columns + 1}", "--json")[0] == 0:
        columns += 1
    row = 1
    while call_cli("explain", matrix, f"#{row}", "#1", "--json")[0] == 0:
        cell = f"#{row}", f"#{(row - 1) % columns + 1}"
        values[" ".join(cell)] = read_json_output("explain", matrix, *cell)
        row += 1
    return values


def collect_explanation(matrix: str, cell: str) -> Any:
    """What ``explain`` prints of one cell, given as ``#ROW #COLUMN``."""
    return read_json_output("explain", matrix, *cell.split())


def collect_comparison(matrix: str) -> Any:
    """What ``compare`` prints of the first two rows of a matrix; the exit status of a refusal."""
    arguments = ("compare", matrix, "#1", "#2", "#1", "--draws", "500", "--json")
    status, out, _ = call_cli(*arguments)
    return remove_sentences(json.loads(out)) if status == 0 else {"exit status": status}


def collect_figures(matrix: str) -> dict[str, Any]:
    """What each figure of a matrix is drawn from.

    Long curves are kept as digests. Nothing is drawn into files: matplotlib is stubbed.
    """
    from matplotlib.figure import Figure

    def write_nothing(self: Any, file: Any, **options: Any) -> None:
        file.write(b"-")

    values: dict[str, Any] = {}
    with (
        mock.patch.object(Figure, "savefig", write_nothing),
        mock.patch.object(Figure, "draw_without_rendering"),
        tempfile.TemporaryDirectory(prefix="golden-") as folder,
    ):
        for figure_type in ("metric", "loss", "classes"):
            arguments = ("figures", matrix, "--kind", figure_type, "--out", folder, "--json")
            status, out, _ = call_cli(*arguments)
            if status == 0:
                values[figure_type] = remove_sentences(json.loads(out))["figures"][matrix][
                    figure_type
                ]
            else:
                values[figure_type] = {"exit status": status}
    for figure_type in ("loss", "classes"):
        for panel in values[figure_type].get("content", {}).get("panels", ()):
            for name in {"iterations", "seeds", "ours", "theirs"} & set(panel):
                panel[name] = digest_json(panel[name])
    return values


def collect_output(arguments: str) -> Any:
    """What ``protoseg WORDS --json`` prints; of data sets only name and number of classes."""
    values = read_json_output(*arguments.split())
    if arguments == "data list":  # the state names a folder
        return [[entry["name"], entry["classes"]] for entry in values]
    return values


# Golden files.


@dataclass(frozen=True)
class GoldenFile:
    """One file in data/: which entries it has, and how an entry is collected."""

    list_keys: Callable[[], list[str]]
    collect: Callable[[str], Any]


FILES = {
    "identities": GoldenFile(list_matrices, collect_identities),
    "records": GoldenFile(list_records, collect_record),
    "plans": GoldenFile(list_untuned_matrices, collect_plan),
    "bundles": GoldenFile(list_bundles, collect_bundle),
    "job_arrays": GoldenFile(
        lambda: ["paper_table1 cluster=eight_gpus", "camvid_8 quickstart cluster=testbed"],
        collect_job_arrays,
    ),
    "tables": GoldenFile(list_untuned_matrices, collect_table),
    "explanations": GoldenFile(list_recorded_matrices, collect_explanations),
    "comparisons": GoldenFile(list_recorded_matrices, collect_comparison),
    "figures": GoldenFile(list_recorded_matrices, collect_figures),
    "outputs": GoldenFile(
        lambda: [
            *("params", "params camvid_all_methods ccp_weak", "weights list", "data list"),
            f"compare {' '.join(list_records()[:2])} --draws 500",
            f"params {SMALL_MODEL}",
        ],
        collect_output,
    ),
}


def read_golden(name: str) -> dict[str, Any]:
    """The entries of a golden file; none where it was not written yet."""
    path = DATA / f"{name}.json"
    entries: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return entries


def find_differences(old: Any, new: Any, where: str = "") -> list[str]:
    """One line ``PLACE: OLD -> NEW`` for each value that differs.

    Numbers with a fraction may differ by `FLOAT_TOLERANCE`; all else is compared as it is.
    """
    if isinstance(old, float) and isinstance(new, float):
        if math.isclose(old, new, rel_tol=FLOAT_TOLERANCE, abs_tol=FLOAT_TOLERANCE):
            return []
    elif type(old) is type(new) and isinstance(old, dict):
        lines = [f"{where}/{key}: {old[key]!r} -> (gone)" for key in old if key not in new]
        lines += [f"{where}/{key}: (none) -> {new[key]!r}" for key in new if key not in old]
        for key in old:
            lines += find_differences(old[key], new[key], f"{where}/{key}") if key in new else []
        return lines
    elif type(old) is type(new) and isinstance(old, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [x for i, pair in pairs for x in find_differences(*pair, f"{where}[{i}]")]
    elif type(old) is type(new) and old == new:
        return []
    return [f"{where}: {old!r} -> {new!r}"]
