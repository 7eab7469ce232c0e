"""The steps of replacing the heartbeat key while the cluster runs.

Rules:

- No guard seals with a key before every connected member can open with it, and none forgets a key
  before every connected member seals with the next one. So no heartbeat is lost.
- A node that is away meanwhile learns the keys from the log when its daemon is back: its stream
  needs no heartbeat key.
"""

from __future__ import annotations

from leitwolf.model.events import KeysSet
from leitwolf.model.state import State

__all__ = ["SETTLE_NS", "next_keys"]

SETTLE_NS = 1_000_000_000
"""How long a node may take from holding an entry to its guard using the keys in it."""


def next_keys(state: State, *, now: int, everywhere: bool) -> KeysSet | None:
    """Return the next step of a rekey, None when there is none (yet).

    Args:
        state: the fold of the whole log.
        now: cluster time, ns.
        everywhere: every connected member holds the entry of the last step.
    """
    if len(state.keys) < 2 or not everywhere or now < state.keys_time + SETTLE_NS:
        return None
    first, second = state.keys
    if state.keys_stage == "spread":
        return KeysSet(keys=(second, first), stage="seal")
    return KeysSet(keys=(first,), stage="final")
