"""What surrounds a run changes neither its id nor its trained state.

Two fresh workers train three iterations of one spec: one as usual, one from another working
directory, with another locale, time zone, umask, home, hash seed, terminal and number of loader
processes. `tests/config/test_field_table.py` has what does change the id.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import DEADLINE

from protoseg.config.fields import to_plain
from training.small import EXPERIMENTS, make_folder, record_of, small_spec, worker_environment

SPEC = (
    "method=released",
    "method.num_prototypes=3",
    "contrast=pixel_small",
    "schedule.iterations=3",
)
OTHER = {
    "LC_ALL": "C",
    "LANG": "tr_TR.UTF-8",
    "TZ": "Asia/Kolkata",
    "PYTHONHASHSEED": "7",
    "COLUMNS": "40",
    "TERM": "dumb",
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    "CUDA_VISIBLE_DEVICES": "0",
}
PROGRAM = """
import os, sys
os.umask(0o077)
from protoseg.config.compose import Composer
from protoseg.config.identity import run_id
from protoseg.config.overrides import parse_overrides
from pathlib import Path
settings = [s for _, several in parse_overrides(sys.argv[2:]) for s in several]
print(run_id(Composer(Path(sys.argv[1])).spec(settings, "test")))
"""


def run_worker(folder: Path, environment: dict[str, str], cwd: Path, umask: int) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "protoseg.training.worker", str(folder)],
        env=environment,
        cwd=cwd,
        umask=umask,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    logs = "".join(path.read_text() for path in folder.glob("attempts/*/log.txt"))
    assert process.returncode == 0, f"{process.stdout}{process.stderr}{logs}"


@pytest.mark.slow
def test_surroundings_change_no_bit_of_the_trained_state(data: Path, tmp_path: Path) -> None:
    spec = small_spec(*SPEC)
    usual = make_folder(tmp_path / "usual", spec, data)
    other = make_folder(tmp_path / "other", spec, data, workers=2, checkpoint_seconds=0.001)
    elsewhere, home = tmp_path / "elsewhere", tmp_path / "home"
    elsewhere.mkdir()
    home.mkdir()
    environment = worker_environment() | {"PYTHONPATH": os.pathsep.join(sys.path)}
    run_worker(usual.path, environment, Path.cwd(), 0o022)
    run_worker(other.path, {**environment, **OTHER, "HOME": str(home)}, elsewhere, 0o077)
    first, second = record_of(usual), record_of(other)
    for key in ("run_id", "spec_digest", "losses", "metrics", "confusion"):
        assert first[key] == second[key], key
    for key in ("state_sha256", "data_digest", "weights_sha256", "kernels"):
        assert first["provenance"][key] == second["provenance"][key], key
    assert first["spec"] == to_plain(spec, identity=True)


def test_surroundings_do_not_change_the_id(tmp_path: Path) -> None:
    ids = set()
    for changes, cwd in (({}, Path.cwd()), (OTHER, tmp_path)):
        environment = {**os.environ, **changes, "PYTHONPATH": os.pathsep.join(sys.path)}
        process = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(EXPERIMENTS), *SPEC],
            env=environment,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=True,
        )
        ids.add(process.stdout)
    assert len(ids) == 1
