"""The worker as a real process: it finishes, is stopped or killed, resumes, gives the same bits."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from waiting import finish

from protoseg.config.fields import to_plain
from protoseg.config.identity import run_id, spec_digest
from protoseg.config.schema import METHOD_VERSION, RunSpec
from protoseg.datasets.layout import find_root
from protoseg.runs import claim
from protoseg.runs.folder import RunFolder
from protoseg.runs.record import read_record, verify_confusion
from protoseg.runs.states import Reason, State
from protoseg.slurm.environment import explain_signal
from protoseg.training import failures, worker
from protoseg.training.builders.components import build_components
from protoseg.training.builders.config import build_config
from protoseg.training.evaluation import confusion
from protoseg.training.signals import StopRequest, StopRequested
from training.small import (
    cells,
    ends,
    log,
    log_paths,
    make_folder,
    pause_after,
    record_of,
    result,
    small_spec,
    start_new_worker,
    start_worker,
    wait_for_checkpoint,
    work,
)

# Dropout and Gumbel samples use the global generator, so a resumed run must restore its state.
SPEC = ("method=released", "method.num_prototypes=3", "method.momentum=0.9")
KILLED_WHILE_WRITING = """
import os, torch
save, calls = torch.save, []
def save_half(state, file):
    calls.append(1)
    if len(calls) < 5:
        return save(state, file)
    file.write(b"half a checkpoint" * 1000)
    file.flush()
    os.kill(os.getpid(), 9)
torch.save = save_half
"""


@pytest.fixture(scope="module")
def spec() -> RunSpec:
    return small_spec(*SPEC)


@pytest.fixture(scope="module")
def finished(spec: RunSpec, data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """An uninterrupted run."""
    folder = make_folder(tmp_path_factory.mktemp("finished"), spec, data)
    status, output = work(folder)
    assert status == 0, output + log(folder)
    return folder


def load_last_checkpoint(folder: RunFolder) -> dict[str, Any]:
    path = sorted(folder.checkpoints.glob("*.pth"))[-1]
    assert path.name == "iter_00000012.pth"
    return torch.load(path, weights_only=True)


def assert_same_result(folder: RunFolder, other: RunFolder) -> None:
    """Compare metrics, curve, counts, weights, prototypes and optimiser bit by bit."""
    assert result(folder) == result(other)
    assert folder.confusion.read_bytes() == other.confusion.read_bytes()
    first, second = load_last_checkpoint(folder), load_last_checkpoint(other)
    assert first["model"].keys() == second["model"].keys()
    for name, value in first["model"].items():
        assert torch.equal(value, second["model"][name]), name
    first_states, second_states = first["optimizer"]["state"], second["optimizer"]["state"]
    for number, state in first_states.items():
        assert torch.equal(state["exp_avg"], second_states[number]["exp_avg"])
    assert torch.equal(first["random"]["torch"], second["random"]["torch"])


# Uninterrupted runs


@pytest.mark.install
def test_the_record_is_valid_and_complete(finished: RunFolder, spec: RunSpec) -> None:
    record = read_record(finished.record)  # checks shape and digest
    assert record["run_id"] == run_id(spec) == finished.path.name
    assert record["spec"] == to_plain(spec, identity=True)
    assert record["spec_digest"] == spec_digest(spec)
    assert record["attempts"] == 1
    assert record["started"] <= record["finished"]
    assert record["provenance"]["data_digest"] == spec.dataset.digest
    assert record["provenance"]["packages"]["torch"] == torch.__version__
    assert record["provenance"]["kernels"]["threads"] == record["provenance"]["threads"] == 1
    (entry,) = record["provenance"]["attempts"]
    assert (entry["first"], entry["last"]) == (1, 1)
    assert len(entry["code_sha256"]) == 64
    code = json.loads((finished.attempts_folder / "0001" / "code.json").read_text())
    assert entry.items() >= code.items()
    cost = record["cost"]
    assert cost["seconds"] > 0
    assert cost["evaluation_seconds"] > 0
    assert 12 / cost["iterations_per_second"] == pytest.approx(cost["seconds"], abs=0.006)
    images_per_iteration = cost["images_per_second"] / cost["iterations_per_second"]
    assert images_per_iteration == pytest.approx(spec.schedule.batch_size, rel=1e-3)
    assert cost["gpu_hours"] == (
        pytest.approx(cost["seconds"] / 3600, abs=1e-4) if torch.cuda.is_available() else 0
    )
    assert record["metrics"]["images"] == 4
    assert [point[0] for point in record["losses"]] == list(range(1, 13))
    assert record["losses"][0][1].keys() == {"loss_ce", "acc_seg", "loss_ppc", "loss_ppd", "loss"}
    assert finished.status().state is State.DONE


@pytest.mark.install
def test_the_record_holds_no_path_and_no_host_name(finished: RunFolder) -> None:
    import socket

    text = finished.record.read_text()
    assert str(finished.path.parent) not in text
    assert str(Path.home()) + "/" not in text
    assert socket.gethostname() not in text


def count_labelled_pixels(data: Path) -> dict[int, int]:
    """Image number -> number of pixels that are not ignored, for the val split."""
    folder = find_root(small_spec().dataset, data) / "annotations" / "val"
    return {
        index: int((np.asarray(Image.open(path)) != 255).sum())
        for index, path in enumerate(sorted(folder.iterdir()))
    }


@pytest.mark.install
def test_metrics_are_those_of_the_confusion_counts(finished: RunFolder, data: Path) -> None:
    record = record_of(finished)
    verify_confusion(record, finished.confusion)
    matrix = np.zeros((6, 6), np.int64)
    pixels: dict[int, int] = {}
    for image, truth, guess, count in cells(finished.confusion):
        matrix[truth, guess] += count
        pixels[image] = pixels.get(image, 0) + count
    assert pixels == count_labelled_pixels(data), "each labelled pixel is counted once"
    hit, union = np.diag(matrix), matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    present = union > 0
    assert record["metrics"]["miou"] == pytest.approx(100 * (hit / union)[present].mean())
    assert record["metrics"]["aacc"] == pytest.approx(100 * hit.sum() / matrix.sum())
    for c, row in enumerate(record["per_class"]):
        assert row["name"] == record["spec"]["dataset"]["classes"][c]
        assert row["pixels"] == matrix[c].sum()
        if union[c]:
            assert row["iou"] == pytest.approx(100 * hit[c] / union[c])


@pytest.mark.install
def test_the_counts_are_those_of_the_last_checkpoints_predictions(
    finished: RunFolder, spec: RunSpec, data: Path
) -> None:
    """Recompute the counts from the saved weights, without the package's evaluation."""
    root = find_root(spec.dataset, data)
    model = build_components(build_config(spec, data_root=root), None).module
    model.load_state_dict(load_last_checkpoint(finished)["model"])
    model.eval()
    expected = {(i, t, g): n for i, t, g, n in cells(finished.confusion)}
    mean = np.array([123.675, 116.28, 103.53])
    std = np.array([58.395, 57.12, 57.375])
    recomputed: dict[tuple[int, int, int], int] = {}
    for index in range(4):
        image = np.asarray(Image.open(root / "images" / "val" / f"{index:05}.png"))
        truth = np.asarray(Image.open(root / "annotations" / "val" / f"{index:05}.png"))
        batch = torch.tensor((image - mean) / std, dtype=torch.float32).permute(2, 0, 1)[None]
        with torch.no_grad():
            logits = model.decode_head(model.backbone(batch))
        logits = torch.nn.functional.interpolate(logits, (48, 48), mode="bilinear")
        for t, g in zip(truth.ravel(), logits[0].argmax(0).flatten().tolist(), strict=True):
            if t != 255:
                key = (index, int(t), g)
                recomputed[key] = recomputed.get(key, 0) + 1
    all_keys = {*expected, *recomputed}
    differing = sum(abs(expected.get(k, 0) - recomputed.get(k, 0)) for k in all_keys)
    assert differing <= 4, "only rounding may change the prediction of a pixel"


@pytest.mark.install
def test_the_record_counts_the_parameters(finished: RunFolder) -> None:
    counts = record_of(finished)["parameters"]
    assert counts["prototype"] == 6 * 3 * 64
    state = load_last_checkpoint(finished)["model"]
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    learnable = sum(
        value.numel()
        for name, value in state.items()
        if not name.endswith(buffers) and ".bank." not in name
    )
    assert counts["learnable"] == learnable


@pytest.mark.install
def test_a_finished_attempt_leaves_its_end_and_log(finished: RunFolder) -> None:
    assert ends(finished) == [None]
    (attempt,) = finished.attempts()
    assert attempt.end["message"] == "record written"
    text = log(finished)
    assert "iteration 12/12" in text
    assert "end: done" in text
    assert not finished.claim.exists(), "the claim is released"
    assert finished.status().iteration == 12


@pytest.mark.install
def test_the_worker_does_not_repeat_a_finished_run(finished: RunFolder) -> None:
    before = finished.record.read_bytes()
    status, output = work(finished)
    assert (status, output.strip()) == (0, f"{finished.run_id}: already done.")
    assert finished.record.read_bytes() == before
    assert len(finished.attempts()) == 1


@pytest.mark.install
@pytest.mark.slow
def test_a_new_python_process_gives_the_same_bits_as_a_forked_one(
    finished: RunFolder, spec: RunSpec, data: Path, tmp_path: Path
) -> None:
    """The two interpreters differ in hash seed and imports."""
    folder = make_folder(tmp_path, spec, data)
    process = start_new_worker(folder)
    output, _ = finish(process, logs=log_paths(folder))
    assert process.returncode == 0, output + log(folder)
    assert_same_result(folder, finished)
    kernels = [record_of(run)["provenance"]["kernels"] for run in (folder, finished)]
    assert kernels[0] == kernels[1]


def test_loader_processes_do_not_change_any_bit(
    finished: RunFolder, spec: RunSpec, data: Path, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, spec, data, workers=2, checkpoint_seconds=0)
    status, output = work(folder)
    assert status == 0, output + log(folder)
    assert_same_result(folder, finished)


# Interrupted runs


def test_a_run_resumed_after_sigterm_and_a_full_disk_gives_the_same_bits(
    finished: RunFolder, spec: RunSpec, data: Path, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, spec, data, checkpoint_seconds=0)
    process = start_worker(folder, pause_after(4))
    wait_for_checkpoint(folder, 4, process)
    process.send_signal(signal.SIGTERM)
    finish(process, logs=log_paths(folder))
    assert process.returncode == 75
    assert ends(folder) == ["cancelled"]
    end = json.loads((folder.attempts_folder / "0001" / "end.json").read_text())
    assert end["reason"] == "cancelled"
    assert "stopped on request" in end["message"]
    assert folder.status().state is State.INTERRUPTED
    reached = int(sorted(folder.checkpoints.glob("*.pth"))[-1].stem[5:])
    assert reached == 5, "the iteration during which the signal arrived"

    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))"
    status, output = work(folder, limit)
    assert status == 75, output
    assert ends(folder) == ["cancelled", "storage"]
    assert f"resuming from iteration {reached}" in log(folder)
    assert "Nothing finished was lost" in folder.attempts()[-1].message
    assert int(sorted(folder.checkpoints.glob("*.pth"))[-1].stem[5:]) == reached

    assert work(folder)[0] == 0
    assert ends(folder) == ["cancelled", "storage", None]
    assert f"resuming from iteration {reached}" in log(folder)
    assert record_of(folder)["attempts"] == 3
    assert_same_result(folder, finished)


def test_a_run_killed_while_it_writes_a_checkpoint_gives_the_same_bits(
    finished: RunFolder, spec: RunSpec, data: Path, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, spec, data, checkpoint_seconds=0)
    status, _ = work(folder, KILLED_WHILE_WRITING)
    assert status == -signal.SIGKILL
    assert ends(folder) == ["lost"]
    assert not folder.record.exists()
    assert folder.status().state is State.INTERRUPTED
    assert len(list(folder.checkpoints.glob(".*.tmp"))) == 1

    assert work(folder)[0] == 0
    assert "resuming from iteration 4" in log(folder)
    assert "iteration 4/12" not in log(folder), "no iteration is trained twice"
    assert ends(folder) == ["lost", None]
    assert record_of(folder)["attempts"] == 2
    assert list(folder.checkpoints.glob(".*.tmp")) == []
    assert_same_result(folder, finished)


def test_a_killed_run_with_a_damaged_checkpoint_resumes_from_the_older_one(
    finished: RunFolder, spec: RunSpec, data: Path, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, spec, data, checkpoint_seconds=0)
    process = start_worker(folder, pause_after(3))
    wait_for_checkpoint(folder, 3, process)
    process.kill()
    finish(process)
    assert process.returncode == -signal.SIGKILL
    complete = sorted(
        path for path in folder.checkpoints.glob("*.pth") if path.with_suffix(".json").exists()
    )
    content = bytearray(complete[-1].read_bytes())
    content[len(content) // 2] ^= 255
    complete[-1].write_bytes(content)
    assert work(folder)[0] == 0
    assert f"{complete[-1].name}: damaged, it does not match its digest; skipped" in log(folder)
    assert complete[-2].stem == "iter_00000002"
    assert "resuming from iteration 2" in log(folder)
    assert_same_result(folder, finished)


def test_a_second_worker_does_not_train_a_claimed_run(
    spec: RunSpec, data: Path, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, spec, data)
    acquired = claim.acquire(folder.claim)
    assert acquired is not None
    try:
        status, output = work(folder)
    finally:
        acquired.release()
    expected = f"{folder.run_id}: another worker holds its claim."
    assert (status, output.strip()) == (0, expected)
    assert folder.attempts() == []


@pytest.mark.install
def test_a_missing_run_folder_is_an_error(tmp_path: Path) -> None:
    status, output = work(RunFolder(tmp_path / "nothing"))
    assert status == 1
    assert "missing or incomplete; run the sweep again" in output
    assert not (tmp_path / "nothing").exists()


# Why an attempt failed


def train(folder: RunFolder) -> tuple[Reason | None, str]:
    """Train a run in this process; the worker's reason and message."""
    launch = json.loads(folder.launch.read_text())
    return worker._train_run(folder, folder.read_spec(), launch, StopRequest())


def copy_without_digest(data: Path, folder: Path) -> tuple[Path, tuple[str, ...]]:
    """A copy of the small data set without a pinned digest, and the overrides that select it."""
    root = find_root(small_spec().dataset, data)
    shutil.copytree(root, folder / "data" / "copied")
    overrides = (
        "dataset.name=copied",
        "dataset.digest=unpinned",
        *(f"~dataset.generator.{key}" for key in ("name", "version", "seed", "size")),
        "~dataset.generator.train",
        "~dataset.generator.val",
    )
    return folder / "data", overrides


@pytest.mark.parametrize(
    ("damage", "split", "workers", "sentence"),
    [
        ("label", "train", 0, r"00003\.png: label out of range: 77"),
        ("label", "val", 0, r"00003\.png: label out of range: 77"),
        ("label", "train", 1, r"00003\.png: label out of range: 77"),
        ("truncated", "train", 0, r"images/train/00003\.png: cannot be decoded"),
        ("gone", "val", 0, r"00003\.png: has no image"),
        ("unlabelled", "train", 0, r"/train: no pixel of split 'train' has a class; all are"),
        ("unlabelled", "val", 0, r"/val: no pixel of split 'val' has a class; all are ignored"),
        ("thin", "val", 0, r"00003\.png: Resize fails for its 900×4 pixels"),
    ],
)
def test_damaged_data_end_a_run_as_bad_data(
    data: Path, tmp_path: Path, damage: str, split: str, workers: int, sentence: str
) -> None:
    copied, overrides = copy_without_digest(data, tmp_path)
    image = copied / "copied" / "images" / split / "00003.png"
    match damage:
        case "label":
            path = copied / "copied" / "annotations" / split / "00003.png"
            labels = np.array(Image.open(path))
            labels[5, 5] = 77
            Image.fromarray(labels).save(path)
        case "truncated":
            image.write_bytes(image.read_bytes()[:100])
        case "gone":
            image.unlink()
        case "unlabelled":
            for path in (copied / "copied" / "annotations" / split).iterdir():
                Image.new("L", (48, 48), 255).save(path)
        case "thin":
            overrides = (*overrides, "evaluation.scale=[96,48]")
            Image.new("RGB", (900, 4)).save(image)
            Image.new("L", (900, 4)).save(copied / "copied" / "annotations" / split / "00003.png")
    folder = make_folder(tmp_path, small_spec(*overrides), copied, workers=workers)
    reason, message = train(folder)
    assert reason is Reason.BAD_DATA, message
    assert re.search(sentence, message), message
    assert "Traceback" not in message
    assert not folder.record.exists()
    is_found_early = damage in ("unlabelled", "thin")
    assert not is_found_early or not list(folder.checkpoints.glob("*")), "nothing was trained"


def test_data_with_another_digest_are_bad_data(data: Path, tmp_path: Path) -> None:
    copied, overrides = copy_without_digest(data, tmp_path)
    folder = make_folder(tmp_path, small_spec(*overrides, "dataset.digest=" + "0" * 64), copied)
    reason, message = train(folder)
    assert reason is Reason.BAD_DATA
    assert "its digest is" in message
    assert "0" * 64 in message


def test_missing_weights_are_bad_data(data: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, small_spec("backbone.weights=none.pth"), data)
    reason, message = train(folder)
    assert reason is Reason.BAD_DATA
    assert "none.pth: the weights of backbone tiny are missing" in message


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("evaluation.mode=slide",), "needs crop_size and stride"),
        (("schedule.optimizer=SGD",), "trains with AdamW"),
        (("+decoder.settings.chanels=3",), "mmseg cannot build it"),
        (
            ("+backbone.settings.pretrained=true",),
            "backbone.settings.pretrained is True, but a run",
        ),
        (("schedule.learning_rate=1e30", "schedule.warmup_iterations=0"), "diverged"),
        (("precision=fp16",), "fp16 needs a GPU"),
    ],
)
def test_settings_that_cannot_be_trained_end_a_run_as_bad_config(
    data: Path, tmp_path: Path, overrides: tuple[str, ...], sentence: str
) -> None:
    if "precision=fp16" in overrides and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    reason, message = train(make_folder(tmp_path, small_spec(*overrides), data))
    assert reason is Reason.BAD_CONFIG, message
    assert sentence in message


def test_a_recipe_without_known_values_ends_a_run_as_bad_config(data: Path, tmp_path: Path) -> None:
    spec = small_spec()
    # As an earlier protoseg planned it: the path of a file, and no values.
    decoder = dataclasses.replace(spec.decoder, recipe="/home/somebody/mine.py")
    folder = make_folder(tmp_path, dataclasses.replace(spec, decoder=decoder), data)
    reason, message = train(folder)
    assert reason is Reason.BAD_CONFIG
    assert "the spec has no values of it. Another version of protoseg planned this run" in message


def test_a_run_of_another_method_version_is_refused(data: Path, tmp_path: Path) -> None:
    old = dataclasses.replace(small_spec(), method_version=METHOD_VERSION - 1)
    reason, message = train(make_folder(tmp_path, old, data))
    assert reason is Reason.BAD_CONFIG
    assert f"this protoseg trains version {METHOD_VERSION}" in message


def test_an_edited_spec_is_refused(spec: RunSpec, data: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, spec, data)
    content = json.loads(folder.spec.read_text())
    content["spec"]["schedule"]["iterations"] = 6
    folder.spec.write_text(json.dumps(content))
    reason, message = train(folder)
    assert reason is Reason.BAD_CONFIG
    assert "not of this folder. It was edited" in message
    content["spec"]["schedule"]["iteration"] = 6
    folder.spec.write_text(json.dumps(content))
    reason, message = train(folder)
    assert reason is Reason.BAD_CONFIG
    assert "iteration" in message
    assert not folder.record.exists()


@pytest.mark.install
@pytest.mark.parametrize(
    ("error", "reason", "start"),
    [
        (MemoryError(), Reason.OUT_OF_MEMORY, "MemoryError"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), Reason.OUT_OF_MEMORY, "OutOfMemory"),
        (
            RuntimeError("[enforce fail at x] DefaultCPUAllocator: can't allocate memory: you"),
            Reason.OUT_OF_MEMORY,
            "RuntimeError",
        ),
        (RuntimeError("shapes do not match\nmore"), Reason.CODE_ERROR, "RuntimeError: shapes do"),
        (KeyError("x"), Reason.CODE_ERROR, "KeyError"),
        (
            StopRequested(signal.SIGINT),
            Reason.CANCELLED,
            "stopped on request; nothing was trained yet",
        ),
        (
            StopRequested(signal.SIGTERM),
            Reason.CANCELLED,
            "stopped on request; nothing was trained yet",
        ),
    ],
)
def test_each_error_has_its_reason(
    error: Exception,
    reason: Reason,
    start: str,
    spec: RunSpec,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr("protoseg.training.run.execute_run", fail)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    actual, message = train(make_folder(tmp_path, spec, data))
    assert actual is reason
    assert message.startswith(start)
    assert "\n" not in message


@pytest.mark.install
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP])
def test_slurm_gives_the_reason_of_a_signal_except_of_ctrl_c(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4000000000")
    reason, message = failures.classify_signal(number, 40)
    slurm_reason, slurm_message = explain_signal(number)
    assert (reason, message) == (slurm_reason, f"{slurm_message}; saved at iteration 40")
    assert reason is not Reason.CANCELLED
    ctrl_c = failures.classify_signal(signal.SIGINT, 0)
    assert ctrl_c == (Reason.CANCELLED, "stopped on request; nothing was trained yet")


def test_a_model_that_does_not_fit_is_out_of_memory(data: Path, tmp_path: Path) -> None:
    """The decoder is wider than the memory of any machine."""
    folder = make_folder(tmp_path, small_spec("decoder.channels=1000000000000"), data)
    reason, message = train(folder)
    assert reason is Reason.OUT_OF_MEMORY, message


def test_bf16_trains(data: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, small_spec("precision=bf16"), data)
    assert train(folder) == (None, "record written")
    assert record_of(folder)["metrics"]["images"] == 4


def test_a_sliding_window_counts_every_pixel(data: Path, tmp_path: Path) -> None:
    folder = make_folder(
        tmp_path,
        small_spec(
            "evaluation.mode=slide",
            "evaluation.crop_size=[32,32]",
            "evaluation.stride=[20,20]",
            "evaluation.scale=[72,72]",
        ),
        data,
    )
    assert train(folder) == (None, "record written")
    total = sum(count for *_, count in cells(folder.confusion))
    expected = sum(count_labelled_pixels(data).values())
    assert total == expected, "predictions are resized to the label maps"


def test_an_existing_record_is_never_overwritten(
    finished: RunFolder, spec: RunSpec, data: Path, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, spec, data)
    shutil.copytree(finished.checkpoints, folder.checkpoints)
    folder.record.write_text("{}")
    folder.confusion.write_bytes(b"its counts")
    reason, message = train(folder)
    assert reason is Reason.BAD_CONFIG
    assert "a record exists already; it is kept" in message
    assert folder.record.read_text() == "{}"
    assert folder.confusion.read_bytes() == b"its counts"


def test_a_worker_taken_over_while_it_writes_counts_keeps_those_of_the_other_worker(
    finished: RunFolder, spec: RunSpec, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path, spec, data)
    shutil.copytree(finished.checkpoints, folder.checkpoints)
    stop = StopRequest()
    fsync = os.fsync

    def fsync_during_takeover(descriptor: int) -> None:
        fsync(descriptor)
        if "confusion" in os.readlink(f"/proc/self/fd/{descriptor}"):
            folder.confusion.write_bytes(b"its counts")
            stop.still_mine = lambda: False

    monkeypatch.setattr(os, "fsync", fsync_during_takeover)
    launch = json.loads(folder.launch.read_text())
    reason, _ = worker._train_run(folder, folder.read_spec(), launch, stop)
    assert reason is Reason.LOST
    assert folder.confusion.read_bytes() == b"its counts"
    assert not folder.record.exists()


def test_a_run_stopped_in_its_evaluation_repeats_only_the_evaluation(
    finished: RunFolder, spec: RunSpec, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path, spec, data)
    shutil.copytree(finished.checkpoints, folder.checkpoints)
    process = confusion.ConfusionCounts.process

    def process_and_stop(self: Any, *arguments: Any) -> None:
        process(self, *arguments)
        stop.signal_number = signal.SIGTERM

    stop = StopRequest()
    launch = json.loads(folder.launch.read_text())
    with monkeypatch.context() as patch:
        patch.setattr(confusion.ConfusionCounts, "process", process_and_stop)
        reason, _ = worker._train_run(folder, folder.read_spec(), launch, stop)
    assert reason is Reason.CANCELLED or os.environ.get("SLURM_JOB_ID")
    assert not folder.record.exists()
    assert train(folder) == (None, "record written")
    assert result(folder) == result(finished)


@pytest.mark.parametrize("content", [None, "", "[]", "{torn"])
def test_missing_or_incomplete_launch_settings_are_one_sentence(
    content: str | None,
    spec: RunSpec,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = make_folder(tmp_path, spec, data)
    launch = tmp_path / "launch.json"
    if content is not None:
        launch.write_text(content)
    assert worker.main([str(folder.path), str(launch)]) == worker.FAILED
    assert f"{launch}: missing or incomplete; run the sweep again." in capsys.readouterr().err
    assert folder.attempts() == []
