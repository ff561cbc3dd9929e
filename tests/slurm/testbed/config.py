"""A copy of a cluster's configuration with other values."""

from __future__ import annotations

import re
from pathlib import Path

from testbed.testbed import Testbed


def copy_config(cluster: Testbed, folder: Path, **settings: int) -> Path:
    """Copy the configuration files of a cluster and change settings of slurm.conf.

    Returns:
        The new slurm.conf, for SLURM_CONF.
    """
    for path in cluster.conf.parent.glob("*.conf"):
        (folder / path.name).write_bytes(path.read_bytes())
    text = cluster.conf.read_text()
    for key, value in settings.items():
        text = re.sub(rf"(?m)^{key}=.*$", "", text) + f"{key}={value}\n"
    (folder / "slurm.conf").write_text(text)
    return folder / "slurm.conf"
