"""``protoseg predict``: predicts images with a trained model into a folder of pictures."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protoseg.cli.arguments import (
    add_augmentation_options,
    add_operands,
    choose_scales,
    positive,
)
from protoseg.cli.exit_status import OK
from protoseg.errors import UsageError

if TYPE_CHECKING:
    from protoseg.cli.context import Context
    from protoseg.inference.output.image_files import OutputSettings
    from protoseg.inference.settings import PredictionSettings
    from protoseg.inference.trained_model import TrainedModel

EXAMPLE = "protoseg predict 3f2a photos/ --into predictions --overlay"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add_operands(
        parser,
        "RUN | CHECKPOINT | IMAGE",
        "first the model: a run id or a part of it, a run folder, or a checkpoint; then images: "
        "files, folders with their subfolders, patterns in quotes, or @FILE with one per line",
    )
    parser.add_argument("--into", metavar="DIR", help="folder of the predictions (required)")
    group = parser.add_argument_group("files")
    group.add_argument(
        "--ids",
        choices=("index", "original"),
        default="index",
        help="values of label maps: class indices (default), or the data set's label values",
    )
    group.add_argument(
        "--overlay", action="store_true", help="also write images under the colours of classes"
    )
    group.add_argument(
        "--alpha",
        type=share,
        default=0.6,
        metavar="A",
        help="weight of the colours in overlays (default: 0.6)",
    )
    group.add_argument(
        "--probabilities", action="store_true", help="also write probabilities (float16, .npz)"
    )
    group.add_argument(
        "--cityscapes-zip", metavar="FILE", help="also write the upload of the Cityscapes test set"
    )
    group = parser.add_argument_group("prediction")
    group.add_argument(
        "--mode", choices=("whole", "slide"), help="default: as in the run's evaluation"
    )
    group.add_argument(
        "--window", type=size, metavar="HxW", help="size of the sliding window, e.g. 512x1024"
    )
    group.add_argument(
        "--stride", type=size, metavar="HxW", help="its steps (default: two thirds of the window)"
    )
    add_augmentation_options(group)
    group.add_argument("--device", metavar="NAME", help="cpu or cuda:N (default: a GPU if any)")
    group.add_argument(
        "--batch",
        type=positive,
        default=1,
        metavar="N",
        help="images per pass; more than 1 can change the last bits of scores (default: 1)",
    )
    group.add_argument(
        "--jobs",
        type=positive,
        default=2,
        metavar="N",
        help="threads that load images, and threads that write (default: 2)",
    )


def share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, found '{text}'")
    return number


def size(text: str) -> tuple[int, int]:
    """Height and width in pixels: ``512x1024``, or ``512`` for both."""
    match = re.fullmatch(r"([1-9]\d{0,5})(?:[x×,]([1-9]\d{0,5}))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected a size such as 512x1024, found '{text}'")
    return int(match[1]), int(match[2] or match[1])


def run(context: Context) -> int:
    """Predict the images that are not in the folder yet."""
    arguments = context.arguments
    if not arguments.into:
        raise UsageError("predict: no folder is named. Add --into DIR, e.g. --into predictions.")
    if len(arguments.operands) < 2:
        raise UsageError(
            "predict: name a model and images, e.g. protoseg predict RUN photos/ --into "
            "predictions."
        )
    scales = choose_scales(arguments)
    from protoseg.inference.output.folder import PredictionFolder
    from protoseg.inference.output.image_files import ImageWriter, OutputSettings, find_label_values
    from protoseg.inference.output.image_list import list_images
    from protoseg.inference.output.page import write_page
    from protoseg.inference.output.predict_images import predict_images
    from protoseg.inference.trained_model import load_run

    name, *operands = arguments.operands
    target = Path(arguments.into).expanduser().absolute()
    images = list_images(operands, target)
    model = load_run(name, arguments.device, context.paths.runs)
    settings = _choose_settings(arguments, model, scales)
    output = OutputSettings(
        arguments.ids, arguments.overlay, arguments.alpha, arguments.probabilities
    )
    values = find_label_values(model.spec.dataset, output.ids)
    upload = Path(arguments.cityscapes_zip).expanduser() if arguments.cityscapes_zip else None
    if upload is not None:
        from protoseg.inference.output.cityscapes import check_upload

        check_upload(images, model.spec.dataset, upload)
    folder = PredictionFolder(target)
    writer = ImageWriter(target, values, model.colors, output)
    with folder.open(_describe_model(model, settings, output)):
        with context.progress_bar(f"predicting with {model.run_id}") as bar:
            outcome = predict_images(
                model,
                images,
                folder,
                writer,
                settings,
                batch=arguments.batch,
                jobs=arguments.jobs,
                progress=bar.update,
            )
        entries = list(folder.read_finished().values())
        page = write_page(
            writer,
            entries,
            model.classes,
            f"{len(entries)} images, predicted by {model.run_id}",
            [
                f"Iteration {model.iteration}, weights {model.state_sha256[:10]}.",
                _describe(settings),
            ],
        )
    if upload is not None and not outcome.failures:
        from protoseg.inference.output.cityscapes import write_upload

        labels = ((image, writer.find_path("labels", image.name)) for image in images)
        write_upload(upload, labels, values, model.classes)
    if context.json:
        context.print_json(
            {
                "run_id": model.run_id,
                "state_sha256": model.state_sha256,
                "predicted": outcome.predicted,
                "finished_before": outcome.finished_before,
                "failures": outcome.failures,
                "page": str(page),
            }
        )
        return context.print_errors(outcome.failures) if outcome.failures else OK
    before = f"; {outcome.finished_before} were finished" if outcome.finished_before else ""
    context.console.print(
        f"{outcome.predicted} images predicted{before}. To look: {page}", markup=False
    )
    if upload is not None:
        is_written = "" if not outcome.failures else "not written, because images failed: "
        context.console.print(f"Upload: {is_written}{upload}", markup=False)
    if outcome.failures:
        context.errors.print(f"{len(outcome.failures)} images failed:", style="red")
    return context.print_errors(outcome.failures)


def _choose_settings(
    arguments: argparse.Namespace, model: TrainedModel, scales: tuple[float, ...]
) -> PredictionSettings:
    from protoseg.inference.settings import change_settings

    return change_settings(
        model.settings,
        mode=arguments.mode,
        window=arguments.window,
        stride=arguments.stride,
        scales=scales or None,
        flip=bool(scales),
    )


def _describe_model(
    model: TrainedModel, settings: PredictionSettings, output: OutputSettings
) -> dict[str, Any]:
    """The content of the folder's manifest."""
    return {
        "run_id": model.run_id,
        "state_sha256": model.state_sha256,
        "iteration": model.iteration,
        "dataset": model.spec.dataset.name,
        "classes": list(model.classes),
        "colors": model.colors.tolist(),
        "prediction": settings.to_dict(),
        "output": output.to_dict(),
    }


def _describe(settings: PredictionSettings) -> str:
    """The settings of the prediction in a sentence."""
    text = "Whole images"
    if settings.window is not None and settings.stride is not None:
        window = "×".join(map(str, settings.window))
        text = f"Windows of {window} pixels in steps of {'×'.join(map(str, settings.stride))}"
    if settings.is_plain:
        return f"{text}, one pass, as in an evaluation."
    scales = ", ".join(f"{scale:g}" for scale in settings.scales)
    flip = " and the mirrored image" if settings.flip else ""
    return f"{text}; mean probabilities over the scales {scales}{flip}."
