"""Each step of the clustering next to alternative implementations."""

from __future__ import annotations

from collections.abc import Callable

import batches
import pytest
import torch
from torch import Tensor

from protoseg.core.segments import Segments, sort_by_segment
from protoseg.core.sinkhorn import assign_pixels, select_own_similarities, solve_transport

PIXELS, K, CLASSES = 65_536, 10, 150
GROUP = f"alternatives, {PIXELS:,} px, K = {K}, {CLASSES} classes"


@pytest.fixture
def own(device: torch.device) -> Tensor:
    """Similarities to the prototypes of the own class, (N, K)."""
    return batches.make_cosines(PIXELS, K, device)


@pytest.fixture
def labels(device: torch.device) -> Tensor:
    return batches.make_labels(PIXELS, CLASSES, device=device)


@pytest.fixture
def pixels(labels: Tensor) -> Segments:
    return sort_by_segment(labels, CLASSES)


def test_sorting(case: Callable[..., None], labels: Tensor) -> None:
    short = labels.to(torch.int16)
    case(
        GROUP,
        "sorting pixels by class: 16 bits a key",
        lambda: torch.sort(short, stable=True),
        {"64 bits": lambda: torch.sort(labels, stable=True)},
    )


def test_similarities_to_the_own_class(
    case: Callable[..., None], device: torch.device, labels: Tensor, pixels: Segments
) -> None:
    similarities = batches.make_cosines(PIXELS, CLASSES * K, device)
    rows = torch.arange(PIXELS, device=device)

    def index_mask() -> Tensor:
        return similarities.unflatten(1, (CLASSES, K))[rows, labels]

    def select_sorted() -> Tensor:
        positions = pixels.order * CLASSES + pixels.segment
        return similarities.view(-1, K).index_select(0, positions)

    def ours() -> Tensor:
        return select_own_similarities(similarities, labels, K)

    assert torch.equal(ours(), index_mask())
    assert torch.equal(ours().index_select(0, pixels.order), select_sorted())
    others = {"in sorted order": select_sorted, "advanced indexing": index_mask}
    case(GROUP, "similarities to the own class: rows of a view", ours, others)


def test_sums_over_a_class(
    case: Callable[..., None], own: Tensor, labels: Tensor, pixels: Segments
) -> None:
    values = own.exp().index_select(0, pixels.order)

    def index_add() -> Tensor:
        return values.new_zeros(CLASSES, K).index_add_(0, pixels.segment, values)

    def one_hot() -> Tensor:
        return torch.nn.functional.one_hot(pixels.segment).to(values.dtype).t() @ values

    def segment_reduce() -> Tensor:
        return torch.segment_reduce(values, "sum", lengths=pixels.counts)

    others = {"index_add": index_add, "one-hot product": one_hot, "segment_reduce": segment_reduce}
    for other in others.values():
        torch.testing.assert_close(pixels.sum_sorted_rows(values), other(), rtol=1e-3, atol=0)
    case(GROUP, "sums over a class: runs of rows", lambda: pixels.sum_sorted_rows(values), others)


def test_the_best_of_a_row(case: Callable[..., None], own: Tensor) -> None:
    columns = own.t().contiguous()
    assert torch.equal(own.max(1).indices, own.argmax(1))
    case(
        GROUP,
        "best prototype of each pixel: max",
        lambda: own.max(1).indices,
        {"argmax": lambda: own.argmax(1), "max, prototypes first": lambda: columns.max(0).indices},
    )


def scale_new_matrices(own: Tensor, pixels: Segments) -> Tensor:
    """Run three steps of scaling vectors, each with new matrices."""
    kernel = torch.exp(own.index_select(0, pixels.order) / 0.05)
    share = pixels.counts[:, None] / K
    columns: Tensor | None = None
    plan = kernel
    for _ in range(3):
        rows = share / pixels.sum_sorted_rows(kernel, columns)
        plan = kernel * rows.index_select(0, pixels.segment)
        columns = 1 / plan.sum(1)
    return plan * columns[:, None]


def test_scaling(case: Callable[..., None], own: Tensor, pixels: Segments) -> None:
    def ours(bound: float | None = 1.0) -> Tensor:
        rows = own.index_select(0, pixels.order)
        return solve_transport(rows, pixels, kappa=0.05, iterations=3, bound=bound)

    torch.testing.assert_close(ours(), scale_new_matrices(own, pixels), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours(), ours(None), rtol=1e-3, atol=1e-5)
    case(
        GROUP,
        "three steps of Sinkhorn: scaling vectors, in place",
        ours,
        {
            "new matrices": lambda: scale_new_matrices(own, pixels),
            "on logarithms": lambda: ours(None),
            "double the range (float64)": lambda: solve_transport(
                own.double().index_select(0, pixels.order), pixels, kappa=0.05, iterations=3,
                bound=5.0,
            ),
        },
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from torch.compile
def test_compiled(case: Callable[..., None], own: Tensor, labels: Tensor) -> None:
    def ours() -> Tensor:
        return assign_pixels(own, labels, CLASSES, bound=1.0)[0]

    compiled = torch.compile(ours)
    assert (ours() != compiled()).sum() < PIXELS / 1000, "the assignments differ in more than ties"
    case(GROUP, "assignment: as it is", ours, {"torch.compile": compiled}, slow=5)
