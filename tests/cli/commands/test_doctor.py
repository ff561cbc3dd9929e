"""``protoseg doctor``."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

from cli.conftest import CommandLine
from protoseg.cli.commands import doctor
from protoseg.cli.slurm_checks import Finding


def test_doctor_reports_findings_and_what_to_do(
    protoseg: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_check_mmseg", lambda: Finding("mmseg", "ok", "not checked"))
    monkeypatch.setattr(doctor, "_check_torch", lambda: [Finding("torch", "ok", "")])
    result = protoseg("doctor", "--json")
    assert result.status == 0
    findings = {finding["subject"]: finding for finding in result.json}
    assert {"python", "SLURM", "run folders", "data: camvid", "data: shapes"} <= set(findings)
    for finding in findings.values():
        assert set(finding) == {"subject", "state", "found", "todo"}
        assert finding["state"] in ("ok", "absent", "broken")
        assert finding["state"] == "ok" or finding["todo"], "what to do is missing"
    assert findings["data: camvid"]["state"] == "absent"
    assert findings["weights: mobilenet_v2"]["state"] == "absent"
    text = protoseg("doctor").out
    assert all(subject in text for subject in findings)
    monkeypatch.setattr(
        doctor, "_check_mmseg", lambda: Finding("mmseg", "broken", "no", "Install it.")
    )
    result = protoseg("doctor")
    assert result.status == 1
    assert "Install it." in result.out


def test_missing_and_old_packages_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._check_packages().state == "ok"
    required = ["numpy>=99", "no-such-package>=1", "wandb; extra == 'wandb'", "pandas>=2"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: required)
    finding = doctor._check_packages()
    assert finding.state == "broken"
    assert finding.found == (
        f"numpy {importlib.metadata.version('numpy')}, needed: >=99; no-such-package is missing"
    )


def test_a_missing_libgl_names_the_build_of_opencv_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = "ImportError: libGL.so.1: cannot open shared object file: No such file or directory"
    failed = subprocess.CompletedProcess([], 1, "", error)
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: failed)
    assert "opencv-python-headless" in doctor._check_mmseg().todo


@pytest.mark.slow
def test_the_installed_mmseg_is_imported_with_its_recipes() -> None:
    finding = doctor._check_mmseg()
    assert (finding.state, finding.todo) == ("ok", ""), finding.found
    assert "onedl-mmsegmentation" in finding.found


def test_doctor_reports_a_torch_that_does_not_import(
    protoseg: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_check_mmseg", lambda: Finding("mmseg", "ok", ""))
    monkeypatch.setitem(sys.modules, "torch", None)
    result = protoseg("doctor")
    assert result.status == 1
    assert "cannot be imported" in result.out
