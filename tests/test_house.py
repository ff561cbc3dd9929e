"""The rules for modules, checked in the source: allowed imports, length, docstrings, prints."""

from __future__ import annotations

import ast
import functools
import graphlib
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "protoseg"
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 300
WIDEST = 14
"""Modules of a folder, except ``cli/commands``, which has one for each verb."""

ALLOWED = {
    "errors": set(),
    "deprecation": set(),
    "files": {"protoseg.errors"},
    "paths": {"yaml", "protoseg", "protoseg.errors"},
    "core": {"torch", "protoseg.core"},
    "runs": {"numpy", "protoseg.errors", "protoseg.files", "protoseg.runs"},
    "config": {
        *("hydra", "omegaconf", "yaml"),
        *("protoseg.config", "protoseg.errors", "protoseg.files"),
    },
    "spec": {"protoseg.config", "protoseg.deprecation"},  # old import paths, kept for one release
    "models": {
        *("torch", "mmseg", "mmengine", "mmcv"),
        *("protoseg.core", "protoseg.deprecation", "protoseg.models"),
    },
    "datasets": {
        *("torch", "numpy", "PIL", "cv2", "mmseg", "mmengine", "mmcv", "scipy", "yaml"),
        *("protoseg.config", "protoseg.core", "protoseg.datasets", "protoseg.deprecation"),
        *("protoseg.errors", "protoseg.files", "protoseg.runs"),
    },
    "training": {
        *("torch", "numpy", "PIL", "mmseg", "mmengine", "mmcv"),
        "huggingface_hub",  # an extra, for weights of timm only
        *("protoseg", "protoseg.config", "protoseg.core", "protoseg.datasets", "protoseg.errors"),
        *("protoseg.files", "protoseg.loggers", "protoseg.models", "protoseg.paths"),
        *("protoseg.runs", "protoseg.slurm", "protoseg.training"),
    },
    "loggers": {
        *("mlflow", "tensorboard", "wandb"),  # extras, imported by their loggers only
        *("protoseg.errors", "protoseg.files", "protoseg.loggers"),
    },
    "inference": {
        *("torch", "numpy", "PIL", "cv2", "mmseg", "mmengine", "mmcv", "matplotlib"),
        *("onnx", "onnxruntime"),  # an extra, for the export only
        *("protoseg", "protoseg.config", "protoseg.core", "protoseg.datasets", "protoseg.errors"),
        *("protoseg.files", "protoseg.inference", "protoseg.models", "protoseg.paths"),
        *("protoseg.runs", "protoseg.training"),
    },
    "slurm": {"protoseg.errors", "protoseg.files", "protoseg.runs", "protoseg.slurm"},
    "planning": {
        *("protoseg.config", "protoseg.errors", "protoseg.files", "protoseg.planning"),
        *("protoseg.runs", "protoseg.slurm"),
    },
    "launch": {
        *("submitit", "yaml"),
        *("protoseg.config", "protoseg.errors", "protoseg.files", "protoseg.launch"),
        *("protoseg.planning", "protoseg.runs", "protoseg.slurm"),
    },
    "dispatch": {"protoseg.launch"},
    "report": {
        *("pandas", "numpy", "scipy", "jinja2", "markupsafe", "yaml", "matplotlib"),
        *("PIL", "sklearn", "threadpoolctl", "umap"),
        *("protoseg.config", "protoseg.errors", "protoseg.files", "protoseg.report"),
        *("protoseg.deprecation", "protoseg.runs"),
    },
    "reproduce": {
        *("protoseg.config", "protoseg.errors", "protoseg.files", "protoseg.launch"),
        *("protoseg.report", "protoseg.reproduce", "protoseg.runs", "protoseg.training"),
    },
    "cli": {
        *("argcomplete", "packaging", "rich", "torch", "yaml"),
        *("protoseg", "protoseg.cli", "protoseg.config", "protoseg.core", "protoseg.datasets"),
        *("protoseg.errors", "protoseg.files", "protoseg.inference", "protoseg.launch"),
        "protoseg.loggers",
        *(
            "protoseg.paths",
            "protoseg.planning",
            "protoseg.report",
            "protoseg.reproduce",
            "protoseg.runs",
        ),
        *("protoseg.slurm", "protoseg.training"),
    },
}
"""Part of the house -> what its modules may import, besides the standard library."""

QUICK = (
    "protoseg.cli.command_line",
    *(f"protoseg.cli.commands.{verb}" for verb in ("plan", "sweep", "status", "tables", "explain")),
    *(f"protoseg.cli.commands.{verb}" for verb in ("compare", "verify", "figures", "fill")),
    "protoseg.cli.commands.report",
)
"""Where the verbs that answer in under a second begin."""
HEAVY = {"torch", "mmseg", "mmengine", "mmcv"}


def part(path: Path) -> str:
    """The part of the house a module belongs to: a folder, or a module of the package itself."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def name(path: Path) -> str:
    return path.relative_to(PACKAGE.parent).as_posix()


def inside(path: Path) -> list[Path]:
    return [module for module in MODULES if module.is_relative_to(path)]


def absolute_origin(node: ast.ImportFrom, module: Path) -> str:
    """The absolute name of the module in ``from origin import ...``."""
    origin = node.module or ""
    if node.level:
        package = module.relative_to(PACKAGE.parent).with_suffix("").parts[: -node.level]
        origin = ".".join([*package, *([origin] if origin else [])])
    return origin


def imported(node: ast.stmt | ast.AST, module: Path) -> list[str]:
    """The modules that an import statement names, absolute."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    origin = absolute_origin(node, module)
    # `from protoseg import spec` imports a part, `from protoseg import __version__` does not.
    if origin == "protoseg":
        return [f"{origin}.{a.name}" if (PACKAGE / a.name).exists()
                or (PACKAGE / f"{a.name}.py").exists() else origin for a in node.names]  # fmt: skip
    return [origin]


@functools.cache
def parse(module: Path) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse(module.read_text(encoding="utf-8"))


@functools.cache
def imports(module: Path) -> list[str]:
    """Everything that a module imports, anywhere in it."""
    return [origin for node in ast.walk(parse(module)) for origin in imported(node, module)]


@functools.cache
def at_import(module: Path) -> list[str]:
    """What is imported as soon as a module is: not inside functions, not for type checkers."""

    def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                continue
            yield node
            for field in ("body", "orelse", "finalbody"):
                yield from statements(getattr(node, field, []))
            for handler in getattr(node, "handlers", []):
                yield from statements(handler.body)

    return [m for node in statements(parse(module).body) for m in imported(node, module)]


def owner(module_name: str) -> str:
    """``protoseg.config.fields`` -> ``protoseg.config``; ``torch.nn`` -> ``torch``."""
    parts = module_name.split(".")
    return ".".join(parts[:2]) if parts[0] == "protoseg" else parts[0]


def reached(start: str) -> dict[str, str]:
    """Everything imported, directly or not, when a module is -> who imports it."""
    importers: dict[str, str] = {}
    waiting = [(start, "the test")]
    while waiting:
        module_name, by = waiting.pop()
        if module_name in importers:
            continue
        importers[module_name] = by
        path = PACKAGE.parent / module_name.replace(".", "/")
        files = [f for f in (path.with_suffix(".py"), path / "__init__.py") if f.is_file()]
        if module_name.startswith("protoseg"):
            waiting += [(m, module_name) for f in files for m in at_import(f)]
            waiting += [(module_name.rpartition(".")[0], module_name)] * ("." in module_name)
    return importers


def test_every_part_has_its_rule() -> None:
    parts = {part(module) for module in MODULES} - {"__init__", "__main__"}
    assert parts == set(ALLOWED)


def test_imports_keep_the_rules() -> None:
    strangers = [
        f"{name(module)} imports {origin}"
        for of in ALLOWED
        for module in MODULES
        if part(module) == of
        for origin in imports(module)
        if owner(origin) not in ALLOWED[of] and owner(origin) not in sys.stdlib_module_names
    ]
    assert not strangers


def test_planning_launch_and_report_do_not_reach_torch() -> None:
    light = ("runs", "config", "spec", "slurm", "planning", "launch", "report", "loggers")
    for of in light:
        assert not ALLOWED[of] & HEAVY
    for module in (m for of in light for m in inside(PACKAGE / of)):
        importers = reached(module_name(module))
        heavy = {m: by for m, by in importers.items() if owner(m) in HEAVY}
        assert not heavy, f"{name(module)} reaches {heavy}"


def test_the_quick_verbs_do_not_reach_torch() -> None:
    for start in QUICK:
        heavy = {m: by for m, by in reached(start).items() if owner(m) in HEAVY}
        assert not heavy, f"{start} reaches {heavy}"


def module_name(path: Path) -> str:
    """``protoseg/config/fields.py`` -> ``protoseg.config.fields``."""
    return name(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def import_statements(node: ast.AST, *, in_functions: bool) -> Iterator[ast.AST]:
    """The import statements of a module, including those for type checkers.

    Args:
        node: syntax tree of the module.
        in_functions: also yield the statements inside functions.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif in_functions or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from import_statements(child, in_functions=in_functions)


def import_graph(*, in_functions: bool) -> dict[str, set[str]]:
    """Module of protoseg -> the modules of protoseg that its import statements name."""
    modules = {module_name(path): path for path in MODULES}
    graph: dict[str, set[str]] = {module: set() for module in modules}
    for module, path in modules.items():
        for statement in import_statements(parse(path), in_functions=in_functions):
            if isinstance(statement, ast.Import):
                graph[module].update(alias.name for alias in statement.names)
            elif isinstance(statement, ast.ImportFrom):
                origin = absolute_origin(statement, path)
                full_names = (f"{origin}.{alias.name}" for alias in statement.names)
                # `from protoseg.config import plugins` names a module, not the package.
                graph[module].update(n if n in modules else origin for n in full_names)
    return {module: targets & modules.keys() for module, targets in graph.items()}


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one cycle of imports, or an empty list."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_a_cycle_of_imports_is_detected() -> None:
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert set(find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}})) == {"b", "c"}
    assert set(find_cycle({"a": {"a"}})) == {"a"}


def test_modules_do_not_import_each_other() -> None:
    assert not find_cycle(import_graph(in_functions=False))


def test_modules_do_not_import_each_other_inside_functions() -> None:
    assert not find_cycle(import_graph(in_functions=True))


def test_nothing_imports_the_command_line() -> None:
    for module in MODULES:
        if part(module) != "cli":
            assert "protoseg.cli" not in map(owner, imports(module)), name(module)


def test_commands_import_torch_inside_functions_alone() -> None:
    for module in inside(PACKAGE / "cli"):
        assert not HEAVY & set(map(owner, at_import(module))), name(module)


def test_the_command_line_starts_light() -> None:
    allowed = {"protoseg", "protoseg.cli", "protoseg.errors", *sys.stdlib_module_names}
    assert set(map(owner, at_import(PACKAGE / "cli" / "command_line.py"))) <= allowed


def test_modules_have_at_most_the_allowed_number_of_lines() -> None:
    lengths = {name(m): len(m.read_text(encoding="utf-8").splitlines()) for m in MODULES}
    too_long = {module: length for module, length in lengths.items() if length > LONGEST}
    assert not too_long, f"more than {LONGEST} lines"


def test_folders_have_at_most_the_allowed_number_of_modules() -> None:
    modules = [m for m in MODULES if m.name != "__init__.py" and m.parent.name != "commands"]
    numbers = Counter(str(module.parent) for module in modules)
    assert not {folder: n for folder, n in numbers.items() if n > WIDEST}


def test_modules_have_a_docstring_that_starts_with_a_sentence() -> None:
    without = []
    for module in MODULES:
        if module.name == "__init__.py" and not module.read_text(encoding="utf-8").strip():
            continue
        first, *rest = (ast.get_docstring(parse(module)) or "").splitlines() or [""]
        if not first or not (first.rstrip().endswith((".", ":", ",")) or rest):
            without.append(name(module))
    assert not without, "without such a docstring"


def public(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """The public functions and classes of a module, and the public methods of those classes."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for node in tree.body:
        if isinstance(node, kinds) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, kinds) and not inner.name.startswith("_"):
                        yield f"{node.name}.{inner.name}", inner


def inherited(node: ast.AST, tree: ast.Module, full_name: str) -> bool:
    """A method of a class with bases: its documentation may stand with the base."""
    owner_name, _, method = full_name.partition(".")
    classes = {c.name: c for c in tree.body if isinstance(c, ast.ClassDef)}
    return bool(method) and bool(classes[owner_name].bases)


def test_public_functions_and_classes_are_documented() -> None:
    silent = [
        f"{name(module)}: {full_name}"
        for module in MODULES
        for full_name, node in public(parse(module))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not ast.get_docstring(node)
        and not inherited(node, parse(module), full_name)
    ]
    assert not silent, "without a docstring"


def prints(node: ast.AST) -> bool:
    """Whether a node of the syntax tree is a call that prints or reads the terminal."""
    names = ("print", "breakpoint", "input")
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names


def test_only_the_command_line_and_workers_print() -> None:
    may_print = ("cli", "commands", "training")  # training prints into a run's log.txt
    program = "protoseg/launch/task.py"  # runs alone, in a batch script
    calls = [
        f"{name(module)}:{node.lineno}"
        for module in MODULES
        if part(module) not in may_print and name(module) != program
        for node in ast.walk(parse(module))
        if prints(node)
    ]
    assert not calls


READERS = PACKAGE / "datasets" / "readers"
IMAGE_CALLS = {"imread", "imfrombytes", "imdecode", "imdecodemulti", "imreadmulti"}
"""Functions of OpenCV, mmcv, matplotlib and others that read an image."""


def reads_an_image(node: ast.AST) -> bool:
    """Whether a node of the syntax tree reads an image file: ``Image.open``, ``imread``, ..."""
    if isinstance(node, ast.ImportFrom):
        return bool({alias.name for alias in node.names} & IMAGE_CALLS)
    if not isinstance(node, ast.Attribute):
        return False
    is_open = node.attr == "open" and ast.unparse(node.value).endswith("Image")
    return is_open or node.attr in IMAGE_CALLS


def test_images_and_label_maps_are_read_by_one_module_each() -> None:
    calls = [
        f"{name(module)}:{node.lineno}"
        for module in MODULES
        if not module.is_relative_to(READERS)
        for node in ast.walk(parse(module))
        if reads_an_image(node)
    ]
    assert not calls, "use protoseg.datasets.readers"


def test_reading_an_image_is_detected() -> None:
    for text in ("Image.open(p)", "PIL.Image.open(p)", "cv2.imdecode(d, 1)", "mmcv.imread(p)"):
        assert any(map(reads_an_image, ast.walk(ast.parse(text)))), text
    assert any(map(reads_an_image, ast.walk(ast.parse("from cv2 import imread"))))
    assert not any(map(reads_an_image, ast.walk(ast.parse("open(p); Image.fromarray(a).save(p)"))))


def test_one_module_reads_label_maps() -> None:
    readers = [
        f"{name(module)}: {full_name}"
        for module in MODULES
        for full_name, _ in public(parse(module))
        if re.search("read.*label_map", full_name)
    ]
    assert readers == ["protoseg/datasets/readers/label_maps.py: read_label_map"]
