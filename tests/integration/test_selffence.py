"""Self-fencing inside a PID namespace ends that namespace and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.root

_INIT = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c",
    "from leitwolf.system.selffence import self_fence; self_fence('namespace', 'test')"])
time.sleep(60)
"""


def test_the_namespace_ends_with_its_init() -> None:
    """Init of the namespace is killed by a process in it, which no signal from inside could do."""
    inside = ["unshare", "--pid", "--mount-proc", "--fork", "--kill-child"]
    ended = subprocess.run([*inside, sys.executable, "-c", _INIT], timeout=30, check=False)
    assert ended.returncode != 0
    os.kill(os.getpid(), 0)
