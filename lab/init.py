"""A machine: unshares its namespaces and is the first process inside. Run by path, by the world.

The machine lives as long as its world holds the other end of the lifeline, a pipe; killing the
first process is a power loss. Standard library only; no import of the lab, to start quickly.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Any

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Leave the namespaces in ``flags`` for new ones."""
    if _libc.unshare(flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Mount, in the machine's own mount namespace."""
    done = _libc.mount(source.encode(), target.encode(), kind.encode(), flags, data.encode())
    if done != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount {target}: {os.strerror(number)}")


def make_devices() -> None:
    """Give the machine a /dev of its own: no watchdog, no disks, no memory."""
    old = os.open("/dev", os.O_PATH | os.O_DIRECTORY)
    mount("tmpfs", "/dev", "tmpfs", MS_NOSUID, "mode=755,size=16m")
    for name in ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "net/tun"):
        source, target = f"/proc/self/fd/{old}/{name}", Path("/dev", name)
        if Path(source).exists():
            target.parent.mkdir(exist_ok=True)
            target.touch()
            mount(source, str(target), flags=MS_BIND)
    for name in ("pts", "shm"):
        Path("/dev", name).mkdir()
    mount(f"/proc/self/fd/{old}/pts", "/dev/pts", flags=MS_BIND | MS_REC)
    mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777,size=64m")  # noqa: S108
    for name, end in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        Path("/dev", name).symlink_to(f"/proc/self/fd{end}")
    os.close(old)


def make_private(folder: str, keep: list[str]) -> None:
    """Put an empty tmpfs over a folder, except for what in it the machine needs."""
    needed = [path for path in keep if Path(path).is_relative_to(folder)]
    handles = {path: os.open(path, os.O_PATH) for path in needed}
    mount("tmpfs", folder, "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777,size=256m")
    for path, handle in handles.items():
        Path(path).mkdir(parents=True, exist_ok=True)
        mount(f"/proc/self/fd/{handle}", path, flags=MS_BIND | MS_REC)
        os.close(handle)


def make_system(cgroup: str) -> None:
    """Show the machine's own network and, where it has one, its own tree of cgroups in /sys."""
    try:
        mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except PermissionError:
        return  # in a user namespace under a container: the old one stays
    if cgroup:
        mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC)


def furnish(specification: dict[str, Any]) -> None:
    """Make the machine's own view of the file system and its name."""
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    make_devices()
    for folder in ("/run", "/tmp"):  # noqa: S108  # the machine's own
        make_private(folder, specification["keep"])
    make_system(specification["cgroup"])
    for scope in ("all", "default"):  # its fixed addresses are known to be free
        path = Path(f"/proc/sys/net/ipv6/conf/{scope}/accept_dad")
        if path.exists():
            path.write_text("0")
    socket.sethostname(specification["hostname"])


def live(lifeline: int) -> None:
    """Reap what dies until the world lets go."""
    readable, writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    poller = select.poll()
    poller.register(lifeline, select.POLLIN)
    poller.register(readable, select.POLLIN)
    while True:
        for descriptor, _ in poller.poll():
            if descriptor == lifeline:
                return
            os.read(readable, 4096)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            continue


def abandoned(lifeline: int) -> bool:
    """Return whether the world has let go."""
    poller = select.poll()
    poller.register(lifeline, select.POLLIN)
    return bool(poller.poll(0))


def main() -> None:
    """Become a machine as ``argv[1]`` specifies; say the init's pid, then that it is ready."""
    specification = json.loads(sys.argv[1])
    flags = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET
    if specification["cgroup"]:
        Path(specification["cgroup"], "cgroup.procs").write_text(str(os.getpid()))
        flags |= CLONE_NEWCGROUP
    unshare(flags)
    told, telling = os.pipe()
    child = os.fork()
    if child:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.close(specification["lifeline"])
        os.write(1, f"{child}\n".encode())
        os.close(1)
        os.write(telling, b".")
        os.waitpid(child, 0)
        return
    os.close(telling)
    os.read(told, 1)  # the pid is said before "ready"
    furnish(specification)
    os.setsid()
    os.chdir("/")
    os.write(1, b"ready\n")
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    live(specification["lifeline"])
    os._exit(0)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        if isinstance(error, BrokenPipeError) or abandoned(json.loads(sys.argv[1])["lifeline"]):
            os._exit(1)  # the world gave up while this machine was being made
        raise
