"""Old path of `protoseg.launch.task`, which batch scripts of queued jobs start."""

import sys

from protoseg.launch.task import main

if __name__ == "__main__":
    sys.exit(main())
