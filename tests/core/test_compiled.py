"""The prototype step under ``torch.compile``: one graph with the same results."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F

from protoseg.core.losses import IGNORED, compute_prototype_losses
from protoseg.core.prototypes import PrototypeBank


def run_step(bank, pixels, labels):
    """Compute similarities, assignment, losses and update, as the head does."""
    similarities = bank.compute_similarities(pixels)
    target, update = bank.assign_pixels(similarities, labels)
    scores, contrast, compactness = compute_prototype_losses(
        similarities, target, bank.num_prototypes, 0.1, bank.distance
    )
    bank.update_prototypes(pixels, update)
    cross_entropy = F.cross_entropy(scores, labels, ignore_index=IGNORED)
    return cross_entropy + 0.01 * contrast + 0.01 * compactness


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "distance"),
    [("aot_eager", "cosine"), ("aot_eager", "euclidean"), ("inductor", "cosine")],
)
def test_a_compiled_step_is_one_graph_with_the_same_results(
    backend, distance, tmp_path, monkeypatch
):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.manual_seed(0)
    bank = PrototypeBank(5, 3, 16, distance=distance, momentum=0.9)
    other = copy.deepcopy(bank)
    pixels = F.normalize(torch.randn(500, 16), dim=1)
    labels = torch.randint(-1, 5, (500,))
    torch._dynamo.reset()
    # Without these settings compiler processes and precompiled headers remain after the test. The
    # headers save a quarter of the time.
    monkeypatch.setattr("torch._inductor.codecache._HEADER_DIR", str(tmp_path), raising=False)
    settings = {"compile_threads": 1, "cpp_cache_precompile_headers": True}
    config = torch._inductor.config
    available = {name: value for name, value in settings.items() if hasattr(config, name)}
    with config.patch(available), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from torch's compiler
        compiled = torch.compile(run_step, fullgraph=True, backend=backend)
        results = []
        for run, run_bank in ((run_step, bank), (compiled, other)):
            leaf = pixels.clone().requires_grad_()
            loss = run(run_bank, leaf, labels)
            loss.backward()
            results.append((loss.detach(), leaf.grad))
    torch._dynamo.reset()
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(bank.prototypes, other.prototypes, rtol=0, atol=1e-6)
    assert torch.equal(bank.updates, other.updates)
