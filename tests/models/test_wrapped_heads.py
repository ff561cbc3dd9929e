"""Each head with each decode head of mmseg: building, training, prediction and errors."""

from __future__ import annotations

import copy

import pytest
import torch

from models.segmentors import (
    BN,
    CE,
    CHANNELS,
    HEADS,
    IGNORE,
    ONE,
    build_segmentor,
    count_numbers,
    make_decode_head,
    make_feature_maps,
    make_images,
    make_label_maps,
    make_samples,
    sum_losses,
)

WRAPPERS = ("PrototypeHead", "ParametricHead", "PixelQueryHead")
every_head = pytest.mark.parametrize("name", HEADS)
every_wrapper = pytest.mark.parametrize("wrapper", WRAPPERS)
UNUSED = {"EMAHead": "ema_mid_conv"}
"""mmseg freezes this layer, so it has no gradient."""


def build_wrapped(wrapper: str, name: str, num_classes: int = 3, **changes):
    return build_segmentor(
        {
            "type": wrapper,
            "decode_head": make_decode_head(name, num_classes),
            "num_prototypes": 2,
            **changes,
        }
    )


@every_wrapper
@every_head
def test_a_head_trains_and_predicts_in_mmseg(wrapper: str, name: str) -> None:
    model = build_wrapped(wrapper, name).train()
    losses = model.loss(make_images(), make_samples(make_label_maps(3)))
    expected = {"decode.loss_ce", "decode.acc_seg"}
    if wrapper == "PrototypeHead":
        expected |= {"decode.loss_ppc", "decode.loss_ppd"}
    assert losses.keys() == expected
    sum_losses(losses).backward()
    for parameter_name, parameter in model.named_parameters():
        if UNUSED.get(name, "-") in parameter_name:
            continue
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
    model.eval()
    with torch.no_grad():
        predictions = model.predict(make_images(), make_samples(make_label_maps(3)))
    assert len(predictions) == 2
    for sample in predictions:
        assert sample.seg_logits.data.shape == (3, 32, 32)
        assert sample.seg_logits.data.isfinite().all()
        classes = sample.seg_logits.data.argmax(0, keepdim=True)
        assert torch.equal(sample.pred_sem_seg.data, classes)


@every_wrapper
def test_two_classes_have_two_scores(wrapper: str) -> None:
    model = build_wrapped(wrapper, "FCNHead", num_classes=2).train()
    sum_losses(model.loss(make_images(), make_samples(make_label_maps(2)))).backward()
    model.eval()
    with torch.no_grad():
        (sample, _) = model.predict(make_images(), make_samples(make_label_maps(2)))
    assert sample.seg_logits.data.shape == (2, 32, 32)
    assert sample.pred_sem_seg.data.unique().tolist() in ([0], [1], [0, 1])


@every_wrapper
def test_an_image_without_labels_does_not_change_the_losses(wrapper: str) -> None:
    model = build_wrapped(
        wrapper, "FCNHead"
    ).eval()  # in training mode BatchNorm would mix the images
    maps = make_label_maps(3)
    maps[1] = IGNORE
    with torch.no_grad():
        both = model.loss(make_images(), make_samples(maps))
        first = model.loss(make_images()[:1], make_samples(maps[:1]))
    for name in both:
        if name != "decode.acc_seg":
            torch.testing.assert_close(both[name], first[name], rtol=1e-5, atol=1e-7)


@every_wrapper
def test_a_batch_without_labels_has_loss_zero_and_updates_nothing(wrapper: str) -> None:
    model = build_wrapped(wrapper, "FCNHead").train()
    before = copy.deepcopy(model.decode_head.state_dict())
    losses = model.loss(make_images(), make_samples(make_label_maps(3, ignored=2.0)))
    for name, value in losses.items():
        assert value.isfinite().all(), name
    assert sum_losses(losses).item() == 0
    sum_losses(losses).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or not parameter.grad.any(), name
    for name, value in model.decode_head.state_dict().items():
        if name.startswith("bank."):
            assert torch.equal(value, before[name]), name


@every_head
def test_the_prototype_head_lacks_exactly_the_classifier_parameters(name: str) -> None:
    mmseg_model = build_segmentor(make_decode_head(name, num_classes=5))
    prototype_model = build_wrapped("PrototypeHead", name, num_classes=5)
    classifier = count_numbers(list(mmseg_model.decode_head.conv_seg.parameters()))
    assert classifier == 5 * (mmseg_model.decode_head.conv_seg.in_channels + 1)
    assert count_numbers(list(mmseg_model.parameters())) - classifier == count_numbers(
        list(prototype_model.parameters())
    )
    names = {
        n.removeprefix("decode_head.").removeprefix("head.")
        for n, _ in prototype_model.named_parameters()
    }
    expected_names = {n.removeprefix("decode_head.") for n, _ in mmseg_model.named_parameters()}
    assert expected_names - names == {"conv_seg.weight", "conv_seg.bias"}
    assert names <= expected_names


def test_prototypes_are_buffers_in_the_state_dict() -> None:
    model = build_wrapped("PrototypeHead", "SegformerHead")
    assert not [name for name, _ in model.named_parameters() if "protot" in name or "bank" in name]
    state = model.state_dict()
    assert state["decode_head.bank.prototypes"].shape == (3, 2, 8)
    assert not state["decode_head.bank.prototypes"].requires_grad
    assert {"decode_head.bank.updates", "decode_head.bank.started"} <= state.keys()
    model.train()
    model.loss(make_images(), make_samples(make_label_maps(3)))
    other = build_wrapped("PrototypeHead", "SegformerHead")
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.decode_head.bank.prototypes, model.decode_head.bank.prototypes)
    assert other.decode_head.bank.updates.sum() > 0


@every_wrapper
def test_dropout_of_the_decoder_is_kept(wrapper: str) -> None:
    model = build_segmentor(
        {"type": wrapper, "decode_head": make_decode_head("FCNHead", dropout_ratio=0.5)}
    )
    head, maps = model.decode_head, make_feature_maps()
    head.head.eval()
    kept = head.features(maps)
    head.head.dropout.train()
    dropped = head.features(maps)
    whole_channels = (dropped == 0).flatten(2).all(2)
    assert 0 < whole_channels.float().mean() < 1
    torch.testing.assert_close(dropped, torch.where(whole_channels[..., None, None], 0.0, 2 * kept))


@every_wrapper
def test_decoder_weights_are_initialised_like_in_mmseg(wrapper: str) -> None:
    """The ``init_cfg`` of the removed classifier must not apply to another layer."""
    torch.manual_seed(3)
    mmseg_model = build_segmentor(make_decode_head("UPerHead")).decode_head.state_dict()
    torch.manual_seed(3)
    prototype_model = build_wrapped(wrapper, "UPerHead").decode_head.head.state_dict()
    compared = 0
    for name, value in prototype_model.items():
        if value.numel() >= 64:
            assert value.std().item() == pytest.approx(mmseg_model[name].std().item(), rel=0.35), (
                name
            )
            compared += 1
    assert compared > 5


def test_a_head_has_the_properties_that_segmentors_read() -> None:
    head = build_wrapped("PrototypeHead", "FCNHead", num_classes=4).decode_head
    assert (head.num_classes, head.out_channels, head.ignore_index) == (4, 4, 255)
    assert head.align_corners is False
    assert head.threshold is None


FOREIGN = {
    "SegmenterMaskTransformerHead": {
        "in_channels": CHANNELS[3],
        "num_layers": 1,
        "num_heads": 2,
        "embed_dims": 16,
        "channels": 8,
        "num_classes": 3,
        "loss_decode": CE,
    },
    "MaskFormerHead": {"num_classes": 3},
    "Mask2FormerHead": {"num_classes": 3},
}


@every_wrapper
@pytest.mark.parametrize("name", FOREIGN)
def test_a_decode_head_without_a_classifier_is_an_error_on_one_line(
    wrapper: str, name: str
) -> None:
    with pytest.raises(ValueError, match=rf"decode_head: {name} has no classifier 'conv_seg'") as e:
        build_segmentor({"type": wrapper, "decode_head": FOREIGN[name] | {"type": name}})
    assert "SegformerHead" in str(e.value)
    assert "\n" not in str(e.value)


def test_a_cascade_decode_head_is_an_error() -> None:
    ocr = {"type": "OCRHead", **ONE, "channels": 8, "ocr_channels": 4, "num_classes": 3}
    with pytest.raises(ValueError, match=r"OCRHead refines the scores of another head"):
        build_segmentor({"type": "PrototypeHead", "decode_head": ocr})


@pytest.mark.parametrize(
    "head",
    [
        {"type": "DAHead", **ONE, "pam_channels": 4},
        {
            "type": "EncHead",
            "in_channels": [12, 16],
            "in_index": [2, 3],
            "norm_cfg": BN,
            "num_codes": 4,
            "loss_se_decode": {**CE, "use_sigmoid": True},
        },
    ],
    ids=lambda head: head["type"],
)
def test_a_decode_head_with_several_outputs_is_an_error(head: dict) -> None:
    model = build_segmentor(
        {
            "type": "PrototypeHead",
            "decode_head": {**head, "channels": 8, "num_classes": 3, "loss_decode": CE},
        }
    )
    with pytest.raises(ValueError, match=rf"{head['type']} does not return one feature map of 8"):
        model.train().loss(make_images(), make_samples(make_label_maps(3)))


@pytest.mark.parametrize(
    ("wrapper", "changes", "message"),
    [
        ("PrototypeHead", {"num_prototypes": 0}, "num_prototypes: 0 is out of range"),
        ("ParametricHead", {"num_prototypes": 0}, "num_prototypes: 0 is out of range"),
        ("PixelQueryHead", {"num_prototypes": 0}, "num_prototypes: 0 is out of range"),
        ("PixelQueryHead", {"temperature": 0.0}, "temperature: 0.0 is out of range"),
        ("ParametricHead", {"num_prototypes": -3}, "num_prototypes: -3 is out of range"),
        ("PrototypeHead", {"momentum": 2.0}, "momentum: 2.0 is out of range"),
        ("PrototypeHead", {"momentum": -0.1}, "momentum: -0.1 is out of range"),
        ("PrototypeHead", {"distance": "manhattan"}, "distance"),
        ("PrototypeHead", {"assignment": "soft"}, "assignment"),
        ("PrototypeHead", {"update_pixels": "wrong"}, "update_pixels"),
        ("PrototypeHead", {"score_norm": "batch"}, "score_norm"),
        ("PrototypeHead", {"embedding_norm": "batch"}, "embedding_norm"),
        ("PrototypeHead", {"init": "zeros"}, "init"),
        ("PrototypeHead", {"distributed": "summed"}, "distributed"),
        ("PrototypeHead", {"temperature": 0.0}, "temperature"),
        ("PrototypeHead", {"score_temperature": 0.0}, "score_temperature"),
        ("PrototypeHead", {"kappa": 0.0}, "kappa"),
        ("PrototypeHead", {"sinkhorn_iterations": 0}, "sinkhorn_iterations"),
    ],
)
def test_values_out_of_range_are_errors(wrapper: str, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_wrapped(wrapper, "FCNHead", **changes)
