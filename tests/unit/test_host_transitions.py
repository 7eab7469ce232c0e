"""States of a resource on a node."""

from __future__ import annotations

import itertools

import pytest

from leitwolf.host.transitions import TRANSITIONS, Happening, follow
from leitwolf.model.errors import InvariantError
from leitwolf.model.ids import ResourceState


def test_every_pair_follows_the_table_or_is_refused() -> None:
    """A pair that is not in the table breaks an invariant; it is never ignored."""
    for state, happening in itertools.product(ResourceState, Happening):
        if (state, happening) in TRANSITIONS:
            assert follow(state, happening) is TRANSITIONS[state, happening]
        else:
            with pytest.raises(InvariantError):
                follow(state, happening)


def test_offline_is_reached_only_by_a_verified_stop() -> None:
    """Nothing but ``stopped``, out of offline-pending, leads to offline."""
    ways = [pair for pair, state in TRANSITIONS.items() if state is ResourceState.OFFLINE]
    assert ways == [(ResourceState.OFFLINE_PENDING, Happening.STOPPED)]


def test_online_is_reached_only_by_a_start() -> None:
    """A failed or stopping resource never becomes online without a new start."""
    ways = [pair for pair, state in TRANSITIONS.items() if state is ResourceState.ONLINE]
    assert ways == [(ResourceState.ONLINE_PENDING, Happening.STARTED)]


def test_every_state_can_be_left_towards_offline() -> None:
    """From every state some happenings lead to offline: nothing is stuck."""
    for state in ResourceState:
        reached, border = {state}, [state]
        while border:
            here = border.pop()
            for (before, _), after in TRANSITIONS.items():
                if before is here and after not in reached:
                    reached.add(after)
                    border.append(after)
        assert ResourceState.OFFLINE in reached
