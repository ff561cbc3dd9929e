"""Builds the figure types that are drawn from samples of runs: images, prototypes, embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

import numpy as np

from protoseg.errors import ProtosegError, UsageError
from protoseg.report.figures.contents import Content, Figure, make_figure
from protoseg.report.figures.data import FigureInput
from protoseg.report.figures.samples.colours import choose_colours, list_prototype_colours
from protoseg.report.figures.samples.confusion import build_confusion_figure
from protoseg.report.figures.samples.plots import (
    DisagreementPlot,
    EmbeddingPanel,
    EmbeddingPlot,
    ExamplePlot,
    LabelledImage,
    Patch,
    PrototypePanel,
    PrototypePlot,
    SampleOptions,
    check_options,
)
from protoseg.report.figures.samples.regions import compare_predictions, find_boxes
from protoseg.report.figures.samples.rows import (
    SampledRow,
    SampledRows,
    choose_images,
    list_mious,
    read_labels,
    read_rows,
)
from protoseg.runs.results.samples import Samples, decode_similarities
from protoseg.runs.results.samples_reduction import resize_nearest
from protoseg.runs.store import RecordStore

IMAGES = 3
"""Images of a figure without ``--images``."""
MAX_PROTOTYPES = 10
CLASSES, MARKED = 5, 2
"""Classes of the figure of embeddings, and prototypes that it marks of each, as in the paper."""


def build_sample_figure(
    figure_input: FigureInput, store: RecordStore, options: SampleOptions, figure_type: str
) -> Figure:
    """Build a figure of a type of `SAMPLE_TYPES`.

    Raises:
        UsageError: options out of range, unknown rows or classes, or rows of different data.
        ProtosegError: samples are missing, damaged or of another model.
    """
    check_options(options, figure_type)
    if figure_type == "confusion":
        return build_confusion_figure(figure_input, store, options)
    sampled = read_rows(figure_input, store, options, figure_type)
    notes, content = SAMPLE_TYPES[figure_type](sampled, options)
    title = figure_input.table.title
    notes = [*notes, *sampled.describe()]
    return make_figure(figure_input.matrix.name, figure_type, title, notes, content)


def _build_examples(sampled: SampledRows, options: SampleOptions) -> tuple[list[str], Content]:
    """Images with their ground truth and the prediction of each row."""
    names, rule = choose_images(sampled, options, "random", IMAGES, "examples")
    first = sampled.rows[0]
    colours, about = choose_colours(
        first.dataset, first.samples.meta["classes"], first.samples.meta["ignored"]
    )
    images = tuple(_build_image(sampled.rows, name) for name in names)
    rows = tuple(row.label for row in sampled.rows)
    content = ExamplePlot(*_list_sources(sampled, options), rows, images, colours)
    notes = [
        "Picture, ground truth, and predictions with the mIoU of the image (%).",
        rule,
        f"From top to bottom: {_join_stems(names)}.",
        f"{about} Black: ignored.",
    ]
    return notes, content


def _build_disagreement(sampled: SampledRows, options: SampleOptions) -> tuple[list[str], Content]:
    """Two rows on the same images, with boxes where the second is right and the first wrong."""
    if len(sampled.rows) != 2:
        labels = ", ".join(f"'{row.label}'" for row in sampled.rows)
        raise UsageError(
            f"disagreement: compares two rows, but there are {len(sampled.rows)} with samples: "
            f"{labels}. Name two with --row."
        )
    names, rule = choose_images(sampled, options, "disagreement", IMAGES, "disagreement")
    first = sampled.rows[0]
    ignored = first.samples.meta["ignored"]
    colours, about = choose_colours(first.dataset, first.samples.meta["classes"], ignored)
    images, better, worse, total = [], 0, 0, 0
    for name in names:
        truth, of_first = read_labels(first, name)
        gain, loss = compare_predictions(
            truth, of_first, read_labels(sampled.rows[1], name)[1], ignored
        )
        images.append(_build_image(sampled.rows, name, find_boxes(gain)))
        better, worse = better + int(gain.sum()), worse + int(loss.sum())
        total += int((truth != ignored).sum())
    rows = (first.label, sampled.rows[1].label)
    content = DisagreementPlot(*_list_sources(sampled, options), rows, tuple(images), colours)
    notes = [
        f"A: {rows[0]}. B: {rows[1]}. Dashed: the largest connected regions where B is right and A "
        f"is wrong. In these images, B alone is right for {100 * better / max(total, 1):.1f}% of "
        f"the pixels, A alone for {100 * worse / max(total, 1):.1f}%.",
        rule,
        f"From top to bottom: {_join_stems(names)}.",
        f"{about} Black: ignored.",
    ]
    return notes, content


def _build_image(
    rows: Sequence[SampledRow], name: str, boxes: tuple[tuple[int, int, int, int], ...] = ()
) -> LabelledImage:
    predictions = tuple(read_labels(row, name)[1] for row in rows)
    mious = tuple(round(value, 2) for value in list_mious(rows, name))
    return LabelledImage(name, read_labels(rows[0], name)[0], predictions, mious, boxes)


def _build_prototypes(sampled: SampledRows, options: SampleOptions) -> tuple[list[str], Content]:
    """Where each prototype of some classes is the closest one, and its nearest patches."""
    rows = [row for row in sampled.rows if row.samples.num_prototypes]
    if not rows:
        raise UsageError(
            "prototypes: no row with samples has prototypes. Name a row of ProtoSeg with --row, "
            "in a matrix that has one."
        )
    if len(options.rows) > 1:
        raise UsageError("prototypes: shows one row. Name one with --row.")
    # Without --row, the first with several prototypes: with one there is nothing to compare.
    several = [row for row in rows if 1 < row.samples.num_prototypes <= MAX_PROTOTYPES]
    row = next(iter([] if options.rows else several), rows[0])
    number = row.samples.num_prototypes
    if number > MAX_PROTOTYPES:
        raise UsageError(
            f"prototypes: '{row.label}' has {number} prototypes a class. Allowed: 1 to "
            f"{MAX_PROTOTYPES}. Name another row with --row."
        )
    known = [int(c) for c in row.samples.arrays["prototype_class"]]
    wanted = [sampled.find_class(name, "prototypes") for name in dict.fromkeys(options.classes)]
    classes = row.samples.meta["classes"]
    for c in wanted:
        if c not in known:
            raise UsageError(
                f"prototypes: --class {classes[c]}: has no samples, because it is rare. Known: "
                f"{', '.join(classes[k] for k in known)}."
            )
    wanted = wanted or known[:2]
    colours, names = list_prototype_colours(number)
    panels = tuple(_build_panel(row, c) for c in wanted)
    alone = SampledRows((row,), ())
    content = PrototypePlot(*_list_sources(alone, options), panels, colours)
    notes = [
        f"{row.label}: pixels whose closest prototype of all classes is one of the class, in "
        f"{names}; the more opaque, the more similar. Right: the image patches that are most "
        "similar to each prototype, at most one per image, and its share of the pixels of the "
        f"class in {len(row.samples.meta['sampled_images'])} images.",
        f"Image of a class: of {len(row.samples.maps['closest'])}, that with most of these pixels "
        f"in its ground truth: {_join_stems([panel.image for panel in panels])}.",
    ]
    return notes, content


def _build_panel(row: SampledRow, c: int) -> PrototypePanel:
    samples, number = row.samples, row.samples.num_prototypes
    maps = samples.maps["closest"]
    if not maps:
        raise ProtosegError(
            f"prototypes: the published samples of '{row.label}' have no maps of prototypes, "
            "because they would exceed their size limit. Name a row with fewer classes."
        )
    counts = [_count_class(samples, i, c) for i in range(len(maps))]
    position = int(np.argmax(counts))
    closest = maps[position].astype(np.int64)
    of_class = closest // number == c
    similarity = decode_similarities(samples, samples.maps["similarity"][position])
    at = [int(k) for k in samples.arrays["prototype_class"]].index(c)
    patches = tuple(
        tuple(
            Patch(samples.meta["sampled_images"][image], int(y), int(x), round(float(value), 4))
            for (image, y, x), value in zip(nearest, values, strict=True)
            if image >= 0
        )
        for nearest, values in zip(
            samples.arrays["nearest"][at], samples.arrays["nearest_similarity"][at], strict=True
        )
    )
    height, width = samples.arrays["image_size"][position].tolist()
    return PrototypePanel(
        samples.meta["classes"][c],
        samples.images[position],
        (height, width),
        np.where(of_class, closest % number, -1).astype(np.int16),
        similarity,
        tuple(samples.arrays["prototype_pixels"][c].tolist()),
        patches,
    )


def _count_class(samples: Samples, position: int, c: int) -> int:
    """Number of values of a class, in the ground truth and by their closest prototype."""
    closest = samples.maps["closest"][position]
    size = (closest.shape[0], closest.shape[1])
    truth = resize_nearest(samples.maps["truth"][position], size)
    return int(((closest // samples.num_prototypes == c) & (truth == c)).sum())


def _build_embeddings(sampled: SampledRows, options: SampleOptions) -> tuple[list[str], Content]:
    """Embedding spaces of two rows, side by side."""
    rows = [row for row in sampled.rows if len(row.samples.arrays["embedding"])]
    if not rows or len(rows) > 2:
        labels = ", ".join(f"'{row.label}'" for row in rows) or "none"
        raise UsageError(
            f"embeddings: shows one or two rows, but there are {len(rows)} with embeddings: "
            f"{labels}. Name two with --row."
        )
    shared = [
        c
        for c in rows[0].samples.arrays["prototype_class"].tolist()
        if all(c in row.samples.arrays["embedding_class"] for row in rows)
    ]
    classes = rows[0].samples.meta["classes"]
    wanted = [sampled.find_class(name, "embeddings") for name in dict.fromkeys(options.classes)]
    for c in wanted:
        if c not in shared:
            raise UsageError(
                f"embeddings: --class {classes[c]}: has no sampled embeddings, because it is rare. "
                f"Known: {', '.join(classes[k] for k in shared)}."
            )
    wanted = wanted or shared[:CLASSES]
    panels = tuple(_build_embedding_panel(row, wanted) for row in rows)
    if not panels:
        raise ProtosegError("embeddings: no samples.")
    content = EmbeddingPlot(
        *_list_sources(SampledRows(tuple(rows), ()), options),
        tuple(classes[c] for c in wanted),
        options.seed,
        options.projection,
        panels,
    )
    width = panels[0].points.shape[1]
    notes = [
        f"Embeddings of {' and '.join(dict.fromkeys(str(len(p.points)) for p in panels))} pixels "
        f"{'each ' if len(panels) > 1 else ''}of "
        f"{len(rows[0].samples.meta['sampled_images'])} images, coloured by ground truth: "
        f"{width} principal components, then {options.method} (seed {options.seed}). Axes have "
        "no unit; distances between groups have no meaning.",
    ]
    if any(len(panel.prototypes) for panel in panels):
        notes.append(f"Black edge: the {MARKED} prototypes of a class with most pixels.")
    return notes, content


def _build_embedding_panel(row: SampledRow, wanted: Sequence[int]) -> EmbeddingPanel:
    arrays = row.samples.arrays
    inside = np.isin(arrays["embedding_class"], wanted)
    position = {c: i for i, c in enumerate(wanted)}
    marked, of_class = [arrays["prototype"].reshape(-1, arrays["prototype"].shape[2])[:0]], []
    known = arrays["prototype_class"].tolist()
    for c in wanted if row.samples.num_prototypes else ():
        pixels = arrays["prototype_pixels"][c]
        best = np.argsort(-pixels, kind="stable")[:MARKED]
        best = best[pixels[best] > 0]
        marked.append(arrays["prototype"][known.index(c)][best])
        of_class += [position[c]] * len(best)
    return EmbeddingPanel(
        row.label,
        arrays["embedding"][inside].astype(np.float32),
        np.array([position[int(c)] for c in arrays["embedding_class"][inside]], np.int16),
        np.concatenate(marked).astype(np.float32),
        np.array(of_class, np.int16),
    )


def _list_sources(sampled: SampledRows, options: SampleOptions) -> tuple[str, str, tuple[str, ...]]:
    """The first fields of a plot: options, folder of the data, and digests of the samples."""
    meta = sampled.rows[0].samples.meta
    return options.encode(), meta["folder"], tuple(row.samples.digest for row in sampled.rows)


def _join_stems(names: Sequence[str]) -> str:
    return ", ".join(PurePosixPath(name).stem for name in names)


Builder = Callable[[SampledRows, SampleOptions], tuple[list[str], Content]]

SAMPLE_TYPES: dict[str, Builder] = {
    "examples": _build_examples,
    "prototypes": _build_prototypes,
    "disagreement": _build_disagreement,
    "embeddings": _build_embeddings,
}
"""Figure type -> the function that builds notes and data from samples."""
