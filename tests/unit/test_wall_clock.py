"""The wall clock decides nothing: it may be set back by a year while everything runs."""

from __future__ import annotations

import ast
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from leitwolf.peers.authority import create_identity

SOURCE = Path(__file__).parents[2] / "src" / "leitwolf"
SHOWN = {
    "daemon/cluster.py": "stamps of entries and of the recorder, for people",
    "daemon/departure.py": "when this node left, for people",
    "daemon/giving_way.py": "when this node gave way, for people",
    "system/diary.py": "stamps of log lines, for people",
    "daemon/forming.py": "stamp of the first entry, for people",
    "daemon/aside.py": "when state was set aside, for people",
    "daemon/restoring.py": "when a backup was made, for people",
    "daemon/lifecycle.py": "when this node was locked out, for people",
    "daemon/service.py": "when a restore was asked for, for people",
    "store/log.py": "age of history segments",
}
"""Where the wall clock is read, and what for: only what is shown, or how long history is kept."""


def readings(path: Path) -> list[int]:
    """Lines that read the wall clock."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            wall = (owner == "time" and node.attr in ("time", "time_ns", "CLOCK_REALTIME")) or (
                owner in ("datetime", "date") and node.attr in ("now", "utcnow", "today")
            )
            if wall:
                found.append(node.lineno)
    return found


def test_wall_clock_is_read_for_people_only() -> None:
    """No module but those that show it reads CLOCK_REALTIME; leases, tokens and policy cannot."""
    reading = {str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.py") if readings(path)}
    assert reading <= set(SHOWN), reading - set(SHOWN)


def test_certificates_are_valid_whatever_the_clock_says() -> None:
    """From 1970 to 9999: TLS holds also on a machine whose battery is empty."""
    identity = create_identity("c", "n")
    for pem in (identity.authority_certificate, identity.certificate):
        certificate = x509.load_pem_x509_certificate(pem)
        assert certificate.not_valid_before_utc <= datetime(1970, 1, 1, tzinfo=UTC)
        assert certificate.not_valid_after_utc >= datetime(9999, 12, 31, tzinfo=UTC)
