"""Run the benchmarks and save what came out: ``python benchmarks/run.py [pytest's arguments]``.

Writes results/benchmarks/DEVICE-DATE.json and the latency tables beside it. A saved run keeps the
device, the versions, the commit, and of each case the medians, intervals, ratios and peak bytes; no
host name and no path. ``--out FILE`` names the file.
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


def trim(raw: dict[str, Any], load: tuple[float, float]) -> dict[str, Any]:
    """A saved run out of what pytest-benchmark wrote.

    Args:
        load: processes that wanted to run in the minute before the benchmarks, and in the last.
    """
    machine = raw["machine_info"]["protoseg"]
    cases = []
    for bench in raw["benchmarks"]:
        info = bench["extra_info"]
        kept = {"group": bench["group"], "case": info["case"], "rounds": bench["stats"]["rounds"]}
        kept["ours"] = _digits(info["ours"])
        kept["references"] = _digits(info["references"])
        kept |= {key: info[key] for key in ("memory", "matrix_bytes") if key in info}
        cases.append(kept)
    names = [(case["group"], case["case"]) for case in cases]
    assert len(set(names)) == len(names), "two cases of one name"
    return {
        "schema_version": SCHEMA_VERSION,
        "time": raw["datetime"][:19] + "+00:00",
        **machine,
        "load": {"before": load[0], "end": load[1]},
        "cases": cases,
    }


def _digits(value: Any) -> Any:
    """Numbers to six digits: more say nothing."""
    if isinstance(value, dict):
        return {key: _digits(inner) for key, inner in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value


def slug(device: str) -> str:
    """A device's name as part of a file name."""
    name = re.sub(r"\((r|tm)\)|\b(processor|with|radeon|graphics|cpu @.*)\b", " ", device.lower())
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-")


def new_name(folder: Path, saved: dict[str, Any]) -> Path:
    """DEVICE-DATE.json, with a number behind it where there is one already."""
    base = f"{slug(saved['device'])}-{saved['time'][:10]}"
    path, number = folder / f"{base}.json", 1
    while path.exists():
        number += 1
        path = folder / f"{base}-{number}.json"
    return path


def main(arguments: list[str]) -> int:
    """Run, trim, save, make the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="file of the saved run")
    given, rest = parser.parse_known_args(arguments)
    folder = ROOT / "results" / "benchmarks"
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as place:
        raw = Path(place) / "raw.json"
        words = ["-m", "pytest", "benchmarks", "--benchmark-only", f"--benchmark-json={raw}"]
        words += ["--benchmark-columns=median,iqr,rounds", "-q", *rest]
        status = subprocess.run([sys.executable, *words], cwd=ROOT).returncode
        if not raw.exists() or not raw.stat().st_size:
            return status or 1
        saved = trim(json.loads(raw.read_text()), (before, os.getloadavg()[0]))
    path = given.out or new_name(folder, saved)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(saved, indent=1) + "\n")
    words = [sys.executable, "-m", "protoseg.cli", "tables", str(path)]
    return subprocess.run(words, cwd=ROOT).returncode or status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
