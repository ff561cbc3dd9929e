"""The warning of old import paths, which are kept for one release."""

from __future__ import annotations

import warnings


def warn_moved(module: str, *new_paths: str) -> None:
    """Emit a DeprecationWarning that names the new paths of a module.

    Args:
        module: old path. The module calls this function at its module level, so that the warning
            shows the line that imports the module.
        new_paths: where its names are now.
    """
    paths = " and ".join(new_paths)
    warnings.warn(
        f"{module} has moved to {paths}; the old path will be removed in the next release. "
        f"Import {paths} instead.",
        DeprecationWarning,
        stacklevel=3,  # this function, the old module, the line that imports it
    )
