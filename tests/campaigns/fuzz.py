"""Fuzzing: random command lines, and random changes of YAML files, in one process.

    python tests/campaigns/fuzz.py --cases 5000 --seed 0

A case fails if ``protoseg`` raises, exits with a status other than 0, 1 and 2, or prints text of
Hydra, OmegaConf or Python's own errors. Each failure is printed with its case. Nothing trains: the
functions that start workers, ask a network or measure time are replaced.

Exit status: 0, or 1 if a case failed.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import os
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]

RAW_TEXT = re.compile(
    r"Traceback|hydra\.|omegaconf|DictConfig|ListConfig|AnyNode|full_key|object_type"
    r"|mismatched input|no viable alternative|token recognition|extraneous input|Interpolation key"
    r"|ConfigAttributeError|has no attribute|not subscriptable|is not iterable|NoneType"
    r"|unhashable type|unexpected keyword|takes \d+ positional|not supported between|Cannot merge"
    r"|composing config|missing from the config store|<class '",
    re.IGNORECASE,
)
MATRIX = """\
title: A small matrix
base: {dataset: shapes, backbone: tiny, schedule.iterations: 20}
rows:
  - {label: "Parametric, K = 1", method: parametric}
  - {label: "ProtoSeg, K = 4", method: paper, method.num_prototypes: 4}
grid: {method.num_prototypes: [1, 2]}
exclude: [{method.num_prototypes: 2}]
seeds: [0, 1]
table:
  metrics: [miou, parameters]
  baseline: {label: "Parametric, K = 1"}
  comparisons: {axis: label}
  image_groups: {block: 2}
  expected_spread: 0.5
"""
PAGE = """\
# A page
mIoU <!-- mean small 1 -->1<!-- -->, <!-- delta:1 small 1 2 -->1<!-- -->, <!-- nope -->1<!-- -->
"""
SMALL = MATRIX.replace("grid: {method.num_prototypes: [1, 2]}\n", "").replace(
    "exclude: [{method.num_prototypes: 2}]\n", ""
)
TUNED = (
    SMALL.replace("schedule.iterations: 20}", "schedule.norm_decay: never}")
    + """\
tune:
  search:
    schedule.learning_rate: {log_uniform: [3e-4, 1e-2]}
    schedule.head_lr_mult: [1, 3, 10]
  rows:
    "ProtoSeg*": {method.momentum: {uniform: [0.9, 1]}}
  trials: 4
  halving: {rungs: [5, 10], factor: 2}
  base: {schedule.iterations: 20, seed: 100}
  select: {metric: miou, on: holdout, share: 0.2, blocks: 3, gap: 1}
  seed: 0
"""
)
VERBS = (
    *("plan", "sweep", "train", "status", "tables", "figures", "explain", "compare", "data"),
    *("evaluate", "plan", "sweep"),
    *(
        "predict",
        "samples",
        "report",
        "weights",
        "masks",
        "export",
        "cancel",
        "logs",
        "verify",
        "reproduce",
        "params",
        "fill",
    ),
)
"""All verbs but doctor, which takes no operands and asks this machine."""
NAMES = (
    *(
        "tuned",
        "tuned",
        "small",
        "grid",
        "paper_table7",
        "paper",
        "small.yaml",
        "experiments/matrices/small.yaml",
    ),
    *("shapes", "mine", "tiny", "list", "check", "prepare", "get", "shapes-tiny", "s0", "none"),
    *(
        "Parametric, K = 1",
        "#1",
        "#2",
        "miou",
        "delta",
        "1",
        "-1",
        "",
        " ",
        "ü",
        "a\nb",
        "*",
        "[x]",
        "page.md",
    ),
)
KEYS = (
    *("method", "dataset", "backbone", "decoder", "schedule", "evaluation", "contrast", "seed"),
    *("method.num_prototypes", "method.kappa", "method.kind", "dataset.classes", "dataset.counts"),
    *("dataset.labels", "dataset.generator", "backbone.settings", "backbone.channels", "precision"),
    *("augmentation.scale", "schedule.recipe", "schedule.iterations", "evaluation.split", "a.b"),
    *("evaluation.mode", "dataset.image_labels", "determinism", "cluster", "cluster.time", "label"),
    *("tune", "tune.trials", "tune.halving", "schedule.stop_after", "evaluation.holdout"),
    *("evaluation.every", "evaluation.holdout.share", "halving", "search", "select", "base"),
    *("method.num_prototype", "methods", "decoder.in_index", "backbone.settings.type", "seed.x"),
)
VALUES = (
    *("0", "1", "4", "-1", "1e400", "nan", "0.5", "true", "off", "null", "", "[]", "[1,2]", "{}"),
    *("{a: 1}", "{building: 0}", "[[1]]", "text", "'a b'", '"q"', "1,2", "1,2,2", "range(1,3)"),
    *("choice(a,b)", "interval(0,1)", "glob(*)", "${method.kappa}", "${", "${nope}", "???", "~"),
    *("{log_uniform: [0, 1]}", "{uniform: [2, 1]}", "{int: [1, 3]}", "{rungs: [5]}", "holdout"),
    *("{share: 0.5, blocks: 2}", "{on: val}", "{on: test}", "{metric: miou, share: 2}", "[5, 10]"),
    *("paper", "parametric", "shapes", "mine", "tiny", "a.b.C", "os.path", "json.JSONDecoder"),
    *(
        "@x",
        "a:b",
        "\\",
        "010",
        "2026-01-01",
        "!!python/x",
        "&a",
        "*a",
        "ü",
        "99999999999999999999",
    ),
)
OPTIONS = (
    *(
        "--json",
        "--ignore-records",
        "--markdown",
        "--keep-records",
        "--list",
        "--batch",
        "--sbatch",
    ),
    *("--split=val", "--split=test", "--best", "--trials", "--allow-missing", "--kind=trials"),
    *("--jobs=0", "--jobs=2", "--draws=10", "--draws=x", "--kind=loss", "--kind=x", "--attempt=1"),
    *("--out=out", "--out=experiments/run.yaml", "--runs=nowhere", "--runs=experiments/run.yaml"),
    *("--data=experiments/run.yaml", "--results=empty", "--results=experiments/run.yaml", "--help"),
    *("--check", "--by=images", "--by=x", "--classes=present", "--block=2", "--pattern=(", "-h"),
    *("--experiments=nowhere", "--clusters=nowhere", "--threads=1", "--csv", "--nope", "--", "-x"),
)


@dataclass
class Fuzzer:
    """Runs random cases in a folder with a copy of the experiments.

    Attributes:
        failures: one text per failed case.
    """

    folder: Path
    seed: int
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        from protoseg.config.compose import Composer

        self.random = random.Random(self.seed)
        self._composer = functools.cache(Composer)  # composing takes most of the time
        experiments = self.folder / "experiments"
        ignore = shutil.ignore_patterns("matrices")
        shutil.copytree(ROOT / "experiments", experiments, ignore=ignore)
        (experiments / "matrices").mkdir()
        for name, text in (("small", SMALL), ("grid", MATRIX), ("tuned", TUNED)):
            (experiments / "matrices" / f"{name}.yaml").write_text(text)
        for name in ("paper.yaml", "paper_table7.yaml"):
            shutil.copy(ROOT / "experiments/matrices" / name, experiments / "matrices")
        text = (experiments / "dataset" / "camvid.yaml").read_text()
        (experiments / "dataset" / "mine.yaml").write_text(text.replace("camvid", "mine"))
        shutil.copytree(ROOT / "results" / "published", self.folder / "results" / "published")
        shutil.copytree(ROOT / "slurm", self.folder / "slurm")
        (self.folder / "page.md").write_text(PAGE)
        self.files = sorted(
            path
            for part in ("experiments", "results/published", "slurm")
            for path in (self.folder / part).rglob("*.yaml")
        )
        self.likely = [
            path for path in self.files if path.stem in ("small", "tuned", "mine", "run", "paper")
        ]

    def run(self, cases: int) -> None:
        """Run some cases; every second one changes a file."""
        names = ("DATA", "RUNS", "RESULTS", "WEIGHTS", "EXPERIMENTS", "CLUSTERS")
        removed = {f"PROTOSEG_{name}" for name in names}
        environment = {k: v for k, v in os.environ.items() if k not in removed}
        environment["PROTOSEG_CACHE"] = str(self.folder / "cache")
        with (
            contextlib.chdir(self.folder),
            mock.patch.dict(os.environ, environment, clear=True),
            _replaced_work(self.folder),
        ):
            for number in range(cases):
                arguments = self._make_arguments()
                if number % 2:
                    with mock.patch("protoseg.cli.context.Composer", self._composer):
                        self._call(arguments, "")
                else:
                    self._call_with_changed_file(arguments)

    def _make_arguments(self) -> list[str]:
        draw = self.random
        verb = draw.choice(VERBS)
        operands = draw.choices(NAMES, k=draw.randrange(4))
        for _ in range(draw.randrange(4)):
            prefix = draw.choice(("", "", "", "", "+", "~", "++"))
            operands.append(f"{prefix}{draw.choice(KEYS)}={draw.choice(VALUES)}")
        operands += draw.choices(OPTIONS, k=draw.choice((0, 0, 0, 0, 0, 0, 1, 2)))
        draw.shuffle(operands)
        operands = [self._mutate(each) if draw.random() < 0.1 else each for each in operands]
        return [self._mutate(verb) if draw.random() < 0.01 else verb, *operands]

    def _call_with_changed_file(self, arguments: list[str]) -> None:
        draw = self.random
        path = draw.choice(self.likely if draw.random() < 0.6 else self.files)
        before = path.read_bytes()
        text = before.decode()
        for _ in range(draw.choice((1, 1, 1, 2, 3))):
            text = self._mutate_yaml(text)
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        option = path.stem
        likely = [
            *(["plan", option], ["plan"], ["status", option], ["tables", option]),
            *(
                ["params", f"{path.parent.name}={option}"],
                ["train", f"{path.parent.name}={option}"],
            ),
            *(["plan", "small", f"{path.parent.name}={option}"], ["data", "check", option]),
            *(["data", "list"], ["verify"], ["sweep", option, f"cluster={option}"], ["weights"]),
        ]
        arguments = draw.choice([*likely, arguments])
        try:
            self._call(arguments, f"{path.relative_to(self.folder)}:\n{text}")
        finally:
            path.write_bytes(before)

    def _mutate(self, text: str) -> str:
        draw = self.random
        position = draw.randrange(len(text) + 1)
        junk = draw.choice(("", "=", ",", "[", "}", "'", '"', "$", "\x00"[:0], " ", "é", "~", ":"))
        return text[:position] + junk + text[position + draw.randrange(2) :]

    def _mutate_yaml(self, text: str) -> str:
        draw, lines = self.random, text.split("\n")
        index = draw.randrange(len(lines))
        line = lines[index]
        match draw.randrange(8):
            case 0:
                del lines[index]
            case 1:
                lines.insert(index, line)
            case 2:
                lines[index] = draw.choice(("  ", "\t", "- ")) + line
            case 3 | 4:
                key, colon, _ = line.partition(":")
                lines[index] = f"{key}: {draw.choice(VALUES)}" if colon else draw.choice(VALUES)
            case 5:
                lines[index] = re.sub(r"[\w.]+", lambda _: draw.choice(VALUES), line, count=1)
            case 6:
                lines.insert(index, f"{draw.choice(KEYS)}: {draw.choice(VALUES)}")
            case _:
                lines[index] = self._mutate(line)
        return "\n".join(lines)

    def _call(self, arguments: list[str], changed: str) -> None:
        from protoseg.cli import main

        arguments = [argument.replace("\x00", "") for argument in arguments]
        out = io.StringIO()
        problem = ""
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                status = main(arguments)
        except SystemExit as stop:
            status = stop.code  # type: ignore[assignment]
        except BaseException:
            status, problem = -1, traceback.format_exc()
        if status not in (0, 1, 2):
            problem = problem or f"exit status {status}"
        elif match := RAW_TEXT.search(_without_input(out.getvalue(), arguments)):
            problem = f"raw text '{match[0]}':\n{out.getvalue()[-1500:]}"
        if problem:
            self.failures.append(f"{arguments}\n{problem}\n{changed[-2500:]}")


def _without_input(text: str, arguments: list[str]) -> str:
    """The output without the arguments that it repeats."""
    for argument in sorted(arguments, key=len, reverse=True):
        text = text.replace(argument, "") if len(argument) > 3 else text
    return text


@contextlib.contextmanager
def _replaced_work(checkout: Path) -> Iterator[None]:
    """Inside, nothing trains, is measured or is downloaded, and the checkout is another folder."""
    from protoseg.errors import ProtosegError

    def refuse(*arguments: object, **options: object) -> None:
        raise ProtosegError("replaced by the fuzzer.")

    names = (
        "protoseg.cli.local_sweep.run_sweep",
        "protoseg.launch.submit.submit_runs",
        "protoseg.training.weights.download.download_weights",
        "protoseg.cli.commands.status.time.sleep",
    )
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(mock.patch(name, refuse))
        stack.enter_context(mock.patch("protoseg.paths.find_root", return_value=checkout))
        yield


def main() -> int:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="protoseg-fuzz-") as folder:
        fuzzer = Fuzzer(Path(folder).resolve(), options.seed)
        done = 0
        while done < options.cases:
            known = len(fuzzer.failures)
            fuzzer.run(min(100, options.cases - done))
            done += min(100, options.cases - done)
            for failure in fuzzer.failures[known:]:
                print(f"{'-' * 20}\n{failure}", flush=True)
            seconds = time.perf_counter() - start
            print(f"{done} cases, {len(fuzzer.failures)} failed, {seconds:.0f} s", flush=True)
    return 1 if fuzzer.failures else 0


if __name__ == "__main__":
    sys.exit(main())
