"""What the guard's page permits: when the host may start a resource, who speaks as leader."""

from __future__ import annotations

from typing import Any

import pytest

from leitwolf.wire.ballot import Ballot, Now
from leitwolf.wire.page import LeasePage
from leitwolf.wire.permit import SLEPT_NS, leads, may_start

MS = 1_000_000
OPEN = LeasePage(
    lease=7,
    gate=True,
    lease_end=1_000 * MS,
    kill=60 * MS,
    heartbeat=50 * MS,
    progress=900 * MS,
    configured=True,
)


def test_open_gate_with_enough_time_left_permits() -> None:
    """Up to K before the end, exclusively, while the guard makes progress."""
    assert may_start(OPEN, 939 * MS, 7) == ""


@pytest.mark.parametrize(
    ("change", "raw_ms", "reason"),
    [
        ({"configured": False}, 910, "not-configured"),
        ({"gate": False}, 910, "gate-closed"),
        ({"lease": 0}, 910, "gate-closed"),
        ({"lease": 8}, 910, "other-lease"),
        ({}, 940, "lease-ending"),
        ({"progress": 810 * MS}, 910, "guard-stalled"),
    ],
)
def test_anything_else_refuses_with_its_reason(
    change: dict[str, Any], raw_ms: int, reason: str
) -> None:
    """Each condition has its own code."""
    assert may_start(OPEN._replace(**change), raw_ms * MS, 7) == reason


def test_no_page_permits_nothing() -> None:
    """A guard without memory has granted nothing."""
    assert may_start(None, 1, 7) == "no-page"


@pytest.mark.parametrize(
    ("office", "raw", "slept", "valid"),
    [
        (Ballot(0, 3, 1), 999, 0, True),
        (Ballot(0, 3, 1), 1_000, 0, False),
        (Ballot(0, 0, 0), 999, 0, False),
        (Ballot(0, 3, 1), 999, SLEPT_NS, True),
        (Ballot(0, 3, 1), 999, SLEPT_NS + 1, False),
    ],
)
def test_a_leader_lease_is_over_at_its_end_and_after_a_sleep(
    office: Ballot, raw: int, slept: int, *, valid: bool
) -> None:
    """Also while the guard stands still and cannot close it: others may lead by then."""
    page = LeasePage(office=office, leader_end=1_000, drift=7)
    assert leads(page, Now(raw, raw + 7 + slept)) is valid


def test_without_a_page_nobody_leads() -> None:
    """A guard without memory holds no office."""
    assert not leads(None, Now(1, 1))
