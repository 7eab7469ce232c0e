"""A disk that all nodes of a world share: a loop device in memory, so that it is as quick as any.

What is opened on it is opened with O_DIRECT like every block device.
"""

from __future__ import annotations

import os
import secrets
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lab.world import World

__all__ = ["DISK_BYTES", "shared_disk"]

DISK_BYTES = 300 << 20
_MEMORY = Path("/dev/shm")  # noqa: S108  # the file has a name that nobody can guess


@contextmanager
def shared_disk(world: World, name: str = "quorum-disk") -> Iterator[Path]:
    """Have a block device in a world, at a path that is the same on every node.

    Raises:
        RuntimeError: there is no loop device.
    """
    image, device = _MEMORY / f"leitwolf-{secrets.token_hex(8)}.img", world.folder / name
    with ExitStack() as stack:
        with image.open("xb") as file:
            stack.callback(image.unlink)
            file.truncate(DISK_BYTES)
        argv = ["losetup", "--find", "--show", "--direct-io=off", image]
        made = subprocess.run(argv, check=False, capture_output=True, text=True)
        if made.returncode:
            raise RuntimeError(f"no loop device: {made.stderr.strip()}")
        loop = made.stdout.strip()
        stack.callback(subprocess.run, ["losetup", "--detach", loop], check=True)
        os.mknod(device, 0o600 | stat.S_IFBLK, Path(loop).stat().st_rdev)
        stack.callback(device.unlink)
        yield device
