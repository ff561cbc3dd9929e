"""What ``protoseg data init`` guessed, on a terminal."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from protoseg.datasets.discovery.guess import Guess


def show_guess(console: Console, guess: Guess, target: Path, root: Path, link: Path) -> None:
    """Print the guesses, the open questions and the next commands.

    Args:
        console: standard output.
        guess: the guess.
        target: the file that was written.
        root: the folder of the files.
        link: where the data set is expected.
    """
    name = guess.fields["name"]
    splits = ", ".join(f"{split} {count}" for split, count in guess.fields["counts"].items())
    console.print(f"{name}: written to {target}", style="green", markup=False)
    console.print(f"  {splits}; {len(guess.fields['classes'])} classes", markup=False)
    for sentence in guess.guesses:
        console.print(f"  guessed: {sentence}", markup=False)
    for sentence in guess.unknown:
        console.print(f"  not known: {sentence}", style="yellow", markup=False)
    console.print("Correct the file, then:")
    if link.resolve() != root.resolve():
        command = shlex.join(["ln", "-s", str(root), str(link)])
        console.print(f"  {command}", markup=False, soft_wrap=True)
    console.print(f"  protoseg data check {name}", markup=False)
