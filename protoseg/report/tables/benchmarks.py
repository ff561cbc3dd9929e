"""A saved benchmark run as latency tables, one a group of cases, and as one CSV file.

A saved run is what ``make bench`` writes (benchmarks/run.py): JSON with the device, the versions,
and of each case the median seconds of ours and of each reference, with the ratios.
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
from protoseg.report.wording import NONE, clean

SCHEMA_VERSION = 1
OURS = "ProtoSeg"
UNITS = ((1.0, "s"), (1e-3, "ms"), (0.0, "µs"))
"""From this many seconds on -> the unit."""
FACTORS = {"s": 1.0, "ms": 1e3, "µs": 1e6}
CSV_FIELDS = (
    *("group", "case", "who", "seconds", "seconds_low", "seconds_high"),
    *("ratio", "ratio_low", "ratio_high", "peak_bytes", "rounds"),
    *("device", "cores", "threads", "torch", "POT", "commit", "time"),
)


def read_run(path: Path) -> dict[str, Any]:
    """Read a saved run.

    Raises:
        UsageError: no such file, or not a saved benchmark run of this version.
    """
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: can not be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise UsageError(f"{path}: is no JSON; name a file that `make bench` wrote.") from error
    keys = ("time", "device", "cores", "threads", "versions", "commit", "cases")
    if not isinstance(saved, dict) or saved.get("schema_version") != SCHEMA_VERSION:
        raise UsageError(f"{path}: is no saved benchmark run; name a file that `make bench` wrote.")
    missing = [key for key in keys if key not in saved]
    if missing:
        raise UsageError(f"{path}: lacks {', '.join(missing)}; run `make bench` again.")
    return saved


def latency_tables(saved: dict[str, Any], name: str) -> list[Table]:
    """One table a group: case, ours, and of each reference its time and how many times ours."""
    groups = itertools.groupby(saved["cases"], key=lambda case: case["group"])
    gathered: dict[str, list[dict[str, Any]]] = {}
    for group, cases in groups:
        gathered.setdefault(str(group), []).extend(cases)
    return [_table(group, cases, saved, name) for group, cases in gathered.items()]


def _table(group: str, cases: list[dict[str, Any]], saved: dict[str, Any], name: str) -> Table:
    others = list(dict.fromkeys(who for case in cases for who in case["references"]))
    weighed = any("memory" in case for case in cases)
    header = [Column("case", "Case", "label"), Column("ours", OURS, "measured")]
    for who in others:
        header.append(Column(who, clean(who), "measured"))
        header.append(Column(f"{who} ratio", "ratio", "delta"))
    if weighed:
        header += [
            Column(f"{who} memory", f"{clean(who)}, MiB", "measured") for who in (OURS, *others)
        ]
    rows = []
    for case in cases:
        cells = [Cell("label", clean(case["case"])), _time(case["ours"])]
        for who in others:
            found = case["references"].get(who)
            cells += [_time(found), _ratio(found["ratio"] if found else None)]
        if weighed:
            cells += [_memory(case.get("memory", {}).get(who)) for who in (OURS, *others)]
        rows.append(Row(clean(case["case"]), tuple(cells)))
    label = re.sub(r"[^a-z0-9]+", "-", group.lower()).strip("-")
    return Table(
        name=f"{name}-{label}",
        title=clean(group[0].upper() + group[1:]),
        caption="",
        header=tuple(header),
        rows=tuple(rows),
        footnotes=tuple(Footnote(line) for line in _notes(saved, bool(others), weighed)),
        provenance=Provenance(),
    )


def _notes(saved: dict[str, Any], compared: bool, weighed: bool) -> Iterable[str]:
    yield "Times are medians of one call."
    if compared:
        yield (
            f"Ratio: how many times as long as {OURS} (below 1 the other is faster), the median "
            "over rounds in which all took turns; in brackets where the true median lies with 95 % "
            "confidence."
        )
    if weighed:
        yield "MiB: what a call holds at its worst beyond what it was given."
    yield device_words(saved)


def device_words(saved: dict[str, Any]) -> str:
    """Where and with what a run was made, one sentence."""
    versions = ", ".join(f"{name} {version}" for name, version in saved["versions"].items())
    commit = str(saved["commit"] or "unknown")[:10]
    changed = " with uncommitted changes" if saved.get("dirty") else ""
    load = saved.get("load")
    busy = f"; load average before {load['before']:.2f}" if load else ""
    return clean(
        f"{saved['device']}, {saved['cores']} cores, {saved['threads']} threads; {versions}; "
        f"commit {commit}{changed}; {str(saved['time'])[:10]}{busy}."
    )


def duration(seconds: float) -> str:
    """Three digits and a unit: ``0.251`` s is "251 ms"."""
    unit = next(unit for least, unit in UNITS if seconds >= least)
    return f"{_three(seconds * FACTORS[unit])} {unit}"


def _three(value: float) -> str:
    """Three significant digits, without an exponent."""
    digits = max(0, 2 - len(str(int(value))) + (1 if value >= 1 else 0))
    return f"{value:.{digits}f}"


def _time(found: dict[str, float] | None) -> Cell:
    return Cell("measured", duration(found["median"])) if found else Cell("measured", NONE)


def _ratio(ratio: dict[str, float] | None) -> Cell:
    if ratio is None:
        return Cell("delta", NONE)
    low, high = (f"{ratio[key]:.2f}" for key in ("low", "high"))
    return Cell("delta", f"{ratio['median']:.2f}", note=f"{low}–{high}")


def _memory(held: int | None) -> Cell:
    return Cell("measured", NONE if held is None else f"{held / 2**20:.1f}")


def to_csv(saved: dict[str, Any]) -> str:
    """One line a case and contender; seconds, ratios and bytes as plain numbers."""
    file = io.StringIO()
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow(CSV_FIELDS)
    versions = saved["versions"]
    ends = [
        *(saved[key] for key in ("device", "cores", "threads")),
        *(versions.get("torch"), versions.get("POT"), saved["commit"], saved["time"]),
    ]
    for case in saved["cases"]:
        for who, found in {OURS: case["ours"], **case["references"]}.items():
            ratio = found.get("ratio", {})
            lines.writerow(
                [
                    *(case["group"], case["case"], who),
                    *(found[key] for key in ("median", "low", "high")),
                    *(ratio.get(key) for key in ("median", "low", "high")),
                    *(case.get("memory", {}).get(who), case.get("rounds"), *ends),
                ]
            )
    return file.getvalue()


def latency_contents(path: Path, saved: dict[str, Any]) -> dict[str, str]:
    """File name -> content of NAME.md, .tex and .csv of a saved run."""
    name = path.stem
    found = latency_tables(saved, name)
    markdown = f"# Benchmarks: {clean(saved['device'])}, {str(saved['time'])[:10]}\n\n" + "\n".join(
        map(to_markdown, found)
    )
    own = f"% Made by `protoseg tables {path.name}`; changes made here are lost.\n"
    # Each table begins with a line that names the command of a matrix's table.
    tables = [to_latex(table).partition("\n")[2] for table in found]
    latex = own + "\n".join(tables)
    return {f"{name}.md": markdown, f"{name}.tex": latex, f"{name}.csv": to_csv(saved)}


def write_latency(path: Path, saved: dict[str, Any], folder: Path) -> tuple[str, list[Path]]:
    """Write NAME.md, .tex and .csv of a saved run into a folder; the Markdown, and the files."""
    made = latency_contents(path, saved)
    files.make_folder(folder)
    for name, content in made.items():
        files.write_bytes(folder / name, content.encode())
    return made[f"{path.stem}.md"], [folder / name for name in made]
