"""Forced quorum: part of a cluster goes on without the rest, by order of the operator (L11).

Rules:

- The node that is asked must be the most up-to-date of those named. Then its log holds every entry
  that any of them knows to be committed; a named node that holds more refuses (``fresher-node``).
- It is refused while any node that is not named, a leader, or a stamp on a disk or witness that
  moves is heard; and only after a silence that outlasts every run-lease and every watchdog the
  first entry of the new history is written. It brings the new configuration into force.
- Named nodes follow an order that each checks for itself by the same rules and writes down before
  it obeys. Nobody changes its configuration unasked.
- From then on everything goes by the rules of elections, in the next epoch. Within one history
  all invariants hold as if it were the only one. Between histories there is what the operator
  confirmed, and that whoever hears a leader of a history that was forced out of its own closes its
  leases before anything else.

Phases here::

    ask     what do the named nodes hold, and would they obey?    nobody is committed to anything
    wait    is everybody else silent?                             nothing is written
    append  the first entry is durable here                       orders go to the named nodes
    (then)  an election by the new configuration; the entry commits: the history is established

A crash before *append* leaves nothing behind. After it, the log itself says what is to be done: the
node goes on ordering and campaigning until the entry is committed, or the operator gives it up.

What this does not guarantee: that nodes which are not heard do not run. They may be cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from leitwolf.core.ears import SILENCE_NS, Ears
from leitwolf.core.effects import Effect, Reply, Request, Send
from leitwolf.core.lease.profile import MILLISECOND, awaited, watchdog_awaited
from leitwolf.core.membership import acting
from leitwolf.core.messages import ForceAnswer, ForceMessage, ForceOrder, ForceProbe, ForceReport
from leitwolf.core.policy.commands_force import foretell
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
from leitwolf.model.views import ForceGroup, ForceNode, ForceView
from leitwolf.state import decode_change, encode_change
from leitwolf.wire.ballot import Key
from leitwolf.wire.lineage import continues
from leitwolf.wire.page import LeasePage

__all__ = ["Force"]

_ASK_NS = 500 * MILLISECOND
_LOOK_NS = 100 * MILLISECOND
_REPEAT_NS = 500 * MILLISECOND
"""An order is repeated at this interval: what was in its way may pass."""


class _Phase(StrEnum):
    ASK = "ask"
    WAIT = "wait"
    APPEND = "append"


@dataclass(slots=True)
class _Task:
    """What the operator asked for."""

    request: Request
    nodes: frozenset[NodeId]
    confirmed: bool
    serial: int
    deadline: int
    phase: _Phase = _Phase.ASK
    reports: dict[int, ForceReport] = field(default_factory=dict)
    index: int = 0
    """Of the first entry of the new history."""


class Force:
    """The part of a node that forces a quorum, or is named in one. Instants are RAW ns."""

    def __init__(
        self,
        quorum: QuorumCore,
        *,
        page: Callable[[], LeasePage | None],
        behind: Mapping[NodeId, int],
        ahead: Callable[[], State],
    ) -> None:
        """Begin without a task.

        Args:
            quorum: the quorum core of this node.
            page: reads the guard's page; None while there is none.
            behind: nodes and witnesses that hold more than this one, up to which entry.
            ahead: the fold of the whole log, what is not known to be committed included.
        """
        self._me = quorum.me
        self._quorum = quorum
        self._page = page
        self._behind = behind
        self._ahead = ahead
        self._rules = quorum.rules
        self.ears = Ears()
        self.peers: dict[NodeId, HistoryStanding] = {}
        """In which history each node is with which there is a stream."""
        self.obstacles: dict[NodeId, str] = {}
        """Why named nodes did not obey."""
        self._task: _Task | None = None
        self._serial = 0
        self._order: ForceOrder | None = None
        self._order_at = NEVER
        self._effects: list[Effect] = []

    # --- what the node core reads ----------------------------------------------------------------

    @property
    def waiting_ns(self) -> int:
        """Instant at which the first entry is written if all stay silent, 0: nothing waits."""
        task = self._task
        return task.deadline if task is not None and task.phase is _Phase.WAIT else 0

    def deadline(self, now: int) -> int:
        """Return when :meth:`tick` is needed at the latest."""
        task = self._task
        if task is not None and task.phase is _Phase.WAIT:
            return min(task.deadline, now + _LOOK_NS)
        at = task.deadline if task is not None and task.phase is _Phase.ASK else NEVER
        return min(at, self._order_at)

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
        self._serial += 1
        self._task = _Task(request, nodes, command.others_down, self._serial, now + _ASK_NS)
        for node in sorted(nodes - {self._me.node}):
            if node in self.peers:
                message = ForceProbe(serial=self._serial, nodes=tuple(sorted(nodes)))
                self._effects.append(Send(node=node, message=message))
        self._asked(now)

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
        if self._task is not None and self._task.phase is not _Phase.APPEND:
            return Refusal(
                code="force-running",
                text="a quorum is being forced here already",
                hint="wait for its end: leitwolf status",
                retryable=True,
            )
        if len(self._quorum.lineage) >= FORCES_MAX:
            return Refusal(
                code="too-many",
                text=f"this cluster was forced {FORCES_MAX} times",
                hint="form it anew from a backup",
            )
        return self._obstacle(now, state, nodes) if confirmed else None

    def _obstacle(self, now: int, state: State, nodes: frozenset[NodeId]) -> Refusal | None:
        """Return why this node would not go on with these alone (L11)."""
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
        return self._led(now) or self._noise(now, state, nodes) or self._stamps(now)

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

    def _noise(self, now: int, state: State, nodes: frozenset[NodeId]) -> Refusal | None:
        heard = self.ears.heard(now, SILENCE_NS) - nodes - {self._me.node}
        names = sorted(state.nodes[node].name for node in heard if node in state.nodes)
        if not names:
            return None
        return Refusal(
            code="others-heard",
            text=f"{', '.join(names)} can be heard from here",
            hint="name them with --nodes, or switch them off first",
            field="nodes",
        )

    def _stamps(self, now: int) -> Refusal | None:
        moving = self._quorum.moving_stamps(now)
        if not moving:
            return None
        return Refusal(
            code="witness-moves",
            text=f"somebody renews the stamp on {', '.join(moving)}: a leader lives there",
            hint="find it, and switch it off if it is not to go on",
        )

    def _asked(self, now: int) -> None:
        """Go on when all named nodes answered, or when they had their time."""
        task = self._task
        if task is None or task.phase is not _Phase.ASK:
            return
        state = self._ahead()
        lacking = task.nodes - {self._me.node} - task.reports.keys()
        if lacking & self.peers.keys() and now < task.deadline:
            return
        refusal = self._obstacle(now, state, task.nodes) or self._judged(state, task, lacking)
        if not task.confirmed:
            self._finish(Answer(data={"plan": self._plan(now, state, task, refusal)}))
        elif refusal is not None:
            self._finish(Answer(refusal=refusal))
        else:
            task.phase = _Phase.WAIT
            task.deadline = now + self._silence(state)
            self._silent(now)

    def _judged(self, state: State, task: _Task, lacking: frozenset[NodeId]) -> Refusal | None:
        """Return what the answers of the named nodes have against it."""
        if lacking:
            name = state.nodes[min(lacking)].name
            return Refusal(
                code="node-not-connected",
                text=f"{name} does not answer",
                hint="start it, or leave it out: it comes back as a learner later",
                field="nodes",
            )
        fresher = [
            (report.key, node)
            for node, report in task.reports.items()
            if report.key > self._quorum.last_key
        ]
        if fresher and self._rules.holds("force-freshest"):
            name = state.nodes[max(fresher)[1]].name
            return Refusal(
                code="fresher-node",
                text=f"{name} holds newer entries than this node",
                hint=f"do the same on {name}",
                field="nodes",
            )
        for node, report in sorted(task.reports.items()):
            if report.code:
                text = f"{state.nodes[node].name}: {report.text}"
                return Refusal(code=report.code, text=text, field="nodes")
        return None

    def _silence(self, state: State) -> int:
        """Return how long all others must be silent before anything is written."""
        if not self._rules.holds("force-wait"):
            return 0
        profile = acting(state, self._rules)
        silences = [passive.silence_ms for passive in self._quorum.passive_acceptors]
        longest = awaited(max([0, *silences]) * MILLISECOND)
        return max(watchdog_awaited(profile.run), SILENCE_NS, longest)

    def tick(self, now: int, wall: int) -> bool:
        """Let time pass; return whether the first entry of a new history was written just now."""
        self._asked(now)
        self._silent(now)
        if now >= self._order_at:
            self._send_orders(now)
        task = self._task
        if task is None or task.phase is not _Phase.WAIT or now < task.deadline:
            return False
        self._append(now, wall, task)
        return True

    def _silent(self, now: int) -> None:
        task = self._task
        if task is None or task.phase is not _Phase.WAIT:
            return
        refusal = self._obstacle(now, self._ahead(), task.nodes)
        if refusal is not None:
            self._finish(Answer(refusal=refusal))

    def _append(self, now: int, wall: int, task: _Task) -> None:
        """Write the first entry of the new history; from here on the log says what is to do."""
        quorum, state = self._quorum, self._ahead()
        lineage = (*quorum.lineage, quorum.nonce() >> 2)
        nodes = tuple(sorted(task.nodes))
        storages = {node: report.storage for node, report in task.reports.items()}
        storages[self._me.node] = self._me.storage
        acceptors = tuple(Acceptor(id=AcceptorId(node, storages[node])) for node in nodes)
        names = ", ".join(state.nodes[node].name for node in nodes)
        text = f"quorum of {names} forced by {task.request.by}"
        change = Change(
            events=(
                QuorumForced(lineage=lineage, nodes=nodes, loss=self._loss(state)),
                QuorumChanged(stage="forced", text=text),
            ),
            because=Cause(code="forced", text=text),
            by=task.request.by,
            time=state.time,
            wall=wall,
        )
        config = QuorumConfig(acceptors=acceptors)
        task.phase = _Phase.APPEND
        task.index = quorum.force(now, lineage, encode_change(change), config)
        self.obstacles.clear()

    # --- orders ----------------------------------------------------------------------------------

    def begun(self, entries: tuple[Entry, ...], key_at: Callable[[int], Key]) -> None:
        """Find the order that an entry which is not committed yet gives."""
        if self._order is not None and self._order.lineage == self._quorum.lineage:
            return
        for entry in entries:
            for event in decode_change(entry.payload).events:
                if isinstance(event, QuorumForced) and event.lineage == self._quorum.lineage:
                    key = key_at(entry.index - 1)
                    self._order = ForceOrder(lineage=event.lineage, key=key, nodes=event.nodes)

    def reached(self, now: int) -> None:
        """A named node that does not follow yet is within reach: order it to."""
        self._order_at = min(self._order_at, now)

    def _send_orders(self, now: int) -> None:
        order, self._order_at = self._order, NEVER
        if order is None or order.lineage != self._quorum.lineage:
            return
        for node, history in self.peers.items():
            if node in order.nodes and continues(order.lineage, history.lineage):
                self._effects.append(Send(node=node, message=order))
                self._order_at = now + _REPEAT_NS

    def committed(self, entries: tuple[Entry, ...]) -> None:
        """Entries committed: the one that was forced answers the operator, and ends the orders."""
        if entries[-1].ballot.epoch == len(self._quorum.lineage):
            self._order, self._order_at = None, NEVER
        task = self._task
        if task is None or task.phase is not _Phase.APPEND:
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
                nodes = frozenset(map(NodeId, message.nodes))
                obstacle = self._obstacle(now, self._ahead(), nodes)
                report = ForceReport(
                    serial=message.serial,
                    key=self._quorum.last_key,
                    storage=self._me.storage,
                    code=obstacle.code if obstacle else "",
                    text=obstacle.text if obstacle else "",
                )
                self._effects.append(Send(node=node, message=report))
            case ForceReport():
                if self._task is not None and message.serial == self._task.serial:
                    self._task.reports[node] = message
                    self._asked(now)
            case ForceOrder():
                return self._obey(now, node, message)
            case ForceAnswer():
                self._disobeyed(node, message)
        return False

    def _obey(self, now: int, node: NodeId, order: ForceOrder) -> bool:
        quorum = self._quorum
        if not continues(order.lineage, quorum.lineage):
            return False
        nodes = frozenset(map(NodeId, order.nodes))
        refusal = self._obstacle(now, self._ahead(), nodes)
        if refusal is None and not {node, self._me.node} <= nodes:
            refusal = Refusal(code="not-named", text="the order does not name both nodes")
        behind = order.key < quorum.last_key
        if refusal is None and behind and self._rules.holds("force-freshest"):
            refusal = Refusal(code="fresher-node", text="this node holds newer entries")
        if refusal is not None:
            answer = ForceAnswer(lineage=order.lineage, code=refusal.code, text=refusal.text)
            self._effects.append(Send(node=node, message=answer))
            return False
        quorum.obey(now, order.lineage)
        return True

    def _disobeyed(self, node: NodeId, answer: ForceAnswer) -> None:
        if answer.lineage != self._quorum.lineage:
            return
        known = self._ahead().nodes.get(node)
        name = known.name if known is not None else f"node {node}"
        self.obstacles[node] = f"{name} does not follow: {answer.text} [{answer.code}]"
        if self._task is not None and self._task.phase is _Phase.APPEND:
            self._unfinished(self.obstacles[node])

    def _unfinished(self, text: str) -> None:
        hint = "it is tried again and again; force with other nodes, or leitwolf give-up"
        self._finish(
            Answer(refusal=Refusal(code="force-unfinished", text=text, hint=hint, retryable=True))
        )

    # --- words -----------------------------------------------------------------------------------

    def _known(self, state: State, reports: Mapping[int, ForceReport]) -> tuple[int, str]:
        """Return the newest entry that was ever heard of, and who has it."""
        known = self._quorum.last_key.index, ""
        for node, report in reports.items():
            if report.key.index > known[0]:
                known = report.key.index, state.nodes[NodeId(node)].name
        for node, index in self._behind.items():
            if index > known[0]:
                member = state.nodes.get(node)
                known = index, member.name if member is not None else "the witness"
        return known

    def _loss(self, state: State, reports: Mapping[int, ForceReport] | None = None) -> str:
        mine = self._quorum.last_key.index
        known, who = self._known(state, reports or {})
        if who:
            return f"the entries {mine + 1} to {known}, which {who} holds, and what came after them"
        return f"what the others decided after entry {mine}; nothing of it is known here"

    def _plan(self, now: int, state: State, task: _Task, refusal: Refusal | None) -> str:
        known, known_at = self._known(state, task.reports)
        placed = foretell(state, task.nodes)
        view = ForceView(
            nodes=tuple(self._line(now, state, node, task) for node in sorted(state.nodes)),
            index=self._quorum.last_key.index,
            known=known,
            known_at=known_at,
            loss=self._loss(state, task.reports),
            groups=tuple(
                ForceGroup(group=group, node=state.nodes[node].name)
                for group, node in sorted(placed.items())
            ),
            wait_ms=self._silence(state) // MILLISECOND,
            code=refusal.code if refusal else "",
            text=refusal.text if refusal else "",
            hint=refusal.hint if refusal else "",
        )
        return msgspec.json.encode(view).decode()

    def _line(self, now: int, state: State, number: int, task: _Task) -> ForceNode:
        node = NodeId(number)
        here = node == self._me.node
        report = task.reports.get(node)
        silent = self.ears.silent_for(now, node)
        index = self._quorum.last_key.index if here else report.key.index if report else -1
        return ForceNode(
            node=state.nodes[node].name,
            here=here,
            named=node in task.nodes,
            answers=here or node in self.peers,
            heard_ms=0.0 if here else silent / MILLISECOND if silent >= 0 else -1.0,
            index=index,
            code=report.code if report else "",
            text=report.text if report else "",
        )

    def _reply(self, request: Request, refusal: Refusal) -> None:
        self._effects.append(Reply(id=request.id, answer=Answer(refusal=refusal)))

    def _finish(self, answer: Answer) -> None:
        if self._task is not None:
            self._effects.append(Reply(id=self._task.request.id, answer=answer))
        self._task = None
