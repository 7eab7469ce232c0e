"""Parent of a host in tests: inherits what the host leaves, reaps it, and answers how it ended.

The keeper's own reaper and socket, without its restarts. Arguments: socket, then the command line.
Lines on standard input: ``kill`` ends the child, ``start`` starts it again.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
from pathlib import Path

from leitwolf.keeper.control import Control
from leitwolf.keeper.reaper import Reaper

_SUBREAPER = 36


def main() -> None:
    assert ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0) == 0
    reaper = Reaper()
    control = Control(Path(sys.argv[1]), reaper, lambda: None, lambda: False)
    command = sys.argv[2:]

    def start() -> int:
        return os.posix_spawnp(command[0], command, os.environ)

    child = start()
    while True:
        ready, _, _ = select.select([0, *control.descriptors()], [], [], 0.05)
        reaper.reap()
        for descriptor in ready:
            if descriptor != 0:
                control.serve(descriptor)
                continue
            line = sys.stdin.readline().strip()
            if line == "start":
                child = start()
                continue
            os.kill(child, signal.SIGKILL)
            if not line:
                return


main()
