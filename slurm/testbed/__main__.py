"""Command line of the testbed.

python slurm/testbed up [--folder DIR] [--nodes 2] [--cpus 8] [--gpus 8] [--no-accounting]
eval "$(python slurm/testbed env [--folder DIR])"
python slurm/testbed status|down [--folder DIR]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# Replace this folder by its parent, so that the package is imported by its name.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from testbed.conf import Shape  # noqa: E402
from testbed.daemons import TestbedError  # noqa: E402
from testbed.testbed import FOLDER, Testbed  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Run one verb."""
    parser = argparse.ArgumentParser(prog="testbed", description="A SLURM cluster on one machine.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, help_text in (
        ("up", "start the cluster"),
        ("down", "end all its processes and remove its folder"),
        ("status", "show the daemons, nodes and queue"),
        ("env", "print the export line for your shell"),
    ):
        sub = verbs.add_parser(verb, help=help_text)
        sub.add_argument("--folder", type=Path, default=FOLDER, help=f"default: {FOLDER}")
        if verb == "up":
            for name in ("nodes", "cpus", "gpus", "grace"):
                sub.add_argument(f"--{name}", type=int, default=getattr(Shape, name))
            sub.add_argument("--name", default=Shape.name, help="prefix of the node names")
            sub.add_argument("--cgroups", action="store_true", help="limit memory with cgroups")
            sub.add_argument("--no-accounting", action="store_true")
    options = parser.parse_args(arguments)
    try:
        if options.verb == "up":
            shape = Shape(options.nodes, options.cpus, options.gpus, grace=options.grace,
                          accounting=not options.no_accounting, cgroups=options.cgroups,
                          name=options.name)  # fmt: skip
            Testbed(options.folder, shape).up()
        testbed = Testbed(options.folder)
        if options.verb == "down":
            testbed.down()
        if options.verb in ("up", "env"):
            print(f"export SLURM_CONF={testbed.conf}")
        return _print_status(testbed) if options.verb == "status" else 0
    except TestbedError as error:
        print(error, file=sys.stderr)
        return 1


def _print_status(testbed: Testbed) -> int:
    running = testbed.status()
    for name, runs in running.items():
        print(f"{name:12}{'running' if runs else 'not running'}")
    if running["slurmctld"]:
        print(testbed.run("sinfo").stdout, testbed.run("squeue").stdout, sep="", end="")
    return 0 if all(running.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
