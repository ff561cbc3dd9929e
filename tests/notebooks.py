"""Executes a notebook without Jupyter, and can store the outputs in it.

``python tests/notebooks.py NOTEBOOK`` executes the code cells in order and writes their outputs:
text, and the figures of matplotlib that are the value of a cell.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

MAGIC = ("%", "!")


def execute_notebook(path: Path) -> list[list[dict[str, Any]]]:
    """Execute the code cells of a notebook in one namespace; lines of magic are left out.

    Returns:
        The outputs of each code cell, as a notebook stores them.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    outputs = []
    for cell in read_code_cells(json.loads(path.read_text(encoding="utf-8"))):
        source = "".join(line for line in cell["source"] if not line.startswith(MAGIC))
        outputs.append(_execute_cell(source, namespace))
    return outputs


def read_code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def _execute_cell(source: str, namespace: dict[str, Any]) -> list[dict[str, Any]]:
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "cell", "exec"), namespace)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), namespace)
    outputs: list[dict[str, Any]] = []
    if text := printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": _split_lines(text)})
    if value is not None:
        data: dict[str, Any] = {"text/plain": _split_lines(repr(value))}
        if hasattr(value, "savefig"):
            buffer = io.BytesIO()
            value.savefig(buffer, dpi=80, metadata={"Software": None})
            data["image/png"] = base64.b64encode(buffer.getvalue()).decode()
        outputs.append(
            {"output_type": "execute_result", "data": data, "metadata": {}, "execution_count": None}
        )
    return outputs


def _split_lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def main(arguments: list[str]) -> None:
    for name in arguments:
        path = Path(name)
        notebook = json.loads(path.read_text(encoding="utf-8"))
        outputs = execute_notebook(path)
        for number, (cell, made) in enumerate(
            zip(read_code_cells(notebook), outputs, strict=True), 1
        ):
            cell["outputs"], cell["execution_count"] = made, number
            for output in made:
                if "execution_count" in output:
                    output["execution_count"] = number
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
