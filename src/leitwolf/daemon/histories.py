"""Other histories, as this daemon meets them: who is let in, who gives way, what people are told.

Rules:

- Every hello is judged by :func:`leitwolf.core.histories.judge`, by what is durable here.
- This node gives way only to a history that continues its own and is established.
- What parted stays apart until an operator gives one of the two up; it is said again and again.
- While a force is not finished, other nodes are let in all the same: it can be forced again with
  them. Nothing else passes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from leitwolf.core.effects import PeerSeen
from leitwolf.core.histories import Verdict, judge
from leitwolf.core.node import Node
from leitwolf.core.storages import known_instead
from leitwolf.daemon.departure import way_back
from leitwolf.daemon.rejections import name_of
from leitwolf.model.commands import Command, ReplaceStorage
from leitwolf.model.history import HistoryStanding
from leitwolf.model.ids import NodeId
from leitwolf.model.views import FindingView
from leitwolf.peers.frames import Code, Hello, Rejection
from leitwolf.wire.guard import HistoryHeard
from leitwolf.wire.lineage import Lineage, describe

__all__ = ["Histories"]

_HEARD_S = 15.0
"""Whom nothing was heard of for so long is not told of any more; nodes call every 2 s."""
_ASK_AGAIN_S = 2.0
_DECIDE = (
    "decide which half goes on; on every node of the other one: leitwolf give-up "
    "(its log is kept in quarantine)"
)
_STUCK = (
    "finish it: leitwolf force again, naming all nodes that are to go on; where others have a "
    "quorum without it: leitwolf give-up on its nodes"
)


class Histories:
    """What one daemon does about histories that are not its own."""

    def __init__(
        self,
        node: Node,
        *,
        shown: Callable[[], HistoryStanding],
        feed: Callable[[PeerSeen], None],
        tell: Callable[[Command], Coroutine[Any, Any, object]],
        record: Callable[[str], None],
        give_way: Callable[[HistoryStanding, str], None],
        examine_again: Callable[[], None],
        joined: Callable[[], object],
    ) -> None:
        """Know of no other history yet.

        Args:
            node: the core.
            shown: in which history this node is, durably.
            feed: hands an event to the core.
            tell: has the leader do something (coroutine function).
            record: writes a line for people.
            give_way: ends the life of this daemon in its history, for another one.
            examine_again: judges the hellos of all present peers again.
            joined: told once that this node, which was to join only, has joined.
        """
        self._node = node
        self._shown = shown
        self._feed = feed
        self._tell = tell
        self._record = record
        self._give_way = give_way
        self._examine_again = examine_again
        self._joined = joined
        self._prevented = node.quorum.join_only
        self._informed = False
        self._established = True
        self._foreign: dict[int, tuple[float, Verdict, HistoryStanding]] = {}
        self._asked: dict[str, float] = {}
        self._tasks: set[asyncio.Task[object]] = set()

    def follow(self) -> None:
        """See what a step of the core changed."""
        if self._prevented and not self._node.quorum.join_only:
            self._prevented = False
            self._joined()
        if self._node.in_charge != self._informed:
            self._informed = not self._informed
            if self._informed:  # whom it let in before, it could not judge
                self._examine_again()
        if self._shown().established != self._established:
            self._established = not self._established
            if self._established:  # to whom it was let in while it was not, it says so anew
                self._examine_again()

    # --- hellos ----------------------------------------------------------------------------------

    def examine(self, hello: Hello) -> Rejection | None:
        """Return why a node is not let in because of its history or storage, None: it is."""
        self._feed(PeerSeen(node=hello.node))
        own = self._shown()
        verdict = judge(self._node.me, own, hello.node, hello.history)
        if verdict in (Verdict.SAME, Verdict.ORDERED):
            self._foreign.pop(hello.node, None)
            return self._storage(hello)
        self._note(hello.node, verdict, hello.history)
        if verdict is Verdict.UNFINISHED:
            return self._storage(hello)
        name, there = name_of(self._node, hello.node), describe(hello.history.lineage)
        if verdict is Verdict.BEHIND:
            self._give_way(hello.history, f"quorum was forced by others: {name} is in {there}")
        texts = {
            Verdict.BEHIND: "this node is in a history that others forced; it gives way",
            Verdict.SUPERSEDED: f"{name} is in {there}, out of which {describe(own.lineage)} was "
            "forced: it sets its log aside and comes back by itself",
            Verdict.APART: f"{name} is in {there}, this node in {describe(own.lineage)}: "
            "quorum was forced in two parts of the cluster",
        }
        hint = _DECIDE if verdict is Verdict.APART else ""
        return Rejection(code=verdict.value, text=texts[verdict], hint=hint)

    def _note(self, node: int, verdict: Verdict, history: HistoryStanding) -> None:
        known = self._foreign.get(node)
        if known is None or known[1:] != (verdict, history):
            there = describe(history.lineage)
            self._record(
                f"{name_of(self._node, node)} is in another history, {there} [{verdict.value}]"
            )
        self._foreign[node] = (time.monotonic(), verdict, history)

    def _storage(self, hello: Hello) -> Rejection | None:
        known = known_instead(self._node, NodeId(hello.node), hello.storage)
        if not known:
            return None
        name = name_of(self._node, hello.node)
        formers = [former for former in hello.replaces if former in known]
        if not formers:
            return Rejection(
                code=Code.STORAGE_UNKNOWN,
                text=f"{name} came with another storage: its state was wiped or replaced",
                hint=way_back(name),
            )
        now = time.monotonic()
        if now - self._asked.get(hello.storage, -_ASK_AGAIN_S) >= _ASK_AGAIN_S:
            self._asked[hello.storage] = now
            command = ReplaceStorage(
                node=NodeId(hello.node), former=formers[-1], storage=hello.storage
            )
            task = asyncio.get_running_loop().create_task(self._tell(command))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return Rejection(
            code=Code.STORAGE_REPLACED,
            text=f"{name} set its log aside; its new storage is being made known",
        )

    def heard(self, report: HistoryHeard) -> None:
        """The own guard heard a leader of another history."""
        name, there = name_of(self._node, report.node), describe(report.lineage)
        what = "everything here is being closed" if report.closed else "it is not answered"
        self._record(f"{name} leads in {there}: {what}")
        if not report.closed:
            standing = HistoryStanding(lineage=report.lineage)
            verdict = judge(self._node.me, self._shown(), report.node, standing)
            if verdict is Verdict.APART:
                self._foreign[report.node] = (time.monotonic(), verdict, standing)

    # --- for people ------------------------------------------------------------------------------

    def _present(self) -> dict[int, tuple[Verdict, HistoryStanding]]:
        now, let_in = time.monotonic(), self._node.force.peers
        return {
            node: (verdict, history)
            for node, (at, verdict, history) in sorted(self._foreign.items())
            if not self._with_us(node, verdict) and (now - at <= _HEARD_S or node in let_in)
        }

    def _with_us(self, node: int, verdict: Verdict) -> bool:
        """Return whether a node that is connected now was let in since: it is in this history."""
        return verdict is not Verdict.UNFINISHED and node in self._node.connected

    def alternative(self) -> HistoryStanding | None:
        """Return the history for which an operator may give up the own one, None: none is heard."""
        for verdict, history in self._present().values():
            if history.established and verdict in (Verdict.APART, Verdict.UNFINISHED):
                return history
        return None

    def notices(self) -> list[FindingView]:
        """Return what people must know of histories."""
        found = []
        halves: dict[tuple[Verdict, Lineage], list[str]] = {}
        for node, (verdict, history) in self._present().items():
            halves.setdefault((verdict, history.lineage), []).append(name_of(self._node, node))
        here = describe(self._shown().lineage)
        for (verdict, lineage), names in halves.items():
            who = ", ".join(names)
            if verdict is Verdict.APART:
                text = (
                    f"TWO FORCED HALVES: {who} in {describe(lineage)}, this node in {here}; "
                    "each refuses the other, and both may run the same groups"
                )
                found.append(FindingView(code=verdict.value, text=text, fix=_DECIDE))
            elif verdict is Verdict.UNFINISHED:
                text = f"a forced quorum is not finished: {who} in {describe(lineage)}, here {here}"
                found.append(FindingView(code=verdict.value, text=text, fix=_STUCK))
        own = self._node.history
        if not own.established and own.lineage:
            obstacles = "; ".join(self._node.force.obstacles.values())
            text = f"quorum was forced here, but is not reached yet{': ' if obstacles else ''}"
            found.append(
                FindingView(code=Verdict.UNFINISHED.value, text=text + obstacles, fix=_STUCK)
            )
        if self._node.force.waiting_ns:
            text = "a quorum is being forced: the silence of all other nodes is waited for"
            fix = "wait for its end; it is given up by itself when somebody is heard"
            found.append(FindingView(code="force-running", text=text, fix=fix))
        if self._node.quorum.join_only:
            text = "this node is to join only: it waits for a leader and never makes one"
            hint = "when there is none any more: leitwolf node prevent --end"
            found.append(FindingView(code="join-only", text=text, fix=hint))
        return found
