"""Ctrl-C in a destructor, where Python ignores the exception, and during the imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from waiting import DEADLINE

LOST = """
import os, signal, sys
from protoseg.cli import main
from protoseg.planning import selection

class Interrupted:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):  # Python calls the handler between two instructions
            pass

select_runs = selection.select_runs

def select_and_interrupt(*arguments):
    Interrupted()
    return select_runs(*arguments)

selection.select_runs = select_and_interrupt
sys.exit(main(sys.argv[1:]))
"""


def test_a_lost_ctrl_c_ends_a_sweep_before_it_trains(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOST, "sweep", "quickstart", "--runs", str(tmp_path / "runs")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Exception ignored in" in result.stderr, "the exception was not lost"
    assert "sweep: interrupted. To continue, run the same command again." in result.stderr
    assert not list((tmp_path / "runs").glob("*/attempts/*"))


DURING_IMPORT = """
import os, signal, sys
from protoseg.cli import main

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("module", ["protoseg.cli.command_line", "protoseg.cli.commands.plan"])
def test_ctrl_c_during_the_imports_prints_one_line(module: str) -> None:
    command = [sys.executable, "-c", DURING_IMPORT, module, "plan", "quickstart"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "protoseg: interrupted; nothing was started.\n"


IN_A_CLASS_BODY = """
import os, signal, sys
from protoseg.cli import main
from protoseg.config import compose

class Field:
    def __set_name__(self, owner, name):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass

def register_schemas():
    type("Schema", (), {"kind": Field()})

compose.register_schemas = register_schemas
sys.exit(main(sys.argv[1:]))
"""


def test_ctrl_c_while_a_class_is_made_prints_one_line(tmp_path: Path) -> None:
    """Python 3.11 makes it a RuntimeError."""
    command = [sys.executable, "-c", IN_A_CLASS_BODY, "plan", "quickstart"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "protoseg plan: interrupted.\n"
