"""Timing profiles and the arithmetic of leases. Standard library only.

All durations are nanoseconds. ``RHO`` is the assumed bound on the rate error of any clock (A3).
A duration that the holder of a lease counts on is shortened by :func:`held`, one that somebody
else waits for it to be over is stretched by :func:`awaited`; both keep a margin ``MARGIN_NS``.
Since ``held(x) < x < awaited(x)`` on clocks of any allowed rates, who waits outlasts who holds.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ARMED_PERCENT",
    "ELECTION_MS_MIN",
    "MARGIN_NS",
    "MILLISECOND",
    "PROFILES",
    "RHO_PPM",
    "SLEPT_NS",
    "Profile",
    "ProfileError",
    "awaited",
    "held",
]

MILLISECOND = 1_000_000
RHO_PPM = 1_000
"""Assumed bound on the error of a clock's rate, parts per million (0.1 %)."""
MARGIN_NS = 2 * MILLISECOND
"""d: what a lease is shortened by, and a wait lengthened, beside the rates."""
SLEPT_NS = 5 * MILLISECOND
"""L1: a larger move of BOOTTIME - RAW means that the machine slept."""
ARMED_PERCENT = 85
"""L9: so much of what remains of a run-lease is armed in the kernel; then addresses are silent."""
STALL_REALTIME_MS = 40
"""Worst stall to be counted with real-time scheduling, at least."""
STALL_FAIR_MS = 400
"""Worst stall to be counted without real-time scheduling, at least."""
_ROUND_TRIP_MS = 2
"""Between two nodes of a LAN; what was not measured yet."""
ELECTION_MS_MIN = 20
"""What an election takes beyond the silence of a disk or witness, at least."""
_ELECTION_MS = {"fast": 20, "default": 40, "virtual": 150, "wan": 900}
"""E budgeted where nothing was measured: rank, pre-probe, prepare with its sync, round trips."""


def held(duration: int) -> int:
    """Return how long the holder of a lease of ``duration`` ns may use it, by its own clock."""
    return duration - duration * 2 * RHO_PPM // 1_000_000 - MARGIN_NS


def awaited(duration: int) -> int:
    """Return how long to wait, by one's own clock, until a lease of ``duration`` ns is over."""
    return duration + -(-duration * 2 * RHO_PPM // 1_000_000) + MARGIN_NS


def watchdog_awaited(run: int) -> int:
    """Return how long (ns) until a node that nobody hears was reset by its watchdog, if it has one.

    Longer than R, so that a lease of it is over, too. As ``system/watchdog`` sets the device: R,
    the 2 s after which a hanging guard is ended and one for the restart, in whole seconds.
    """
    second = 1_000 * MILLISECOND
    return awaited(-(-(run + 3 * second) // second) * second)


class ProfileError(ValueError):
    """A timing profile cannot be held by this machine, or contradicts itself."""


@dataclass(frozen=True, slots=True)
class Profile:
    """One block of timing, checked as a whole; fields in milliseconds."""

    name: str
    heartbeat_ms: int
    promise_ms: int
    run_ms: int
    kill_ms: int

    @property
    def heartbeat(self) -> int:
        """H in ns."""
        return self.heartbeat_ms * MILLISECOND

    @property
    def promise(self) -> int:
        """P in ns."""
        return self.promise_ms * MILLISECOND

    @property
    def run(self) -> int:
        """R in ns."""
        return self.run_ms * MILLISECOND

    @property
    def kill(self) -> int:
        """K in ns."""
        return self.kill_ms * MILLISECOND

    @property
    def missed_ms(self) -> int:
        """After this time a heartbeat is late, and disks and witnesses are looked at."""
        return self.heartbeat_ms + -(-self.heartbeat_ms // 4)

    @property
    def renewed_ms(self) -> int:
        """By then a run-lease must be renewed: the guard begins to stop, or the kernel shuts."""
        return min(self.run_ms - self.kill_ms, self.run_ms * ARMED_PERCENT // 100)

    @property
    def silence(self) -> int:
        """The longest silence (ns) of a disk or witness that R bears (L14)."""
        rest_ms = self.renewed_ms - ELECTION_MS_MIN - self.missed_ms - 1
        return (rest_ms * MILLISECOND - MARGIN_NS) * 1_000_000 // (1_000_000 + 2 * RHO_PPM)

    def verify_on(self, *, realtime: bool, stall_ms: int = 0) -> None:
        """Check the profile against a node.

        Args:
            realtime: its guard has real-time scheduling.
            stall_ms: worst stall that its guard measured.

        Raises:
            ProfileError: as :meth:`verify`.
        """
        least_ms = STALL_REALTIME_MS if realtime else STALL_FAIR_MS
        self.verify(max(least_ms, stall_ms), _ROUND_TRIP_MS, _ELECTION_MS[self.name])

    def verify(self, stall_ms: int, round_trip_ms: int, election_ms: int) -> None:
        """Check the profile against what was measured on the machine.

        Args:
            stall_ms: worst stall of the guard, not below STALL_REALTIME_MS or STALL_FAIR_MS.
            round_trip_ms: slowest round trip between two nodes.
            election_ms: E, election budget.

        Raises:
            ProfileError: names the rule, the sum that it needs and the value.
        """
        need = 3 * self.heartbeat_ms + stall_ms + round_trip_ms + self.kill_ms
        if self.promise_ms < need:
            raise ProfileError(
                f"profile {self.name}: P = {self.promise_ms} ms, needs at least {need} ms "
                f"(3 H {3 * self.heartbeat_ms} + worst stall {stall_ms} + round trip "
                f"{round_trip_ms} + K {self.kill_ms})"
            )
        stretched = -(-self.promise_ms * 2 * RHO_PPM // 1_000_000) + self.promise_ms
        need = stretched + election_ms + self.heartbeat_ms + self.kill_ms
        if self.run_ms < need:
            raise ProfileError(
                f"profile {self.name}: R = {self.run_ms} ms, needs at least {need} ms "
                f"(P {stretched} + election {election_ms} + H {self.heartbeat_ms} + "
                f"K {self.kill_ms})"
            )


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("fast", 20, 150, 250, 40),
        Profile("default", 50, 260, 420, 60),
        Profile("virtual", 100, 900, 1500, 150),
        Profile("wan", 500, 3000, 5000, 500),
    )
}
