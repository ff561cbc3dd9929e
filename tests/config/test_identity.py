"""The identity of a run: which settings it covers, and golden values that detect a change."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protoseg.config.compose import Composer
from protoseg.config.fields import added, build, field_types, items, number, size, to_plain
from protoseg.config.hydra.hydra_schemas import config_groups
from protoseg.config.identity import (
    canonical_json,
    make_slug,
    read_spec,
    run_id,
    run_id_pattern,
    spec_digest,
)
from protoseg.config.load_matrix import load_matrix
from protoseg.config.methods import ContrastSpec, MethodSpec
from protoseg.config.overrides import Setting
from protoseg.config.schema import METHOD_VERSION, DatasetSpec, RunSpec
from protoseg.errors import UsageError

ADVICE = """
The identity of a run has changed. Records with the old identity are no longer found, so every run
of every table would be trained again. If the results change too, raise METHOD_VERSION in
protoseg/config/schema.py, add the reason to its history, and update the values here. If they do
not (a new field whose default changes nothing), declare the field with `added`, which omits it
from the identity: finished runs then stay finished.
"""

QUICKSTART = {
    "shapes_64-tiny-segformer-parametric-k1-s0-cc78f2f32b": (
        "cc78f2f32b53b127d2cb6cea6f3bd11eae2b069e94d2418e1e98c582a7684a98"
    ),
    "shapes_64-tiny-segformer-prototype-k1-s1-ddf8e084dc": (
        "ddf8e084dce7d9f370f434a5083eee6d4238caa95dee3bf26d6ef539e9c5be04"
    ),
    "shapes_64-tiny-segformer-prototype-k4-s2-a837956bf4": (
        "a837956bf49a283eca6d6f230ded2cdb74cd4323c037714ad2303873663ef590"
    ),
}
QUICKSTART_400 = {
    "shapes_64-tiny-segformer-parametric-k1-s0-87e063d6d8": (
        "87e063d6d84e990831dd81676fe9b809910255320410bafa9212492e3dfee669"
    ),
    "shapes_64-tiny-segformer-prototype-k1-s1-40cac72167": (
        "40cac7216773d71ac58a661273cc2266822c30151903853a98204fd6c4b85065"
    ),
    "shapes_64-tiny-segformer-prototype-k4-s2-59c6a576d0": (
        "59c6a576d05d08accada08281c36f66b009eb9a259f511f6b08f7550096505dc"
    ),
}
QUICKSTART_2026_11 = {
    "shapes-tiny-segformer-parametric-k1-s0-52c0f4a8f5": (
        "52c0f4a8f52d2ef34f391ebe6e485ecf226fcec852c047cc4a8b4367bb8958e2"
    ),
    "shapes-tiny-segformer-prototype-k1-s1-8595ba5c51": (
        "8595ba5c5146c10085237d1093265e2ea678e4ec9d5833bf7914710da707673a"
    ),
    "shapes-tiny-segformer-prototype-k4-s2-34912c813c": (
        "34912c813c1dcaf895a12f68f3a5561fab9605649b1da0d0627691cb60d2e338"
    ),
}
CAMVID_METHODS = {
    "camvid-mobilenet_v2-segformer-parametric-k1-s0-a7cb9290eb": (
        "a7cb9290eb538634a34619ff0be8e3acfa1b094f20e54ded8ec4352a081cb1a4"
    ),
    "camvid-mobilenet_v2-segformer-parametric-k10-s0-526678214f": (
        "526678214f2517b7f817a0dba6198c1fbc4907cb2c4fcf78c96a8dec13b16de7"
    ),
    "camvid-mobilenet_v2-segformer-prototype-k1-s0-8239b9fa86": (
        "8239b9fa865a19fd9374a9a4c568fede1c6e87165ffc19b0c8c5c62589ce196c"
    ),
    "camvid-mobilenet_v2-segformer-prototype-k10-s0-38baea9ee3": (
        "38baea9ee3a2c3dcce87f6a45b0df49521961be1b25eae20e70e7c1dde75a33c"
    ),
    "camvid-mobilenet_v2-segformer-prototype-k1-s0-f4f1d6ede3": (
        "f4f1d6ede359d9c3fca77236af83e564ce718b4e7936829483632986252bd3b5"
    ),
    "camvid-mobilenet_v2-segformer-prototype-k10-s0-4782fd5970": (
        "4782fd59703b896b8b42179053607ef1bbca05d1748429fb08ed66acdbbbc959"
    ),
    "camvid-mobilenet_v2-segformer-prototype-k1-s0-9b4621b624": (
        "9b4621b624ab1f9cfeef43b1b50112fa24eb6bebb8a12ceacfa47bbc1a0b7752"
    ),
    "camvid-mobilenet_v2-segformer-prototype-k10-s2-c5b007f448": (
        "c5b007f44832b1fd2bdda85a73a31533b424fe8625790c10bc299415778bb76e"
    ),
}


@pytest.mark.parametrize(
    ("matrix", "golden"),
    [
        ("quickstart", QUICKSTART),
        # The quickstart of earlier versions: the ids of its runs do not change.
        (str(Path(__file__).with_name("quickstart_400.yaml")), QUICKSTART_400),
        (str(Path(__file__).with_name("quickstart_2026_11.yaml")), QUICKSTART_2026_11),
        ("camvid_methods", CAMVID_METHODS),
    ],
    ids=["quickstart", "quickstart_400", "quickstart_2026_11", "camvid_methods"],
)
def test_ids_and_digests_equal_the_golden_values(
    composer: Composer, matrix: str, golden: Mapping[str, str]
) -> None:
    runs = {run.run_id: spec_digest(run.spec) for run in load_matrix(composer, matrix).runs}
    for name, digest in golden.items():
        assert runs.get(name) == digest, f"{name} of {matrix} is missing.{ADVICE}"


def shuffle_keys(value: Any, rng: random.Random) -> Any:
    """The same data with the keys of every mapping in random order."""
    if isinstance(value, dict):
        names = list(value)
        rng.shuffle(names)
        return {name: shuffle_keys(value[name], rng) for name in names}
    return [shuffle_keys(v, rng) for v in value] if isinstance(value, list) else value


def test_the_order_of_keys_does_not_change_the_identity(spec: RunSpec) -> None:
    for seed in range(5):
        other = read_spec(shuffle_keys(to_plain(spec), random.Random(seed)), "test")
        assert canonical_json(other) == canonical_json(spec)
        assert run_id(other) == run_id(spec)


@pytest.mark.parametrize(
    ("key", "spellings"),
    [
        ("method.ce_weight", [1, 1.0, "1", "1.0", "1e0"]),
        ("schedule.learning_rate", [0.001, "1e-3", "0.001"]),
        ("method.ppc_weight", [0, 0.0, -0.0, "-0"]),
        ("augmentation.ratio_range", [[1, 2], [1.0, 2.0], (1, 2.0)]),
        ("augmentation.crop_size", [[96, 64], (96, 64)]),
    ],
)
def test_the_notation_of_a_number_does_not_change_the_identity(
    composer: Composer, key: str, spellings: list[Any]
) -> None:
    specs = [composer.spec([Setting(key, value)], "test") for value in spellings]
    assert len({spec_digest(spec) for spec in specs}) == 1


@pytest.mark.parametrize("value", [1.0, "1", True, None, "one"])
def test_a_count_must_be_a_whole_number(composer: Composer, value: Any) -> None:
    with pytest.raises(UsageError, match=r"method\.num_prototypes: expected a whole number, found"):
        composer.spec([Setting("method.num_prototypes", value)], "test")


def test_a_spec_and_its_parts_are_frozen(spec: RunSpec) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.seed = 3  # type: ignore[misc]
    for part in config_groups():
        first = dataclasses.fields(getattr(spec, part))[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(getattr(spec, part), first, "other")


def test_the_canonical_json_has_every_field_except_added_ones(composer: Composer) -> None:
    for method in MethodSpec.variants:
        option = {"prototype": "paper"}.get(method, method)
        written = json.loads(canonical_json(composer.spec([Setting("method", option)], "test")))
        assert set(written) == original_fields(RunSpec)
        for group, cls in config_groups().items():
            cls = MethodSpec.variants[method] if group == "method" else cls
            if group not in original_fields(RunSpec):
                continue
            assert set(written[group]) == original_fields(cls)
        assert written["method_version"] == METHOD_VERSION


def original_fields(cls: type) -> set[str]:
    """Names of the fields that every canonical JSON has."""
    return {f.name for f in dataclasses.fields(cls) if not f.metadata.get("added")}


@dataclasses.dataclass(frozen=True)
class ExtendedSpec:
    """A spec with three fields that were added after records had been written."""

    old: int
    level: Literal["a", "b"] = added("a")
    rate: float = added(0.5, low=0)
    extra: dict[str, Any] = added({})  # noqa: RUF009


def test_an_added_field_does_not_change_the_identity_of_older_specs() -> None:
    assert canonical_json(ExtendedSpec(1)) == '{"old":1}'
    assert (
        canonical_json(build(ExtendedSpec, {"old": 1, "level": "a", "extra": {}}, "x"))
        == '{"old":1}'
    )
    assert json.loads(canonical_json(ExtendedSpec(1, level="b", extra={"c": 2}))) == {
        "old": 1, "level": "b", "extra": {"c": 2},
    }  # fmt: skip
    assert to_plain(ExtendedSpec(1)) == {"old": 1, "level": "a", "rate": 0.5, "extra": {}}
    with pytest.raises(UsageError, match=r"rate: -1\.0 is out of range"):
        build(ExtendedSpec, {"old": 1, "rate": -1.0}, "x")


def test_the_digest_of_weights_is_dropped_without_weights(spec: RunSpec) -> None:
    with_digest = dataclasses.replace(spec.backbone, weights="", weights_sha256="a775c280")
    assert spec_digest(dataclasses.replace(spec, backbone=with_digest)) == spec_digest(spec)


def test_contrast_settings_do_not_change_the_identity_at_weight_0(composer: Composer) -> None:
    off = [
        [],
        [Setting("contrast", "pixel"), Setting("contrast.weight", 0)],
        [Setting("contrast.weight", 0), Setting("contrast.pixel_queue", 7)],
    ]
    specs = [composer.spec(settings, "test") for settings in off]
    assert len(set(map(spec_digest, specs))) == 1
    assert "contrast" not in json.loads(canonical_json(specs[0]))
    on = composer.spec([Setting("contrast", "pixel")], "test")
    assert spec_digest(on) != spec_digest(specs[0])
    assert on.contrast == ContrastSpec(weight=0.1)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        (
            "contrast.pixel_queue",
            7,
            r"test: contrast\.pixel_queue: has no effect, because contrast",
        ),
        (
            "backbone.weights_sha256",
            "a7",
            r"has no effect, because backbone\.weights names no file",
        ),
    ],
)
def test_a_setting_without_effect_is_refused(
    composer: Composer, key: str, value: object, sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        composer.spec([Setting(key, value)], "test")


def draw_values(field_type: Any, bounds: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Strategy for the values that a field of this type accepts."""
    origin, arguments = typing.get_origin(field_type), typing.get_args(field_type)
    if dataclasses.is_dataclass(field_type):
        return draw_part(field_type)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is types.UnionType:
        return st.none() | draw_values(arguments[0], bounds)
    if origin is tuple:
        each = draw_values(arguments[0], bounds)
        lengths = bounds.get("lengths")
        if lengths:
            return st.one_of(*(st.lists(each, min_size=n, max_size=n) for n in lengths))
        if arguments[-1] is not Ellipsis:
            return st.lists(each, min_size=len(arguments), max_size=len(arguments))
        unique = bool(bounds.get("distinct"))
        return st.lists(each, min_size=bool(bounds.get("nonempty")), max_size=5, unique=unique)
    if origin is dict:
        inner = {int: st.integers(0, 9), str: st.text(max_size=5)}.get(arguments[1], _json)
        return st.dictionaries(st.text(max_size=5), inner, max_size=3)
    limits = (bounds.get("low"), bounds.get("high"))
    low, high = (b if b is not None and math.isfinite(b) else None for b in limits)
    if field_type is int:
        return st.integers(low if low is not None else -5, high if high is not None else 10**6)
    if field_type is float:
        return st.floats(
            low,
            high,
            allow_nan=False,
            allow_infinity=False,
            exclude_min=low is not None and bool(bounds.get("open_low")),
        )
    return st.booleans() if field_type is bool else st.text(max_size=12)


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)


def draw_part(cls: Any) -> st.SearchStrategy[dict[str, Any]]:
    fields = {
        f.name: draw_values(field_types(cls)[f.name], f.metadata) for f in dataclasses.fields(cls)
    }
    if issubclass(cls, MethodSpec):
        fields["kind"] = st.just(cls.kind)
    drawn = st.fixed_dictionaries(fields)
    return drawn.map(fit_classes) if cls is DatasetSpec else drawn


def fit_classes(dataset: dict[str, Any]) -> dict[str, Any]:
    """One weight for each class, or none; as many pairs as drawn, of classes that exist."""
    weights, classes = dataset["class_weights"], dataset["classes"]
    pairs = list(zip(classes[1::2], classes[::2], strict=False))[: len(dataset["flip_pairs"])]
    repeated = (weights * len(classes))[: len(classes)]
    return {**dataset, "class_weights": repeated, "flip_pairs": [*map(list, pairs)]}


def draw_spec_data() -> st.SearchStrategy[dict[str, Any]]:
    parts = {name: draw_part(cls) for name, cls in config_groups().items() if cls is not MethodSpec}
    parts["method"] = st.one_of(*(draw_part(cls) for cls in MethodSpec.variants.values()))
    return st.fixed_dictionaries(
        {
            **parts,
            "precision": st.sampled_from(["fp32", "fp16", "bf16"]),
            "class_weights": st.sampled_from(["none", "dataset"]),
            "seed": st.integers(0, 2**31 - 1),
            "method_version": st.integers(1, 5),
        }
    )


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(draw_spec_data())
def test_a_spec_read_back_from_json_is_equal(data: dict[str, Any]) -> None:
    spec = read_spec(data, "test")
    text = canonical_json(spec)
    read_back = read_spec(json.loads(text), "test")
    assert read_back == spec
    assert canonical_json(read_back) == text
    assert text.isascii()
    assert run_id_pattern().fullmatch(run_id(spec)), run_id(spec)
    assert len(run_id(spec)) < 120


def test_a_run_id_names_data_set_network_method_and_seed(composer: Composer) -> None:
    settings_ = [Setting("dataset", "camvid"), Setting("method.num_prototypes", 5)]
    spec = dataclasses.replace(composer.spec(settings_, "test"), seed=7)
    assert make_slug(spec) == "camvid-tiny-segformer-prototype-k5-s7"
    assert run_id(spec) == f"{make_slug(spec)}-{spec_digest(spec)[:10]}"


def test_a_run_id_is_a_valid_file_name(composer: Composer) -> None:
    name = "../Ünï code/'; rm -rf ~ #$(x)"
    spec = composer.spec([Setting("dataset.name", name)], "test")
    assert run_id_pattern().fullmatch(run_id(spec)), run_id(spec)
    assert make_slug(spec) == "n-code-rm-rf-x-tiny-segformer-prototype-k10-s0"
    assert composer.spec([Setting("dataset.name", "ü")], "test") != composer.spec(
        [Setting("dataset.name", "ö")], "test"
    )


def test_the_readable_part_of_a_run_id_has_at_most_100_characters(composer: Composer) -> None:
    end = "-tiny-segformer-prototype-k10-s0"
    for length in (100 - len(end), 101 - len(end), 150):
        name = "a" * length
        slug = make_slug(composer.spec([Setting("dataset.name", name)], "test"))
        assert slug == f"{name}{end}"[:100]


@dataclasses.dataclass(frozen=True)
class BoundedSpec:
    """One field for each way in which a field limits its values."""

    repeated: tuple[int, ...] = items()
    distinct: tuple[str, ...] = items(distinct=True)
    size: tuple[int, ...] = size()
    pair: tuple[float, float] = number((1.0, 2.0), low=0)
    whole: int = number(1, low=1, high=3)
    real: float = number(0.0, low=-0.5, high=0.5)
    positive: float = number(1.0, low=0, open_low=True)
    unlimited: float = number(0.0)
    optional: int | None = number(None, low=2)
    later: int = added(2, low=2, high=4)
    later_unlimited: float = added(0.0)
    free: dict[str, Any] = added({})  # noqa: RUF009


@pytest.mark.parametrize(
    ("name", "accepted", "refused"),
    [
        ("repeated", [[5], [5, 5], (5, 6, 7)], [[], 5, "5", None, [1.5]]),
        ("distinct", [["a"], ["a", "b"]], [[], ["a", "a"], ["a", "b", "a"]]),
        ("size", [[], [1, 1], [2, 9]], [[1], [1, 1, 1], [0, 1], [1, 0]]),
        ("pair", [[0.0, 0.0], [1.0, 5.0]], [[], [1.0], [1.0, 2.0, 3.0], [-0.5, 1.0]]),
        ("whole", [1, 2, 3], [0, 4, 1.0, True, "2", None]),
        ("real", [-0.5, 0.0, 0.5], [-0.51, 0.51, math.nan, math.inf, -math.inf, True, None]),
        ("positive", [1e-300, 1e300], [0.0, -1e-300, math.nan, math.inf]),
        ("unlimited", [-1e300, 1e300], [math.nan, math.inf, -math.inf]),
        ("optional", [None, 2, 3], [1, "2", False]),
        ("later", [2, 3, 4], [1, 5]),
        ("later_unlimited", [-1e300, 1e300], [math.nan]),
        ("free", [{}, {"a": [None, True, 1, 0.5, "x", {"b": []}]}], [5, {"a": {1}}, {"a": 1j}]),
    ],
)
def test_a_field_accepts_exactly_the_values_within_its_limits(
    name: str, accepted: list[Any], refused: list[Any]
) -> None:
    data = {"repeated": [1], "distinct": ["a"]}
    for value in accepted:
        built = getattr(build(BoundedSpec, {**data, name: value}, "x"), name)
        assert built == (tuple(value) if isinstance(value, list) else value)
    for value in refused:
        with pytest.raises(UsageError, match=rf"^x\.{name}\b"):
            build(BoundedSpec, {**data, name: value}, "x")


def test_a_field_without_a_value_takes_its_default() -> None:
    built = build(BoundedSpec, {"repeated": [1], "distinct": ["a"]}, "x")
    assert built == BoundedSpec((1,), ("a",))
    assert to_plain(built) == {
        "repeated": [1], "distinct": ["a"], "size": [], "pair": [1.0, 2.0], "whole": 1,
        "real": 0.0, "positive": 1.0, "unlimited": 0.0, "optional": None,
        "later": 2, "later_unlimited": 0.0, "free": {},
    }  # fmt: skip
    with pytest.raises(UsageError, match=r"^x\.distinct: a value is required, but none is set\.$"):
        build(BoundedSpec, {"repeated": [1]}, "x")


def test_a_spec_with_an_unknown_key_is_refused(spec: RunSpec) -> None:
    data = to_plain(spec)
    data["schedule"]["colour"] = "red"
    with pytest.raises(UsageError, match=r"^run\.json\.schedule: unknown key 'colour'\."):
        read_spec(data, "run.json")
    with pytest.raises(UsageError, match=r"^run\.json: expected a mapping of settings, found 3\.$"):
        read_spec(3, "run.json")
