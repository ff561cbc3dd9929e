"""Adds folders to Hydra's search path, behind the one that it is initialised with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin


class OtherFolders(SearchPathPlugin):
    """Appends the current folders. Hydra's own key, ``hydra.searchpath``, is read too late for a
    ``run.yaml`` in one of them."""

    current: ClassVar[tuple[Path, ...]] = ()

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in self.current:
            search_path.append("protoseg", f"file://{folder}")


@contextlib.contextmanager
def initialize_hydra(folders: Sequence[Path]) -> Iterator[None]:
    """Initialise Hydra with folders of config files; a file of an earlier folder comes first."""
    GlobalHydra.instance().clear()
    Plugins.instance().register(OtherFolders)
    primary, *others = folders
    OtherFolders.current = tuple(others)
    try:
        with hydra.initialize_config_dir(str(primary), version_base="1.3"):
            yield
    finally:
        OtherFolders.current = ()
