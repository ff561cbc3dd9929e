"""The draw of a holdout, its identity, and the settings that are refused before training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from protoseg.config.compose import Composer
from protoseg.config.fields import to_plain
from protoseg.config.holdout.draw import HoldoutDraw, draw_holdout
from protoseg.config.holdout.problems import find_holdout_problems
from protoseg.config.holdout.settings import HoldoutSpec, describe_holdout
from protoseg.config.identity import canonical_json, read_spec, run_id
from protoseg.config.overrides import Setting
from protoseg.config.schema import RunSpec
from protoseg.config.validation import check_values
from protoseg.errors import UsageError

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SEQUENCES = {"0001TP": 62, "0006R0": 101, "0016E5": 204}
"""Name -> number of frames, as in the training split of CamVid."""
FRAMES = [f"{name}_{frame:05}" for name, count in SEQUENCES.items() for frame in range(count)]
PATTERN = "^([^_]+)_"
RULE = HoldoutSpec(share=0.2, blocks=30, gap=10)
GOLDEN = (
    [
        ("0001TP_00030", "0001TP_00059"),
        ("0006R0_00088", "0016E5_00016"),
        ("0016E5_00107", "0016E5_00136"),
    ],
    [("0001TP_00000", "0001TP_00059"), ("0006R0_00088", "0016E5_00016")],
    [
        ("0001TP_00030", "0001TP_00061"),
        ("0016E5_00000", "0016E5_00029"),
        ("0016E5_00180", "0016E5_00203"),
    ],
    [("0016E5_00000", "0016E5_00203")],
)
"""Held-out frames of `FRAMES`, computed by another program: by blocks with seeds 0 and 7, by blocks
within the sequences, and by sequences."""


@st.composite
def draw_case(draw: st.DrawFn) -> tuple[list[str], HoldoutSpec, HoldoutDraw]:
    """Names in the order of groups and frames, settings, and their draw."""
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    names = [f"v{group}_{frame:03}" for group, size in enumerate(sizes) for frame in range(size)]
    blocks = draw(st.integers(0, 12))
    holdout = HoldoutSpec(
        share=draw(st.floats(0.01, 0.6)),
        blocks=blocks,
        gap=draw(st.integers(0, 6)) if blocks else 0,
        pattern=PATTERN if not blocks or draw(st.booleans()) else "",
        seed=draw(st.integers(0, 2**31 - 1)),
    )
    try:
        return names, holdout, draw_holdout(names, holdout)
    except UsageError:
        assume(False)
        raise


@settings(max_examples=200, deadline=None)
@given(draw_case(), st.randoms())
def test_a_draw_uses_each_image_once_and_reaches_the_share(
    case: tuple[list[str], HoldoutSpec, HoldoutDraw], random: Any
) -> None:
    names, holdout, draw = case
    parts = (draw.train, draw.holdout, draw.gap)
    assert sorted(index for part in parts for index in part) == list(range(len(names)))
    assert all(list(part) == sorted(part) for part in parts)
    assert draw.train
    assert len(draw.holdout) >= holdout.share * len(names) - 1e-9
    group_of = [name.partition("_")[0] if holdout.pattern else "" for name in names]
    for index in draw.holdout:  # no training image of the group within the gap
        near = range(max(0, index - holdout.gap), min(len(names), index + holdout.gap + 1))
        assert not [i for i in near if i in draw.train and group_of[i] == group_of[index]]
    for index in draw.gap:  # an image is left out only beside a held-out one of its group
        assert any(
            abs(index - other) <= holdout.gap and group_of[index] == group_of[other]
            for other in draw.holdout
        )
    if not holdout.blocks:
        assert not {group_of[i] for i in draw.train} & {group_of[i] for i in draw.holdout}
    order = list(range(len(names)))
    random.shuffle(order)
    again = draw_holdout([names[index] for index in order], holdout)
    assert sorted(order[index] for index in again.holdout) == list(draw.holdout)
    assert sorted(order[index] for index in again.train) == list(draw.train)


@pytest.mark.parametrize(
    ("size", "starts"), [(60, [0, 30]), (62, [0, 30]), (44, [0]), (45, [0, 30]), (20, [0])]
)
def test_a_group_is_cut_into_blocks_and_the_last_one_has_the_rest(
    size: int, starts: list[int]
) -> None:
    """Held-out blocks of many seeds, each drawn alone beside a large other group."""
    names = [f"a_{frame:03}" for frame in range(size)] + [f"b_{frame:03}" for frame in range(300)]
    blocks = set()
    for seed in range(60):
        holdout = HoldoutSpec(share=0.001, blocks=30, pattern=PATTERN, seed=seed)
        held = draw_holdout(names, holdout).holdout
        if held[0] < size:
            blocks.add((held[0], held[-1] + 1))
    assert blocks == set(zip(starts, [*starts[1:], size], strict=True))


def summarise(draw: HoldoutDraw) -> list[tuple[str, str]]:
    """First and last name of each run of consecutive held-out images."""
    held = set(draw.holdout)
    starts = [FRAMES[i] for i in draw.holdout if i - 1 not in held]
    return list(zip(starts, [FRAMES[i] for i in draw.holdout if i + 1 not in held], strict=True))


def test_draws_have_pinned_values() -> None:
    """Another draw would change the results of every run with a holdout."""
    draw = draw_holdout(FRAMES, RULE)
    assert summarise(draw) == GOLDEN[0]
    assert (len(draw.train), len(draw.holdout), len(draw.gap)) == (217, 90, 60)
    assert summarise(draw_holdout(FRAMES, dataclasses.replace(RULE, seed=7))) == GOLDEN[1]
    within = dataclasses.replace(RULE, pattern=PATTERN)
    assert summarise(draw_holdout(FRAMES, within)) == GOLDEN[2]
    groups = HoldoutSpec(share=0.2, pattern=PATTERN)
    assert summarise(draw_holdout(FRAMES, groups)) == GOLDEN[3]


def test_a_share_is_reached_by_its_rounded_quotient() -> None:
    """0.07 × 100 is above 7 in floating point."""
    names = [f"{number:03}" for number in range(100)]
    assert len(draw_holdout(names, HoldoutSpec(share=0.07, blocks=1)).holdout) == 7


@pytest.mark.parametrize(
    ("holdout", "sentence"),
    [
        (HoldoutSpec(share=0.2, pattern="(TP)"), "'\\(TP\\)' does not fit 305 of 367 names: 0006R"),
        (HoldoutSpec(share=0.2, pattern="^(.)"), "all 367 training images are in one block or"),
        (HoldoutSpec(share=0.95, pattern=PATTERN), "the share needs all 3 blocks or groups"),
        (HoldoutSpec(share=0.8, blocks=30, gap=99), "and their gaps have the others, so none is"),
    ],
)
def test_a_draw_that_leaves_nothing_or_misses_names_is_refused(
    holdout: HoldoutSpec, sentence: str
) -> None:
    with pytest.raises(UsageError, match=f"evaluation.holdout.*{sentence}"):
        draw_holdout(FRAMES, holdout)


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer(EXPERIMENTS)


def compose(composer: Composer, **values: Any) -> RunSpec:
    """A run on CamVid with these values of the holdout."""
    settings_ = [Setting("dataset", "camvid"), Setting("evaluation.split", "holdout")]
    settings_ += [Setting(f"evaluation.holdout.{key}", value) for key, value in values.items()]
    return composer.spec(settings_, "test")


def test_an_unset_holdout_is_no_part_of_the_identity(composer: Composer) -> None:
    spec = composer.spec([Setting("dataset", "camvid")], "test")
    assert not spec.evaluation.holdout.is_set
    assert "holdout" not in canonical_json(spec)
    unset = composer.spec([Setting("dataset", "camvid"), Setting("evaluation.holdout", {})], "test")
    assert run_id(unset) == run_id(spec)


def test_each_field_of_a_holdout_gives_another_id(composer: Composer) -> None:
    base = {"share": 0.2, "blocks": 30, "gap": 10, "pattern": PATTERN, "seed": 0}
    changes = {"share": 0.3, "blocks": 20, "gap": 5, "pattern": "^(.+)_", "seed": 1}
    ids = {run_id(compose(composer, **{**base, key: changes[key]})) for key in base}
    ids |= {run_id(compose(composer, **base)), run_id(compose(composer, list="held.txt"))}
    ids |= {run_id(compose(composer, list="held.txt", list_sha256="ab12"))}
    ids |= {run_id(composer.spec([Setting("dataset", "camvid")], "test"))}
    assert len(ids) == len(base) + 4
    assert {*base, "list", "list_sha256"} == {f.name for f in dataclasses.fields(HoldoutSpec)}
    assert compose(composer, **base, list_sha256="ab12") == compose(composer, **base)


def test_a_holdout_is_read_back_from_json_and_from_one_mapping(composer: Composer) -> None:
    spec = compose(composer, share=0.2, blocks=30, gap=10)
    assert read_spec(to_plain(spec, identity=True), "test") == spec
    mapping = {"share": 0.2, "blocks": 30, "gap": 10}
    settings_ = [Setting("dataset", "camvid"), Setting("evaluation.split", "holdout")]
    assert composer.spec([*settings_, Setting("evaluation.holdout", mapping)], "test") == spec


def test_an_option_of_the_group_evaluation_may_set_a_holdout(tmp_path: Path) -> None:
    for path in EXPERIMENTS.rglob("*.yaml"):
        copied = tmp_path / path.relative_to(EXPERIMENTS)
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_bytes(path.read_bytes())
    text = "defaults: [schema, _self_]\nsplit: holdout\nholdout: {share: 0.2, blocks: 30}\n"
    (tmp_path / "evaluation" / "held.yaml").write_text(text)
    spec = Composer(tmp_path).spec([Setting("evaluation", "held")], "test")
    assert spec.evaluation.holdout == HoldoutSpec(share=0.2, blocks=30)
    check_values(spec, "test")


@pytest.mark.parametrize(
    ("holdout", "text"),
    [
        (RULE, "holdout (20% of train, blocks of 30, gap 10, seed 0)"),
        (
            dataclasses.replace(RULE, pattern=PATTERN, seed=3),
            f"holdout (20% of train, blocks of 30 within groups by {PATTERN}, gap 10, seed 3)",
        ),
        (
            HoldoutSpec(share=0.125, pattern=PATTERN),
            f"holdout (12.5% of train, groups by {PATTERN}, seed 0)",
        ),
        (HoldoutSpec(list="held.txt"), "holdout (images of train in held.txt)"),
    ],
)
def test_a_description_names_share_rule_and_seed(holdout: HoldoutSpec, text: str) -> None:
    assert describe_holdout(holdout, "train") == text


@pytest.mark.parametrize(
    ("split", "values", "sentence"),
    [
        ("holdout", {}, "evaluation.split: holdout needs settings of the holdout. Set evaluation"),
        ("val", {"share": 0.2, "blocks": 30}, "holds out images, but evaluation.split is val. Set"),
        ("holdout", {"share": 1.0, "blocks": 30}, "share: 1.0 is out of range; allowed: greater"),
        ("holdout", {"blocks": 30}, "share: 0.0 is out of range; allowed: greater than 0 and"),
        ("holdout", {"share": 0.2}, "needs a rule that groups the images. Set blocks, e.g."),
        ("holdout", {"share": 0.2, "pattern": PATTERN, "gap": 3}, "gap: has no effect without"),
        ("holdout", {"share": 0.2, "pattern": "(", "blocks": 9}, "'(' is no regular expression"),
        ("holdout", {"share": 0.2, "pattern": "a"}, "'a' has no group. Put the part of the name"),
        ("holdout", {"list": "a", "blocks": 3}, "list names the images, so blocks would have no"),
        ("holdout", {"list": "a", "share": 0.1, "seed": 2}, "so share and seed would have no"),
        ("holdout", {"share": 0.2, "blocks": 300}, "all 367 training images are in one block"),
        ("holdout", {"share": 0.9, "blocks": 30, "gap": 99}, "none is left to train on. Choose"),
    ],
)
def test_contradictory_settings_are_refused_before_training(
    composer: Composer, split: str, values: dict[str, Any], sentence: str
) -> None:
    spec = compose(composer, **values)
    spec = dataclasses.replace(spec, evaluation=dataclasses.replace(spec.evaluation, split=split))
    (problem,) = find_holdout_problems(spec.dataset, spec.evaluation)
    assert sentence in problem
    with pytest.raises(UsageError) as error:
        check_values(spec, "matrix.yaml")
    assert str(error.value) == f"matrix.yaml: {problem}"


def test_a_share_above_one_and_unknown_keys_are_refused(composer: Composer) -> None:
    with pytest.raises(UsageError, match=r"evaluation\.holdout\.share: 1\.5 is out of range"):
        compose(composer, share=1.5, blocks=30)
    with pytest.raises(UsageError, match=r"unknown key 'block'\. Did you mean 'blocks'\?"):
        compose(composer, share=0.2, block=30)


def test_a_split_in_the_files_may_be_called_holdout(composer: Composer) -> None:
    own = Setting("dataset.counts", {"train": 300, "holdout": 67})
    settings_ = [Setting("dataset", "camvid"), own, Setting("evaluation.split", "holdout")]
    check_values(composer.spec(settings_, "test"), "test")
    both = composer.spec([*settings_, Setting("evaluation.holdout", {"list": "a.txt"})], "test")
    with pytest.raises(UsageError, match="has a split 'holdout' in its files, so the name is amb"):
        check_values(both, "test")
