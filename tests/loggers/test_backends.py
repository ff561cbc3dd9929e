"""Each logger's points, read back with the reader of its backend, after a kill and a resume."""

from __future__ import annotations

import importlib.util
import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loggers.conftest import Client

MakeClient = Callable[[str], Client]
SPEC = {"seed": 0, "method": {"kind": "paper", "num_prototypes": 3}, "size": [48, 48]}


def need_package(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        importlib.util.find_spec(name) is None,
        reason=f"{name} is not installed: pip install --no-deps -r requirements-optional.lock",
    )


def log_two_attempts(make_client: MakeClient, name: str) -> Client:
    """Iterations 1 to 6 of a killed attempt with a checkpoint at 4, then 5 to 8 of a second one.

    The loss of iteration n is n, so a point of both attempts has one value.
    """
    client = make_client(name)
    client.start_run(spec=SPEC)
    log_iterations(client, 1, 6)
    assert client.process._process is not None
    assert client.process._process.stdin is not None
    client.process._process.stdin.close()  # as the death of the worker does
    assert client.process._process.wait() == 0, client.output.read_text()
    client = make_client(name)
    client.start_run(spec=SPEC, start=4, attempt=2)
    log_iterations(client, 5, 8)
    client.close()
    assert client.warnings == [], client.output.read_text()
    return client


def log_iterations(client: Client, first: int, last: int) -> None:
    for n in range(first, last + 1):
        values = {"loss": float(n), "learning_rate": 0.5 / n, "iterations_per_second": 2.0}
        client.process.send_call("log", iteration=n, values=values)
        if n % 2 == 0:
            metrics = {"miou": 10.0 * n, "macc": 1.0, "aacc": 2.0}
            client.process.send_call("log_metrics", iteration=n, metrics=metrics)


LOSSES = [(n, float(n)) for n in range(1, 9)]
MIOUS = [(n, 10.0 * n) for n in range(2, 9, 2)]


def test_jsonl_continues_its_file_without_the_points_after_the_checkpoint(
    make_client: MakeClient,
) -> None:
    client = log_two_attempts(make_client, "jsonl")
    path = client.folder / "log.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0] == {"event": "run", "run_id": "run-s0-0123456789", "spec": SPEC}
    values = [line for line in lines if line["event"] == "values"]
    assert [(line["iteration"], line["loss"]) for line in values] == LOSSES
    metrics = [line for line in lines if line["event"] == "metrics"]
    assert [(line["iteration"], line["miou"]) for line in metrics] == MIOUS
    starts = [line for line in lines if line["event"] == "start"]
    assert [(line["attempt"], line["iteration"]) for line in starts] == [(1, 0), (2, 4)]
    assert [line["reason"] for line in lines if line["event"] == "end"] == ["lost", "done"]


def test_jsonl_skips_a_torn_line(make_client: MakeClient) -> None:
    client = make_client("jsonl")
    path = client.folder / "log.jsonl"
    path.write_text('{"event": "values", "iteration": 1, "loss": 1.0}\n{"event": "val')
    client.start_run(start=1)
    client.close()
    events = [json.loads(line)["event"] for line in path.read_text().splitlines()]
    assert events == ["run", "values", "start", "end"]


@need_package("tensorboard")
@pytest.mark.slow
def test_tensorboard_reads_each_point_once(make_client: MakeClient) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    client = log_two_attempts(make_client, "tensorboard")
    folder = client.folder / "tensorboard"
    assert len([*folder.iterdir()]) == 2, "one file for each attempt"
    reader = EventAccumulator(str(folder))
    reader.Reload()
    names = {"train/loss", "train/learning_rate", "train/iterations_per_second"}
    names |= {f"evaluation/{name}" for name in ("miou", "macc", "aacc")}
    assert set(reader.Tags()["scalars"]) == names
    assert [(e.step, e.value) for e in reader.Scalars("train/loss")] == LOSSES
    assert [(e.step, e.value) for e in reader.Scalars("evaluation/miou")] == MIOUS
    rates = [e.value for e in reader.Scalars("train/learning_rate")]
    assert rates == pytest.approx([0.5 / n for n in range(1, 9)])
    (text,) = reader.Tensors("config")[-1:]
    content = text.tensor_proto.string_val[0].decode()
    assert '"num_prototypes": 3' in content
    assert "run-s0-0123456789" in content


@need_package("wandb")
@pytest.mark.slow
def test_wandb_offline_has_each_point_once(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    client = log_two_attempts(make_client, "wandb")
    files = sorted((client.folder / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2, "one folder for each attempt"
    runs, points, ends = [], [], []
    for path in files:
        for record in read_wandb_records(path):
            which = record.WhichOneof("record_type")
            if which == "run":
                runs.append(record.run)
            elif which == "history":
                points.append(decode_items(record.history.item))
            elif which == "exit":
                ends.append(record.exit.exit_code)
    assert len({run.run_id for run in runs}) == 1
    assert runs[0].run_id.startswith("run-s0-0123456789-")
    assert runs[0].display_name == "run-s0-0123456789"
    config = {item.key: json.loads(item.value_json) for item in runs[0].config.update}
    assert {key: config[key] for key in SPEC} == SPEC
    losses = [(p["iteration"], p["train/loss"]) for p in points if "train/loss" in p]
    assert losses == LOSSES
    key = "evaluation/miou"
    assert [(p["iteration"], p[key]) for p in points if key in p] == MIOUS
    assert ends == [1, 0]


def read_wandb_records(path: Path) -> list[Any]:
    """The records of W&B's file of an offline run: protobuf messages in a log file of LevelDB.

    A block of 32 KiB has parts of records, each after a checksum (4 bytes), its length (2) and its
    type (1): whole, first, middle, last. The file starts with 7 bytes of W&B.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    data, block = path.read_bytes(), 1 << 15
    assert data.startswith(b":W&B")
    position, parts, records = 7, b"", []
    while position + 7 <= len(data):
        if block - position % block < 7:  # the rest of a block has no room for a header
            position += block - position % block
            continue
        length = int.from_bytes(data[position + 4 : position + 6], "little")
        part_type = data[position + 6]
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if part_type in (1, 4):
            record = Record()
            record.ParseFromString(parts)
            records.append(record)
            parts = b""
    return records


def decode_items(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


@need_package("wandb")
@pytest.mark.slow
def test_wandb_without_network_and_key_is_off_after_one_line(
    tmp_path: Path,
    make_client: MakeClient,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("NETRC", os.devnull)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    client = make_client("wandb")
    client.start_run()
    client.close()
    (line,) = [*client.warnings, *capfd.readouterr().out.splitlines()]
    assert "logger wandb: off: " in line


@need_package("mlflow")
@need_package("alembic")
@pytest.mark.slow
def test_mlflow_has_each_point_once(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    client = log_two_attempts(make_client, "mlflow")
    # Read with SQLite itself: the client of MLflow takes seconds to import.
    with sqlite3.connect(client.folder.parent / "mlflow.db") as database:
        query = "select step, value from metrics where key = ? order by timestamp, step"
        losses = database.execute(query, ["train/loss"]).fetchall()
        mious = database.execute(query, ["evaluation/miou"]).fetchall()
        runs = database.execute("select name, status from runs").fetchall()
        parameters = dict(database.execute("select key, value from params"))
        experiments = database.execute("select name from experiments").fetchall()
    database.close()
    assert losses == LOSSES
    assert mious == MIOUS
    assert runs == [("run-s0-0123456789", "FINISHED")]
    assert parameters["method.num_prototypes"] == "3"
    assert parameters["size"] == "[48, 48]"
    assert ("protoseg",) in experiments
