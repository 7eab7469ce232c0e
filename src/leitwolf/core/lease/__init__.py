"""Promises, leader leases and run-leases: the pure machine of the guard. Standard library only."""

from leitwolf.core.lease.effects import (
    Armed,
    ArmGate,
    Commanded,
    DaemonGone,
    DaemonSeen,
    Disarm,
    Heard,
    LeaseEffect,
    LeaseEvent,
    Reboot,
    SendPeer,
    StopAll,
    Stopped,
    Tell,
    Tick,
    WritePage,
)
from leitwolf.core.lease.ledger import LeaseError
from leitwolf.core.lease.machine import LeaseMachine
from leitwolf.core.lease.profile import PROFILES, Profile, ProfileError, awaited, held

__all__ = [
    "PROFILES",
    "ArmGate",
    "Armed",
    "Commanded",
    "DaemonGone",
    "DaemonSeen",
    "Disarm",
    "Heard",
    "LeaseEffect",
    "LeaseError",
    "LeaseEvent",
    "LeaseMachine",
    "Profile",
    "ProfileError",
    "Reboot",
    "SendPeer",
    "StopAll",
    "Stopped",
    "Tell",
    "Tick",
    "WritePage",
    "awaited",
    "held",
]
