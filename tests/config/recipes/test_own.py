"""Recipes of one's own: they enter a run by content, and nothing that they set is dropped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from protoseg.config.compose import Composer
from protoseg.config.fields import to_plain
from protoseg.config.identity import canonical_json, read_spec, run_id
from protoseg.config.overrides import parse_overrides
from protoseg.config.recipes import locked, own
from protoseg.config.recipes.own import resolve_recipes
from protoseg.config.recipes.values import read_values
from protoseg.config.schema import RunSpec
from protoseg.errors import ProtosegError, UsageError

CONFIGS = locked.find_configs_folder()
assert CONFIGS is not None
SEGFORMER = "segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py"
BASE = f"_base_ = {str(CONFIGS / SEGFORMER)!r}\n"
FCN = f"_base_ = {str(CONFIGS / 'fcn/fcn_r101-d8_4xb4-160k_ade20k-512x512.py')!r}\n"

Compose = Callable[..., RunSpec]


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all recipe files of this module."""
    folder = tmp_path_factory.mktemp("recipes")
    texts = {**FILES, **{f"refused_{n}.py": text for n, (_, text, _) in enumerate(REFUSED)}}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def compose(composer: Composer, recipes: Path) -> Compose:
    """Composes specs with recipes of the folder, which one process has resolved together."""
    own_composer = Composer(composer.folders.first)
    own_composer.recipes.folder = recipes
    files = [path.resolve() for path in recipes.glob("*.*")]
    own_composer.recipes._answers |= resolve_recipes(files, CONFIGS)

    def compose_spec(*overrides: str) -> RunSpec:
        settings = [s for _, values in parse_overrides(overrides) for s in values]
        return own_composer.spec(settings, "test")

    return compose_spec


FILES = {
    "clip.py": BASE + "optim_wrapper = dict(clip_grad=dict(max_norm=1.0))\n",
    "clip_again.py": BASE + "limit = 1.0\noptim_wrapper = dict(clip_grad=dict(max_norm=limit))\n",
    "clip_less.py": BASE + "optim_wrapper = dict(clip_grad=dict(max_norm=1e-4))\n",
    "child.py": "_base_ = './clip.py'\noptim_wrapper = dict(optimizer=dict(betas=(0.8, 0.99)))\n",
    "clip.yaml": f"_base_: {CONFIGS / SEGFORMER}\n"
        "optim_wrapper: {clip_grad: {max_norm: 1.0}}\n",
    "network.py": BASE + (
        "model = dict(backbone=dict(drop_path_rate=0.3, init_cfg=dict(_delete_=True, "
        "type='Kaiming', layer='Conv2d')), decode_head=dict(norm_cfg=dict(momentum=0.01)))\n"
        "optim_wrapper = dict(clip_grad=dict(max_norm=2.0))\n"
    ),
    "agreeing.py": BASE + (
        "optim_wrapper = dict(optimizer=dict(lr=0.01, weight_decay=0.01), "
        "paramwise_cfg=dict(custom_keys={'norm': dict(decay_mult=0.5), "
        "'head.norm': dict(decay_mult=0.1)}))\n"
        "model = dict(type='EncoderDecoder', pretrained=None)\n"
    ),
    "untrained.py": BASE + "model = dict(backbone=dict(pretrained=False))\n",
}  # fmt: skip


def test_a_recipe_enters_by_content(compose: Compose, recipes: Path) -> None:
    spec = compose("schedule.recipe=clip.py")
    assert read_values(spec, "schedule")["optim_wrapper"]["clip_grad"] == {"max_norm": 1.0}
    assert spec.recipes.keys() == {"schedule"}
    assert run_id(spec) != run_id(compose())
    assert compose("schedule.recipe=clip_less.py").schedule.recipe != spec.schedule.recipe
    # Neither the name and format of the file nor its place are part of the identity.
    for name in ("clip_again.py", "clip.yaml", recipes / "clip.py"):
        assert run_id(compose(f"schedule.recipe={name}")) == run_id(spec)
    assert str(recipes) not in canonical_json(spec)
    assert "clip" not in spec.schedule.recipe


def test_a_recipe_may_be_based_on_another_one(compose: Compose) -> None:
    wrapper = read_values(compose("schedule.recipe=child.py"), "schedule")["optim_wrapper"]
    assert wrapper["optimizer"] == {"type": "AdamW", "betas": (0.8, 0.99)}
    assert wrapper["clip_grad"] == {"max_norm": 1.0}


def test_the_values_are_read_back_from_a_record(compose: Compose) -> None:
    spec = compose("schedule.recipe=clip.py")
    recorded = json.loads(canonical_json(spec))
    read_back = read_spec(recorded, "record")
    assert run_id(read_back) == run_id(spec)
    assert to_plain(read_back) == to_plain(spec)
    assert read_values(read_back, "schedule") == read_values(spec, "schedule")


def test_one_recipe_may_have_several_roles(compose: Compose) -> None:
    roles = ("backbone", "decoder", "schedule")
    spec = compose(
        "backbone=mit_b0", "backbone.weights=", *(f"{role}.recipe=network.py" for role in roles)
    )
    backbone = read_values(spec, "backbone")["backbone"]
    assert backbone["drop_path_rate"] == 0.3
    assert backbone["init_cfg"] == {"type": "Kaiming", "layer": "Conv2d"}
    head = read_values(spec, "decoder")["decode_head"]
    assert head["norm_cfg"] == {"type": "SyncBN", "requires_grad": True, "momentum": 0.01}


def test_values_that_agree_with_the_spec_are_accepted(compose: Compose) -> None:
    spec = compose("schedule.recipe=agreeing.py")
    wrapper = read_values(spec, "schedule")["optim_wrapper"]
    by_name = wrapper["paramwise_cfg"]["custom_keys"]
    assert (by_name["norm"], by_name["head.norm"]) == ({"decay_mult": 0.5}, {"decay_mult": 0.1})
    with pytest.raises(UsageError, match=r"optimizer\.lr is 0\.01, but schedule\.learning_rate"):
        compose("schedule.recipe=agreeing.py", "schedule.learning_rate=0.02")


def test_a_backbone_without_trained_weights_is_not_a_difference(compose: Compose) -> None:
    values = read_values(compose("backbone.recipe=untrained.py"), "backbone")
    assert values["backbone"]["pretrained"] is False


REFUSED = [
    ("schedule", "_base_ = 'no_such_base.py'\n", r"its base \S+no_such_base\.py is missing\. Corr"),
    ("schedule", "optim_wrapper = dict(\n", r"not a readable recipe: line 1 is not valid Python"),
    ("schedule", "optim_wrapper = undefined_name\n", r"not a readable recipe: NameError: "),
    ("schedule", "model = dict()\n", r"schedule\.recipe: \S+ has no optim_wrapper\. Name another"),
    ("decoder", "model = dict(backbone=dict())\n", r"decoder\.recipe: \S+ has no model\.dec"),
    ("schedule", BASE + "optim_wraper = dict(clip_grad=1)\n", r"sets 'optim_wraper', which no"
        r"thing reads\. Did you mean 'optim_wrapper'\?"),
    ("schedule", BASE + "norm_cfg = dict(type='BN')\n", r"sets 'norm_cfg', which nothing rea"),
    ("schedule", BASE + "param_scheduler = []\n", r"sets param_scheduler, but a run takes only "
        r"optim_wrapper from it\."),
    ("schedule", BASE + "train_dataloader = dict(batch_size=9)\n", r"sets train_dataloader\.batch"),
    ("schedule", BASE + "custom_imports = dict(imports=['mine'])\n", r"Write type='package\.mod"),
    ("schedule", BASE + "model = dict(backbone=dict(num_layers=[3, 3, 3, 3]))\n",
        r"sets model\.backbone\.num_layers, but backbone\.recipe is segformer/\S+\. Name this"),
    ("schedule", BASE + "optim_wrapper = dict(optimizer=dict(lr=0.5))\n",
        r"optim_wrapper\.optimizer\.lr is 0\.5, but schedule\.learning_rate is used, which gives "),
    ("schedule", BASE + "optim_wrapper = dict(optimizer=dict(weight_decay=0.5))\n",
        r"weight_decay is 0\.5, but schedule\.weight_decay is used"),
    ("schedule", BASE + "optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(head=dict("
        "lr_mult=7))))\n", r"head\.lr_mult is 7, but schedule\.head_lr_mult is used"),
    ("schedule", BASE + "optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(head=dict("
        "decay_mult=7))))\n", r"head\.decay_mult is 7, but only schedule\.head_lr_mult sets"),
    ("schedule", BASE + "optim_wrapper = dict(loss_scale='dynamic')\n", r"but 'precision' selects"),
    ("schedule", BASE + "optim_wrapper = dict(accumulative_counts=2)\n", r"accumulates gradients"),
    ("schedule", BASE + "optim_wrapper = dict(clip_grad=dict(max_norm=float('inf')))\n",
        r"has inf in optim_wrapper\.clip_grad\.max_norm; a record holds finite numbers"),
    ("schedule", BASE + "optim_wrapper = dict(constructor=print)\n", r"has a \w+ in optim_wrapper"),
    ("backbone", BASE + "model = dict(pretrained='mine.pth')\n", r"sets model\.pretrained, but a "
        r"run loads only the weights that backbone\.weights names"),
    ("backbone", BASE + "model = dict(backbone=dict(pretrained=True))\n",
        r"model\.backbone\.pretrained is True, but a run loads only"),
    ("backbone", BASE + "model = dict(backbone=dict(init_cfg=dict(checkpoint='mine.pth')))\n",
        r"init_cfg\.checkpoint is 'mine\.pth', but a run loads only"),
    ("backbone", BASE + "model = dict(data_preprocessor=dict(test_cfg=dict(size_divisor=32)))\n",
        r"test_cfg\.size_divisor is 32, but no run uses it"),
    ("backbone", BASE + "model = dict(data_preprocessor=dict(size=(64, 32)))\n",
        r"data_preprocessor\.size is \[64, 32\], but augmentation\.crop_size is used"),
    ("decoder", BASE + "model = dict(decode_head=dict(channels=99))\n",
        r"decode_head\.channels is 99, but decoder\.channels is used, which gives 64"),
    ("decoder", BASE + "model = dict(decode_head=dict(num_classes=99))\n",
        r"num_classes is 99, but dataset\.classes is used, which gives 6"),
    ("decoder", BASE + "model = dict(decode_head=dict(dropout_ratio=0.9))\n",
        r"dropout_ratio is 0\.9, but decoder\.dropout is used"),
    ("decoder", BASE + "model = dict(decode_head=dict(in_index=[1, 2]))\n",
        r"in_index is \[1, 2\], but decoder\.in_index is used"),
    ("decoder", BASE + "model = dict(decode_head=dict(threshold=0.3))\n",
        r"threshold is 0\.3, but each class has one score"),
    ("decoder", BASE + "model = dict(decode_head=dict(loss_decode=dict(avg_non_ignore=False)))\n",
        r"avg_non_ignore is false, but L_CE is a mean"),
    ("decoder", BASE + "model = dict(decode_head=dict(init_cfg=dict(type='Normal', "
        "override=dict(name='conv_seg'))))\n", r"init_cfg\.override is for the classifier"),
    ("decoder", FCN + "model = dict(auxiliary_head=dict(channels=9))\n",
        r"sets model\.auxiliary_head\.channels, but decoder\.auxiliary is false\. Set"),
    ("decoder", FCN + "model = dict(neck=dict(type='FPN'))\n", r"has a neck \(FPN\), which"),
    ("decoder", BASE + "model = dict(type='CascadeEncoderDecoder')\n", r"sets model\.type, but"),
    ("decoder", "model = dict(decode_head=[dict(), dict()])\n", r"has several heads in model\.dec"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_what_no_run_would_use_is_one_error_message(compose: Compose, number: int) -> None:
    role, _, sentence = REFUSED[number]
    network = ["decoder=fcn"] if REFUSED[number][1].startswith(FCN) else []
    with pytest.raises(UsageError, match=sentence) as error:
        compose(*network, f"{role}.recipe=refused_{number}.py")
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"test: {role}.recipe: ")


def test_a_missing_recipe_is_one_error_message(compose: Compose, recipes: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown mmseg recipe 'mine\.py'.*looked up at /\S+mine"):
        compose("schedule.recipe=mine.py")
    with pytest.raises(UsageError, match=r"schedule\.recipe: /nowhere/mine\.py: no such file\."):
        compose("schedule.recipe=/nowhere/mine.py")
    unreadable = recipes / "folder.py"
    unreadable.mkdir()
    with pytest.raises(UsageError, match=r"folder\.py"):
        compose("schedule.recipe=folder.py")


def test_a_process_without_an_answer_is_one_error_message(
    recipes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(own, "SECONDS", 0.0)
        with pytest.raises(ProtosegError, match=r"clip\.py: this recipe was not read within 0 s\."):
            resolve_recipes([recipes / "clip.py"], CONFIGS)
    monkeypatch.setattr(own, "PROGRAM", "protoseg.no_such_module")
    with pytest.raises(ProtosegError, match=r"mmengine cannot be started .*no_such_module.*doctor"):
        resolve_recipes([recipes / "clip.py"], CONFIGS)


def test_the_values_cannot_be_set_by_hand(compose: Compose) -> None:
    with pytest.raises(UsageError, match=r"unknown key 'recipes'"):
        compose("recipes={schedule: {}}")


def test_a_spec_without_the_values_of_its_recipe_is_refused(compose: Compose) -> None:
    data = to_plain(compose("schedule.recipe=clip.py"))
    data["recipes"] = {}
    with pytest.raises(UsageError, match=r"the spec has no values of it\. Another version"):
        read_values(read_spec(data, "old run"), "schedule")
