"""Replacing the heartbeat key: no guard is ever deaf to a key that another one seals with."""

from __future__ import annotations

import pytest

from leitwolf.core.membership import SETTLE_NS, next_keys
from leitwolf.core.policy import judge
from leitwolf.model.commands import Refusal, Rekey
from leitwolf.model.events import Cause, Change, KeysSet
from leitwolf.model.observations import Observations
from leitwolf.model.state import State
from leitwolf.sim.forming import formed_log
from leitwolf.state import fold, fold_change

OLD, NEW = b"o" * 32, b"n" * 32
FORMED = fold(State(), formed_log(nodes=3, groups=1, links=1, profile="default").entries[0])
NOBODY = Observations(nodes={}, resources={}, attested={})


def with_keys(state: State, event: KeysSet, time: int) -> State:
    change = Change(
        events=(event,), because=Cause(code="rekey", text="test"), by="test", time=time, wall=0
    )
    return fold_change(state, state.index + 1, change)


def test_a_rekey_goes_from_spread_over_seal_to_final() -> None:
    """At every moment all guards open with whatever key any of them seals with."""
    state = FORMED
    judged = judge(state, Rekey(former=OLD, key=NEW), NOBODY)
    assert not isinstance(judged, Refusal)
    (event,) = judged.events
    seen = []
    time = 0
    while isinstance(event, KeysSet):
        former = state.keys or (OLD,)
        assert former[0] in event.keys, "a key that seals now must open after the step"
        assert event.keys[0] in former or len(former) == 1, "the next sealing key must open before"
        seen.append((event.stage, event.keys))
        state = with_keys(state, event, time)
        time += SETTLE_NS
        following = next_keys(state, now=time, everywhere=True)
        if following is None:
            break
        event = following
    assert seen == [("spread", (OLD, NEW)), ("seal", (NEW, OLD)), ("final", (NEW,))]
    assert next_keys(state, now=time * 2, everywhere=True) is None


@pytest.mark.parametrize(("now", "everywhere"), [(SETTLE_NS - 1, True), (SETTLE_NS, False)])
def test_a_step_waits_for_everybody(now: int, everywhere: bool) -> None:
    """The next step comes only when all hold the last one and had time to use it."""
    state = with_keys(FORMED, KeysSet(keys=(OLD, NEW), stage="spread"), 0)
    assert next_keys(state, now=now, everywhere=everywhere) is None


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (Rekey(former=OLD, key=b"short"), "invalid-key"),
        (Rekey(former=OLD, key=OLD), "invalid-key"),
    ],
)
def test_wrong_keys_are_refused(command: Rekey, code: str) -> None:
    """A key of the wrong length, or the same again, is refused by code."""
    refused = judge(FORMED, command, NOBODY)
    assert isinstance(refused, Refusal)
    assert refused.code == code


def test_one_rekey_at_a_time() -> None:
    """A second rekey is refused while one is under way."""
    state = with_keys(FORMED, KeysSet(keys=(OLD, NEW), stage="spread"), 0)
    refused = judge(state, Rekey(former=OLD, key=b"x" * 32), NOBODY)
    assert isinstance(refused, Refusal)
    assert refused.code == "rekey-under-way"
