"""Old path of `protoseg.config`, kept for one release."""

import warnings


def warn_moved(module: str) -> None:
    """Emit a DeprecationWarning that names the new path of a module.

    Args:
        module: old path, ``protoseg.spec.NAME``. Its module level calls this function, so the
            warning shows the line that imports the module.
    """
    new_path = module.replace("protoseg.spec", "protoseg.config")
    warnings.warn(
        f"{module} has moved to {new_path}; the old path will be removed in the next release. "
        f"Import {new_path} instead.",
        DeprecationWarning,
        stacklevel=3,  # this function, the old module, the line that imports it
    )
