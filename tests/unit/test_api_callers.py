"""Who may ask on the Unix socket: the kernel says who calls, and the group decides."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.unit.api_support import FakeService
from tests.unit.test_cli import served

from leitwolf.api import server

# The server is cut off at the end of a test, with whatever connection it keeps.
pytestmark = [
    pytest.mark.root,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

NOBODY, READERS, OTHERS = 65534, 64_123, 64_124
ASK = """
import http.client, json, os, socket, sys
path, user, group, *groups = sys.argv[1:]
"é".encode("idna")  # loads what cannot be loaded as another user
os.setgroups([int(one) for one in groups])
os.setgid(int(group))
os.setuid(int(user))
found = []
for method, route in (("GET", "/v1/status"), ("POST", "/v1/rekey")):
    connection = http.client.HTTPConnection("leitwolf", timeout=20)
    connection.sock = socket.socket(socket.AF_UNIX)
    try:
        connection.sock.connect(path)
    except PermissionError:
        found.append(0)
        continue
    connection.request(method, route, "{}" if method == "POST" else None)
    answer = connection.getresponse()
    found.append(answer.status)
    answer.read()
print(json.dumps(found))
"""
"""Asks one thing that reads and one that changes; 0: the kernel did not let it connect."""


@pytest.fixture
def members() -> list[str]:
    """Names in the group of readers, by the database."""
    return []


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch, members: list[str]) -> Iterator[Path]:
    """A socket on a machine with the group of readers, in a folder that everybody may enter."""
    readers = SimpleNamespace(gr_gid=READERS, gr_mem=members)
    monkeypatch.setattr(server, "grp", SimpleNamespace(getgrnam=lambda _: readers))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        with served(FakeService(), Path(folder)):
            yield Path(folder) / "api.sock"


def asked(path: Path, user: int, group: int, *groups: int) -> list[int]:
    """Return how such a caller is answered."""
    words = [str(word) for word in (path, user, group, *groups)]
    done = subprocess.run(
        [sys.executable, "-I", "-c", ASK, *words], capture_output=True, text=True, check=True
    )
    found: list[int] = json.loads(done.stdout)
    return found


def test_the_socket_is_for_root_and_the_readers(path: Path) -> None:
    """Nobody else gets as far as asking."""
    found = path.stat()
    assert (found.st_mode & 0o777, found.st_uid, found.st_gid) == (0o660, 0, READERS)
    assert asked(path, NOBODY, NOBODY) == [0, 0]
    assert asked(path, 0, 0) == [200, 200]


@pytest.mark.parametrize(
    ("group", "groups", "reads"),
    [
        (READERS, (), 200),
        (NOBODY, (OTHERS, READERS), 200),
        (NOBODY, (OTHERS,), 403),
        (0, (), 403),
    ],
)
def test_a_member_of_the_group_reads_and_changes_nothing(
    path: Path, group: int, groups: tuple[int, ...], reads: int
) -> None:
    """Whether it is the first of its groups or another one; no other group counts, not root's."""
    path.chmod(0o666)  # of those who would not get in at all
    assert asked(path, NOBODY, group, *groups) == [reads, 403]


@pytest.mark.parametrize(("named", "reads"), [("nobody", 200), ("somebody", 403)])
def test_the_database_of_groups_counts_as_well(
    path: Path, members: list[str], named: str, reads: int
) -> None:
    """A member that was added since it logged in."""
    path.chmod(0o666)
    members.append(named)
    assert asked(path, NOBODY, NOBODY) == [reads, 403]


def test_without_the_group_only_root_reads(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A machine that has none is no reason not to serve."""

    def unknown(_: str) -> None:
        raise KeyError

    monkeypatch.setattr(server, "grp", SimpleNamespace(getgrnam=unknown))
    path.chmod(0o666)
    assert asked(path, NOBODY, READERS) == [403, 403]
    with served(FakeService(), tmp_path):
        found = (tmp_path / "api.sock").stat()
        assert (found.st_mode & 0o777, found.st_gid) == (0o660, tmp_path.stat().st_gid)
