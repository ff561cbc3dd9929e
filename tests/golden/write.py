"""Writes the golden files in data/ from the code as it is now.

    python tests/golden/write.py                      adds entries that are missing
    python tests/golden/write.py --replace tables     replaces the values of a file that changed

It prints each changed value as ``PLACE: OLD -> NEW``. Golden values are behaviour: an issue or a
commit that changes one must list the old and the new value, and give the reason.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[2]))

from golden.collect import DATA, FILES, find_differences, read_golden, use_empty_folders


def write_golden_files(names: Iterable[str], replaces: bool) -> int:
    """Collect all entries of golden files and write the files.

    Returns:
        The number of values that changed.
    """
    changed = 0
    for name in names:
        file, golden = FILES[name], read_golden(name)
        with use_empty_folders():
            # Through JSON: what is compared later was read from it too.
            values = {key: json.loads(json.dumps(file.collect(key))) for key in file.list_keys()}
        for key in sorted(values.keys() & golden.keys()):
            lines = find_differences(golden[key], values[key], f"{name} {key}")
            changed += len(lines)
            print("".join(f"{line}\n" for line in lines), end="")
        entries = values if replaces else {**values, **golden}
        lines = [
            f"{json.dumps(key)}:"
            + json.dumps(entries[key], separators=(",", ":"), ensure_ascii=False, allow_nan=False)
            for key in sorted(entries)
        ]
        DATA.mkdir(exist_ok=True)
        (DATA / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return changed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="FILE", help=f"of {', '.join(FILES)}; or all")
    parser.add_argument("--replace", action="store_true", help="replace values that changed")
    arguments = parser.parse_args()
    number = write_golden_files(arguments.names or list(FILES), arguments.replace)
    sys.exit(f"{number} values differ; they were kept." if number and not arguments.replace else 0)
