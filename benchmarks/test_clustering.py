"""Clustering of all classes at once, compared with loops over classes."""

from __future__ import annotations

from collections.abc import Callable

import batches
import float64_oracle
import ot
import pytest
import reference_clustering
import torch
from torch import Tensor

from protoseg.core.prototypes import PrototypeBank
from protoseg.core.sinkhorn import assign_pixels

KAPPA, STEPS = 0.05, 3
SIZES = [
    pytest.param(pixels, k, classes, id=f"{pixels}-{k}-{classes}")
    for pixels in (10_000, 65_536, 262_144)
    for k in (5, 10, 50)
    for classes in (1, 19, 150, 847)
]


def ours(own: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Assign pixels like `PrototypeBank.assign_pixels`, from similarities to the own class."""
    chosen, _ = assign_pixels(own, labels, num_classes, kappa=KAPPA, iterations=STEPS, bound=1.0)
    return torch.where(labels >= 0, chosen, reference_clustering.IGNORED)


def pot(method: str) -> Callable[[Tensor, Tensor, int], Tensor]:
    """Return a loop over classes with POT's solver: three steps, the marginal of pixels last."""

    def assign_pixels(own: Tensor, labels: Tensor, num_classes: int) -> Tensor:
        chosen = torch.full_like(labels, reference_clustering.IGNORED)
        prototypes = own.new_full((own.shape[1],), 1 / own.shape[1])
        for c in range(num_classes):
            mask = labels == c
            costs = -own[mask]
            if not len(costs):
                continue
            pixels = own.new_full((len(costs),), 1 / len(costs))
            plan = ot.sinkhorn(
                pixels,
                prototypes,
                costs,
                KAPPA,
                method=method,
                numItermax=STEPS,
                stopThr=0,
                warn=False,
            )
            chosen[mask] = plan.argmax(1)
        return chosen

    return assign_pixels


REFERENCES = {
    "loop": reference_clustering.assign_pixels,
    "loop, released": reference_clustering.assign_released,
    "POT sinkhorn": pot("sinkhorn"),
    # GeomLoss and OTT are not compared: GeomLoss anneals κ and averages both sides, which differs
    # from the three steps of Algorithm 1, and OTT requires JAX.
    "POT sinkhorn_log": pot("sinkhorn_log"),
}


def check_and_time(
    case: Callable[..., None], own: Tensor, labels: Tensor, num_classes: int, name: str
) -> None:
    expected = float64_oracle.assign_exactly(own, labels, num_classes, KAPPA, STEPS)
    solvers = {"ProtoSeg": ours, **REFERENCES}
    for solver, solve in solvers.items():
        actual = solve(own, labels, num_classes)
        float64_oracle.check_assignment(actual, expected, solver)
    steps = {
        solver: (lambda solve=solve: solve(own, labels, num_classes))
        for solver, solve in solvers.items()
    }
    # Not a solver, but the part of the work that every solver must do.
    steps["exponentials alone"] = lambda: own.div(KAPPA).exp_()
    case("clustering", name, steps.pop("ProtoSeg"), steps)


@pytest.mark.parametrize(("pixels", "k", "classes"), SIZES)
def test_even_classes(
    case: Callable[..., None], device: torch.device, pixels: int, k: int, classes: int
) -> None:
    own = batches.make_cosines(pixels, k, device)
    labels = batches.make_labels(pixels, classes, device=device)
    noun = "class" if classes == 1 else "classes"
    check_and_time(case, own, labels, classes, f"{pixels:,} px, K = {k}, {classes} {noun}")


@pytest.mark.parametrize("sizes", ["long tail", "20 present"])
@pytest.mark.parametrize("classes", [150, 847])
def test_uneven_classes(
    case: Callable[..., None], device: torch.device, sizes: batches.Sizes, classes: int
) -> None:
    own = batches.make_cosines(65_536, 10, device)
    labels = batches.make_labels(65_536, classes, sizes, device)
    check_and_time(case, own, labels, classes, f"65,536 px, K = 10, {classes} classes, {sizes}")


@pytest.mark.parametrize("sizes", ["even", "long tail", "20 present"])
@pytest.mark.parametrize(
    ("pixels", "classes"), [(65_536, 150), (16_384, 847)], ids=["65536-150", "16384-847"]
)
def test_assignment_and_update(
    case: Callable[..., None],
    device: torch.device,
    pixels: int,
    classes: int,
    sizes: batches.Sizes,
) -> None:
    """From given similarities to updated prototypes."""
    k, channels = 10, 256
    labels = batches.make_labels(pixels, classes, sizes, device)
    embeddings = batches.make_embeddings(pixels, channels, device)
    bank = PrototypeBank(classes, k, channels, kappa=KAPPA, sinkhorn_iterations=STEPS).to(device)
    before = bank.prototypes.clone()
    similarities = bank.compute_similarities(embeddings)

    def step() -> Tensor:
        target, update = bank.assign_pixels(similarities, labels)
        bank.update_prototypes(embeddings, update)
        return target

    def loop() -> tuple[Tensor, Tensor]:
        return reference_clustering.assign_and_update(similarities, embeddings, labels, before)

    rows = torch.arange(pixels, device=device)
    inside = labels.clamp_min(0)
    own = similarities.unflatten(1, (classes, k))[rows, inside]
    chosen, is_clear = float64_oracle.assign_exactly(own, labels, classes, KAPPA, STEPS)
    expected = torch.where(chosen < 0, chosen, inside * k + chosen), is_clear
    actual, (target, after) = step(), loop()
    float64_oracle.check_assignment(actual, expected, "ProtoSeg")
    float64_oracle.check_assignment(target, expected, "loop")
    # Ties can be assigned differently, and then update different prototypes.
    is_equal = torch.ones(classes * k, dtype=torch.bool, device=device)
    is_equal[torch.cat([actual[actual != target], target[actual != target]])] = False
    updated, expected_prototypes = (
        each.flatten(0, 1)[is_equal] for each in (bank.prototypes, after)
    )
    torch.testing.assert_close(updated, expected_prototypes, atol=1e-5, rtol=0)
    name = f"{pixels:,} px, K = {k}, {classes} classes, D = {channels}"
    others = {"loop": loop, "reading the embeddings": embeddings.sum}
    case("assignment and update", f"{name}, {sizes}", step, others)
