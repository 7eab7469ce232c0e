"""Arithmetic of leases."""

from __future__ import annotations

from fractions import Fraction

import pytest

from leitwolf.core.lease import PROFILES, Profile, ProfileError, awaited, held
from leitwolf.core.lease.profile import MARGIN_NS, MILLISECOND, STALL_FAIR_MS, STALL_REALTIME_MS

RATES = (Fraction(999, 1000), Fraction(1), Fraction(1001, 1000))


@pytest.mark.parametrize("duration_ms", [1, 150, 260, 420, 5_000, 60_000])
def test_who_waits_outlasts_who_holds_on_clocks_of_any_rate(duration_ms: int) -> None:
    """In true time a lease held is over before the same lease awaited, by almost two margins."""
    duration = duration_ms * MILLISECOND
    for holder in RATES:
        for waiter in RATES:
            assert held(duration) / holder + MARGIN_NS < awaited(duration) / waiter


def test_margins_are_exact() -> None:
    """Twice the rate and 2 ms, rounded against the holder and for the waiter."""
    assert held(1_000_000_000) == 1_000_000_000 - 2_000_000 - MARGIN_NS
    assert awaited(1_000_000_000) == 1_000_000_000 + 2_000_000 + MARGIN_NS
    assert awaited(1) == 1 + 1 + MARGIN_NS


def test_every_profile_holds_on_the_machine_it_is_for() -> None:
    """fast and default with real-time scheduling, virtual and wan without."""
    PROFILES["fast"].verify(STALL_REALTIME_MS, 1, 20)
    PROFILES["default"].verify(STALL_REALTIME_MS, 1, 40)
    PROFILES["virtual"].verify(STALL_FAIR_MS, 1, 100)
    PROFILES["wan"].verify(STALL_FAIR_MS, 100, 500)


@pytest.mark.parametrize("name", ["fast", "default"])
def test_short_profiles_are_refused_without_real_time(name: str) -> None:
    """The stall of fair scheduling does not fit into P."""
    with pytest.raises(ProfileError, match="P = "):
        PROFILES[name].verify(STALL_FAIR_MS, 1, 20)


def test_run_lease_must_outlast_an_election() -> None:
    """R >= P stretched + E + H + K, or the death of a leader stops groups elsewhere."""
    Profile("x", 50, 260, 420, 60).verify(40, 1, 49)
    with pytest.raises(ProfileError, match="R = 420 ms, needs at least 421 ms"):
        Profile("x", 50, 260, 420, 60).verify(40, 1, 50)
