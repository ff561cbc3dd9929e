"""Imports classes of other packages that a spec names in full: ``package.module.Class``.

A full name may be the ``kind`` of a method, or the ``type`` of a backbone or decoder in its
settings. The package is installed or in a folder of PYTHONPATH. The spec itself carries the name,
so `plan`, a worker, a job on another node and every reader of a record can import the class.
"""

from __future__ import annotations

import importlib
import importlib.util
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

from protoseg.config.methods import MethodSpec
from protoseg.config.schema import RunSpec
from protoseg.errors import ProtosegError, UsageError, describe_unknown_name

KNOWN = ("protoseg", "mmseg", "mmengine", "mmcv", "torch")
"""Packages that every record lists, whatever its spec."""
TASKS = ("segmentation", "weak")


def is_full_name(name: Any) -> bool:
    """Whether a name is the full name of a class, and not a name in a registry."""
    return isinstance(name, str) and "." in name


def load_class(name: str, where: str) -> Any:
    """Import the class with a full name.

    Args:
        name: ``package.module.Class``.
        where: place named in error messages.

    Returns:
        The class. None if the module has no such class but the package has an mmengine registry
        (``mmpretrain.ConvNeXt``): mmengine then looks up the name.

    Raises:
        UsageError: the module cannot be imported, or has no such class.
    """
    module_name, _, attribute = name.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ProtosegError:
        raise  # its message already states the problem
    except Exception as error:
        raise UsageError(
            f"{where}: '{name}': {module_name} cannot be imported ({_describe(error)}). Install "
            "the package beside protoseg, or add its folder to PYTHONPATH."
        ) from error
    cls = getattr(module, attribute, None)
    if isinstance(cls, type):
        return cls
    if _exists(f"{module_name.partition('.')[0]}.registry"):
        return None
    classes = [key for key, value in vars(module).items() if isinstance(value, type)]
    raise UsageError(describe_unknown_name(f"class of {module_name}", attribute, where, classes))


def resolve_method(name: str, where: str) -> type[MethodSpec] | None:
    """Import the method with a full name; the import adds it to ``MethodSpec.variants``.

    Args:
        name: ``kind`` of the method.
        where: place named in error messages.

    Returns:
        The class, or None if ``name`` is not a full name.

    Raises:
        UsageError: the class cannot be imported, or is not a complete method.
    """
    if not is_full_name(name):
        return None
    cls = load_class(name, where)
    if cls is None or MethodSpec.variants.get(name) is not cls:
        raise UsageError(
            f"{where}: '{name}' is not a method; derive the class from "
            "protoseg.config.methods.MethodSpec."
        )
    if "__dataclass_fields__" not in vars(cls):
        raise UsageError(f"{where}: '{name}': put @dataclass(frozen=True) before the class.")
    if not hasattr(cls, "head"):
        raise UsageError(
            f"{where}: '{name}' has no head; write "
            f'head: ClassVar[str] = "{name.partition(".")[0]}.module.Head" in the class.'
        )
    method = MethodSpec.variants[name]
    if method.task not in TASKS:
        raise UsageError(describe_unknown_name("task", str(method.task), f"{where}: {name}", TASKS))
    return method


def find_full_names(spec: RunSpec) -> Iterator[tuple[str, str]]:
    """Yield (key, full name) for each full name in a spec."""
    method = spec.method
    for key, name in (("kind", method.kind), ("head", method.head), ("network", method.segmentor)):
        if is_full_name(name):
            yield f"method.{key}", name
    for group in ("backbone", "decoder"):
        yield from _find_types(getattr(spec, group).settings, f"{group}.settings")
    yield from _find_types(spec.recipes, "recipes")


def list_packages(spec: RunSpec) -> list[str]:
    """List the packages of the full names in a spec, without those that every record lists."""
    return sorted({name.partition(".")[0] for _, name in find_full_names(spec)} - set(KNOWN))


def _find_types(settings: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            if key == "type" and is_full_name(value):
                yield f"{where}.{key}", value
            yield from _find_types(value, f"{where}.{key}")
    elif isinstance(settings, list | tuple):
        for index, value in enumerate(settings):
            yield from _find_types(value, f"{where}[{index}]")


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _describe(error: Exception) -> str:
    """Describe an error of an import, with the file and line that raised it."""
    text = f"{type(error).__name__}: {str(error).strip() or 'no message'}".splitlines()[0]
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    if len(frames) > 1 and not isinstance(error, SyntaxError):  # the first frame is `load_class`
        text += f", {frames[-1].filename}, line {frames[-1].lineno}"
    return text
