"""``python -m protoseg.cli``."""

from __future__ import annotations

import sys

from protoseg.cli import main

if __name__ == "__main__":
    sys.exit(main())
