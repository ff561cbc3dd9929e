"""Measure the peak memory of ``protoseg predict`` on one image with a trained network.

    python benchmarks/predict_memory.py [--window 512] [--side 8000] [--classes 19] [OPTION ...]

It trains MobileNetV2 with ProtoSeg (K = 4) for ten iterations on the built-in data, with as many
declared classes, in a temporary folder; predicts an image of SIDE x SIDE pixels in a process; and
prints the largest resident memory of that process, as the kernel counts it, and its CPU time.
Further options are those of ``protoseg predict``: ``--tta``, ``--mode whole``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

SPEC = (
    *("dataset=shapes", "backbone=mobilenet_v2", "backbone.weights=''", "schedule.iterations=10"),
    *("schedule.warmup_iterations=2", "schedule.batch_size=2", "method.num_prototypes=4"),
    *("dataset.generator.train=8", "dataset.generator.val=2", "dataset.digest=unpinned"),
    "dataset.counts={train: 8, val: 2}",
)


def write_image(path: Path, side: int) -> None:
    """Write a smooth random image."""
    coarse = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    cv2.imwrite(str(path), cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC))


def main() -> None:
    """Train, predict and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--window", type=int, default=512, help="side in pixels; 0: whole image")
    parser.add_argument("--side", type=int, default=8000)
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--runs", help="folder of runs to keep, so that it is trained once")
    arguments, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        runs = Path(arguments.runs or folder / "runs")
        data = runs / "data"
        program = [sys.executable, "-m", "protoseg.cli"]
        folders = ["--runs", str(runs), "--data", str(data)]
        names = ["ground", "disk", "box", "triangle", "ring", "bar"]
        names += [f"class{index}" for index in range(len(names), arguments.classes)]
        classes = f"dataset.classes=[{','.join(names[: arguments.classes])}]"
        train = [*program, "train", *SPEC, classes, *folders]
        subprocess.run(train, check=True, stdout=subprocess.DEVNULL)
        (run,) = (path.parent for path in runs.glob("*/record.json"))
        write_image(folder / "image.png", arguments.side)
        window = ["--window", str(arguments.window)] if arguments.window else []
        command = [*program, "predict", str(run), str(folder / "image.png")]
        command += ["--into", str(folder / "out"), *window, *options]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit("predict failed")
        print(
            f"{arguments.side} x {arguments.side} pixels, {arguments.classes} classes, "
            f"window {arguments.window or 'none'} {' '.join(options)}: "
            f"{usage.ru_maxrss / 1024:,.0f} MiB, {usage.ru_utime + usage.ru_stime:.0f} s of CPU"
        )


if __name__ == "__main__":
    main()
