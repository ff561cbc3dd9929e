"""Writes a saved benchmark run as latency tables, one per group of cases, and as a CSV file.

``make bench`` (benchmarks/run.py) writes a saved run: a JSON file with the device, the versions and
the cases. A case has the median seconds of ProtoSeg and of each reference, with their ratios.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from protoseg import files
from protoseg.errors import UsageError
from protoseg.report.formats.files import to_markdown
from protoseg.report.formats.latex import to_latex
from protoseg.report.tables.model import Cell, Column, Footnote, Provenance, Row, Table
from protoseg.report.wording import NONE, clean_text

SCHEMA_VERSION = 1
OURS = "ProtoSeg"
UNITS = ((1.0, "s"), (1e-3, "ms"), (0.0, "µs"))
"""(least number of seconds, unit)."""
FACTORS = {"s": 1.0, "ms": 1e3, "µs": 1e6}
CSV_FIELDS = (
    *("group", "case", "who", "seconds", "seconds_low", "seconds_high"),
    *("ratio", "ratio_low", "ratio_high", "peak_bytes", "rounds"),
    *("device", "cores", "threads", "torch", "POT", "commit", "time"),
)


def read_benchmark_run(path: Path) -> dict[str, Any]:
    """Read a saved benchmark run.

    Raises:
        UsageError: no such file, or not a saved run of this schema version.
    """
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise UsageError(f"{path}: not JSON. Name a file that `make bench` wrote.") from error
    keys = ("time", "device", "cores", "threads", "versions", "commit", "cases")
    if not isinstance(saved, dict) or saved.get("schema_version") != SCHEMA_VERSION:
        raise UsageError(f"{path}: not a saved benchmark run. Name a file that `make bench` wrote.")
    missing = [key for key in keys if key not in saved]
    if missing:
        raise UsageError(f"{path}: has no {', '.join(missing)}. Run `make bench` again.")
    return saved


def make_latency_tables(saved: dict[str, Any], name: str) -> list[Table]:
    """Build one table per group: the case, our time, and the time and ratio of each reference."""
    groups = itertools.groupby(saved["cases"], key=lambda case: case["group"])
    gathered: dict[str, list[dict[str, Any]]] = {}
    for group, cases in groups:
        gathered.setdefault(str(group), []).extend(cases)
    return [_build_table(group, cases, saved, name) for group, cases in gathered.items()]


def _build_table(
    group: str, cases: list[dict[str, Any]], saved: dict[str, Any], name: str
) -> Table:
    others = list(dict.fromkeys(who for case in cases for who in case["references"]))
    has_memory = any("memory" in case for case in cases)
    header = [Column("case", "Case", "label"), Column("ours", OURS, "measured")]
    for who in others:
        header.append(Column(who, clean_text(who), "measured"))
        header.append(Column(f"{who} ratio", "ratio", "delta"))
    if has_memory:
        header += [
            Column(f"{who} memory", f"{clean_text(who)}, MiB", "measured")
            for who in (OURS, *others)
        ]
    rows = []
    for case in cases:
        cells = [Cell("label", clean_text(case["case"])), _time_cell(case["ours"])]
        for who in others:
            reference = case["references"].get(who)
            cells += [_time_cell(reference), _ratio_cell(reference and reference["ratio"])]
        if has_memory:
            cells += [_memory_cell(case.get("memory", {}).get(who)) for who in (OURS, *others)]
        rows.append(Row(clean_text(case["case"]), tuple(cells)))
    label = re.sub(r"[^a-z0-9]+", "-", group.lower()).strip("-")
    return Table(
        name=f"{name}-{label}",
        title=clean_text(group[0].upper() + group[1:]),
        caption="",
        header=tuple(header),
        rows=tuple(rows),
        footnotes=tuple(Footnote(line) for line in _make_notes(saved, bool(others), has_memory)),
        provenance=Provenance(),
    )


def _make_notes(saved: dict[str, Any], has_ratios: bool, has_memory: bool) -> Iterable[str]:
    yield "Times are medians of one call."
    if has_ratios:
        yield (
            f"Ratio: time relative to {OURS} (below 1: faster), median over rounds in which all "
            "implementations take turns; in brackets the 95% confidence interval of the median."
        )
    if has_memory:
        yield "MiB: peak memory of a call beyond its inputs."
    yield describe_device(saved)


def describe_device(saved: dict[str, Any]) -> str:
    """Describe device, threads, versions and commit of a saved run in one sentence."""
    versions = ", ".join(f"{name} {version}" for name, version in saved["versions"].items())
    commit = str(saved["commit"] or "unknown")[:10]
    changed = " with uncommitted changes" if saved.get("dirty") else ""
    load = saved.get("load")
    busy = f"; load average before {load['before']:.2f}" if load else ""
    return clean_text(
        f"{saved['device']}, {saved['cores']} cores, {saved['threads']} threads; {versions}; "
        f"commit {commit}{changed}; {str(saved['time'])[:10]}{busy}."
    )


def format_duration(seconds: float) -> str:
    """Format seconds with three digits and a unit: ``0.251`` is "251 ms"."""
    unit = next(unit for least, unit in UNITS if seconds >= least)
    return f"{_format_three_digits(seconds * FACTORS[unit])} {unit}"


def _format_three_digits(value: float) -> str:
    """Format a number with three significant digits, without an exponent."""
    digits = max(0, 2 - len(str(int(value))) + (1 if value >= 1 else 0))
    return f"{value:.{digits}f}"


def _time_cell(times: dict[str, float] | None) -> Cell:
    return Cell("measured", format_duration(times["median"]) if times else NONE)


def _ratio_cell(ratio: dict[str, float] | None) -> Cell:
    if ratio is None:
        return Cell("delta", NONE)
    low, high = (f"{ratio[key]:.2f}" for key in ("low", "high"))
    return Cell("delta", f"{ratio['median']:.2f}", note=f"{low}–{high}")


def _memory_cell(peak_bytes: int | None) -> Cell:
    return Cell("measured", NONE if peak_bytes is None else f"{peak_bytes / 2**20:.1f}")


def to_csv(saved: dict[str, Any]) -> str:
    """Format one line per case and implementation; seconds, ratios and bytes are unrounded."""
    file = io.StringIO()
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow(CSV_FIELDS)
    versions = saved["versions"]
    run_fields = [
        *(saved[key] for key in ("device", "cores", "threads")),
        *(versions.get("torch"), versions.get("POT"), saved["commit"], saved["time"]),
    ]
    for case in saved["cases"]:
        for who, times in {OURS: case["ours"], **case["references"]}.items():
            ratio = times.get("ratio", {})
            lines.writerow(
                [
                    *(case["group"], case["case"], who),
                    *(times[key] for key in ("median", "low", "high")),
                    *(ratio.get(key) for key in ("median", "low", "high")),
                    *(case.get("memory", {}).get(who), case.get("rounds"), *run_fields),
                ]
            )
    return file.getvalue()


def render_latency_files(path: Path, saved: dict[str, Any]) -> dict[str, str]:
    """Format a saved run as NAME.md, .tex and .csv: file name -> content."""
    name = path.stem
    tables = make_latency_tables(saved, name)
    title = f"# Benchmarks: {clean_text(saved['device'])}, {str(saved['time'])[:10]}\n\n"
    markdown = title + "\n".join(map(to_markdown, tables))
    first_line = f"% Made by `protoseg tables {path.name}`; changes made here are lost.\n"
    # The first line of each table names the command for a matrix, so it is replaced.
    latex = first_line + "\n".join(to_latex(table).partition("\n")[2] for table in tables)
    return {f"{name}.md": markdown, f"{name}.tex": latex, f"{name}.csv": to_csv(saved)}


def write_latency_files(path: Path, saved: dict[str, Any], folder: Path) -> tuple[str, list[Path]]:
    """Write a saved run as NAME.md, .tex and .csv; return the Markdown and the paths."""
    contents = render_latency_files(path, saved)
    files.make_folder(folder)
    for name, content in contents.items():
        files.write_bytes(folder / name, content.encode())
    return contents[f"{path.stem}.md"], [folder / name for name in contents]
