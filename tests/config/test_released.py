"""The options of the authors' released code: identity, presets, and values that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from protoseg.config.compose import Composer
from protoseg.config.fields import to_plain
from protoseg.config.identity import read_spec, spec_digest
from protoseg.config.overrides import parse_overrides
from protoseg.config.schema import RunSpec
from protoseg.config.validation import check_values
from protoseg.errors import UsageError

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer(EXPERIMENTS)


def compose(composer: Composer, *texts: str) -> RunSpec:
    settings = [s for _, several in parse_overrides(texts) for s in several]
    spec = composer.spec(settings, "test")
    check_values(spec, "test")
    return spec


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("method.projection=false", "method.projection=none"),
        ("method.projection=true", "method.projection=conv"),
        ("seed=0", "method.init_bounds=two_std"),
        ("seed=0", "method.loss_reduction=global_mean"),
        ("seed=0", "schedule.norm_decay=recipe"),
        ("seed=0", "decoder.align_corners=null"),
        ("seed=0", "class_weights=none"),
    ],
)
def test_a_value_that_changes_nothing_keeps_the_digest(
    composer: Composer, old: str, new: str
) -> None:
    assert spec_digest(compose(composer, old)) == spec_digest(compose(composer, new))


def test_weights_of_a_data_set_are_no_part_of_a_run_without_them(composer: Composer) -> None:
    spec = compose(composer, "dataset=cityscapes")
    assert spec.dataset.class_weights == ()
    weighted = compose(composer, "dataset=cityscapes", "class_weights=dataset")
    assert len(weighted.dataset.class_weights) == 19
    fewer = ("dataset.classes=[a,b,c]", "dataset.labels=[7,11,13]")
    assert len(compose(composer, "dataset=cityscapes", *fewer).dataset.classes) == 3


def test_each_option_changes_the_digest(composer: Composer) -> None:
    weights = "dataset.class_weights=[1,1,1,1,1,2]"
    options = [
        ("seed=0",),
        *((f"method.projection={name}",) for name in ("conv", "conv_no_norm", "released")),
        ("method.init_bounds=two",),
        ("method.loss_reduction=per_process_mean",),
        ("schedule.norm_decay=never",),
        ("decoder.align_corners=true",),
        ("decoder.align_corners=false",),
        (weights, "class_weights=dataset"),
        ("dataset.class_weights=[1,1,1,1,1,3]", "class_weights=dataset"),
    ]
    specs = [compose(composer, *option) for option in options]
    assert len({spec_digest(spec) for spec in specs}) == len(options)
    for spec in specs:
        assert read_spec(to_plain(spec, identity=True), "record") == spec


def test_the_two_versions_of_the_preset_differ_in_what_was_corrected(composer: Composer) -> None:
    old = to_plain(compose(composer, "method=released_2026_11").method)
    new = to_plain(compose(composer, "method=released").method)
    assert {key: (old[key], new[key]) for key in old if old[key] != new[key]} == {
        "projection": (True, "released"),
        "init_bounds": ("two_std", "two"),
        "loss_reduction": ("global_mean", "per_process_mean"),
    }


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ("dataset.class_weights=[1,2]", "class_weights=dataset"),
            "has 6 classes, but 2 weights. Give one weight",
        ),
        (
            ("dataset.class_weights=[1,1,1,1,1,-1]", "class_weights=dataset"),
            "class_weights[5]: -1.0 is out of range",
        ),
        (("dataset.class_weights=[1,1,1,1,1,2]",), "has no effect, because class_weights is none"),
        (
            ("method=cam", "dataset=cityscapes", "class_weights=dataset"),
            "class_weights=dataset: has no effect, because the task weak has no L_CE",
        ),
        (
            (
                "schedule.recipe=beit/beit-base_upernet_8xb2-160k_ade20k-640x640.py",
                "schedule.norm_decay=never",
            ),
            "never would replace the rules of beit/beit-base_upernet_8xb2-160k_ade20k-640x640.py",
        ),
        (("class_weights=dataset",), "shapes has no class_weights; add one weight per class"),
        (("class_weights=camvid",), "class_weights: unknown value 'camvid'. Known: dataset, none."),
        (
            ("method.projection=released", "augmentation.crop_size=[64,4]"),
            "which has one column at augmentation.crop_size [64, 4]; choose a width above 4",
        ),
        (
            ("contrast=released", "contrast.pixel_queue=0", "contrast.region_queue=0"),
            "contrast.memory_contrast=all needs a memory, but pixel_queue and region_queue are 0",
        ),
        (
            ("contrast=pixel", "contrast.sample_gradient=true"),
            "contrast.sample_gradient: entries of the memory have no gradient; set pixel_queue=0",
        ),
        (
            ("contrast=pixel", "contrast.slips=[pointer_by_one]"),
            "pointer_by_one needs memory_start=random",
        ),
        (("contrast.slips=[pointer_by_one]",), "contrast.slips: has no effect, because contrast"),
        (
            ("contrast=pixel", "contrast.slips=[pointer]"),
            "contrast.slips[0]: unknown value 'pointer'. Did you mean 'pointer_by_one'?",
        ),
        (("method.projection=conf",), "unknown value 'conf'. Did you mean 'conv'?"),
        (
            ("method.projection=0",),
            "method.projection: unknown value '0'. Known: conv, conv_no_norm, false, ",
        ),
        (("schedule.norm_decay=always",), "unknown value 'always'. Known: never, recipe."),
    ],
)
def test_a_wrong_value_is_refused_with_one_sentence(
    composer: Composer, overrides: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(UsageError) as error:
        compose(composer, *overrides)
    assert sentence in str(error.value)
