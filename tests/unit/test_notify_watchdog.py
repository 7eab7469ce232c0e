"""Talking to systemd, to watchdogs, and naming processes by descriptors."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from leitwolf.system import selffence
from leitwolf.system.notify import Notifier
from leitwolf.system.pidfd import ProcessHandle, start_time
from leitwolf.system.watchdog import DeviceWatchdog, NoWatchdog, open_watchdog, timeout_s


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_hears_what_is_said(tmp_path: Path, abstract: bool) -> None:
    """READY, WATCHDOG, EXTEND, STOPPING, MAINPID and RELOADING arrive as systemd expects them."""
    name = f"@leitwolf-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "3000000"})
        assert notifier.managed
        assert notifier.watchdog_ms == 3_000
        assert notifier.ready("up")
        assert manager.recv(200) == b"READY=1\nSTATUS=up"
        assert notifier.watchdog()
        assert manager.recv(200) == b"WATCHDOG=1"
        assert notifier.extend(30)
        assert manager.recv(200) == b"EXTEND_TIMEOUT_USEC=30000000"
        assert notifier.stopping()
        assert manager.recv(200) == b"STOPPING=1"
        assert notifier.main_process(77)
        assert manager.recv(200) == b"MAINPID=77"
        assert notifier.reloading()
        assert manager.recv(200).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    assert not notifier.watchdog()


def test_without_systemd_nothing_is_said() -> None:
    """No socket in the environment: every call answers that nothing went out."""
    notifier = Notifier({"WATCHDOG_USEC": "3000000"})
    assert not notifier.managed
    assert notifier.watchdog_ms == 0
    assert not notifier.ready()


def test_a_watchdog_of_another_process_is_not_ours() -> None:
    """WATCHDOG_PID names somebody else: no feeding is expected of this process."""
    environment = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}
    assert Notifier(environment).watchdog_ms == 0


class FakeDriver:
    """Answers the ioctls of a watchdog device that knows whole tens of seconds only."""

    def __init__(self, fixed: int = 0) -> None:
        self.fixed = fixed
        self.timeout = fixed or 60
        self.fed = 0

    def __call__(self, descriptor: int, request: int, argument: bytes) -> bytes | int:
        os.fstat(descriptor)
        kind = request & 0xFF
        if kind == 5:
            self.fed += 1
            return 0
        if kind == 6:
            if self.fixed:
                raise OSError(22, "fixed")
            self.timeout = -(-struct.unpack("i", argument)[0] // 10) * 10
        return struct.pack("i", self.timeout)


def test_the_watchdog_is_set_fed_and_closed_by_the_magic_character(tmp_path: Path) -> None:
    """The timeout in force is that of the driver; closing writes V once."""
    device = tmp_path / "watchdog"
    device.touch()
    driver = FakeDriver()
    watchdog = DeviceWatchdog(str(device), driver)
    assert watchdog.set_timeout(4) == 10
    watchdog.feed()
    watchdog.feed()
    assert driver.fed == 2
    assert device.read_bytes() == b""
    watchdog.close()
    watchdog.close()
    assert device.read_bytes() == b"V"


def test_a_fixed_timeout_is_reported_as_it_is(tmp_path: Path) -> None:
    """A driver that refuses the timeout keeps its own."""
    device = tmp_path / "watchdog"
    device.touch()
    assert DeviceWatchdog(str(device), FakeDriver(fixed=30)).set_timeout(4) == 30


def test_a_missing_watchdog_says_why(tmp_path: Path) -> None:
    """Neither 'none' nor a missing device is an error, but a named problem."""
    missing = open_watchdog(str(tmp_path / "watchdog"))
    assert isinstance(missing, NoWatchdog)
    assert "No such file" in missing.problem
    assert "none" in open_watchdog("none").problem
    assert missing.set_timeout(3) == 0


def test_the_watchdog_outlasts_lease_and_restart() -> None:
    """R, the two seconds of a hanging guard and a second for its restart, in whole seconds."""
    assert timeout_s(420_000_000) == 4
    assert timeout_s(5_000_000_000) == 8


def test_a_process_is_known_by_descriptor_and_start() -> None:
    """Adopting needs id and start time; the end shows without waiting for the child."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        started = start_time(child.pid)
        assert ProcessHandle.adopt(child.pid, started + 1) is None
        handle = ProcessHandle.adopt(child.pid, started)
        assert handle is not None
        assert not handle.ended()
        assert handle.send(signal.SIGKILL)
        assert handle.wait(30_000)
        assert ProcessHandle.adopt(child.pid, started) is None
    finally:
        child.kill()
        child.wait()
    assert not handle.send(signal.SIGTERM)
    handle.close()
    assert ProcessHandle.adopt(0, 1) is None


def test_self_fencing_by_namespace_is_refused_on_the_machine_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the first PID namespace nothing is killed; not to know it counts as being there."""
    monkeypatch.setattr(selffence, "_reboot", lambda: pytest.fail("would have rebooted"))
    monkeypatch.setattr(selffence, "_OWN_PID_NAMESPACE", Path("/proc/1/none"))
    assert selffence.in_first_pid_namespace()
    with pytest.raises(selffence.FenceRefused, match="machine's own"):
        selffence.self_fence("namespace", "test")
    with pytest.raises(selffence.FenceRefused, match="no effect"):
        selffence.self_fence("unknown", "test")


def test_the_kernels_log_says_why_a_machine_resets_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line comes before the reset; that it cannot be written delays nothing."""
    for name in ("_KERNEL_LOG", "_SYSRQ"):
        monkeypatch.setattr(selffence, name, tmp_path / name)
    monkeypatch.setattr(selffence, "_reboot", lambda: None)
    with pytest.raises(selffence.FenceRefused):
        selffence.self_fence("reboot", "stop-not-confirmed")
    line = "<1>leitwolf: this node resets itself: stop-not-confirmed"
    assert (tmp_path / "_KERNEL_LOG").read_text() == line
    assert (tmp_path / "_SYSRQ").read_text() == "b"
    monkeypatch.setattr(selffence, "_KERNEL_LOG", tmp_path / "none" / "log")
    (tmp_path / "_SYSRQ").unlink()
    with pytest.raises(selffence.FenceRefused):
        selffence.self_fence("reboot", "stop-not-confirmed")
    assert (tmp_path / "_SYSRQ").read_text() == "b"
