"""Files of hierarchies and trees in data sets: composed runs, their ids, and errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from config.conftest import EXPERIMENTS
from protoseg.config.compose import Composer
from protoseg.config.fields import to_plain
from protoseg.config.hierarchy.files import read_hierarchy
from protoseg.config.hydra.folders import ConfigFolders
from protoseg.config.identity import read_spec, run_id, spec_digest
from protoseg.config.overrides import parse_overrides
from protoseg.config.schema import RunSpec
from protoseg.config.validation import check_values
from protoseg.errors import UsageError

TREE = {"ground": None, "round": ["disk", "ring"], "cornered": ["box", "triangle", "bar"]}
INLINE = "dataset.hierarchy={ground: null, round: [disk, ring], cornered: [box, triangle, bar]}"
METHODS = ("hierarchical", "prototype_hierarchical")
every_method = pytest.mark.parametrize("method", METHODS)
HIERARCHIES = [path.stem for path in sorted((EXPERIMENTS / "hierarchy").glob("*.yaml"))]
SIZES = {
    "camvid": (11, 7),
    "ccp": (59, 9, 2),
    "ccp_10": (10, 6, 2),
    "cityscapes": (19, 7),
    "lip": (20, 3, 2),
    "mapillary_v2": (124, 17, 7),
    "pascal_person_part": (7, 3, 2),
}
"""Nodes of each level, classes first."""


def compose(composer: Composer, *overrides: str) -> RunSpec:
    settings = [setting for _, several in parse_overrides(overrides) for setting in several]
    return composer.spec(settings, "test")


def read_tree(folder: Path, name: str, classes: tuple[str, ...]) -> Any:
    return read_hierarchy(ConfigFolders(folder), name, classes, "data set x: hierarchy")


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "hierarchy" / "mine.yaml"
    path.parent.mkdir()
    path.write_text(text, encoding="utf-8")
    return path


@every_method
def test_a_tree_by_name_and_in_the_data_set_give_one_id(
    method: str, copied_experiments: Path
) -> None:
    (copied_experiments / "hierarchy" / "mine.yaml").write_text(yaml.safe_dump(TREE))
    shapes = copied_experiments / "dataset" / "shapes.yaml"
    text = shapes.read_text()
    (copied_experiments / "dataset" / "named.yaml").write_text(text + "hierarchy: mine\n")
    nested = yaml.safe_dump({"hierarchy": TREE})
    (copied_experiments / "dataset" / "nested.yaml").write_text(text + nested)
    composer = Composer(copied_experiments)
    specs = [
        compose(composer, f"method={method}", *overrides)
        for overrides in (
            ("dataset=named",),
            ("dataset=nested",),
            ("dataset.hierarchy=mine",),
            (INLINE,),
            ("dataset=nested", "dataset.hierarchy=mine"),
        )
    ]
    assert len({run_id(spec) for spec in specs}) == 1
    paths = dict(zip(specs[0].dataset.classes, specs[0].dataset.hierarchy, strict=True))
    assert paths["ground"] == ("ground", "ground")
    assert paths["bar"] == ("cornered", "bar")
    again = read_spec(to_plain(specs[0], identity=True), "test")
    assert spec_digest(again) == spec_digest(specs[0])


@every_method
def test_another_tree_gives_another_id(method: str, composer: Composer) -> None:
    other = "dataset.hierarchy={a: [ground, disk, ring], b: [box, triangle, bar]}"
    ids = {run_id(compose(composer, f"method={method}", tree)) for tree in (INLINE, other)}
    assert len(ids) == 2


@pytest.mark.parametrize("method", ["paper", "parametric", "pixel_query"])
def test_a_tree_does_not_change_the_id_of_a_flat_method(method: str, composer: Composer) -> None:
    plain = compose(composer, f"method={method}")
    for tree in (INLINE, "dataset.hierarchy={a: [no class]}", "dataset.hierarchy=null"):
        assert compose(composer, f"method={method}", tree) == plain
    data = to_plain(plain)
    data["dataset"]["hierarchy"] = [["a", name] for name in plain.dataset.classes]
    assert spec_digest(read_spec(data, "test")) == spec_digest(plain)


@pytest.mark.parametrize("value", ["null", "''", "[]"])
def test_a_method_with_a_tree_needs_one(value: str, composer: Composer) -> None:
    spec = compose(composer, "method=hierarchical", f"dataset.hierarchy={value}")
    with pytest.raises(UsageError) as caught:
        check_values(spec, "test")
    assert str(caught.value) == (
        "test: method.kind: hierarchical needs a tree of classes, and shapes has none. Set "
        "dataset.hierarchy to a file of experiments/hierarchy."
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            ("class_weights=dataset", "dataset.class_weights=[1,1,1,1,1,2]"),
            "class_weights=dataset: has no effect, because the losses of hierarchical have no "
            "class weights. Set class_weights=none.",
        ),
        (
            ("+decoder.settings.loss_decode={type: DiceLoss}",),
            "decoder.settings.loss_decode: has no effect, because hierarchical replaces the loss "
            "of the decode head. Remove it.",
        ),
        (
            ("+decoder.settings.sampler={type: OHEMPixelSampler}",),
            "decoder.settings.sampler: has no effect, because hierarchical replaces the loss of "
            "the decode head. Remove it.",
        ),
    ],
)
def test_values_without_effect_are_refused(
    settings: tuple[str, ...], sentence: str, composer: Composer
) -> None:
    with pytest.raises(UsageError) as caught:
        check_values(compose(composer, "method=hierarchical", INLINE, *settings), "test")
    assert str(caught.value) == f"test: {sentence}"
    spec = compose(composer, "method=prototype_hierarchical", INLINE, *settings)
    check_values(spec, "test")  # L_CE uses them


def test_an_unknown_file_is_an_error_with_the_nearest_name(composer: Composer) -> None:
    with pytest.raises(UsageError) as caught:
        compose(composer, "method=hierarchical", "dataset.hierarchy=camvit")
    known = ", ".join(HIERARCHIES)
    assert str(caught.value) == (
        "data set shapes: hierarchy: unknown hierarchy 'camvit'. Did you mean 'camvid'? "
        f"Known: {known}."
    )


def test_a_tree_of_another_data_set_names_the_file(composer: Composer) -> None:
    with pytest.raises(UsageError, match=r"^hierarchy/camvid.yaml: .*no class of the data set"):
        compose(composer, "method=hierarchical", "dataset.hierarchy=camvid")


def test_texts_that_yaml_reads_as_values_are_names(tmp_path: Path) -> None:
    write(tmp_path, "on: [no, 1.50]\noff:\n'~': [yes]\n")
    parsed = read_tree(tmp_path, "mine", ("no", "1.50", "off", "yes"))
    assert parsed.hierarchy.paths == (("on", "no"), ("on", "1.50"), ("off", "off"), ("~", "yes"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: &x\n  b: *x\n", "a group contains itself (a cycle of aliases). Remove it."),
        ("a: [p, q]\na: [r]\n", "a: in one group twice. Keep one place."),
        ("a: [p, q]\n~: [r]\n", "a group has no name. Write its name before the colon."),
        ("? [a]\n: [p]\n", "a group has no name. Write its name before the colon."),
        ("a: [p\n", "cannot be read as YAML: "),
    ],
)
def test_a_file_that_is_no_tree_is_an_error(tmp_path: Path, text: str, sentence: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        read_tree(tmp_path, "mine", ("p", "q", "r"))
    assert str(caught.value).startswith(f"{path}: {sentence}")


def test_an_alias_that_is_no_cycle_is_a_class_in_two_places(tmp_path: Path) -> None:
    write(tmp_path, "a: &x [p, q]\nb: *x\n")
    with pytest.raises(UsageError, match=r"^hierarchy/mine.yaml: p, q: in the tree twice"):
        read_tree(tmp_path, "mine", ("p", "q"))


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "# nothing\n")
    with pytest.raises(UsageError, match=r"^hierarchy/mine.yaml: expected a list of classes"):
        read_tree(tmp_path, "mine", ("p", "q"))


@pytest.mark.parametrize("name", HIERARCHIES)
def test_each_file_fits_the_data_sets_that_name_it(name: str, composer: Composer) -> None:
    naming = [
        path.stem
        for path in sorted((EXPERIMENTS / "dataset").glob("*.yaml"))
        if (yaml.safe_load(path.read_text()) or {}).get("hierarchy") == name
    ]
    for dataset in naming:
        spec = compose(composer, "method=hierarchical", f"dataset={dataset}")
        tree = composer.hierarchies.find_tree(spec.dataset.classes, spec.dataset.name)
        assert tree.hierarchy.level_sizes == SIZES[name]
        assert tree.hierarchy.paths == spec.dataset.hierarchy
    content = yaml.safe_load((EXPERIMENTS / "hierarchy" / f"{name}.yaml").read_text())
    if not naming:  # of data sets that are not here: the classes of the file itself
        classes = tuple(list_leaves(content))
        tree = read_tree(EXPERIMENTS, name, classes)
        assert tree.hierarchy.level_sizes == SIZES[name]


def list_leaves(tree: Any) -> list[str]:
    if isinstance(tree, list):
        return list(tree)
    lists = [[name] if below is None else list_leaves(below) for name, below in tree.items()]
    return [leaf for leaves in lists for leaf in leaves]


def test_the_groups_of_cityscapes_are_those_of_hssn(composer: Composer) -> None:
    spec = compose(composer, "method=hierarchical", "dataset=cityscapes")
    numbers = composer.hierarchies.find_tree(
        spec.dataset.classes, spec.dataset.name
    ).hierarchy.ancestors[1]
    assert numbers == (0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 5, 6, 6, 6, 6, 6, 6)


def test_the_released_preset_has_the_pitfalls_and_the_default_has_not(composer: Composer) -> None:
    names = ("void", "triplet_sampling", "tree_loss", "inference", "ce_weight", "tree_weight")
    values = {}
    for preset in ("hierarchical", "hierarchical_released"):
        method = compose(composer, f"method={preset}", INLINE).method
        values[preset] = tuple(getattr(method, name) for name in names)
    assert values == {
        "hierarchical": ("ignored", "random", "focal_tree_min", "path", 0.0, 1.0),
        "hierarchical_released": ("class_zero", "raster", "tree_min", "softmax", 1.0, 5.0),
    }
