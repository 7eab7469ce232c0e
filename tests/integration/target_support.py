"""An iSCSI target for tests: tgtd, on the loopback unless told otherwise; one LUN in a file."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tests.integration.witness_support import free_port

TARGET = "iqn.2026-01.org.leitwolf.test:disk"
READY_S = 60.0
_PRIORITY = -15
"""A SAN has processors of its own: what a busy machine does to it is not what is tested."""
CONTROL = "9"
"""Number of the control socket, whose folder belongs to the test."""


class Target:
    """A running tgtd. It ignores SIGTERM: it is ended by SIGKILL.

    Args:
        folder: of the LUN and the control socket.
        size_bytes: of the LUN.
        host: address to listen at.
        port: 0: a free one of this machine.
        enter: command prefix by which it gets into the network that has this address.
        lun: file of the LUN; None: one in the folder.
    """

    def __init__(
        self,
        folder: Path,
        size_bytes: int,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        enter: Sequence[str] = (),
        lun: Path | None = None,
    ) -> None:
        self.lun = lun or folder / "lun"
        if not self.lun.exists():
            with self.lun.open("wb") as file:
                file.truncate(size_bytes)
        self._environment = os.environ | {"TGT_IPC_SOCKET": str(folder / "ipc")}
        self._host, self._enter = host, list(enter)
        self.port = port or free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def location(self) -> str:
        return f"iscsi://{self._host}:{self.port}/{TARGET}/1"

    def start(self) -> None:
        """Start it and make the LUN; it remembers no reservation of an earlier run."""
        portal = f"portal={self._host}:{self.port}"
        log = (self._folder / "tgtd.log").open("ab")
        self._process = subprocess.Popen(
            [*self._enter, "tgtd", "-f", "-C", CONTROL, "--iscsi", portal],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        log.close()
        os.setpriority(os.PRIO_PROCESS, self._process.pid, _PRIORITY)
        deadline = time.monotonic() + READY_S
        while self._ask("--op", "show", "--mode", "sys").returncode:
            assert time.monotonic() < deadline, (self._folder / "tgtd.log").read_text()
            time.sleep(0.05)
        self._do("--op", "new", "--mode", "target", "--tid", "1", "-T", TARGET)
        self._do(
            "--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "-b", str(self.lun)
        )
        self._do("--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL")

    def add_portal(self, port: int) -> str:
        """Listen at another port, too; return the location of the LUN by it."""
        portal = f"portal={self._host}:{port}"
        self._do("--op", "new", "--mode", "portal", "--param", portal)
        return self.location.replace(f":{self.port}/", f":{port}/")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the target: SIGSTOP is a target that does not answer."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _ask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["tgtadm", "-C", CONTROL, "--lld", "iscsi", *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=READY_S,
        )

    def _do(self, *arguments: str) -> None:
        done = self._ask(*arguments)
        assert done.returncode == 0, done.stderr
