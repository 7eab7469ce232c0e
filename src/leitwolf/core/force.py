"""Forced quorum: part of a cluster goes on without the rest, by order of the operator (L11).

Rules:

- The node that is asked must be the most up-to-date of those named. Then its log holds every entry
  that any of them knows to be committed; a named node that holds more refuses (``fresher-node``).
- It is refused while any node that is not named, a leader, or whoever writes on a disk or witness
  is heard; and only after a silence that outlasts every run-lease and every watchdog, and when all
  named nodes said again that nothing speaks against it, the first entry of the new history is
  written. It brings the new configuration into force.
- Where several nodes force at once, those of higher number give up.
- Named nodes follow an order that each checks for itself by the same rules and writes down before
  it obeys. Nobody changes its configuration unasked. No order leaves before the entry is durable.
- A force that got stuck is finished by another one, with whoever answers: nodes that are still in
  the former history, and such whose own force got stuck.
- From then on everything goes by the rules of elections, in the next epoch. Within one history
  all invariants hold as if it were the only one. Between histories there is what the operator
  confirmed, and that whoever hears a leader of a history that was forced out of its own closes its
  leases before anything else.

Phases here::

    ask     what do the named nodes hold, and would they obey?    nobody is committed to anything
    wait    is everybody else silent?                             nothing is written
    confirm do the named nodes still say so?                      they force nothing themselves
    append  the first entry is durable here                       orders go to the named nodes
    (then)  an election by the new configuration; the entry commits: the history is established

A crash before *append* leaves nothing behind. After it, the log itself says what is to be done: the
node goes on ordering and campaigning until the entry is committed, or the operator gives it up.

What this does not guarantee: that nodes which are not heard do not run. They may be cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from leitwolf.core.ears import SILENCE_NS, Ears
from leitwolf.core.effects import Effect, Reply, Request, Send
from leitwolf.core.force_task import Phase, Task
from leitwolf.core.foretold import foretold, loss
from leitwolf.core.histories import comparable, follows
from leitwolf.core.lease.profile import MILLISECOND, awaited, watchdog_awaited
from leitwolf.core.membership import longest
from leitwolf.core.messages import ForceAnswer, ForceMessage, ForceOrder, ForceProbe, ForceReport
from leitwolf.core.quorum import QuorumCore, Role
from leitwolf.core.quorum.standing import NEVER
from leitwolf.model.commands import Answer, ForceQuorum, Refusal
from leitwolf.model.events import Cause, Change, QuorumChanged, QuorumForced
from leitwolf.model.history import HistoryStanding
from leitwolf.model.ids import NodeId
from leitwolf.model.limits import FORCES_MAX
from leitwolf.model.log import Entry
from leitwolf.model.quorum import Acceptor, AcceptorId, QuorumConfig
from leitwolf.model.state import State
from leitwolf.state import decode_change, encode_change
from leitwolf.wire.ballot import Key
from leitwolf.wire.lineage import shared
from leitwolf.wire.page import LeasePage

__all__ = ["Force"]

_ASK_NS = 500 * MILLISECOND
_LOOK_NS = 100 * MILLISECOND
_REPEAT_NS = 500 * MILLISECOND
"""An order is repeated at this interval: what was in its way may pass."""
_WATCH_NS = 10_000 * MILLISECOND
"""A named node watches disks and witnesses for so long after it was asked last."""
_UNREAD_NS = 6_000 * MILLISECOND
"""So much longer is waited for a disk or witness that neither answers nor fails."""


_TURN = "wait for its end: leitwolf status; then, if need be, force again"


class Force:
    """The part of a node that forces a quorum, or is named in one. Instants are RAW ns."""

    def __init__(
        self,
        quorum: QuorumCore,
        *,
        page: Callable[[], LeasePage | None],
        behind: Mapping[NodeId, int],
        ahead: Callable[[], State],
        own: Callable[[], HistoryStanding],
    ) -> None:
        """Begin without a task.

        Args:
            quorum: the quorum core of this node.
            page: reads the guard's page; None while there is none.
            behind: nodes and witnesses that hold more than this one, up to which entry.
            ahead: the fold of the whole log, what is not known to be committed included.
            own: in which history this node is.
        """
        self._me = quorum.me
        self._quorum = quorum
        self._page = page
        self._behind = behind
        self._ahead = ahead
        self._own = own
        self._rules = quorum.rules
        self.ears = Ears()
        self.peers: dict[NodeId, HistoryStanding] = {}
        """In which history each node is with which there is a stream."""
        self.obstacles: dict[NodeId, str] = {}
        """Why named nodes did not obey."""
        self._task: Task | None = None
        self._serial = 0
        self._watched = NEVER
        """Since when disks and witnesses are watched, until ``_watch_until``."""
        self._watch_until = 0
        self._order: ForceOrder | None = None
        self._order_at = NEVER
        self._effects: list[Effect] = []

    # --- what the node core reads ----------------------------------------------------------------

    @property
    def waiting_ns(self) -> int:
        """Instant at which the first entry is written if all stay silent, 0: nothing waits."""
        task = self._task
        waits = task is not None and task.phase in (Phase.WAIT, Phase.CONFIRM)
        return task.deadline if task is not None and waits else 0

    def deadline(self, now: int) -> int:
        """Return when :meth:`tick` is needed at the latest."""
        task, look = self._task, now + _LOOK_NS
        if task is None or task.phase is Phase.APPEND:
            return min(self._order_at, look if now < self._watch_until else NEVER)
        if task.phase is Phase.CONFIRM and not self._awaited(task):
            return now
        return min(self._order_at, look, task.deadline if task.deadline > now else look)

    def take_effects(self) -> list[Effect]:
        """Return what is to be done, and forget it."""
        effects, self._effects = self._effects, []
        return effects

    def peer_up(self, now: int, node: NodeId, history: HistoryStanding) -> None:
        """A stream is up to a node in this history or another one."""
        self.peers[node] = history
        self.ears.stream(now, node, up=True)

    def peer_lost(self, now: int, node: NodeId) -> None:
        """A stream is gone."""
        self.peers.pop(node, None)
        self.ears.stream(now, node, up=False)

    # --- the operator's node ---------------------------------------------------------------------

    def request(self, now: int, request: Request) -> None:
        """Begin what the operator asks for, or refuse it."""
        command = request.command
        if not isinstance(command, ForceQuorum):
            return
        state = self._ahead()
        reached = {node for node in self.peers if node in state.nodes}
        nodes = frozenset(command.nodes) or frozenset({self._me.node, *reached})
        refusal = self._refusal(now, state, nodes, confirmed=command.others_down)
        if refusal is not None:
            self._reply(request, refusal)
            return
        if self._task is not None:
            self._unfinished("another force was begun on this node")
        others = nodes - {self._me.node}
        self._task = Task(request, nodes, others, command.others_down)
        self._ask(now, self._task)
        self._watch(now)
        self._asked(now)

    def _ask(self, now: int, task: Task) -> None:
        """Ask all named nodes that are within reach."""
        self._serial += 1
        task.serial, task.deadline = self._serial, now + _ASK_NS
        task.reports.clear()
        last, nodes = task.phase is Phase.CONFIRM, tuple(sorted(task.nodes))
        for node in sorted(task.others & self.peers.keys()):
            message = ForceProbe(serial=self._serial, nodes=nodes, last=last)
            self._effects.append(Send(node=node, message=message))

    def _watch(self, now: int) -> None:
        """Watch disks and witnesses from now on, or for longer: who writes there lives."""
        if not self._rules.holds("force-looks"):
            return
        if now >= self._watch_until:
            self._watched = now
        self._watch_until = now + _WATCH_NS
        self._quorum.look(now)

    def _refusal(
        self, now: int, state: State, nodes: frozenset[NodeId], *, confirmed: bool
    ) -> Refusal | None:
        """Say what is wrong before anybody is asked; without confirmation the plan tells it."""
        unknown = sorted(nodes - state.nodes.keys())
        if unknown:
            text = f"there is no node with the id {unknown[0]}"
            return Refusal(code="unknown-node", text=text, field="nodes")
        if self._me.node not in nodes:
            return Refusal(
                code="not-named",
                text="this node is not one of those that are to go on",
                hint="ask one of them, the most up-to-date",
                field="nodes",
            )
        if self._task is not None and self._task.phase is not Phase.APPEND:
            return Refusal(
                code="force-running",
                text="a quorum is being forced here already",
                hint="wait for its end: leitwolf status",
                retryable=True,
            )
        if self._epoch(nodes) > FORCES_MAX:
            return Refusal(
                code="too-many",
                text=f"this cluster was forced {FORCES_MAX} times",
                hint="form it anew from a backup",
            )
        return self._obstacle(now, state, nodes) if confirmed else None

    def _obstacle(
        self, now: int, state: State, nodes: frozenset[NodeId], within: int = SILENCE_NS
    ) -> Refusal | None:
        """Return why this node would not go on with these alone; others were heard ``within``."""
        quorum = self._quorum
        voting = {acceptor.id for acceptor in quorum.config.acceptors}
        own = state.nodes.get(self._me.node)
        if own is None or self._me not in voting or not quorum.last_key.index:
            return Refusal(
                code="not-a-voter",
                text="this node does not hold the log of the cluster as a full member",
                hint="force on a node that was one",
            )
        if quorum.join_only:
            return Refusal(
                code="join-only",
                text=f"{own.name} was started to join only",
                hint="leitwolf node prevent --end",
            )
        if not self._rules.holds("force-silence"):
            return None
        heard = self._led(now) or self._noise(now, state, nodes, within)
        return heard or self._stamps(now, within)

    def _led(self, now: int) -> Refusal | None:
        page = self._page() or LeasePage()
        profile = max(page.promise, page.run)
        hears = page.heard_at > 0 and now - page.heard_at <= awaited(profile)
        holds = page.gate and now < page.lease_end
        if hears or holds or self._quorum.role is Role.LEADER:
            return Refusal(
                code="quorum-exists",
                text="this node hears a leader: there is a quorum",
                hint="nothing is to be forced: leitwolf quorum status",
            )
        return None

    def _noise(
        self, now: int, state: State, nodes: frozenset[NodeId], within: int
    ) -> Refusal | None:
        heard = self.ears.heard(now, within) - nodes - {self._me.node}
        names = sorted(state.nodes[node].name for node in heard if node in state.nodes)
        if not names:
            return None
        return Refusal(
            code="others-heard",
            text=f"{', '.join(names)} can be heard from here",
            hint="name them with --nodes, or switch them off first",
            field="nodes",
        )

    def _stamps(self, now: int, within: int) -> Refusal | None:
        moving = self._quorum.moving_stamps(now, max(self._watched, now - within))
        if not moving:
            return None
        return Refusal(
            code="witness-moves",
            text=f"somebody writes on {', '.join(moving)}: a leader lives there",
            hint="find it, and switch it off if it is not to go on",
        )

    def _unread(self, now: int) -> Refusal | None:
        unread = self._quorum.unread(max(self._watched, now - SILENCE_NS))
        if not unread or not self._rules.holds("force-looks"):
            return None
        return Refusal(
            code="witness-unread",
            text=f"{', '.join(unread)} neither answers nor fails: a leader may live there",
            hint="try again",
            retryable=True,
        )

    def _awaited(self, task: Task) -> bool:
        """Return whether a named node that is within reach did not answer yet."""
        return bool(task.lacking & self.peers.keys())

    def _asked(self, now: int) -> None:
        """Go on when all named nodes answered, or when they had their time."""
        task = self._task
        if task is None or task.phase is not Phase.ASK:
            return
        if self._awaited(task) and now < task.deadline:
            return
        state = self._ahead()
        refusal = self._obstacle(now, state, task.nodes) or self._judged(state, task)
        if not task.confirmed:
            self._finish(Answer(data={"plan": self._plan(now, state, task, refusal)}))
        elif refusal is not None:
            self._finish(Answer(refusal=refusal))
        else:
            task.phase = Phase.WAIT
            task.deadline = now + self._silence(state)
            self._silent(now)

    def _judged(self, state: State, task: Task) -> Refusal | None:
        """Return what the answers of the named nodes have against it."""
        if task.lacking:
            name = state.nodes[min(task.lacking)].name
            return Refusal(
                code="node-not-connected",
                text=f"{name} does not answer",
                hint="start it, or leave it out: it comes back as a learner later",
                field="nodes",
            )
        for node, report in sorted(task.reports.items()):
            if report.code:
                text = f"{state.nodes[node].name}: {report.text}"
                return Refusal(code=report.code, text=text, field="nodes")
        fresher = [
            (report.key, node)
            for node, report in task.reports.items()
            if report.key > self._shared_with(node)
        ]
        if fresher and self._rules.holds("force-freshest"):
            name = state.nodes[max(fresher)[1]].name
            return Refusal(
                code="fresher-node",
                text=f"{name} holds newer entries than this node",
                hint=f"do the same on {name}",
                field="nodes",
            )
        return None

    def _shared_with(self, node: int) -> Key:
        """Return the key of the last entry here that ``node`` may hold, too."""
        history = self.peers.get(NodeId(node))
        if history is None or not self._rules.holds("force-compares-shared"):
            return self._quorum.last_key
        return self._quorum.key_within(shared(self._quorum.lineage, history.lineage))

    def _epoch(self, nodes: frozenset[NodeId]) -> int:
        """Return the epoch of the next history: later than those that named nodes are in."""
        histories = [self.peers[node] for node in nodes & self.peers.keys()]
        return max([len(self._quorum.lineage), *(len(one.lineage) for one in histories)]) + 1

    def _silence(self, state: State) -> int:
        """Return how long all others must be silent before anything is written."""
        if not self._rules.holds("force-wait"):
            return 0
        profile = longest(state, self._rules)
        silences = [passive.silence_ms for passive in self._quorum.passive_acceptors]
        silence = awaited(max([0, *silences]) * MILLISECOND)
        return max(watchdog_awaited(profile.run), SILENCE_NS, silence)

    def tick(self, now: int, wall: int) -> bool:
        """Let time pass; return whether the first entry of a new history was written just now."""
        if now < self._watch_until:
            self._quorum.look(now)
        self._asked(now)
        self._silent(now)
        if now >= self._order_at:
            self._send_orders(now)
        task = self._task
        if task is not None and task.phase is Phase.WAIT and now >= task.deadline:
            if self._unread(now) and now < task.deadline + _UNREAD_NS:
                return False
            task.phase = Phase.CONFIRM
            if self._rules.holds("force-asks-again"):
                self._ask(now, task)
        return task is not None and task.phase is Phase.CONFIRM and self._confirmed(now, wall)

    def _confirmed(self, now: int, wall: int) -> bool:
        """Write the first entry if nothing speaks against it any more; return whether it was."""
        task = self._task
        if task is None or (self._awaited(task) and now < task.deadline):
            return False
        state = self._ahead()
        refusal = self._obstacle(now, state, task.nodes) or self._unread(now)
        refusal = refusal or self._judged(state, task)
        if refusal is not None:
            self._finish(Answer(refusal=refusal))
            return False
        self._append(now, wall, task)
        return True

    def _silent(self, now: int) -> None:
        task = self._task
        if task is None or task.phase is not Phase.WAIT:
            return
        refusal = self._obstacle(now, self._ahead(), task.nodes)
        if refusal is not None:
            self._finish(Answer(refusal=refusal))

    def _append(self, now: int, wall: int, task: Task) -> None:
        """Write the first entry of the new history; from here on the log says what is to do."""
        quorum, state = self._quorum, self._ahead()
        lineage = quorum.lineage + tuple(
            quorum.nonce() >> 2 for _ in range(len(quorum.lineage), self._epoch(task.nodes))
        )
        nodes = tuple(sorted(task.nodes))
        storages = {node: report.storage for node, report in task.reports.items()}
        storages[self._me.node] = self._me.storage
        acceptors = tuple(Acceptor(id=AcceptorId(node, storages[node])) for node in nodes)
        names = ", ".join(state.nodes[node].name for node in nodes)
        text = f"quorum of {names} forced by {task.request.by}"
        lost = loss(state, quorum, self._behind)
        change = Change(
            events=(
                QuorumForced(lineage=lineage, nodes=nodes, loss=lost),
                QuorumChanged(stage="forced", text=text),
            ),
            because=Cause(code="forced", text=text),
            by=task.request.by,
            time=state.time,
            wall=wall,
        )
        config = QuorumConfig(acceptors=acceptors)
        task.phase = Phase.APPEND
        task.index = quorum.force(now, lineage, encode_change(change), config)
        self.obstacles.clear()

    # --- orders ----------------------------------------------------------------------------------

    def begun(self, entries: tuple[Entry, ...]) -> None:
        """Find the order that an entry which is not committed yet gives."""
        if self._order is not None and self._order.lineage == self._quorum.lineage:
            return
        for entry in entries:
            for event in decode_change(entry.payload).events:
                if isinstance(event, QuorumForced) and event.lineage == self._quorum.lineage:
                    key = self._quorum.key_at(entry.index - 1)
                    self._order = ForceOrder(lineage=event.lineage, key=key, nodes=event.nodes)

    def reached(self, now: int) -> None:
        """A named node that does not follow yet is within reach: order it to."""
        self._order_at = min(self._order_at, now)

    def _send_orders(self, now: int) -> None:
        order, self._order_at = self._order, NEVER
        if order is None or order.lineage != self._quorum.lineage:
            return
        after = self._quorum.forced_position if self._rules.holds("order-after-durable") else 0
        for node, history in self.peers.items():
            if node in order.nodes and follows(order.lineage, history):
                key = self._quorum.key_within(shared(order.lineage, history.lineage))
                message = msgspec.structs.replace(order, key=key)
                self._effects.append(Send(node=node, message=message, after=after))
                self._order_at = now + _REPEAT_NS

    def committed(self, entries: tuple[Entry, ...]) -> None:
        """Entries committed: the one that was forced answers the operator, and ends the orders."""
        if entries[-1].ballot.epoch == len(self._quorum.lineage):
            self._order, self._order_at = None, NEVER
        task = self._task
        if task is None or task.phase is not Phase.APPEND:
            return
        for entry in entries:
            if entry.index == task.index:
                self._finish(Answer(index=entry.index))
                return

    # --- messages --------------------------------------------------------------------------------

    def receive(self, now: int, node: NodeId, message: ForceMessage) -> bool:
        """Take a message; return whether this node is in another history by it."""
        match message:
            case ForceProbe():
                self._probed(now, node, message)
            case ForceReport():
                if self._task is not None and message.serial == self._task.serial:
                    self._task.reports[node] = message
                    self._asked(now)
            case ForceOrder():
                return self._obey(now, node, message)
            case ForceAnswer():
                self._disobeyed(node, message)
        return False

    def _probed(self, now: int, node: NodeId, probe: ForceProbe) -> None:
        """Say what speaks against it here; who says nothing at last forces nothing itself."""
        state, nodes = self._ahead(), frozenset(map(NodeId, probe.nodes))
        within = self._silence(state) if probe.last else SILENCE_NS
        self._watch(now)
        obstacle = self._obstacle(now, state, nodes, within) or self._turn(node)
        if probe.last:
            obstacle = obstacle or self._unread(now)
        if probe.last and obstacle is None:
            self._give_in(state, node)
        history = self.peers.get(node, HistoryStanding())
        report = ForceReport(
            serial=probe.serial,
            key=comparable(self._quorum, self._own(), history.lineage),
            storage=self._me.storage,
            code=obstacle.code if obstacle else "",
            text=obstacle.text if obstacle else "",
        )
        self._effects.append(Send(node=node, message=report))

    def _turn(self, node: NodeId) -> Refusal | None:
        """Refuse a node of higher number while a quorum is being forced here."""
        task = self._task
        if task is None or not task.confirmed or task.phase is Phase.APPEND:
            return None
        if node < self._me.node or not self._rules.holds("force-in-turn"):
            return None
        text = "a quorum is being forced there, too"
        return Refusal(code="force-running", text=text, hint=_TURN, retryable=True)

    def _give_in(self, state: State, node: NodeId) -> None:
        """Another node forces a quorum in which this one is named: nothing else is forced here."""
        if self._task is None or not self._rules.holds("force-in-turn"):
            return
        name = state.nodes[node].name if node in state.nodes else f"node {node}"
        text = f"a quorum is being forced on {name}, too, and this node is in it"
        refusal = Refusal(code="force-running", text=text, hint=_TURN, retryable=True)
        self._finish(Answer(refusal=refusal))

    def _obey(self, now: int, node: NodeId, order: ForceOrder) -> bool:
        quorum, state = self._quorum, self._ahead()
        if not follows(order.lineage, self._own()):
            return False
        nodes = frozenset(map(NodeId, order.nodes))
        refusal = self._obstacle(now, state, nodes, self._silence(state))
        if refusal is None and not {node, self._me.node} <= nodes:
            refusal = Refusal(code="not-named", text="the order does not name both nodes")
        behind = order.key < comparable(quorum, self._own(), order.lineage)
        if refusal is None and behind and self._rules.holds("force-freshest"):
            refusal = Refusal(code="fresher-node", text="this node holds newer entries")
        if refusal is not None:
            answer = ForceAnswer(lineage=order.lineage, code=refusal.code, text=refusal.text)
            self._effects.append(Send(node=node, message=answer))
            return False
        self._give_in(state, node)
        quorum.obey(now, order.lineage)
        return True

    def _disobeyed(self, node: NodeId, answer: ForceAnswer) -> None:
        if answer.lineage != self._quorum.lineage:
            return
        known = self._ahead().nodes.get(node)
        name = known.name if known is not None else f"node {node}"
        self.obstacles[node] = f"{name} does not follow: {answer.text} [{answer.code}]"
        if self._task is not None and self._task.phase is Phase.APPEND:
            self._unfinished(self.obstacles[node])

    def _unfinished(self, text: str) -> None:
        hint = "it is tried again and again; force again with those that answer, or give it up"
        self._finish(
            Answer(refusal=Refusal(code="force-unfinished", text=text, hint=hint, retryable=True))
        )

    # --- answers ----------------------------------------------------------------------------------

    def _reply(self, request: Request, refusal: Refusal) -> None:
        self._effects.append(Reply(id=request.id, answer=Answer(refusal=refusal)))

    def _finish(self, answer: Answer) -> None:
        if self._task is not None:
            self._effects.append(Reply(id=self._task.request.id, answer=answer))
        self._task = None

    def _plan(self, now: int, state: State, task: Task, refusal: Refusal | None) -> str:
        heard = {one.id: self.ears.silent_for(now, one.id) for one in state.nodes.values()}
        return foretold(
            state,
            self._quorum,
            self._behind,
            nodes=task.nodes,
            reports=task.reports,
            heard=heard,
            reached=self.peers.keys(),
            wait_ns=self._silence(state),
            refusal=refusal,
        )
