"""The demo where it cannot run, and where it is interrupted before anything runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lab.processes import argv_of

ROOT = Path(__file__).parents[2]


def in_session(session: int) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(path.name)) == session:
                found.append(" ".join(argv_of(int(path.name))))
        except ProcessLookupError:
            continue
    return found


@pytest.mark.root
@pytest.mark.parametrize("attempt", range(3))
def test_ctrl_c_while_the_world_is_being_built(attempt: int) -> None:
    """Status 130, one line, no traceback of any helper, no process left."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lab.demo"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    said = process.stderr.readline()
    assert "building" in said
    os.killpg(process.pid, signal.SIGINT)
    output, rest = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    assert rest.splitlines() == ["interrupted; everything is removed"]
    assert not output
    deadline = time.monotonic() + 30  # one that is ending needs a moment, on a busy machine
    while in_session(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not in_session(process.pid)


def test_where_user_namespaces_are_shut_it_says_what_root_must_run() -> None:
    """An ordinary user who may not make namespaces is told why and given the command."""
    script = (
        "import os, sys; sys.path[:0] = sys.argv[1:3]; os.geteuid = lambda: 1000\n"
        "from lab import privileges\n"
        "privileges._UNSHARE[:] = ['sh', '-c', 'echo not permitted >&2; exit 1', 'sh']\n"
        "from lab import demo\n"
        "sys.argv = ['demo']\n"
        "sys.exit(demo.main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(ROOT), str(ROOT / "src")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert "not permitted" in done.stderr
    assert "sudo " in done.stderr
