"""The duties of the node in office: decide requests, plan failover, open leases, change members.

Rules:

- Barring (L6): at most one node is taken from at once: the owner of the highest ballot that any
  promise of this election renewed. Its run-lease was its leader lease, which is over as a quorum
  promised. Not if one of the quorum was freed by a release or has no memory, and only after the
  guard confirmed that it will not admit the node.
- No policy, and no answer to a read, before the own first entry is applied.
- OPEN comes after the own first entry committed; F is the index of the last entry appended when
  it was decided (L5), and is committed before OPEN: else a later leader's log might never reach it,
  so that the node starts nothing, and never gives out a higher id, so that it takes no other.
- Every decision is made on ``ahead``, so a plan is never made twice.

Theory of operation: :meth:`govern` runs after every event. It appends what the plan says, opens
leases for nodes that need one, and takes the next step of a reconfiguration. Each is idempotent:
what was appended shows in ``ahead``, what was asked shows in the standing of the node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from leitwolf.core.effects import AskGuard, Effect, Reply, Request, Send
from leitwolf.core.leader import Leader, Pending
from leitwolf.core.lease.profile import awaited
from leitwolf.core.membership import (
    SETTLE_NS,
    Sight,
    Step,
    View,
    acting,
    heirs,
    longest,
    next_keys,
    next_step,
    patience,
    sought_witness,
)
from leitwolf.core.policy import (
    Planned,
    blind_nodes,
    changed_meanwhile,
    judge,
    plan,
    transfer_refusal,
)
from leitwolf.core.quorum import MayLead, QuorumCore, TransferFailed
from leitwolf.core.quorum.predicate import contenders
from leitwolf.core.rules import Rules
from leitwolf.model.commands import Answer, Refusal, TransferLeader
from leitwolf.model.errors import check
from leitwolf.model.events import (
    SETTINGS,
    Cause,
    Change,
    Event,
    LeaderElected,
    NodePromoted,
    NodeRemoved,
    ProfileSettled,
    QuorumChanged,
)
from leitwolf.model.ids import NO_NODE, NodeId, NodeStatus
from leitwolf.model.log import Entry
from leitwolf.model.observations import ForwardAnswer, HostReport, Observations, PathState
from leitwolf.model.quorum import AcceptorId, QuorumConfig
from leitwolf.model.state import State
from leitwolf.state import encode_change, fold, fold_change
from leitwolf.wire.ballot import Ballot, lease_id
from leitwolf.wire.guard import (
    Attest,
    Exclude,
    GuardReport,
    LeaseClosed,
    LeaseOpened,
    NodeAway,
    NodeBack,
    OpenLease,
    TakeOffice,
)

__all__ = ["Governor"]


def barred_owner(signal: MayLead, me: NodeId) -> tuple[NodeId, ...]:
    """Return whose groups may be taken at once (L6), at most one node."""
    highest = max(promise.renewed for promise in signal.report)
    if highest.node in (0, me):
        return ()
    if any(promise.no_memory for promise in signal.report):
        return ()
    if any(promise.freed for promise in signal.report):
        return ()
    return (NodeId(highest.node),)


class Governor:
    """Everything that the node in office does beyond replication."""

    def __init__(
        self,
        *,
        quorum: QuorumCore,
        me: NodeId,
        now: int,
        committed: State,
        signal: MayLead,
        own_lease: int,
        told: Mapping[NodeId, tuple[PathState, ...]],
        rules: Rules,
    ) -> None:
        """Ask the guard for office in the ballot that a quorum promised.

        ``told``: what other nodes say of their ways to disks and witnesses, kept up to date.
        """
        ahead = committed
        for entry in quorum.entries_after(committed.index):
            ahead = fold(ahead, entry)
        self._quorum = quorum
        self._rules = rules
        self._effects: list[Effect] = []
        self._leader = Leader(
            ballot=signal.ballot,
            me=me,
            barred=barred_owner(signal, me),
            ahead=ahead,
            time_base=ahead.time - now,
            told=told,
        )
        own = self._leader.standing(me)
        # A page without a lease says that nothing runs here and nothing can be started.
        own.leased, own.lease, own.waiting = own_lease != 0, own_lease, own_lease == 0
        own.away = own_lease == 0
        self._effects.append(AskGuard(command=TakeOffice(signal.ballot, self._leader.barred)))

    # --- what the node core reads ----------------------------------------------------------------

    @property
    def ballot(self) -> Ballot:
        """The ballot of this office."""
        return self._leader.ballot

    @property
    def ahead(self) -> State:
        """The fold of the whole log."""
        return self._leader.ahead

    @property
    def in_charge(self) -> bool:
        """The own first entry is applied."""
        return self._leader.in_charge

    @property
    def plan_at(self) -> int:
        """Instant of the next planned decision, -1: none."""
        return self._leader.plan_at

    def pause(self, node: NodeId) -> int:
        """Return how long (ns) a lost node must stay to get its vote back; 0: it is not lost."""
        return self._leader.presence.pause(node)

    @property
    def absent(self) -> frozenset[int]:
        """Nodes and witnesses that dynamic votes do without, as seen last."""
        stopping = {node.id for node in self._leader.ahead.nodes.values() if node.stopping}
        return self._leader.presence.absent | stopping

    @property
    def waiting(self) -> bool:
        """A change of members or keys is under way, which goes on as logs catch up."""
        state, config = self._leader.ahead, self._quorum.config
        if config.former is not None or len(state.keys) > 1 or not self._quorum.config_committed:
            return True
        if state.profile_former or self._quorum.sought:
            return True
        voting = {acceptor.id for acceptor in config.acceptors}
        return any(
            node.status is not NodeStatus.MEMBER or AcceptorId(node.id, node.storage) not in voting
            for node in state.nodes.values()
        )

    def take_effects(self) -> list[Effect]:
        """Return what is to be done, and forget it."""
        effects, self._effects = self._effects, []
        return effects

    # --- observations ----------------------------------------------------------------------------

    def observe(self, node: NodeId, reports: Iterable[HostReport]) -> None:
        """Take in what the host of ``node`` reported."""
        self._leader.observe(node, reports)

    def guard(self, now: int, report: GuardReport) -> None:
        """Take in what the own guard reported about nodes and about the own lease."""
        leader, me = self._leader, self._leader.me
        match report:
            case NodeAway() if report.ballot == leader.ballot:
                leader.node_away(report)
            case NodeBack() if report.ballot == leader.ballot:
                leader.node_back(report)
            case LeaseOpened():
                leader.node_back(NodeBack(leader.ballot, me, 0, report.lease))
            case LeaseClosed():
                own = leader.standing(me)
                own.leased, own.lease = False, 0
            case Attest():
                # NodeBack follows when the guard can take an OPEN; two OPENs would end the first.
                leader.node_away(NodeAway(leader.ballot, me, report.lease, attested=True))
            case _:
                pass
        leader.plan_at = now

    # --- the term --------------------------------------------------------------------------------

    def begin(self, now: int, wall: int, connected: set[NodeId]) -> None:
        """Append the first entry of the term; it carries the groups of a barred node."""
        leader = self._leader
        for node in leader.barred:
            leader.node_away(NodeAway(leader.ballot, node, 0, attested=False))
        check(leader.me in leader.ahead.nodes, f"node {leader.me} leads, but is no member")
        name = leader.ahead.nodes[leader.me].name
        because = Cause(code="elected", text=f"{name} leads by ballot {leader.ballot}")
        events: list[Event] = [LeaderElected(node=leader.me)]
        change = self._change(now, wall, events, because, by=name)
        state = fold_change(leader.ahead, leader.ahead.index + 1, change)
        if leader.barred:
            decided = plan(state, leader.observations(connected), leader.cluster_time(now))
            for planned in decided.changes:
                events.extend(planned.events)
        change = self._change(now, wall, events, because, by=name)
        self._quorum.begin(now, encode_change(change))
        leader.ahead = fold_change(leader.ahead, leader.ahead.index + 1, change)
        # Without the rule it knows no more as committed than it knew as a follower.
        leader.in_charge = not self._rules.holds("noop-first")

    def committed(self, now: int, entries: tuple[Entry, ...]) -> None:
        """Entries committed: answer their requests; the own first one puts this node in charge."""
        leader = self._leader
        for entry in entries:
            if entry.ballot == leader.ballot and not leader.in_charge:
                leader.in_charge = True
                leader.plan_at = now
            for pending in leader.pending.pop(entry.index, ()):
                self._answer(pending, pending.answer)

    def transfer_failed(self, signal: TransferFailed) -> None:
        """Leadership stays here: refuse the requests to hand it over."""
        leader = self._leader
        node = leader.ahead.nodes.get(NodeId(signal.node))
        whom = node.name if node is not None else "another node"
        refusal = transfer_refusal(whom, signal.reason)
        for pending in leader.handing:
            self._answer(pending, Answer(refusal=refusal))
        leader.handing.clear()

    def end(self, reason: str) -> None:
        """Out of office: what was not committed may or may not be; say so."""
        handed = Answer(index=self._quorum.commit)
        if reason == "transferred":
            for pending in self._leader.handing:
                self._answer(pending, handed)
            self._leader.handing.clear()
        refusal = Refusal(
            code="outcome-unknown",
            text=f"this node lost its office ({reason}); the request may have been done",
            hint="look at the state before asking again",
            retryable=True,
        )
        for waiting in (self._leader.handing, *self._leader.pending.values()):
            for pending in waiting:
                self._answer(pending, Answer(refusal=refusal))
        self._leader.handing.clear()
        self._leader.pending.clear()

    def govern(self, now: int, wall: int, connected: set[NodeId]) -> None:
        """Do what is to be done now; nothing before the own first entry is applied."""
        leader = self._leader
        if not leader.in_charge:
            return
        leader.plan_at = -1
        decided = plan(leader.ahead, leader.observations(connected), leader.cluster_time(now))
        for planned in decided.changes:
            self._append(now, wall, planned)
        if decided.next_at is not None:
            leader.plan_at = now + max(0, decided.next_at - leader.cluster_time(now))
        self._reconfigure(now, wall)
        self._rekey(now, wall)
        self._settle_profile(now, wall)
        self._open_leases()

    # --- requests --------------------------------------------------------------------------------

    def request(
        self, now: int, wall: int, request_id: int, origin: NodeId, request: Request
    ) -> None:
        """Judge a command and append what it means, or refuse it."""
        leader = self._leader
        pending = Pending(request_id, origin, request.command, Answer())
        if not leader.in_charge:
            text = "the leader was elected just now and is not ready"
            refusal = Refusal(code="not-ready", text=text, retryable=True)
            self._answer(pending, Answer(refusal=refusal))
            return
        changed = changed_meanwhile(leader.ahead, request.unchanged_since)
        judged = changed or judge(leader.ahead, request.command, self._observations())
        if isinstance(judged, Refusal):
            self._answer_as_it_is(now, pending, Answer(refusal=judged))
            return
        if isinstance(request.command, TransferLeader) and request.command.node != leader.me:
            leader.handing.append(pending)
            self._hand_over(now, request.command.node)
            return
        if not judged.events:
            answer = Answer(index=leader.ahead.index, data=judged.data)
            self._answer_as_it_is(now, pending, answer)
            return
        planned = Planned(events=judged.events, because=judged.because)
        index = self._append(now, wall, planned, by=request.by, remote=origin != leader.me)
        self._answer_when_committed(index, pending, Answer(index=index, data=judged.data))

    def _observations(self) -> Observations:
        quorum = self._quorum
        return self._leader.observations(quorum.connected, quorum.witnesses)

    def _hand_over(self, now: int, node: NodeId = NO_NODE) -> None:
        """Hand the office to a node; 0: to another one, if possible to one that can lead."""
        blind = blind_nodes(self._leader.ahead, self._observations())
        self._quorum.transfer(now, node, blind)

    def _answer_as_it_is(self, now: int, pending: Pending, answer: Answer) -> None:
        """Answer by what the log adds up to, with no entry of its own.

        That it is the newest is known only under a lease: else another node may lead and know more.
        """
        if self._quorum.office_lasts(now):
            self._answer_when_committed(self._leader.ahead.index, pending, answer)
            return
        text = "the lease of the leader is over, and another node may lead"
        refusal = Refusal(code="not-ready", text=text, retryable=True)
        self._answer(pending, Answer(refusal=refusal))

    def _answer_when_committed(self, index: int, pending: Pending, answer: Answer) -> None:
        """Answer when what the answer rests on cannot be lost any more."""
        pending = Pending(pending.request, pending.origin, pending.command, answer)
        if index <= self._quorum.commit or not self._rules.holds("answer-after-commit"):
            self._answer(pending, answer)
        else:
            self._leader.pending.setdefault(index, []).append(pending)

    def _answer(self, pending: Pending, answer: Answer) -> None:
        if pending.origin == self._leader.me:
            self._effects.append(Reply(id=pending.request, answer=answer))
        else:
            message = ForwardAnswer(id=pending.request, answer=answer)
            self._effects.append(Send(node=pending.origin, message=message))

    # --- appending -------------------------------------------------------------------------------

    def _change(
        self, now: int, wall: int, events: Iterable[Event], because: Cause, *, by: str
    ) -> Change:
        return Change(
            events=tuple(events),
            because=because,
            by=by,
            time=self._leader.cluster_time(now),
            wall=wall,
        )

    def _append(
        self,
        now: int,
        wall: int,
        planned: Planned,
        *,
        by: str = "policy",
        config: QuorumConfig | None = None,
        remote: bool = False,
    ) -> int:
        """Append a change and return its index; ``remote``: another node asked and waits."""
        leader = self._leader
        change = self._change(now, wall, planned.events, planned.because, by=by)
        urgent = remote or any(type(event) not in SETTINGS for event in planned.events)
        index = self._quorum.propose(now, encode_change(change), config, urgent=urgent)
        leader.ahead = fold_change(leader.ahead, index, change, config)
        return index

    # --- leases ----------------------------------------------------------------------------------

    def _open_leases(self) -> None:
        """Open a lease for every node that acknowledges but holds none (L5)."""
        leader = self._leader
        for node in leader.ahead.nodes.values():
            standing = leader.standings.get(node.id)
            if standing is None or not standing.waiting or standing.asked:
                continue
            if node.status == NodeStatus.LEAVING or node.id in leader.excluded:
                continue
            owns = any(group.owner == node.id for group in leader.ahead.groups.values())
            if node.up and (owns or standing.leased):
                standing.decided = 0
                continue  # its end must be in the log before it begins anew
            standing.decided = standing.decided or leader.ahead.index
            index = standing.decided
            if self._quorum.commit < index:
                continue  # looked at again after every commit
            leader.serial += 1
            lease = lease_id(leader.ballot.epoch, index, leader.serial % 2048)
            standing.asked = index
            command = OpenLease(leader.ballot, node.id, lease, index)
            self._effects.append(AskGuard(command=command))

    # --- members ---------------------------------------------------------------------------------

    def _reconfigure(self, now: int, wall: int) -> None:
        leader, quorum = self._leader, self._quorum
        joint_over = False
        if quorum.config.former is not None:
            if leader.joint_since < 0:
                leader.joint_since = now
            over_at = leader.joint_since + awaited(longest(leader.ahead, self._rules).run)
            joint_over = now >= over_at and quorum.config_committed
            if not joint_over:
                heartbeat = acting(leader.ahead, self._rules).heartbeat
                leader.plan_by(over_at if over_at > now else now + heartbeat)
        else:
            leader.joint_since = -1
            if not quorum.config_committed:
                return
        view = self._look(now, joint_over=joint_over)
        quorum.seek(sought_witness(leader.ahead, quorum.config, view))
        step = next_step(leader.ahead, quorum.config, view, self._rules)
        if step is not None:
            self._take_step(now, wall, step)
        elif quorum.config.former is None and quorum.me not in contenders(quorum.config):
            able = {one.node for one in heirs(leader.ahead, quorum.config, view)}
            if able - blind_nodes(leader.ahead, self._observations()):
                self._hand_over(now)  # its vote was taken: one that votes leads

    def _look(self, now: int, *, joint_over: bool) -> View:
        """Return what a reconfiguration follows, and note who is lost and who is back."""
        leader, quorum = self._leader, self._quorum
        leased = {node for node, standing in leader.standings.items() if standing.leased}
        connected = quorum.connected | {leader.me}
        reached = frozenset((connected & leased) | {leader.me} | quorum.witnesses)
        caught_up = {
            node.id
            for node in leader.ahead.nodes.values()
            # A vote that no guard renews would end the leader's own lease.
            if quorum.match(node.id, node.storage) >= quorum.commit and node.id in leased
        }
        ready = {one for one in quorum.ready_witnesses if quorum.match(one) >= quorum.commit}
        absent: frozenset[int] = frozenset()
        if leader.ahead.wish.dynamic:
            self._observe_presence(now, reached)
            absent = self.absent
        return View(
            leader=leader.me,
            caught_up=frozenset(caught_up | ready),
            away=frozenset(n for n, standing in leader.standings.items() if standing.away),
            connected=frozenset(connected),
            reached=reached,
            absent=absent,
            joint_over=joint_over,
        )

    def _observe_presence(self, now: int, reached: frozenset[int]) -> None:
        leader, quorum = self._leader, self._quorum
        leader.presence.observe(
            now,
            quorum.commit,
            patience(acting(leader.ahead, self._rules).promise),
            (
                Sight(
                    id=acceptor.id.node,
                    reached=acceptor.id.node in reached,
                    # A witness follows at its own pace; a storage that was replaced, never more.
                    match=(
                        quorum.match(acceptor.id.node, acceptor.id.storage)
                        if acceptor.kind == "node"
                        else quorum.commit
                    ),
                    voting=acceptor.weight > 0 or acceptor.kind != "node",
                )
                for acceptor in quorum.config.acceptors
                if acceptor.id.node != leader.me
            ),
        )
        if leader.presence.next_at >= 0:
            leader.plan_by(max(leader.presence.next_at, now + 1))

    def _rekey(self, now: int, wall: int) -> None:
        leader, quorum = self._leader, self._quorum
        state = leader.ahead
        if len(state.keys) < 2:
            return
        reached = all(quorum.match(node) >= state.keys_set for node in quorum.connected)
        step = next_keys(state, now=leader.cluster_time(now), everywhere=reached)
        if step is None:
            leader.plan_by(now + SETTLE_NS // 10)
            return
        because = Cause(code="rekey", text=f"heartbeat keys: {step.stage}", index=state.keys_set)
        self._append(now, wall, Planned(events=(step,), because=because))

    def _settle_profile(self, now: int, wall: int) -> None:
        """Have the new profile alone, when nothing of the former one can be in force."""
        leader, quorum, state = self._leader, self._quorum, self._leader.ahead
        if not state.profile_former:
            leader.profile_since = -1
            return
        if quorum.commit < state.profile_set:
            return  # looked at again after every commit
        if leader.profile_since < 0:
            leader.profile_since = now
        over_at = leader.profile_since + awaited(longest(state, self._rules).run)
        leased = [node for node, standing in leader.standings.items() if standing.leased]
        known = all(quorum.durable_at(node) >= state.profile_set for node in leased)
        if now < over_at or not known:
            heartbeat = acting(state, self._rules).heartbeat
            leader.plan_by(over_at if now < over_at else now + heartbeat)
            return
        text = f"no lease of the profile {state.profile_former} is in force"
        because = Cause(code="profile-settled", text=text, index=state.profile_set)
        self._append(now, wall, Planned(events=(ProfileSettled(),), because=because))

    def _take_step(self, now: int, wall: int, step: Step) -> None:
        leader = self._leader
        if step.kind == "exclude":
            if step.node == leader.me:
                self._hand_over(now)
            elif step.node not in leader.excluded:
                leader.excluded.add(step.node)
                self._effects.append(AskGuard(command=Exclude(leader.ballot, step.node)))
            return
        because = Cause(code="reconfiguration", text=step.text)
        events: list[Event] = []
        if step.config is not None:
            stage = "joint" if step.config.former is not None else "final"
            events.append(QuorumChanged(stage=stage, text=step.text))
        if step.kind == "final" and step.config is not None:
            voting = {acceptor.id.node for acceptor in step.config.acceptors}
            events.extend(
                NodePromoted(node=node.id)
                for node in leader.ahead.nodes.values()
                if node.status == NodeStatus.LEARNER and node.id in voting
            )
        if step.kind == "forget":
            events.append(NodeRemoved(node=step.node, evicted=True))
        planned = Planned(events=tuple(events), because=because)
        self._append(now, wall, planned, config=step.config)
