"""Methods and types with full names: import, error messages, and identity of the run."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protoseg.config import plugins
from protoseg.config.compose import Composer
from protoseg.config.fields import build, to_plain
from protoseg.config.identity import read_spec, run_id, spec_digest
from protoseg.config.load_matrix import load_matrix
from protoseg.config.methods import MethodSpec
from protoseg.config.overrides import parse_overrides
from protoseg.config.schema import RunSpec
from protoseg.errors import UsageError

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
METHOD = """
from dataclasses import dataclass
from typing import ClassVar
from protoseg.config.fields import number
from protoseg.config.methods import MethodSpec

@dataclass(frozen=True)
class Mine(MethodSpec):
    kind: str = "outsider.method.Mine"
    head: ClassVar[str] = "outsider.head.MineHead"
    sharpness: float = number(2.0, low=0)
"""
Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write modules of a package ``outsider`` that can be imported until the test ends."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(MethodSpec, "variants", dict(MethodSpec.variants))
    (tmp_path / "outsider").mkdir()

    def module(name: str, text: str) -> None:
        (tmp_path / "outsider" / f"{name}.py").write_text(text)

    yield module
    for name in [n for n in sys.modules if n.partition(".")[0] == "outsider"]:
        del sys.modules[name]


def compose(*texts: str, composer: Composer | None = None) -> RunSpec:
    settings = [s for _, several in parse_overrides(texts) for s in several]
    return (composer or Composer(EXPERIMENTS)).spec(settings, "test")


def replace_method(spec: RunSpec) -> RunSpec:
    """The spec with the method ``outsider.method.Mine``."""
    data = to_plain(spec)
    data["method"] = {"kind": "outsider.method.Mine"}
    return read_spec(data, "run.json")


def test_a_method_of_another_package_works_in_matrices_ids_and_errors(
    write: Write, tmp_path: Path
) -> None:
    write("method", METHOD)
    experiments = tmp_path / "experiments"
    experiments.mkdir()
    for path in EXPERIMENTS.iterdir():
        (experiments / path.name).symlink_to(path)
    (experiments / "method").unlink()
    (experiments / "method").mkdir()
    (experiments / "method/paper.yaml").symlink_to(EXPERIMENTS / "method/paper.yaml")
    (experiments / "method/mine.yaml").write_text("kind: outsider.method.Mine\n")
    # Only this method has the key of the axis, and its module is not imported yet.
    (tmp_path / "m.yaml").write_text(
        "base: {method: mine}\ngrid: {method.sharpness: [1, 3]}\nseeds: [0, 1]\n"
    )
    assert "outsider.method" not in sys.modules
    matrix = load_matrix(Composer(experiments), str(tmp_path / "m.yaml"))
    assert len(matrix.runs) == 4
    spec = matrix.runs[0].spec
    assert to_plain(spec.method) == {"kind": "outsider.method.Mine", "sharpness": 1.0}
    assert run_id(spec).startswith("shapes-tiny-segformer-mine-s0-")
    assert read_spec(to_plain(spec, identity=True), "run.json") == spec
    assert len({spec_digest(run.spec) for run in matrix.runs}) == 4
    assert plugins.list_packages(spec) == ["outsider"]
    composer = Composer(experiments)
    with pytest.raises(UsageError, match=r"method\.sharpness: -1\.0 is out of range"):
        compose("method=mine", "method.sharpness=-1", composer=composer)
    with pytest.raises(UsageError, match=r"Did you mean 'method\.sharpness'\?"):
        compose("method=mine", "method.sharpnes=1", composer=composer)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, r"outsider\.method cannot be imported \(ModuleNotFoundError: No module named "),
        ("import nowhere_at_all", r"cannot be imported \(ModuleNotFoundError: .*method\.py, line"),
        ("def f(:", r"cannot be imported \(SyntaxError: .*line 1\)\)\. Install the package"),
        ("1 / 0", r"cannot be imported \(ZeroDivisionError: .*method\.py, line 1\)"),
        ("class Other: pass", r"unknown class of outsider\.method 'Mine'\. Known: Other\."),
        ("class Mine: pass", r"'outsider\.method\.Mine' is not a method; derive the class from "),
        (METHOD.replace("@dataclass(frozen=True)", ""), r"put @dataclass\(frozen=True\) before"),
        (METHOD.replace("    head:", "    tail:"), r"has no head; write head: ClassVar\[str\]"),
        (
            METHOD + '    task: ClassVar[str] = "weekly"\n',
            r"Mine: unknown task 'weekly'\. Did you mean 'weak'\? Known: segmentation, weak\.",
        ),
        (
            METHOD.replace("outsider.method.Mine", "prototype"),
            r"write kind: str = \"outsider\.meth",
        ),
    ],
)
def test_an_invalid_method_of_another_package_gives_one_sentence(
    write: Write, text: str | None, sentence: str
) -> None:
    if text is not None:
        write("method", text)
    spec = compose()
    with pytest.raises(UsageError, match=sentence):
        replace_method(spec)
    assert "\n" not in sentence
    assert MethodSpec.variants["prototype"].__module__ == "protoseg.config.methods"


def test_build_without_a_resolver_does_not_import_a_method(write: Write) -> None:
    write("method", METHOD)
    data = {**to_plain(compose()), "method": {"kind": "outsider.method.Mine"}}
    with pytest.raises(UsageError, match=r"method: unknown kind 'outsider\.method\.Mine'\."):
        build(RunSpec, data, "run.json")
    assert "outsider.method" not in sys.modules


def test_full_names_are_found_at_any_depth_of_settings() -> None:
    spec = compose(
        "backbone.settings={type:a.B,parts:[{type:c.D},{type:BN}],act:{type:torch.nn.X}}"
    )
    spec = dataclasses.replace(
        spec, decoder=dataclasses.replace(spec.decoder, settings={"type": "protoseg.x.Y"})
    )
    assert list(plugins.find_full_names(spec)) == [
        ("backbone.settings.type", "a.B"),
        ("backbone.settings.parts[0].type", "c.D"),
        ("backbone.settings.act.type", "torch.nn.X"),
        ("decoder.settings.type", "protoseg.x.Y"),
    ]
    assert plugins.list_packages(spec) == ["a", "c"]
    assert plugins.list_packages(compose()) == []


def test_a_package_with_an_mmengine_registry_may_resolve_the_name_itself(write: Write) -> None:
    write("__init__", "")
    with pytest.raises(
        UsageError, match=r"backbone: unknown class of outsider 'Net'\. Known: none"
    ):
        plugins.load_class("outsider.Net", "backbone")
    write("registry", "")
    assert plugins.load_class("outsider.Net", "backbone") is None
