"""Run the benchmarks and save the results: ``python benchmarks/run.py [arguments of pytest]``.

Writes results/benchmarks/DEVICE-DATE.json, or the file of ``--out``, and the latency tables. A
saved run contains the device, versions, commit, and for each case medians, intervals, ratios and
peak bytes. It contains no host name and no path.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SCHEMA_VERSION = 1


def trim_run(raw: dict[str, Any], load: tuple[float, float]) -> dict[str, Any]:
    """Reduce the JSON of pytest-benchmark to a saved run.

    Args:
        raw: content of the JSON file.
        load: load average before the benchmarks and at their end.
    """
    machine = raw["machine_info"]["protoseg"]
    cases = []
    for bench in raw["benchmarks"]:
        info = bench["extra_info"]
        case = {"group": bench["group"], "case": info["case"], "rounds": bench["stats"]["rounds"]}
        case["ours"] = _round_numbers(info["ours"])
        case["references"] = _round_numbers(info["references"])
        case |= {key: info[key] for key in ("memory", "matrix_bytes") if key in info}
        cases.append(case)
    names = [(case["group"], case["case"]) for case in cases]
    assert len(set(names)) == len(names), "two cases have the same name"
    return {
        "schema_version": SCHEMA_VERSION,
        "time": raw["datetime"][:19] + "+00:00",
        **machine,
        "load": {"before": load[0], "end": load[1]},
        "cases": cases,
    }


def _round_numbers(value: Any) -> Any:
    """Round numbers to six significant digits."""
    if isinstance(value, dict):
        return {key: _round_numbers(inner) for key, inner in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value


def make_slug(device: str) -> str:
    """Convert a device name to a part of a file name."""
    name = re.sub(r"\((r|tm)\)|\b(processor|with|radeon|graphics|cpu @.*)\b", " ", device.lower())
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-")


def choose_path(folder: Path, saved: dict[str, Any]) -> Path:
    """Return DEVICE-DATE.json, with a number if this file exists."""
    base = f"{make_slug(saved['device'])}-{saved['time'][:10]}"
    path, number = folder / f"{base}.json", 1
    while path.exists():
        number += 1
        path = folder / f"{base}-{number}.json"
    return path


def main(arguments: list[str]) -> int:
    """Run the benchmarks, save the results and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="path of the saved run")
    options, pytest_arguments = parser.parse_known_args(arguments)
    folder = ROOT / "results" / "benchmarks"
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        raw = Path(temporary) / "raw.json"
        command = ["-m", "pytest", "benchmarks", "--benchmark-only", f"--benchmark-json={raw}"]
        command += ["--benchmark-columns=median,iqr,rounds", "-q", *pytest_arguments]
        status = subprocess.run([sys.executable, *command], cwd=ROOT).returncode
        if not raw.exists() or not raw.stat().st_size:
            return status or 1
        saved = trim_run(json.loads(raw.read_text()), (before, os.getloadavg()[0]))
    path = options.out or choose_path(folder, saved)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(saved, indent=1) + "\n")
    command = [sys.executable, "-m", "protoseg.cli", "tables", str(path)]
    return subprocess.run(command, cwd=ROOT).returncode or status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
