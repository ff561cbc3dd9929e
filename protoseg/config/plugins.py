"""Parts that are not protoseg's own, named in full: ``package.module.Class``.

A method's ``kind``, and the ``type`` of a backbone or decoder in its settings, may name a class of
any package that Python finds, installed or in a folder of PYTHONPATH. There is no list of imports
beside it: the name stands in the spec, so a plan, a worker, a job on another node and whoever reads
the record know what to import.
"""

from __future__ import annotations

import importlib
import importlib.util
import traceback
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from protoseg.errors import ProtosegError, UsageError, unknown

if TYPE_CHECKING:
    from protoseg.config.schema import RunSpec

KNOWN = ("protoseg", "mmseg", "mmengine", "mmcv", "torch")
"""Packages that every record names anyway."""


def is_full_name(name: Any) -> bool:
    """Whether a name says where the class is, rather than what it is registered as."""
    return isinstance(name, str) and "." in name


def load(name: str, where: str) -> Any:
    """The class of that full name, its module imported.

    None where its package has a registry of mmengine's and no such class in plain sight: then
    mmengine finds it (``mmpretrain.ConvNeXt``), or says that it does not.

    Raises:
        UsageError: the module can not be imported, or has no such class.
    """
    module_name, _, attribute = name.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ProtosegError:
        raise  # says itself what is wrong with what is being imported
    except Exception as error:
        raise UsageError(
            f"{where}: '{name}': {module_name} can not be imported ({_words(error)}). A package of "
            "your own is found where it is installed beside protoseg, or in a folder that "
            "PYTHONPATH names."
        ) from error
    found = getattr(module, attribute, None)
    if isinstance(found, type):
        return found
    if _exists(f"{module_name.partition('.')[0]}.registry"):
        return None
    classes = [key for key, value in vars(module).items() if isinstance(value, type)]
    raise UsageError(unknown(f"class of {module_name}", attribute, where, classes))


def load_kind(name: str, variants: Mapping[str, Any], where: str) -> None:
    """Import the method of that full name, which enters ``variants`` by that.

    Raises:
        UsageError: it can not be imported, or is no method.
    """
    found = load(name, where)
    if found is None or variants.get(name) is not found:
        raise UsageError(
            f"{where}: '{name}' is no method; derive the class from "
            "protoseg.config.methods.MethodSpec."
        )
    if "__dataclass_fields__" not in vars(found):
        raise UsageError(f"{where}: '{name}': put @dataclass(frozen=True) before the class.")
    if not hasattr(found, "head"):
        raise UsageError(
            f"{where}: '{name}': names no head; write "
            f'head: ClassVar[str] = "{name.partition(".")[0]}.module.Head" in the class.'
        )


def names(spec: RunSpec) -> Iterator[tuple[str, str]]:
    """The full names in a spec, each with the place where it stands."""
    method = spec.method
    for key, name in (("kind", method.kind), ("head", method.head), ("network", method.segmentor)):
        if is_full_name(name):
            yield f"method.{key}", name
    for group in ("backbone", "decoder"):
        yield from _types(getattr(spec, group).settings, f"{group}.settings")


def packages(spec: RunSpec) -> list[str]:
    """The packages that a spec's full names lie in, without those that every record names."""
    return sorted({name.partition(".")[0] for _, name in names(spec)} - set(KNOWN))


def _types(settings: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            if key == "type" and is_full_name(value):
                yield f"{where}.{key}", value
            yield from _types(value, f"{where}.{key}")
    elif isinstance(settings, list | tuple):
        for index, value in enumerate(settings):
            yield from _types(value, f"{where}[{index}]")


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _words(error: Exception) -> str:
    """An error while a module was imported, and the line of it where it arose."""
    text = f"{type(error).__name__}: {str(error).strip() or 'no message'}".splitlines()[0]
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    if len(frames) > 1 and not isinstance(error, SyntaxError):  # the first is ours
        text += f", {frames[-1].filename}, line {frames[-1].lineno}"
    return text
