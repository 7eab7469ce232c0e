"""``./run demo`` as a newcomer runs it: what it prints, and that nothing is left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import pytest

pytestmark = [pytest.mark.root, pytest.mark.timeout(150)]

ROOT = Path(__file__).parents[2]
FAULTS = [
    "planned move",
    "power loss of the owner",
    "freeze of the owner, then thaw",
    "split of the interconnect, then heal",
    "kill of the daemon alone",
    "kill of the web server",
]
MARK = "LEITWOLF_TEST_MARK"


class Demo:
    """A running demo, whose processes are known by a mark in their environment."""

    def __init__(self, *arguments: str, stdin: int = subprocess.DEVNULL) -> None:
        self._mark = f"{MARK}={uuid4()}"
        name, _, value = self._mark.partition("=")
        self.folder = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lab.demo", *arguments],
            cwd=ROOT,
            env={**os.environ, name: value, "PYTHONPATH": str(ROOT / "src")},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a terminal's Ctrl-C reaches the whole group
        )

    def processes(self) -> list[int]:
        """Return all its processes, and learn the name of its folder from them."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                content = path.read_bytes().decode(errors="replace")
            except OSError:  # gone, or the machine's own
                continue
            if self._mark in content.split("\0"):
                found.append(int(path.parent.name))
                named = re.search(r"/var/tmp/leitwolf-lab-[^/\0]+", content)
                self.folder = self.folder or (named[0] if named else "")
        return found

    def until_said(self, word: str, timeout_s: float = 60) -> None:
        """Read its progress until a line has ``word``."""
        assert self.process.stderr is not None
        deadline = time.monotonic() + timeout_s
        said = []
        for line in self.process.stderr:
            said.append(line)
            if word in line:
                return
            assert time.monotonic() < deadline
        raise AssertionError(f"it never said {word!r}: {''.join(said)}")

    def left_behind(self) -> list[str]:
        """Return what is left of it: processes, folder, cgroups."""
        left = [f"process {pid}" for pid in self.processes()]
        assert self.folder, "its folder was never seen"
        if Path(self.folder).exists():
            left.append(self.folder)
        name = Path(self.folder).name
        left += [str(path) for path in Path("/sys/fs/cgroup").rglob(name)]
        return left

    def end(self) -> None:
        """End it whatever it does; its world goes with it."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


def test_demo_shows_every_fault_and_leaves_nothing() -> None:
    """One JSON object of the promised shape, all well, each fault with its own reason."""
    demo = Demo("--json")
    try:
        demo.until_said("planned move")
        assert demo.processes()
        output, progress = demo.process.communicate(timeout=120)
        assert demo.process.returncode == 0, progress
        report = json.loads(output)
        assert set(report) == {"ok", "profile", "faults"}
        assert report["ok"] is True
        assert report["profile"] in ("fast", "default", "virtual")
        assert [item["fault"] for item in report["faults"]] == FAULTS
        for item in report["faults"]:
            assert set(item) == {"fault", "ok", "outage_ms", "two_owners_ms", "owner", "why"}
            assert item["ok"] is True
            assert item["two_owners_ms"] == 0
            assert item["owner"] in ("n1", "n2", "n3")
        reasons = {item["fault"]: item["why"] for item in report["faults"]}
        assert "lost" in reasons["power loss of the owner"]
        assert "lost" in reasons["freeze of the owner, then thaw"]
        assert reasons["kill of the daemon alone"] == (
            "nothing moved: a new daemon adopted what runs"
        )
        assert "signal 9" in reasons["kill of the web server"]
        assert "restarted in place" in reasons["kill of the web server"]
        assert demo.left_behind() == []
    finally:
        demo.end()


def test_interrupted_demo_leaves_nothing() -> None:
    """Ctrl-C in the middle of a fault: it says so, ends with 130, and everything is gone."""
    demo = Demo()
    try:
        demo.until_said("power loss of the owner: web")
        assert demo.processes()
        os.killpg(demo.process.pid, signal.SIGINT)
        _, progress = demo.process.communicate(timeout=30)
        assert demo.process.returncode == 130, progress
        assert "interrupted" in progress
        assert demo.left_behind() == []
    finally:
        demo.end()


SCRIPT = """\
leitwolf status
fault
fault cut n9
fault kill n2
n2 leitwolf status
n3 leitwolf why web
fault boot n2
fault freeze n3
fault thaw n3
fault cut n3
fault heal n3
client ip -br addr show client0
exit 3
"""


def test_the_shell_breaks_and_mends_nodes_and_leaves_nothing() -> None:
    """Commands on each node, every fault, wrong ones are told; its status is the shell's."""
    demo = Demo("--shell", stdin=subprocess.PIPE)
    try:
        demo.until_said("exit removes everything")
        assert demo.processes()
        output, errors = demo.process.communicate(SCRIPT, timeout=90)
        assert demo.process.returncode == 3, errors
        lines = output.splitlines()
        assert any(" leader n" in line for line in lines), output
        assert sum(line.startswith("usage: fault kill|freeze") for line in lines) == 2
        done = [line.removesuffix(": done") for line in lines if line.endswith(": done")]
        assert done == ["kill n2", "boot n2", "freeze n3", "thaw n3", "cut n3", "heal n3"]
        assert "n2 is off (fault boot n2)" in errors
        assert any(line.startswith("client0") for line in lines), output
        assert demo.left_behind() == []
    finally:
        demo.end()
