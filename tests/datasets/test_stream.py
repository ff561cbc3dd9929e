"""The deprecated module `protoseg.datasets.stream`."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys

import pytest

from protoseg.datasets import folder_dataset, sampler


def test_the_old_path_has_the_old_names_and_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "protoseg.datasets.stream", raising=False)
    with pytest.warns(DeprecationWarning, match="Import protoseg.datasets.folder_dataset and"):
        stream = importlib.import_module("protoseg.datasets.stream")
    assert stream.SegmentationFolder is folder_dataset.SegmentationFolder
    assert stream.LoadLabels is folder_dataset.LoadLabels
    assert stream.LoadImageLabels is folder_dataset.LoadImageLabels
    assert stream.Draw is sampler.SampleRequest
    assert stream.StatelessSampler is sampler.StatelessSampler
    assert stream.permutation is sampler.permutation


@pytest.mark.slow
def test_a_run_and_its_pickles_do_not_import_the_old_path() -> None:
    """A loader process unpickles sample requests."""
    request = pickle.dumps(sampler.SampleRequest(1, 2, 3))
    code = (
        "import pickle, sys; import protoseg.training.builders.components; "
        f"pickle.loads({request!r}); sys.exit('protoseg.datasets.stream' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
