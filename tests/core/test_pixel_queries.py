"""The pixel-query classifier (Eq. 2) against a float64 reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from core import contrast_reference as reference
from core.batches import draw_vectors
from protoseg.core.pixel_queries import QueryClassifier


def make_classifier(num_queries: int, **changes) -> QueryClassifier:
    torch.manual_seed(0)
    query_classifier = QueryClassifier(4, num_queries, 8, **changes)
    with torch.no_grad():  # of any length
        query_classifier.queries *= torch.rand(4, num_queries, 1) * 5 + 0.1
    return query_classifier


@pytest.mark.parametrize("num_queries", [1, 3])
@pytest.mark.parametrize("temperature", [1.0, 0.07])
@pytest.mark.parametrize("learnable", [False, True])
def test_a_class_scores_the_best_cosine_of_its_queries(num_queries, temperature, learnable):
    query_classifier = make_classifier(
        num_queries, temperature=temperature, learnable_temperature=learnable
    )
    pixels = draw_vectors(np.random.default_rng(0), 20, 8, unit=False)
    expected = reference.compute_query_scores(
        pixels, query_classifier.queries.detach().numpy(), temperature
    )
    np.testing.assert_allclose(
        query_classifier(torch.tensor(pixels)).detach(), expected, rtol=1e-5, atol=1e-5
    )


def test_gradients_rotate_the_best_query_only():
    query_classifier = make_classifier(3, learnable_temperature=True).double()
    query_classifier.float = lambda: query_classifier  # the gradient check below is in float64
    pixel = torch.tensor(draw_vectors(np.random.default_rng(1), 1, 8), dtype=torch.float64)
    scores = query_classifier(pixel)
    scores[0, 2].backward()
    turned = query_classifier.queries.grad.ne(0).any(-1)
    assert turned.sum() == 1
    assert turned[2].any()
    assert query_classifier.log_temperature.grad.item() == pytest.approx(
        -scores[0, 2].item(), rel=1e-5
    )
    along = (query_classifier.queries.grad * query_classifier.queries).sum(-1).abs().max()
    assert along < 1e-6, "the length of a query must not matter"


def test_the_temperature_is_a_parameter_only_if_it_is_learned():
    assert {name for name, _ in make_classifier(2).named_parameters()} == {"queries"}
    query_classifier = make_classifier(2, temperature=0.1, learnable_temperature=True)
    assert {name for name, _ in query_classifier.named_parameters()} == {
        "queries",
        "log_temperature",
    }
    assert query_classifier.log_temperature.item() == pytest.approx(np.log(0.1))


def test_scores_are_float32_under_autocast():
    query_classifier, pixels = make_classifier(2), torch.randn(30, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = query_classifier(pixels)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, query_classifier(pixels))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_queries": 0}, "num_prototypes: 0 is out of range; at least 1"),
        ({"num_queries": 1, "temperature": 0}, "temperature: 0 is out of range; greater than 0"),
        ({"num_queries": 1, "temperature": -1.0}, "temperature: -1.0 is out of range"),
    ],
)
def test_values_out_of_range_are_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        make_classifier(**changes)
