"""Who belongs to the cluster: guard configuration and the steps of reconfiguration."""

from __future__ import annotations

from leitwolf.core.membership.presence import Presence, Sight, patience
from leitwolf.core.membership.profiles import acting, longest
from leitwolf.core.membership.reconfigure import (
    Step,
    View,
    heirs,
    next_step,
    outstanding,
    sought_witness,
)
from leitwolf.core.membership.rekey import SETTLE_NS, next_keys
from leitwolf.core.membership.roster import guard_configuration

__all__ = [
    "SETTLE_NS",
    "Presence",
    "Sight",
    "Step",
    "View",
    "acting",
    "guard_configuration",
    "heirs",
    "longest",
    "next_keys",
    "next_step",
    "outstanding",
    "patience",
    "sought_witness",
]
