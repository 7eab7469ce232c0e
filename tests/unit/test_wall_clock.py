"""The wall clock decides nothing: it may be set back by a year while everything runs."""

from __future__ import annotations

import ast
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from leitwolf.peers.authority import create_identity

SOURCE = Path(__file__).parents[2] / "src" / "leitwolf"
SHOWN = {
    "daemon/cluster.py": "stamps of entries and of the recorder, for people",
    "daemon/giving_way.py": "when this node gave way, for people",
    "system/diary.py": "stamps of log lines, for people",
    "daemon/forming.py": "stamp of the first entry, for people",
    "daemon/aside.py": "when state was set aside, for people",
    "daemon/restoring.py": "when a backup was made, for people",
    "daemon/lifecycle.py": "when this node was locked out, for people",
    "daemon/service.py": "when a restore was asked for, for people",
}
"""Where the wall clock is read, and what for: only what is shown."""
WALL = {
    *(f"time.{name}" for name in ("time", "time_ns", "CLOCK_REALTIME", "CLOCK_TAI")),
    *(f"datetime.datetime.{name}" for name in ("now", "utcnow", "today")),
    "datetime.date.today",
}
OF_NOW = {"localtime": 0, "gmtime": 0, "ctime": 0, "asctime": 0, "strftime": 1}
"""Functions of ``time`` that read the wall clock when no instant is given: arguments without it."""


def origins(tree: ast.AST) -> dict[str, str]:
    """What each imported name is, in full."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                first = name.name.partition(".")[0]
                found[name.asname or first] = name.name if name.asname else first
        elif isinstance(node, ast.ImportFrom):
            for name in node.names:
                found[name.asname or name.name] = f"{node.module}.{name.name}"
    return found


def dotted(node: ast.AST, known: dict[str, str]) -> str:
    """The full name of an expression, '' when it is none."""
    if isinstance(node, ast.Name):
        return known.get(node.id, "")
    if isinstance(node, ast.Attribute) and (owner := dotted(node.value, known)):
        return f"{owner}.{node.attr}"
    return ""


def readings(source: str) -> list[int]:
    """Lines that read the wall clock, however it was imported."""
    tree = ast.parse(source)
    known = origins(tree)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Name, ast.Attribute)) and dotted(node, known) in WALL:
            found.append(node.lineno)
        if isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime"):
            found += [node.lineno for name in node.names if name.name == "*"]
        if isinstance(node, ast.Call):
            module, _, name = dotted(node.func, known).rpartition(".")
            if module == "time" and len(node.args) == OF_NOW.get(name, -1):
                found.append(node.lineno)
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import time\ntime.time()",
        "import time as clock\nclock.time_ns()",
        "from time import time\ntime()",
        "from time import time_ns as stamp\nread = stamp",
        "import time\ntime.clock_gettime(time.CLOCK_REALTIME)",
        "from time import CLOCK_REALTIME, clock_gettime\nclock_gettime(CLOCK_REALTIME)",
        "from time import *\ntime()",
        "import time\ntime.strftime('%Y')",
        "from time import gmtime\ngmtime()",
        "import datetime\ndatetime.datetime.now()",
        "import datetime as dt\ndt.date.today()",
        "from datetime import datetime as moment\nmoment.utcnow()",
    ],
)
def test_every_way_to_the_wall_clock_is_seen(source: str) -> None:
    """Under whatever name."""
    assert readings(source)


@pytest.mark.parametrize(
    "source",
    [
        "import time\ntime.monotonic_ns()",
        "import time\ntime.strftime('%Y', time.gmtime(stamp))",
        "def act(time):\n    return time.time",
        "from datetime import UTC, datetime\ndatetime.fromtimestamp(stamp, UTC)",
    ],
)
def test_other_clocks_and_given_instants_are_not_meant(source: str) -> None:
    """What shows a given instant reads nothing."""
    assert not readings(source)


def test_wall_clock_is_read_for_people_only() -> None:
    """No module but those that show it reads CLOCK_REALTIME; leases, tokens and policy cannot."""
    files = SOURCE.rglob("*.py")
    reading = {str(path.relative_to(SOURCE)) for path in files if readings(path.read_text())}
    assert reading == set(SHOWN)


def test_certificates_are_valid_whatever_the_clock_says() -> None:
    """From 1970 to 9999: TLS holds also on a machine whose battery is empty."""
    identity = create_identity("c", "n")
    for pem in (identity.authority_certificate, identity.certificate):
        certificate = x509.load_pem_x509_certificate(pem)
        assert certificate.not_valid_before_utc <= datetime(1970, 1, 1, tzinfo=UTC)
        assert certificate.not_valid_after_utc >= datetime(9999, 12, 31, tzinfo=UTC)
