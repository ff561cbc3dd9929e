"""Lists where the records of a page come from, and how its rows are trained again."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from protoseg.config.matrix import Matrix
from protoseg.report import wording
from protoseg.report.page.model import Origin, RowCommands
from protoseg.report.tables.model import Table
from protoseg.report.tables.provenance import describe_device

FIELDS = (
    ("Python", "python"),
    ("Platform", "platform"),
    ("Threads", "threads"),
    ("Processes", "processes"),
    ("Code (SHA-256)", "code_sha256"),
    ("requirements.lock (SHA-256)", "lock_sha256"),
    ("requirements-mm.lock (SHA-256)", "lock_mm_sha256"),
    ("Weights (SHA-256)", "weights_sha256"),
)
"""Name in the page -> key of the provenance of a record."""
UNKNOWN = "not recorded"


def list_origins(records: Iterable[Mapping[str, Any]]) -> tuple[Origin, ...]:
    """List commits, machines, packages and digests of data with their numbers of records."""
    counts: dict[str, Counter[str]] = {}
    for record in records:
        for name, value in _list_values(record):
            counts.setdefault(name, Counter())[value] += 1
    return tuple(
        Origin(name, value, number)
        for name, values in counts.items()
        for value, number in sorted(values.items(), key=lambda item: (-item[1], item[0]))
    )


def _list_values(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    provenance = record["provenance"]
    changed = ", with uncommitted changes" if provenance.get("dirty") else ""
    yield "Commit", f"{_format(provenance.get('commit'))}{changed}"
    yield "Machine", describe_device(provenance.get("device"))
    dataset = record["spec"].get("dataset", {}).get("name", "")
    yield f"Data {dataset} (SHA-256)", _format(provenance.get("data_digest"))
    for name, key in FIELDS:
        yield name, _format(provenance.get(key))
    packages = provenance.get("packages")
    for name, version in packages.items() if isinstance(packages, dict) else ():
        yield f"Package {wording.clean_text(name)}", _format(version)
    differs = provenance.get("lock_differs")
    if isinstance(differs, dict) and differs:
        names = ", ".join(map(wording.clean_text, differs))
        yield "Packages that differ from the lock", names


def _format(value: Any) -> str:
    if value is None or value == "":
        return UNKNOWN
    return wording.clean_text(value if isinstance(value, str) else wording.format_value(value))


def list_commands(
    table: Table, recorded: Mapping[str, Mapping[str, Any]]
) -> tuple[RowCommands, ...]:
    """List, for each row with runs, the commands that train its records again.

    Args:
        table: the table of the matrix.
        recorded: run id -> record.
    """
    rows = []
    for row in table.rows:
        run_ids = dict.fromkeys(run_id for cell in row.cells for run_id in cell.run_ids)
        with_record = [run_id for run_id in run_ids if run_id in recorded]
        commands = "\n".join(
            f"protoseg reproduce {shlex.quote(run_id)} --checkout" for run_id in with_record
        )
        rows += [RowCommands(row.label, len(with_record), commands)] * bool(run_ids)
    return tuple(rows)


def make_command(verb: str, matrix: Matrix, operand: str) -> str:
    """A command that takes a matrix with its overrides.

    Args:
        verb: of the command line.
        matrix: the matrix.
        operand: the name or the path by which it was named; empty for its name.
    """
    return shlex.join(["protoseg", verb, operand or matrix.name, *matrix.overrides])
