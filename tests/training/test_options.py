"""Options of the training: five iterations as in mmengine's Runner, and resumed with all bits."""

from __future__ import annotations

import inspect
import math
import re
import shlex
import shutil
import typing
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.registry import PARAM_SCHEDULERS

from protoseg import files
from protoseg.config.compose import Composer
from protoseg.config.identity import run_id
from protoseg.config.overrides import Setting
from protoseg.config.schedule import ScheduleSpec
from protoseg.config.validation import check_values
from protoseg.datasets.layout import find_root
from protoseg.errors import DataError, UsageError
from protoseg.runs.folder import Launch
from protoseg.training.builders.components import build_components, build_loader, use_mmseg
from protoseg.training.builders.config import build_config
from protoseg.training.builders.optimizer_config import build_optimizer, build_schedulers
from protoseg.training.builders.parameter_counts import count_spec_parameters
from protoseg.training.checkpoint import find_best
from protoseg.training.evaluation.saved_model import build_network, find_last_model, load_state
from protoseg.training.run import execute_run
from protoseg.training.signals import StopRequest
from protoseg.training.weights.init_from import find_start
from training.mmengine_runs import (
    OPTIONS,
    list_differences,
    train_with_mmengine,
    train_with_protoseg,
)
from training.resumed import check_resume, train
from training.small import REPOSITORY, compose, make_folder, record_of, small_spec

PIPELINE = (
    "[{type: RandomResize, scale: [48, 48], ratio_range: [0.5, 2.0], keep_ratio: true},"
    "{type: RandomCrop, crop_size: [48, 48], cat_max_ratio: 0.75},"
    "{type: RandomFlip, prob: 0.4}, {type: RandomRotate, prob: 0.5, degree: 20},"
    "{type: PhotoMetricDistortion}]"
)
CASES: dict[str, tuple[str, ...]] = {
    "clipping": ("+schedule.clip_grad.max_norm=0.05",),
    "clipping of values": ("+schedule.clip_grad={type: value, clip_value: 0.001}",),
    "average": ("schedule.ema.momentum=0.3", "schedule.ema.interval=2", "evaluation.every=4"),
    "late average": ("schedule.ema.momentum=0.3", "schedule.ema.begin_iter=3"),
    "cosine": ("schedule.param_scheduler=CosineAnnealingLR", "schedule.min_lr=1e-4"),
    "steps": ("schedule.param_scheduler=MultiStepLR", "schedule.milestones=[2,4]"),
    "optimiser": ("schedule.optimizer=NAdam", "+schedule.optimizer_settings.momentum_decay=0.01"),
    "settings": ("+schedule.optimizer_settings={betas: [0.5, 0.9], eps: 1e-4}",),
    "frozen": ("schedule.frozen=[backbone.stages.0]",),
    "pipeline": (f"augmentation.pipeline={PIPELINE}",),
    "hard pixels": (
        "+decoder.settings.sampler={type: OHEMPixelSampler, thresh: 0.16, min_kept: 9}",
    ),
    "accumulation": ("schedule.accumulative_counts=2", "schedule.iterations=6"),
}
"""Option -> overrides."""
HOOKS: dict[str, list[dict[str, Any]]] = {
    "frozen": [{"type": "FreezeFirstStage"}],
    "average": [{"type": "EMAHook", "momentum": 0.3, "interval": 2}],
    "late average": [{"type": "EMAHook", "momentum": 0.3, "begin_iter": 3}],
}
"""Option -> hooks of mmengine's Runner."""


@pytest.mark.slow
@pytest.mark.parametrize("case", ["none", *CASES])
def test_five_iterations_are_those_of_mmengine(
    shapes_root: Path, tmp_path: Path, case: str
) -> None:
    changes = CASES.get(case, ())
    spec = small_spec(*OPTIONS, *changes)
    check_values(spec, "test")
    start, trained = train_with_protoseg(spec, shapes_root, tmp_path / "protoseg")
    expected = train_with_mmengine(
        spec, shapes_root, tmp_path / "mmengine", start, HOOKS.get(case, ())
    )
    differences = dict(list_differences(trained, expected))
    assert max(differences.values()) < 1e-6, differences
    assert max(dict(list_differences(start, trained)).values()) > 1e-3, "the weights changed"
    if changes:
        plain = small_spec(*OPTIONS, *(c for c in changes if "iterations" in c))
        _, without = train_with_protoseg(plain, shapes_root, tmp_path / "plain")
        assert max(dict(list_differences(trained, without)).values()) > 1e-4, "it has an effect"


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_an_interrupted_run_has_the_same_bits(data: Path, tmp_path: Path, case: str) -> None:
    check_resume(small_spec(*CASES[case], "schedule.iterations=8"), data, tmp_path, 3)


@pytest.mark.slow
def test_the_average_is_the_model_of_the_run(data: Path, tmp_path: Path) -> None:
    """Record, best model, and the model that is loaded later have the averaged weights."""
    spec = small_spec("schedule.ema.momentum=0.01", "evaluation.every=4")
    folder = make_folder(tmp_path, spec, data)
    state = train(folder, spec, data)
    network = build_network(spec, torch.device("cpu"))
    last = find_last_model(folder)
    expected = record_of(folder)["provenance"]["state_sha256"]
    assert load_state(network, last.path, folder.run_id, expected) == expected
    trained, average = state["average"]["trained"], state["model"]
    assert trained.keys() == dict(network.named_parameters()).keys()
    assert not any(torch.equal(trained[name], average[name]) for name in trained)
    plain = small_spec("evaluation.every=4")
    without = train(make_folder(tmp_path / "plain", plain, data), plain, data)
    for name, value in without["model"].items():
        assert torch.equal(value, trained.get(name, average[name])), "the training is the same"
    best = find_best(folder.checkpoints)
    assert best is not None
    weights = torch.load(best.path, weights_only=True)["model"]
    if best.iteration == 12:
        assert all(torch.equal(value, average[name]) for name, value in weights.items())
    assert "average" not in without, "the layout of other checkpoints is unchanged"


def read_batches(root: Path, *overrides: str) -> list[Any]:
    """The images and labels of the first batches."""
    use_mmseg()
    loader = build_loader(build_config(small_spec(*overrides), data_root=root).train_dataloader)
    batches = [batch for batch, _ in zip(loader, range(2), strict=False)]
    labels = [s.gt_sem_seg.data for batch in batches for s in batch["data_samples"]]
    return [image for batch in batches for image in batch["inputs"]] + labels


def test_transforms_by_name_give_the_samples_of_the_fields(shapes_root: Path) -> None:
    fields = ("augmentation.flip=0.4", "augmentation.photometric=true")
    ranges = ("augmentation.ratio_range=[0.5,2.0]", "augmentation.cat_max_ratio=0.75")
    expected = read_batches(shapes_root, *fields, *ranges)
    named = PIPELINE.replace("{type: RandomRotate, prob: 0.5, degree: 20},", "")
    actual = read_batches(shapes_root, f"augmentation.pipeline={named}")
    assert all(map(torch.equal, actual, expected))
    rotated = read_batches(shapes_root, f"augmentation.pipeline={PIPELINE}")
    assert not all(map(torch.equal, actual, rotated))


def test_fields_that_the_pipeline_replaces_give_no_other_id() -> None:
    flip = "augmentation.pipeline=[{type: RandomFlip, prob: 0.5}]"
    assert run_id(compose("augmentation=shapes", flip)) == run_id(compose(flip))
    assert run_id(compose(flip, "augmentation.flip=0.3")) == run_id(compose(flip))


def test_a_field_that_the_pipeline_of_an_option_replaces_is_refused(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "experiments", tmp_path / "experiments")
    folder = tmp_path / "experiments" / "augmentation"
    (folder / "named.yaml").write_text(
        "defaults: [shapes, _self_]\npipeline: [{type: RandomFlip, prob: 0.5}]\n"
    )
    settings = [Setting("augmentation", "named"), Setting("augmentation.flip", 0.3)]
    composer = Composer(tmp_path / "experiments")
    assert composer.spec(settings[:1], "test").augmentation.pipeline
    with pytest.raises(UsageError, match=r"augmentation\.flip: has no effect"):
        composer.spec(settings, "test")


TRANSFORMS = {
    "{type: RandomFlp, prob: 1}": "has no transform 'RandomFlp'. Did you mean 'RandomFlip'",
    "{type: RandomFlip, probability: 1}": "RandomFlip cannot be built: .*'probability'",
    "{type: LoadAnnotations}": "LoadAnnotations does not fit",
    "{prob: 1}": "names no transform",
    "{type: RandomFlip, prob: 0.5}": "no transform crops",
    "{type: RandomApply, transforms: [{type: LoadAnnotations}]}": "holds other transforms",
}


@pytest.mark.parametrize("step", TRANSFORMS)
def test_a_wrong_transform_is_one_sentence(shapes_root: Path, step: str) -> None:
    spec = compose(f"augmentation.pipeline=[{step}]")
    with pytest.raises(UsageError, match=TRANSFORMS[step]) as error:
        build_config(spec, data_root=shapes_root)
    assert "\n" not in str(error.value)


def test_frozen_modules_change_nothing_but_others_do(data: Path, tmp_path: Path) -> None:
    spec = small_spec("schedule.frozen=[backbone]", "schedule.iterations=4")
    folder = make_folder(tmp_path, spec, data)
    state = train(folder, spec, data)["model"]
    parts = build_components(
        build_config(spec, data_root=find_root(spec.dataset, data)), None, frozen=("backbone",)
    )
    start = parts.module.state_dict()
    changed = {name for name in state if not torch.equal(state[name], start[name])}
    assert changed
    assert not {name for name in changed if name.startswith("backbone")}
    plain = small_spec("schedule.iterations=4")
    count = count_spec_parameters(plain).learnable
    assert record_of(folder)["parameters"]["learnable"] == count, "the size of the network"


@pytest.mark.parametrize(
    ("frozen", "message"),
    [
        (["backbon"], "no module 'backbon'. Did you mean 'backbone'"),
        (["backbone", "decode_head"], "leave nothing to train"),
        (["decode_head.bank.nothing"], "no module"),
        (["decode_head.head.dropout"], "has no weights or statistics"),
    ],
)
def test_a_wrong_module_is_one_sentence(shapes_root: Path, frozen: list[str], message: str) -> None:
    config = build_config(small_spec(), data_root=shapes_root)
    with pytest.raises(UsageError, match=message):
        build_components(config, None, frozen=tuple(frozen))


def test_a_run_starts_from_a_checkpoint(data: Path, tmp_path: Path) -> None:
    root = find_root(small_spec().dataset, data)
    network = build_components(build_config(small_spec("seed=5"), data_root=root), None).module
    weights = tmp_path / "weights"
    weights.mkdir()
    torch.save({"state_dict": network.state_dict()}, weights / "start.pth")
    digest = files.file_digest(weights / "start.pth")
    spec = small_spec("init_from=start.pth", f"init_from_sha256={digest[:8]}")
    path = find_start(spec, weights)
    config = build_config(spec, data_root=root)
    loaded = build_components(config, None, start=path).module.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in network.state_dict().items())
    other = build_components(config, None, start=path, skip=("decode_head.",)).module.state_dict()
    initial = build_components(config, None).module.state_dict()
    for name, value in other.items():
        expected = initial if name.startswith("decode_head.") else loaded
        assert torch.equal(value, expected[name]), name
    short = small_spec("init_from=start.pth", "schedule.iterations=3")
    folder = make_folder(tmp_path / "run", short, data, weights=str(weights))
    launch = Launch(str(data), str(weights), threads=1)
    execute_run(short, folder, launch, StopRequest())
    assert record_of(folder)["provenance"]["init_from_sha256"] == digest


def test_weights_of_mmseg_fit_but_for_the_classifier(shapes_root: Path, tmp_path: Path) -> None:
    config = build_config(small_spec(), data_root=shapes_root)
    state = build_components(config, None).module.state_dict()
    head = "decode_head.head."
    own = {key for key in state if not key.startswith(("backbone.", head))}
    mmseg = {
        key.replace(head, "decode_head."): torch.ones_like(value)
        for key, value in state.items()
        if key not in own
    }
    path = tmp_path / "mmseg.pth"
    torch.save({"state_dict": {**mmseg, "decode_head.conv_seg.weight": torch.zeros(1)}}, path)
    skip = (f"{head}conv_seg", "decode_head.bank", "decode_head.projection")
    skip = tuple(s for s in skip if s.startswith(head) or any(k.startswith(s) for k in own))
    loaded = build_components(config, None, start=path, skip=skip).module.state_dict()
    assert all(bool((loaded[key] == 1).all()) for key in state if key not in own)


@pytest.mark.parametrize("skip", ["", "decode_hed.bank"])
def test_a_beginning_that_no_key_has_is_refused(
    shapes_root: Path, tmp_path: Path, skip: str
) -> None:
    config = build_config(small_spec(), data_root=shapes_root)
    path = tmp_path / "start.pth"
    torch.save(build_components(config, None).module.state_dict(), path)
    with pytest.raises(DataError, match=f"no key begins with '{skip}'"):
        build_components(config, None, start=path, skip=(skip,))


def test_a_checkpoint_that_does_not_fit_is_counted(shapes_root: Path, tmp_path: Path) -> None:
    config = build_config(small_spec(), data_root=shapes_root)
    state = build_components(config, None).module.state_dict()
    state["more"] = torch.zeros(1)
    del state["backbone.stages.0.0.weight"]
    name = "decode_head.bank.prototypes"
    state[name] = state[name][:2]
    torch.save(state, tmp_path / "start.pth")
    with pytest.raises(DataError, match=r"keys do not fit: 1 missing .backbone\.stages") as error:
        build_components(config, None, start=tmp_path / "start.pth")
    text = str(error.value)
    assert "1 of another network (more)" in text
    assert re.search(
        r"1 of another shape \(decode_head\.bank\.prototypes \(2, .*expected \(6", text
    )
    spec = small_spec("init_from=start.pth", "init_from_sha256=00")
    with pytest.raises(DataError, match=r"the SHA-256 of .* set init_from_sha256="):
        find_start(spec, tmp_path)
    with pytest.raises(DataError, match=r"is missing\. Copy the checkpoint"):
        find_start(spec, tmp_path / "elsewhere")


def read_rates(*overrides: str) -> list[float]:
    """The learning rate in each of 100 iterations."""
    spec = small_spec("schedule.iterations=100", "schedule.learning_rate=0.01", *overrides)
    check_values(spec, "test")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    schedulers = [
        PARAM_SCHEDULERS.build(dict(settings), default_args={"optimizer": optimizer})
        for settings in build_schedulers(spec)
    ]
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return rates


def test_the_decay_is_that_of_the_formula() -> None:
    cosine = "schedule.param_scheduler=CosineAnnealingLR"
    expected = [1e-3 + 9e-3 * (1 + math.cos(math.pi * t / 90)) / 2 for t in range(90)]
    rates = read_rates(cosine, "schedule.warmup_iterations=10", "schedule.min_lr=0.001")
    assert rates[10:] == pytest.approx(expected, rel=1e-9)
    assert rates[:10] == pytest.approx([0.01 * (1e-6 + (1 - 1e-6) * t / 9) for t in range(10)])
    steps = ("schedule.param_scheduler=MultiStepLR", "schedule.milestones=[50,80]")
    rates = read_rates(*steps, "schedule.warmup_iterations=10", "schedule.gamma=0.2")
    assert rates[10:] == pytest.approx([0.01] * 40 + [0.002] * 30 + [0.0004] * 20, rel=1e-9)


def test_an_exponent_that_is_not_used_gives_no_other_id() -> None:
    cosine = "schedule.param_scheduler=CosineAnnealingLR"
    assert run_id(small_spec(cosine, "schedule.power=0.9")) == run_id(small_spec(cosine))
    assert run_id(small_spec("schedule.power=0.9")) != run_id(small_spec())


def test_the_optimisers_are_those_of_torch() -> None:
    """All with a learning rate and a weight decay, except one that needs matrices."""
    classes = {name: cls for name, cls in vars(torch.optim).items() if isinstance(cls, type)}
    fitting = {
        name
        for name, cls in classes.items()
        if {"lr", "weight_decay"} <= inspect.signature(cls).parameters.keys()
    }
    known = typing.get_args(typing.get_type_hints(ScheduleSpec)["optimizer"])
    assert fitting - {"Muon"} == set(known)


@pytest.mark.parametrize(
    "name", typing.get_args(typing.get_type_hints(ScheduleSpec)["optimizer"])[2:]
)
def test_each_optimiser_is_that_of_torch(shapes_root: Path, name: str) -> None:
    spec = small_spec(f"schedule.optimizer={name}")
    parts = build_components(build_config(spec, data_root=shapes_root), None)
    assert type(parts.optimizer.optimizer) is getattr(torch.optim, name)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("+schedule.clip_grad.max_norm=1", "+schedule.clip_grad={type: norm, max_norm: 1.0}"),
        ("+schedule.clip_grad.max_norm=1", "+schedule.clip_grad={norm_type: 2, max_norm: 1}"),
        (
            "schedule.frozen=[backbone, decode_head.head]",
            "schedule.frozen=[decode_head.head, backbone.stages, backbone, backbone]",
        ),
    ],
)
def test_equal_settings_give_one_id(first: str, second: str) -> None:
    assert run_id(small_spec(first)) == run_id(small_spec(second)) != run_id(small_spec())


def test_a_frozen_bank_keeps_its_prototypes(data: Path, tmp_path: Path) -> None:
    spec = small_spec("schedule.frozen=[decode_head.bank]", "schedule.iterations=4")
    root = find_root(spec.dataset, data)
    start = build_components(build_config(spec, data_root=root), None).module.state_dict()
    state = train(make_folder(tmp_path, spec, data), spec, data)["model"]
    (name,) = [name for name in state if name.endswith("bank.prototypes")]
    assert torch.equal(state[name], start[name])
    assert any(not torch.equal(value, start[key]) for key, value in state.items())


def test_another_optimiser_replaces_that_of_the_recipe() -> None:
    wrapper = build_optimizer(small_spec("schedule.optimizer=RMSprop"))
    values = {"type": "RMSprop", "lr": 0.01, "weight_decay": 0.01}
    assert wrapper["optimizer"] == values, "without the betas of the recipe"
    assert wrapper["paramwise_cfg"]["custom_keys"]["norm"] == {"decay_mult": 0.0}


def test_settings_that_the_optimiser_refuses_are_one_sentence(shapes_root: Path) -> None:
    spec = small_spec("schedule.optimizer=RMSprop", "+schedule.optimizer_settings.betas=1")
    with pytest.raises(UsageError, match=r"RMSprop cannot be built: .*unexpected .*'betas'"):
        build_components(build_config(spec, data_root=shapes_root), None)


BAD = {
    "schedule.optimizer=Adm": "unknown value 'Adm'.* Did you mean 'Adam'",
    "schedule.optimizer=SGD": "trains with AdamW, not SGD",
    "+schedule.optimizer_settings.lr=1": r"set schedule\.learning_rate and remove it",
    "schedule.milestones=[3]": r"PolyLR has no steps",
    "schedule.param_scheduler=MultiStepLR": r"after the warm-up, from 2 to 11, found \[\]",
    "schedule.param_scheduler=StepLR": "unknown value 'StepLR'.* Did you mean 'MultiStepLR'",
    "schedule.ema.interval=2": r"schedule\.ema: its settings have no effect",
    "schedule.ema={momentum: 0.1, begin_iter: 12}": "average nothing within the 12 iterations",
    "schedule.ema={momentum: 0.1, interval: 12}": "average nothing within the 12 iterations",
    "schedule.ema.momentum=0.9998": "allowed: .*at most 0.5",
    "+schedule.clip_grad.max_nrom=1": "unknown key 'max_nrom'.* Did you mean 'max_norm'",
    "+schedule.clip_grad.norm_type=1": "max_norm: None is no limit; set a number above 0",
    "+schedule.clip_grad.type=values": "unknown type 'values'.* Did you mean 'value'",
    "schedule.accumulative_counts=5": r"schedule\.iterations: 12 is not a multiple .* set 10 or 15",
    "schedule.accumulative_counts=0": "out of range",
    "schedule.accumulative_counts=50": r"set 50\.",
    "+schedule.clip_grad={max_norm: 1, norm_type: abc}": "norm_type: 'abc' is no norm",
    "+schedule.clip_grad={max_norm: 1, error_if_nonfinite: 2}": "error_if_nonfinite: 2",
}


@pytest.mark.parametrize("override", BAD)
def test_a_wrong_option_is_one_sentence(override: str) -> None:
    with pytest.raises(UsageError, match=BAD[override]) as error:
        check_values(small_spec(override), "test")
    assert "\n" not in str(error.value)


def list_documented_overrides() -> list[str]:
    """The overrides in the second column of the table in docs/options.md."""
    page = (REPOSITORY / "docs" / "options.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| [^|]* \| ([^|]*`[^|]*) \|", page, flags=re.M)
    return [override for row in rows for override in re.findall(r"`(\"?[+\w.]+=[^`]*)`", row)]


@pytest.mark.parametrize("overrides", list_documented_overrides())
def test_a_documented_option_is_valid_and_makes_another_run(overrides: str) -> None:
    spec = small_spec(*shlex.split(overrides))
    check_values(spec, "docs/options.md")
    assert run_id(spec) != run_id(small_spec())
