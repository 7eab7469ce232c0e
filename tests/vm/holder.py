"""Holds the lock of a file on a share as a put of a witness does, and writes.

Program: ``holder.py FILE WORD GO``: takes the lock, says ``holds``, waits until there is a file GO,
writes WORD, says ``written`` and what is there now, or what the kernel said instead.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from leitwolf.witness.shared_file import BLOCK_BYTES, SharedFile

WAIT_S = 120.0


def main() -> None:
    """Do it."""
    path, word, go = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    with SharedFile(path, folder, create=True, deadline=time.monotonic() + WAIT_S) as file:
        print("holds", flush=True)
        while not go.exists():
            time.sleep(0.1)
        try:
            file.write(0, word.encode())
            file.sync()
        except OSError as error:
            print(error.strerror, flush=True)
        else:
            print("written", file.read(0, BLOCK_BYTES).rstrip(b"\0").decode(), flush=True)


if __name__ == "__main__":
    main()
