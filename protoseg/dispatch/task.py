"""The old name of `protoseg.launch.task`, which batch scripts of queued jobs still start."""

import sys

from protoseg.launch.task import main

if __name__ == "__main__":
    sys.exit(main())
