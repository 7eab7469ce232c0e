"""A change of the timing profile: in two entries, so that every lease is waited for long enough.

Rules:

- From the entry that names the new profile until the one that settles it, the shorter of the two is
  acted by, and the longer one is waited for: no lease longer than the former profile is granted
  before all later leaders know of it, and none granted under the former is forgotten.
- It is settled when the first entry is committed, every node that holds a lease has it on its disk,
  and the longest lease that began before is over.
- A guard confirms no promise longer than it would wait for if it lost its page; what it would wait
  for rises only with what is durable on its node.

Each call looks at the state afresh, so a new leader continues where the old one stopped.
"""

from __future__ import annotations

from leitwolf.core.lease.profile import PROFILES, Profile
from leitwolf.core.rules import Rules
from leitwolf.model.state import State

__all__ = ["acting", "longest"]


def acting(state: State, rules: Rules) -> Profile:
    """Return the profile to act by."""
    present = PROFILES[state.profile]
    if not state.profile_former or not rules.holds("shorter-profile-first"):
        return present
    return min(present, PROFILES[state.profile_former], key=_run)


def longest(state: State, rules: Rules) -> Profile:
    """Return the profile whose promises and leases must be waited for."""
    present = PROFILES[state.profile]
    if not state.profile_former or not rules.holds("former-profile"):
        return present
    return max(present, PROFILES[state.profile_former], key=_run)


def _run(profile: Profile) -> int:
    """Of two profiles one is longer in everything."""
    return profile.run
