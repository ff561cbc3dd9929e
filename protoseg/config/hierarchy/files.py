"""Finds and reads the hierarchy of a data set: a tree in its YAML, or a file that it names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from protoseg.config.hierarchy.parse import ParsedTree, parse_tree
from protoseg.config.hydra.folders import ConfigFolders
from protoseg.config.methods import MethodSpec
from protoseg.config.texts.yaml_text import read_nodes
from protoseg.errors import UsageError, describe_unknown_name

FOLDER = "hierarchy"
"""Folder of the files, in ``experiments``."""


class HierarchyReader:
    """Reads the trees that data sets name, each once.

    Args:
        folders: with ``hierarchy/NAME.yaml``.
    """

    def __init__(self, folders: ConfigFolders) -> None:
        self.folders = folders
        self._values: dict[tuple[str, tuple[str, ...]], Any] = {}
        self._trees: dict[str, ParsedTree] = {}

    def replace_value(self, data: Any) -> Any:
        """Replace ``dataset.hierarchy`` of a composed run by the paths of its tree.

        Without a method that uses it, it is removed: a tree that does not fit ends only commands
        that need it.

        Args:
            data: plain data of a run, before `protoseg.config.fields.build` checks it; changed.

        Raises:
            UsageError: no such file, or a tree that does not fit the classes.
        """
        dataset, method = data.get("dataset"), data.get("method")
        if not isinstance(dataset, dict):
            return data
        value, name = dataset.pop("hierarchy", None), str(dataset.get("name"))
        classes = dataset.get("classes")
        if not isinstance(classes, list) or not all(isinstance(each, str) for each in classes):
            return data
        is_tree = not (value is None or value in ("", [], ()))
        # A run without a tree replaces the tree of an earlier run, as one with another tree does.
        self._values[name, tuple(classes)] = value if is_tree else None
        if not is_tree:
            return data
        method_name = method.get("kind") if isinstance(method, dict) else None
        if getattr(MethodSpec.variants.get(str(method_name)), "needs_hierarchy", False):
            tree = self.find_tree(classes, name)
            assert tree is not None
            dataset["hierarchy"] = [list(path) for path in tree.hierarchy.paths]
        return data

    def find_tree(self, classes: Sequence[str], name: str) -> ParsedTree | None:
        """Return the tree of a data set, as the last composed run of it has; None without one.

        Args:
            classes: names of the classes of the data set.
            name: of the data set.

        Raises:
            UsageError: no such file, or a tree that does not fit the classes.
        """
        value = self._values.get((name, tuple(classes)))
        if value is None:
            return None
        key = repr((name, tuple(classes), value))
        if key not in self._trees:
            where = f"data set {name}: hierarchy"
            self._trees[key] = read_hierarchy(self.folders, value, classes, where)
        return self._trees[key]


def read_hierarchy(
    folders: ConfigFolders, value: Any, classes: Sequence[str], where: str
) -> ParsedTree:
    """Read the value of ``dataset.hierarchy``.

    Args:
        folders: with ``hierarchy/NAME.yaml``.
        value: name of such a file; or a tree, or paths, see `protoseg.config.hierarchy.parse`.
        classes: names of the classes.
        where: place of ``value``, for error messages.

    Raises:
        UsageError: no such file, or a tree that does not fit the classes.
    """
    if not isinstance(value, str):
        return parse_tree(value, classes, where)
    names = list(folders.list_files(FOLDER))
    if value not in names:
        raise UsageError(describe_unknown_name("hierarchy", value, where, names))
    path = folders.find(f"{FOLDER}/{value}.yaml")
    return parse_tree(_read_tree(path), classes, f"{FOLDER}/{value}.yaml")


def _read_tree(path: Path) -> Any:
    """Read the nested names of a file as they are typed."""
    try:
        node = read_nodes(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: cannot be read as YAML: {error}.") from error
    return _to_plain(node, path, ())


def _to_plain(node: yaml.Node | None, path: Path, parents: tuple[int, ...]) -> Any:
    """Convert nodes to nested dictionaries and lists of texts; None for no value."""
    if id(node) in parents:
        raise UsageError(f"{path}: a group contains itself (a cycle of aliases). Remove it.")
    inside = (*parents, id(node))
    if isinstance(node, yaml.SequenceNode):
        return [_to_plain(item, path, inside) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        entries: dict[str, Any] = {}
        for key, value in node.value:
            name = _to_plain(key, path, inside)
            if not isinstance(name, str):
                raise UsageError(f"{path}: a group has no name. Write its name before the colon.")
            if name in entries:
                raise UsageError(f"{path}: {name}: in one group twice. Keep one place.")
            entries[name] = _to_plain(value, path, inside)
        return entries
    if isinstance(node, yaml.ScalarNode) and (node.style or node.value not in ("", "null", "~")):
        return str(node.value)
    return None
