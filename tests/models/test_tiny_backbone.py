"""TinyNet: sizes of its feature maps, registration and gradients."""

from __future__ import annotations

import torch
from mmseg.registry import MODELS

from protoseg.models import TinyNet


def test_feature_maps_have_strides_2_to_16() -> None:
    net = MODELS.build({"type": "TinyNet"})
    assert isinstance(net, TinyNet)
    maps = net(torch.zeros(2, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [
        (2, 16, 32, 48),
        (2, 32, 16, 24),
        (2, 64, 8, 12),
        (2, 96, 4, 6),
    ]
    assert all((m >= 0).all() for m in maps)


def test_sizes_that_16_does_not_divide_are_rounded_up() -> None:
    maps = TinyNet(channels=(4, 4, 4, 4))(torch.zeros(1, 3, 33, 50))
    assert [tuple(m.shape[2:]) for m in maps] == [(17, 25), (9, 13), (5, 7), (3, 4)]


def test_every_parameter_gets_a_gradient() -> None:
    net = TinyNet(channels=(4, 5, 6, 7)).train()
    torch.manual_seed(0)
    sum(m.square().mean() for m in net(torch.randn(2, 3, 32, 32))).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
