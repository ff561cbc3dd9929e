"""Composition of a spec: config groups, overrides, their precedence, and error messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from config.conftest import EXPERIMENTS
from protoseg.config import compose as compose_module
from protoseg.config.compose import Composer, _compose
from protoseg.config.hierarchy.methods import HierarchicalMethod, PrototypeHierarchicalMethod
from protoseg.config.hydra.fast_compose import OptionReader
from protoseg.config.hydra.folders import ConfigFolders
from protoseg.config.hydra.hydra_errors import describe_config_error
from protoseg.config.hydra.hydra_schemas import config_groups
from protoseg.config.identity import spec_digest
from protoseg.config.methods import (
    MethodSpec,
    ParametricMethod,
    PixelQueryMethod,
    PrototypeMethod,
    QueryDecoderMethod,
    WeakContrastMethod,
)
from protoseg.config.overrides import parse_overrides, parse_sweep
from protoseg.config.schema import RunSpec
from protoseg.errors import UsageError

pytestmark = pytest.mark.install

TREE = "dataset.hierarchy={ground: null, thing: [disk, box, triangle, ring, bar]}"

LARGE_VARIANTS = {"ade20k_full_300", "ade20k_full_500", "ade20k_full_700"}
"""Slow to compose in Hydra; they differ from ade20k_full_847 only in their list of classes."""
OTHER_FOLDERS = {"matrices", "hierarchy"}
"""Folders of experiments that are no config groups."""
OPTIONS = [
    (path.parent.name, path.stem)
    for path in sorted(EXPERIMENTS.glob("*/*.yaml"))
    if path.parent.name not in OTHER_FOLDERS
]


def compose(composer: Composer, *overrides: str) -> RunSpec:
    settings = [setting for _, several in parse_overrides(overrides) for setting in several]
    return composer.spec(settings, "test")


def expect_error(composer: Composer, *overrides: str) -> str:
    """The message for invalid overrides, which must be one line."""
    with pytest.raises(UsageError) as caught:
        compose(composer, *overrides)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_with_the_other_defaults(
    composer: Composer, group: str, option: str
) -> None:
    spec = compose(composer, f"{group}={option}")
    assert isinstance(spec, RunSpec)
    default = composer.spec([], "test")
    for other in config_groups():
        if other != group:
            assert getattr(spec, other) == getattr(default, other)


@pytest.mark.slow
def test_the_option_reader_gives_the_same_values_as_hydra(composer: Composer) -> None:
    reader, options = OptionReader(ConfigFolders(EXPERIMENTS)), dict(composer.options)
    options["dataset"] = [name for name in options["dataset"] if name not in LARGE_VARIANTS]
    default = _compose(ConfigFolders(EXPERIMENTS), "run", {})
    for turn in range(max(map(len, options.values()))):  # every option, in mixed combinations
        chosen = {group: names[turn % len(names)] for group, names in options.items()}
        values = reader.read_options(chosen)
        assert values is not None, "left to Hydra, which takes 0.1 s for each combination"
        assert {**default, **values} == _compose(ConfigFolders(EXPERIMENTS), "run", chosen)


def test_hydra_composes_once_for_many_combinations(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(compose_module, "_compose", lambda *a: calls.append(a) or _compose(*a))
    composer = Composer(EXPERIMENTS)
    specs = [
        compose(composer, f"method={method}", f"schedule={schedule}")
        for method in ("paper", "parametric")
        for schedule in ("quickstart", "sgd_40k")
    ]
    assert (len({spec_digest(spec) for spec in specs}), len(calls)) == (4, 1)


@pytest.mark.parametrize(
    ("file", "text", "key", "value"),
    [
        # An option that sets values of another group; one that no schema completes.
        (
            "evaluation/mine.yaml",
            "# @package _global_\nevaluation: {split: train}\nschedule: {power: 0.5}",
            "schedule.power",
            0.5,
        ),
        (
            "evaluation/mine.yaml",
            "defaults: [_self_, whole]\nsplit: train",
            "evaluation.split",
            "val",
        ),
        # A run.yaml that sets values of a group besides its option.
        (
            "run.yaml",
            (EXPERIMENTS / "run.yaml").read_text() + "evaluation: {split: train}",
            "evaluation.split",
            "train",
        ),
    ],
    ids=["package", "order", "run"],
)
def test_other_options_are_composed_by_hydra(
    copied_experiments: Path, file: str, text: str, key: str, value: Any
) -> None:
    (copied_experiments / file).write_text(text)
    option = "whole_512" if file == "run.yaml" else "mine"
    assert (
        OptionReader(ConfigFolders(copied_experiments)).read_options({"evaluation": option}) is None
    )
    spec = compose(Composer(copied_experiments), f"evaluation={option}")
    group, field = key.split(".")
    assert getattr(getattr(spec, group), field) == value


def test_a_file_with_a_package_header_is_composed_by_hydra(copied_experiments: Path) -> None:
    text = "defaults: [whole, _self_]\ncrop_size: [9, 9]"
    file = copied_experiments / "evaluation" / "mine.yaml"
    file.write_text(text)
    assert (
        OptionReader(ConfigFolders(copied_experiments)).read_options({"evaluation": "mine"})
        is not None
    )
    file.write_text(f"# @package augmentation\n{text}")
    assert (
        OptionReader(ConfigFolders(copied_experiments)).read_options({"evaluation": "mine"}) is None
    )


def test_every_folder_of_experiments_is_a_group(composer: Composer) -> None:
    folders = {path.name for path in EXPERIMENTS.iterdir() if path.is_dir()} - OTHER_FOLDERS
    assert folders == set(config_groups()) == set(composer.options)
    assert all(composer.options.values())


def test_every_option_file_starts_with_a_comment() -> None:
    for group, option in OPTIONS:
        first = (EXPERIMENTS / group / f"{option}.yaml").read_text().splitlines()[0]
        assert first.startswith("# "), f"{group}/{option}.yaml starts without a comment"


def test_the_kind_selects_the_class_of_the_method(composer: Composer) -> None:
    assert isinstance(compose(composer, "method=paper").method, PrototypeMethod)
    assert isinstance(compose(composer, "method=parametric").method, ParametricMethod)
    assert isinstance(compose(composer, "method=pixel_query").method, PixelQueryMethod)
    assert isinstance(compose(composer, "method=query_decoder").method, QueryDecoderMethod)
    assert isinstance(compose(composer, "method=cam").method, WeakContrastMethod)
    assert isinstance(compose(composer, "method=hierarchical", TREE).method, HierarchicalMethod)
    assert isinstance(
        compose(composer, "method=prototype_hierarchical", TREE).method, PrototypeHierarchicalMethod
    )
    kinds = {"prototype", "parametric", "pixel_query", "query_decoder", "weak_contrast"}
    assert set(MethodSpec.variants) == kinds | {"hierarchical", "prototype_hierarchical"}


def test_the_released_preset_differs_from_the_paper(composer: Composer) -> None:
    paper, released = compose(composer, "method=paper"), compose(composer, "method=released")
    assert isinstance(released.method, PrototypeMethod)
    assert released.method.num_prototypes == 10
    assert released.method.assignment == "gumbel"
    assert spec_digest(paper) != spec_digest(released)


def test_the_presets_of_the_papers_equal_the_defaults_of_the_dataclasses(
    composer: Composer,
) -> None:
    assert compose(composer, "method=paper").method == PrototypeMethod()
    assert compose(composer, "method=parametric").method == ParametricMethod()
    assert compose(composer, "method=pixel_query").method == PixelQueryMethod()
    assert compose(composer, "method=query_decoder").method == QueryDecoderMethod()
    assert compose(composer, "method=weak_contrast").method == WeakContrastMethod()
    assert compose(composer, "method=hierarchical", TREE).method == HierarchicalMethod()
    assert compose(composer, "method=hierarchical_paper", TREE).method == HierarchicalMethod()
    expected = PrototypeHierarchicalMethod()
    assert compose(composer, "method=prototype_hierarchical", TREE).method == expected


def test_a_later_override_replaces_an_earlier_one(composer: Composer) -> None:
    spec = compose(composer, "schedule.iterations=5", "schedule.iterations=6")
    assert spec.schedule.iterations == 6
    assert compose(composer, "dataset=camvid", "dataset=shapes") == compose(composer)


def test_a_value_replaces_that_of_its_option_in_any_order(composer: Composer) -> None:
    for overrides in (
        ("schedule.iterations=5", "schedule=cpu_300"),
        ("schedule=cpu_300", "schedule.iterations=5"),
    ):
        spec = compose(composer, *overrides)
        assert spec.schedule.iterations == 5
        assert spec.schedule.learning_rate == 1e-3


def test_interpolations_are_resolved_after_overrides(composer: Composer) -> None:
    spec = compose(composer, "backbone.channels=[8,16,24,32]")
    assert spec.backbone.settings["channels"] == [8, 16, 24, 32]
    spec = compose(composer, "method.huber_delta=${method.kappa}", "method.kappa=0.2")
    assert isinstance(spec.method, PrototypeMethod)
    assert spec.method.huber_delta == 0.2


def test_free_form_settings_can_be_nested(composer: Composer) -> None:
    spec = compose(composer, "+decoder.settings.a.b=1", "decoder.settings.a.c=[x,null]")
    assert spec.decoder.settings == {"a": {"b": 1, "c": ["x", None]}}
    assert compose(composer).decoder.settings == {}, "the cached defaults were changed"


def test_a_default_can_be_removed_from_free_form_settings(composer: Composer) -> None:
    assert "type" not in compose(composer, "~backbone.settings.type").backbone.settings


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,5,10", [1, 5, 10]),
        ("range(1,4)", [1, 2, 3]),
        ("range(0,0.3,0.1)", [0.0, 0.1, 0.2]),
        ("choice(a,b)", ["a", "b"]),
        ("'a b','c,d'", ["a b", "c,d"]),
        ('["x","y"],[z]', [["x", "y"], ["z"]]),
        ("sort(3,1,2)", [1, 2, 3]),
        ("true,null", [True, None]),
        ("7", [7]),
    ],
)
def test_sweeps_follow_the_grammar_of_hydra(text: str, values: list[Any]) -> None:
    parsed = parse_sweep("key", text)
    assert parsed == values
    assert [type(value) for value in parsed] == [type(value) for value in values]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "backbone=mobilnet_v2",
            "test: unknown backbone 'mobilnet_v2'. Did you mean 'mobilenet_v2'? Known: hrnet_w48, ",
        ),
        ("dataset=camvit", "unknown dataset 'camvit'. Did you mean 'camvid'? Known: ade20k, "),
        ("method=papr", "unknown method 'papr'. Did you mean 'paper'? Known: cam, hierarchical, "),
        ("dataset=Camvid", "unknown dataset 'Camvid'. Did you mean 'camvid'?"),
        ("sed=1", "test: unknown key 'sed'. Did you mean 'seed'? Known: augmentation, backbone, "),
        ("methd.kappa=1", "unknown key 'methd.kappa'. Did you mean 'method.kappa'? Known: "),
        ("method.momentm=1", "unknown key 'method.momentm'. Did you mean 'method.momentum'?"),
        ("seed.x=1", "test: 'seed' has no key 'x'; it is a value."),
        ("method.momentum=1.5", "method.momentum: 1.5 is out of range; allowed: at least 0 and at"),
        ("method.momentum=fast", "test: method.momentum: expected a number, found 'fast'."),
        ("method.momentum=true", "method.momentum: expected a number, found True."),
        (
            "method.num_prototypes=0",
            "method.num_prototypes: 0 is out of range; allowed: at least 1",
        ),
        ("method.num_prototypes=2.5", "method.num_prototypes: expected a whole number, found 2.5."),
        ("method.kappa=0", "method.kappa: 0.0 is out of range; allowed: greater than 0."),
        ("method.kappa=nan", "method.kappa: nan is out of range; allowed: greater than 0."),
        ("method.kappa=inf", "method.kappa: inf is out of range; allowed: greater than 0."),
        ("method.kappa=null", "method.kappa: expected a number, found None."),
        (
            "method.distance=cosin",
            "method.distance: unknown value 'cosin'. Did you mean 'cosine'? Known: cosine, ",
        ),
        (
            "method.projection=1",
            "method.projection: unknown value '1'. Known: conv, conv_no_norm, ",
        ),
        (
            "method.kind=magic",
            "method: unknown kind 'magic'. Known: hierarchical, parametric, pixel_query, "
            "prototype, prototype_hierarchical, query_decoder, weak_contrast.",
        ),
        ("precision=fp8", "precision: unknown value 'fp8'. Did you mean 'fp32'? Known: bf16, "),
        ("seed=-1", "seed: -1 is out of range; allowed: at least 0 and at most 2147483647."),
        ("dataset.name=5", "dataset.name: expected text, found 5."),
        ("dataset.classes=[]", "dataset.classes: needs at least one value, found none."),
        ("dataset.classes=[a,a]", "dataset.classes: all values must be different, found "),
        ("dataset.classes=sky", "dataset.classes: expected a list, found 'sky'."),
        ("dataset.classes=[a,2]", "dataset.classes[1]: expected text, found 2."),
        ("dataset.counts=5", "dataset.counts: expected a mapping, found 5."),
        ("dataset.counts.val=many", "dataset.counts.val: expected a whole number, found 'many'."),
        ("augmentation.scale=[1,2,3]", "augmentation.scale: expected 2 values, found 3."),
        ("augmentation.scale=[0,2]", "augmentation.scale[0]: 0 is out of range; allowed: at leas"),
        ("evaluation.scale=[1,2,3]", "evaluation.scale: expected 0 or 2 values, found 3."),
        ("evaluation.stride=[-4,4]", "evaluation.stride[0]: -4 is out of range; allowed: at leas"),
        ("backbone.settings.x=nan", "backbone.settings.x: nan is out of range; allowed: a finite"),
        ("backbone.settings={a:[inf]}", "backbone.settings.a[0]: inf is out of range; allowed: a"),
        ("schedule=5", "schedule: expected the name of an option, found 5. Known: cpu_2000, "),
        ("schedule={iterations: 5}", "schedule: expected the name of an option, found {'iterat"),
        ("schedule=null", "schedule: expected the name of an option, found None."),
        ("~schedule", "test: 'schedule' cannot be removed: every run needs one."),
        ("~method.kapa", "unknown key 'method.kapa'. Did you mean 'method.kappa'?"),
        ("~backbone.settings.colour", "unknown key 'backbone.settings.colour'. Known: "),
        ("seed.a.b=1", "'seed' has no key 'a'; it is a value."),
        (
            "method.num_prototype=3",
            "Did you mean 'method.num_prototypes'? Known: method.assignment, method.ce_weight, "
            "method.distance, method.distributed, method.embedding_norm, method.huber_delta,",
        ),
        ("dataset.name.first=x", "'dataset.name.first': 'dataset.name' is a value, not a group."),
        ("dataset@x=camvid", "override 'dataset@x=camvid': '@x' moves a group, which is not"),
        ("schedule.iterations=", "schedule.iterations: expected a whole number, found ''."),
        (
            "method.kappa=${method.kapa}",
            "test: method.kappa: '${method.kapa}' cannot be resolved. A reference names",
        ),
        ("method.kappa=${", "override 'method.kappa=${': "),
        ("a b=c", "override 'a b=c': "),
        ("method.kappa=[1", "override 'method.kappa=[1': "),
        (
            "dataset=glob(*)",
            "override 'dataset=glob(*)': a sweep needs a list of values. Write 1,5,10 or",
        ),
        (
            "method.momentum=interval(0,1)",
            "a sweep needs a list of values. Write 1,5,10 or range(1,5)",
        ),
    ],
)
def test_an_invalid_override_gives_one_sentence(
    composer: Composer, override: str, sentence: str
) -> None:
    assert sentence in expect_error(composer, override)


def test_the_error_for_a_key_of_another_method_names_the_method(composer: Composer) -> None:
    assert expect_error(composer, "method=parametric", "method.kappa=0.1") == (
        "test: method (of kind 'parametric'): unknown key 'kappa'. Known: kind, num_prototypes."
    )


def test_the_error_for_a_folder_without_experiments_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"not a folder of experiments .* --experiments\.$"):
        Composer(tmp_path)


MESSAGES = {
    "defaults: [schema, _self_]\nclases: [a]\n": (
        "unknown key 'clases'. Did you mean 'classes'? Known: annotation_suffix, "
    ),
    "defaults: [schema, _self_]\nignore_index: many\n": (
        "dataset.ignore_index: expected a whole number, found 'many'."
    ),
    "defaults: [schema, _self_]\nclasses: 5\n": "dataset.classes: expected a list, found 5.",
    "defaults: [schema, _self_]\nclasses: {building: 0}\n": (
        "dataset.classes: expected a list, found {'building': 0}."
    ),
    "defaults: [schema, _self_]\ncounts: 5\n": "dataset.counts: expected a mapping, found 5.",
    "defaults: [schem, _self_]\n": "defaults: unknown file 'schem'. ",
    "name: a\nname: b\n": "not a readable YAML file: while constructing a mapping",
    "name: [\n": "not a readable YAML file: while parsing a flow node",
    "- 1\n": "expected keys and values, found [1].",
}


@pytest.mark.parametrize("content", MESSAGES)
def test_the_error_for_an_invalid_config_file_names_the_file(
    copied_experiments: Path, content: str
) -> None:
    file = copied_experiments / "dataset" / "mine.yaml"
    file.write_text(content)
    message = expect_error(Composer(copied_experiments), "dataset=mine")
    assert message.startswith(f"{file}: ")
    assert MESSAGES[content] in message


def test_the_error_for_a_config_file_that_is_not_utf8_names_it(copied_experiments: Path) -> None:
    file = copied_experiments / "dataset" / "mine.yaml"
    file.write_bytes(b"name: \xff\n")
    assert str(file) in expect_error(Composer(copied_experiments), "dataset=mine")


@pytest.mark.parametrize(
    ("content", "key"),
    [("classes: [a]\nname: x", "dataset.digest"), ("", "dataset.name"), ("classes: []", "name")],
)
def test_the_error_for_a_missing_value_names_its_key(
    copied_experiments: Path, content: str, key: str
) -> None:
    (copied_experiments / "dataset" / "mine.yaml").write_text(
        f"defaults: [schema, _self_]\n{content}\n"
    )
    message = expect_error(Composer(copied_experiments), "dataset=mine")
    assert message.endswith(f"{key}: a value is required, but none is set.")


def test_a_new_option_file_is_found(copied_experiments: Path) -> None:
    text = "defaults: [camvid, _self_]\nname: mine\ndigest: unpinned\n"
    (copied_experiments / "dataset" / "mine.yaml").write_text(text)
    spec = compose(Composer(copied_experiments), "dataset=mine")
    assert (spec.dataset.name, spec.dataset.digest) == ("mine", "unpinned")
    assert len(spec.dataset.classes) == 11


def test_two_folders_of_experiments_are_independent(
    composer: Composer, copied_experiments: Path
) -> None:
    file = copied_experiments / "schedule" / "quickstart.yaml"
    file.write_text(file.read_text().replace("iterations: 240", "iterations: 7"))
    changed = Composer(copied_experiments)
    assert compose(changed).schedule.iterations == 7
    assert compose(composer).schedule.iterations == 240
    assert compose(changed, "dataset=camvid").schedule.iterations == 7


def test_a_cycle_of_causes_gives_a_message() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert "cannot be composed" in describe_config_error(first, ConfigFolders(EXPERIMENTS), {}, {})


def test_a_run_file_without_self_is_an_error(copied_experiments: Path) -> None:
    file = copied_experiments / "run.yaml"
    file.write_text(file.read_text().replace("  - _self_\n", "precision: fp32\n"))
    message = expect_error(Composer(copied_experiments), "seed=0")
    assert message == f"{file}: defaults: '_self_' is missing. Add it, usually as the last entry."
