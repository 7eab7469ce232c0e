"""Real file servers beside the virtual machines: nfs-ganesha for NFS, smbd for SMB, of Debian.

They run where the bridges are, with configuration and state in a folder of their own. Machines
mount by the kernel alone (``mount -i``); what their image lacks of its modules they get from the
package of their kernel.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

from tests.vm.machines import MachineError, Machines

__all__ = ["NFS", "SMB", "Kind", "Share"]

HOST = "10.77.3.1"
PASSWORD = "laboratory"
_GANESHA = f"""
NFS_CORE_PARAM {{
    Protocols = 3, 4;
    Bind_addr = {HOST};
    MNT_Port = 20048;
    Enable_UDP = false;
    Enable_NLM = false;
    Enable_RQUOTA = false;
    Clustered = false;
    mount_path_pseudo = true;
}}
NFSv4 {{
    Minor_Versions = 1;
    Lease_Lifetime = 10;
    Grace_Period = 10;
    RecoveryRoot = FOLDER/state;
    Only_Numeric_Owners = true;
}}
EXPORT {{
    Export_Id = 1;
    Path = FOLDER/export;
    Pseudo = /export;
    Protocols = 3, 4;
    Transports = TCP;
    Access_Type = RW;
    Squash = No_Root_Squash;
    SecType = sys;
    FSAL {{ Name = VFS; }}
}}
"""
_SAMBA = f"""
[global]
    interfaces = {HOST}/24
    bind interfaces only = yes
    smb ports = 445
    disable netbios = yes
    load printers = no
    server min protocol = SMB3_11
    socket options = TCP_NODELAY SO_KEEPALIVE TCP_KEEPIDLE=4 TCP_KEEPINTVL=2 TCP_KEEPCNT=3
    private dir = FOLDER/state
    lock directory = FOLDER/state
    state directory = FOLDER/state
    cache directory = FOLDER/state
    pid directory = FOLDER/state
    ncalrpc dir = FOLDER/state/ncalrpc
    log file = FOLDER/log
[export]
    path = FOLDER/export
    read only = no
    oplocks = no
"""


class Kind(NamedTuple):
    """One protocol and its server. FOLDER stands for its folder, NODE for an address."""

    name: str
    configuration: str
    """What is in FOLDER/server.conf."""
    start: str
    """Shell command that becomes the server."""
    port: int
    modules: str
    """Of the kernel that mounts it."""
    mount: tuple[str, str, str]
    """Type, source, options."""


NFS = Kind(
    "nfs",
    _GANESHA,
    # It registers NFS 3 with a portmapper of its own, or does not start.
    "mount -t tmpfs none /run && { rpcbind -f -w & } && "
    "exec ganesha.nfsd -F -f FOLDER/server.conf -p /run/ganesha.pid -L FOLDER/log",
    2049,
    "nfsv4 nfsv3",
    ("nfs", f"{HOST}:/export", f"vers=4.1,soft,addr={HOST},clientaddr=NODE"),
)
SMB = Kind(
    "smb",
    _SAMBA,
    # A client that is gone is given up by TCP: in seconds, not after the usual 15 minutes.
    "echo 5 >/proc/sys/net/ipv4/tcp_retries2 && "
    f"yes '{PASSWORD}' | head -2 | smbpasswd -c FOLDER/server.conf -L -s -a root && "
    "exec smbd -F --no-process-group -s FOLDER/server.conf",
    445,
    "cifs cmac sha512_generic ccm gcm ctr ghash_generic",
    ("cifs", f"//{HOST}/export", f"vers=3.1.1,ip={HOST},username=root,password={PASSWORD}"),
)


class Share:
    """A server, and what machines mount of it; a context manager.

    Args:
        machines: the lab.
        kind: what it speaks.
        folder: for its files, on a file system with handles (ext4, XFS).
    """

    def __init__(self, machines: Machines, kind: Kind, folder: Path) -> None:
        self.kind = kind
        self.point = f"/mnt/{kind.name}"
        self._machines = machines
        self._folder = folder
        self._server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it, and have every machine able to mount it."""
        for name in ("export", "state"):
            (self._folder / name).mkdir()
        (self._folder / "server.conf").write_text(self._of(self.kind.configuration))
        with (self._folder / "out").open("wb") as out:
            self._server = subprocess.Popen(
                [*self._machines.enter(), "unshare", "-m", "sh", "-c", self._of(self.kind.start)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        try:
            self._machines.sh(
                1, f"timeout 30 sh -c 'until nc -z {HOST} {self.kind.port}; do sleep 0.2; done'"
            )
            _have_modules(self._machines, self.kind.modules, self._folder)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """End it with all its processes."""
        if self._server is not None:
            self._signal(signal.SIGKILL)
            self._server.wait()

    def _of(self, text: str) -> str:
        return text.replace("FOLDER", str(self._folder))

    def _signal(self, number: signal.Signals) -> None:
        assert self._server is not None
        os.killpg(self._server.pid, number)

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Have it answer nothing, as one does whose machine hangs."""
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)

    def options(self, node: int) -> str:
        """Return how a machine mounts it."""
        return self.kind.mount[2].replace("NODE", f"10.77.3.{10 + node}")

    def mount(self, node: int, options: str = "") -> None:
        """Mount it on a machine, unless it is; ``options`` stand for the usual ones."""
        kind, source, _ = self.kind.mount
        words = shlex.quote(options or self.options(node))
        self._machines.sh(
            node,
            f"mkdir -p {self.point} && {{ mountpoint -q {self.point} || "
            f"mount -i -t {kind} -o {words} {source} {self.point}; }}",
        )

    def unmount(self, node: int) -> None:
        """Unmount it there, if it is mounted, also while something hangs in it."""
        self._machines.sh(node, f"! mountpoint -q {self.point} || umount -l {self.point}")


def _have_modules(machines: Machines, names: str, folder: Path) -> None:
    """Load modules of the kernel everywhere; from its package, where the image lacks them."""
    try:
        machines.everywhere(f"modprobe -a {names}")
    except MachineError:
        release = machines.sh(1, "uname -r").strip()
        archive = folder / "modules.tar"
        subprocess.run(["sh", "-ec", _FETCH, "sh", release, names, archive], cwd=folder, check=True)
        for node in (1, 2, 3):
            machines.call("put", str(node), str(archive), "/root/modules.tar")
        machines.everywhere(
            f"tar -C / --no-same-owner -xf /root/modules.tar && depmod -a && sync && "
            f"modprobe -a {names}"
        )


_FETCH = """
apt-get -qq -o APT::Sandbox::User=root download "linux-image-$1"
dpkg-deb -x linux-image-*.deb kernel
depmod -b kernel "$1"
modprobe -d kernel -S "$1" --show-depends -a $2 |
    sed -n "s|^insmod .*\\(lib/modules/.*[^ ]\\) *$|\\1|p" | sort -u | tar -C kernel -cf "$3" -T -
rm -r kernel linux-image-*.deb
"""
