"""The half of a passive acceptor, executed by the proposer: what disks and objects have in common.

Rules:

- One call is under way per acceptor (A4). What a call that failed did is not known: nothing is
  counted by it, and the next call finds out.
- R1, R2, R4, R5 hold as for a node: nothing is promised at or below a promise that stands there, a
  candidate gets or must have what was accepted there, replies rest on finished writes, and an
  *armed* stamp of another owner must stand still for ``silence`` before anybody overwrites it.
- A renewal counts for the leader lease from the START of the call that confirmed it (L2), and for
  less than challengers wait.
- T_d follows from what calls take (:mod:`leitwolf.core.quorum.timing`). Each stamp says for how
  long it must stand still; a shorter silence is said only when the longer one before is over.
- What is derived from an armed stamp is given up at the guard before the stamp is disarmed.
- One that forgot something (:mod:`leitwolf.core.quorum.memory`) is never counted again, and who
  notices it says so there, so that nobody else does.

Theory of operation: the rest of the quorum core speaks to a passive acceptor in the messages that
it sends to nodes (:class:`PreProbe`, :class:`Prepare`) and gets the answers of a node (replies).
Only replication differs: there is no stream; :meth:`Passive.work` writes whatever the log holds
beyond ``match``. Calls go out at the end of a step, so that a step's entries are written as one.

Lazy arming: while nodes alone can renew the lease, the stamp stays disarmed and challengers need
not wait; the guard reports when acks run thin (``BackingThin``). While a node is out of reach, the
leader writes once a second all the same: so who forces that node sees that somebody leads (L11).

What this does not guarantee: that a lease is held; the guard counts what it is told.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from leitwolf.core.lease.profile import MILLISECOND, awaited
from leitwolf.core.messages import Appended, Prepare, PreProbe, PreProbeReply, Promised, Refused
from leitwolf.core.quorum.standing import NEVER, Standing
from leitwolf.core.quorum.timing import CallTimes, Timing
from leitwolf.model.quorum import Acceptor
from leitwolf.model.witness import ROLLED_BACK
from leitwolf.ports.witness import WitnessCall, WitnessFault, WitnessResult
from leitwolf.wire.ballot import NO_BALLOT, Ballot, Key
from leitwolf.wire.guard import Back

__all__ = ["Passive"]

_LOOK_NS = 5 * MILLISECOND
"""A candidate that waits for a stamp looks again after this time at the earliest."""
_LAZY_NS = 1_000 * MILLISECOND
"""While nodes alone commit, a witness follows at this pace."""
_HEALTH_NS = 5_000 * MILLISECOND
"""Every node looks so often whether it reaches what it may need one day."""
_CALM_NS = 1_000 * MILLISECOND
"""Nodes alone must have renewed for so long before a witness is disarmed."""


class Passive(ABC):
    """One passive acceptor, as this node uses it. Instants are RAW ns of this node."""

    def __init__(self, standing: Standing, acceptor: Acceptor) -> None:
        self._standing = standing
        self.acceptor = acceptor
        self.node = acceptor.id.node
        self.ballot = NO_BALLOT
        """Of the office in which this node writes here; NO_BALLOT: it does not lead."""
        self.match = 0
        self.fault = ""
        """Why the last call failed, '': it did not."""
        self.unfenced = ""
        """Why this disk cannot keep a node from writing, '': it can, or is no disk."""
        self.distrusted = ""
        """What it forgot, '': nothing. Once set, nothing is counted here any more."""
        self._memory = standing.memory(acceptor.id.storage)
        self._recorded: object = None
        self._marking = False
        """It is still to be written there that nobody counts it."""
        self.looked_at = -1
        """When the last successful reading ended, -1: never."""
        self.moved_from = -1
        """The same of the newest one after which another node was seen to write; -1: none did."""
        self.armed = False
        self.reached_since = -1
        """Since when calls succeed, or fail (``fault``), RAW ns; -1: none ended yet."""
        self._timing = Timing()
        self._health_at = 0
        """When to look at the latest, if nothing else is to be done."""
        self._serial = 0
        self._busy = False
        self._begun = 0
        """When the last call that ended was begun, by the driver."""
        self._called_in = NO_BALLOT
        """Office in which it was made."""
        self._probe: PreProbe | None = None
        self._prepare: Prepare | None = None
        self._prepare_after = 0
        self._look_at = NEVER
        self._renew_at = 0
        self._feed_at = 0
        self._retry_at = 0
        self._sign_at = 0
        """When to write at the latest that this node leads, while others are out of reach."""
        self._calm_since = -1
        self._renewals = 0
        """Confirmed in this office."""
        self._counts_until = 0
        """When the guard's count of the longest renewal ends."""
        self._dropping = False
        self._dropped = False
        self._freeing = False

    # --- what the core asks ----------------------------------------------------------------------

    @property
    def silence(self) -> int:
        """T_d: how long (ns) an own armed stamp must stand still until this node counts as gone."""
        standing, measured = self._standing, self._timing.measured
        if standing.rules.holds("silence-bounded"):
            measured = min(measured, standing.silence_ns)
        return max(standing.promise_ns, self.acceptor.silence_ms * MILLISECOND, measured)

    @property
    def asks(self) -> int:
        """The silence (ns) that its calls ask for, whatever R bears; 0: not measured."""
        return self._timing.measured

    @property
    def times(self) -> CallTimes:
        """How long its calls take, as this node sees it."""
        return self._timing.view(self._standing.promise_ns)

    @property
    def essential(self) -> bool:
        """Whether the stamp is always armed: nodes alone are never a quorum, or it is sought."""
        return self.sought or not self._standing.nodes_suffice(connected=False)

    @property
    def sought(self) -> bool:
        """It is to get a vote, or to be needed: it must hold and renew all before that."""
        return self._standing.sought == self.node

    @property
    def ready(self) -> bool:
        """Whether it could vote now without ending the leader lease.

        The guard must count a renewal before it learns of the vote; of one that was confirmed in
        this very step it hears only afterwards.
        """
        return self.armed and self._renewals > 1 and not self.fault

    def ask(self, message: PreProbe | Prepare, after: int) -> None:
        """Take in what a candidate asks; it is answered by a reply, unless nobody may count it."""
        if self.distrusted:
            return
        if isinstance(message, PreProbe):
            self._probe = message
        else:
            self._prepare, self._prepare_after = message, after
        self._look_at = self._standing.now

    def cancel(self) -> None:
        """The campaign is over: nothing is to be answered any more."""
        self._probe = self._prepare = None
        self._look_at = NEVER

    def watch_at(self) -> int:
        """Return when to look next, so that a stamp that stands still is known to do so early."""
        if self._busy or self._look_at != NEVER or self.distrusted:
            return NEVER
        return max(self._retry_at, self.looked_at + max(_LOOK_NS, self.silence // 8))

    def watch(self) -> None:
        """Look, if it is time to."""
        if self.watch_at() <= self._standing.now:
            self._look_at = self._standing.now

    def lead(self, ballot: Ballot) -> None:
        """This node is in office: write what the log holds, and renew."""
        self.ballot, self.match = ballot, 0
        self._renew_at = self._feed_at = self._standing.now
        self._sign_at = self._standing.now + _LAZY_NS
        self._calm_since = -1
        self._renewals = 0
        self._dropping = self._dropped = self._freeing = False
        self.cancel()

    def leave(self, *, released: bool) -> None:
        """Out of office; ``released``: nobody need wait for this node, say so."""
        self._freeing = released and self.armed
        self.ballot = NO_BALLOT

    def dropped(self) -> None:
        """The guard counts this acceptor no more: the stamp may be disarmed."""
        self._dropped = self._dropping

    @abstractmethod
    def free_at(self) -> int:
        """Return when no stamp of another owner needs to be waited for; NEVER: not known yet."""

    # --- calls -----------------------------------------------------------------------------------

    def deadline(self) -> int:
        """Return when :meth:`work` has something to do at the latest."""
        if self._busy:
            return NEVER
        if self.distrusted:
            return max(self._standing.now, self._retry_at) if self._marking else NEVER
        at = min(self._look_at, self._due_at())
        if self.ballot != NO_BALLOT and self.looked_at < 0:
            at = self._standing.now
        elif self.ballot != NO_BALLOT and self._standing.log.last.ballot == self.ballot:
            at = min(at, self._renew_at if self._wanted else self._calm_at(), self._show_at())
            if self.match < self._reach:
                at = min(at, self._feed_at)
            if self._news():
                at = min(at, self._standing.now)
        if self._freeing:
            at = min(at, self._standing.now)
        return max(at, self._retry_at)

    def work(self) -> None:
        """Begin the next call, if one is due and none is under way."""
        standing = self._standing
        if self._busy or standing.now < self._retry_at:
            return
        if self.distrusted:
            if self._marking:
                self._mark()
            return
        if self.ballot != NO_BALLOT:
            if self.looked_at < 0:
                self._look()  # what stands there in the own name goes on, not anew
            elif standing.log.last.ballot == self.ballot:
                self._maintain()
        elif self._freeing:
            self._free()
        elif standing.now >= self._look_at:
            self._look_at = NEVER
            self._look()
        if not self._busy and standing.now >= self._due_at():
            self._look()

    def _due_at(self) -> int:
        """Return when to look at the latest, if this node might ever have to take over."""
        leads = self.ballot != NO_BALLOT
        return self._health_at if leads or self._standing.may_campaign else NEVER

    def result(self, serial: int, started: int, result: WitnessResult) -> None:
        """Take in how the call ended; ``started``: RAW ns at which the driver began it."""
        if serial != self._serial or not self._busy:
            return
        self._busy = False
        self._begun = started
        standing, failed = self._standing, bool(self.fault)
        self._finish(started, result)
        if self.reached_since < 0 or failed != bool(self.fault):
            self.reached_since = standing.now

    def _finish(self, started: int, result: WitnessResult) -> None:
        standing = self._standing
        if isinstance(result, WitnessFault):
            self._retry_at = standing.now + self.silence // 8
            if self.distrusted:
                return
            self.fault = f"{result.code}: {result.text}"
            self._timing.fail(standing.now, self.fault)
            standing.connected.discard(self.node)
            self._failed()
            if result.code == ROLLED_BACK:
                self._distrust(result.text)
            return
        if self.distrusted:
            self._marking = not self._marked(result)
            return
        self.fault = ""
        self._timing.add(standing.now, standing.now - started)
        standing.connected.add(self.node)
        looked_at, former = self.looked_at, self._memory.signs(standing.me.node)
        self._done(result)
        if self._memory.signs(standing.me.node) not in (None, former):
            self.moved_from = looked_at

    def _call(self, call: WitnessCall, after: int = 0) -> None:
        self._serial = self._standing.call_serial()
        self._busy, self._called_in = True, self.ballot
        self._health_at = self._standing.now + _HEALTH_NS
        self._standing.outbox.call(self.acceptor.id, self._serial, call, after)

    @abstractmethod
    def _look(self) -> None:
        """Begin to read."""

    @abstractmethod
    def _write(self, *, entries: bool, renew: bool, armed: bool) -> None:
        """Begin to write as leader: entries behind ``match``, a stamp, or both."""

    @abstractmethod
    def _free(self) -> None:
        """Begin to write that nobody need wait for this node any more."""

    @abstractmethod
    def _done(self, result: WitnessResult) -> None:
        """Take in the result of the call under way."""

    @abstractmethod
    def _failed(self) -> None:
        """The call under way failed: what it did is not known."""

    @abstractmethod
    def _mark(self) -> None:
        """Begin to write that nobody may count this acceptor any more."""

    @abstractmethod
    def _marked(self, result: WitnessResult) -> bool:
        """Return whether that stands there now."""

    # --- distrust --------------------------------------------------------------------------------

    def _distrust(self, text: str, *, marked: bool = False) -> None:
        """Never count this acceptor again; ``marked``: others know it already."""
        standing = self._standing
        self.distrusted = text
        self.fault = f"{ROLLED_BACK}: {text}"
        self._marking = not marked and standing.rules.holds("witness-distrust")
        self._retry_at = standing.now
        standing.connected.discard(self.node)
        self.cancel()
        self.armed = self._freeing = False
        if self.ballot != NO_BALLOT:
            standing.outbox.ask(Back(self.ballot, self.node, 0, 0))

    def _record(self, content: object) -> None:
        """Write down what stands here, once for each ``content`` that is worth it."""
        if content != self._recorded:
            self._recorded = content
            self._standing.remember(self._memory.record())

    # --- leading ---------------------------------------------------------------------------------

    def _again(self) -> None:
        """What was to be written is still to be written."""
        self._renew_at = self._feed_at = self._standing.now

    @property
    def _wanted(self) -> bool:
        """Whether the lease is to be derived from here now."""
        if self.essential or self._standing.thin:
            self._calm_since = -1
            return True
        if not self.armed:
            return False
        if self._calm_since < 0:
            self._calm_since = self._standing.now
        return self._standing.now < self._calm_since + _CALM_NS

    def _calm_at(self) -> int:
        return self._calm_since + _CALM_NS if self.armed and not self._dropping else NEVER

    def _show_at(self) -> int:
        """Return when to write that this node leads, armed or not: others might be forced."""
        shows = self._standing.lonely and self._standing.rules.holds("leader-shows")
        return self._sign_at if shows else NEVER

    def _maintain(self) -> None:
        standing = self._standing
        wanted = self._wanted
        renew = wanted and standing.now >= self._renew_at
        eager = self.sought or not standing.nodes_suffice(connected=True)
        entries = self.match < self._reach and (eager or standing.now >= self._feed_at)
        if wanted:
            self._dropping = self._dropped = False
        elif self.armed and not self._dropping:
            self._dropping = True
            if standing.rules.holds("drop-before-disarm"):
                standing.outbox.ask(Back(self.ballot, self.node, 0, 0))
        disarm = (
            not wanted
            and self.armed
            and (self._dropped or not standing.rules.holds("drop-before-disarm"))
        )
        shows = standing.now >= self._show_at()
        if entries or renew or disarm or shows or self._news():
            self._sign_at = standing.now + _LAZY_NS
            if entries:
                self._feed_at = standing.now + _LAZY_NS
            if renew:
                self._renew_at = standing.now + self._pace()
            # Entries and news do not disarm what the guard still counts.
            armed = wanted or (self.armed and not disarm)
            self._write(entries=entries, renew=renew or shows, armed=armed)
            if renew and not standing.rules.holds("armed-before-counted"):
                standing.outbox.ask(Back(self.ballot, self.node, standing.now, self.silence))

    @property
    def _reach(self) -> int:
        """Index up to which entries may be written here."""
        return self._standing.log.last.index

    def _news(self) -> bool:
        """Return whether something else than entries and renewals is to be written."""
        return False

    def _pace(self) -> int:
        return self._standing.page().heartbeat or self.silence // 4

    def _renewed(self, silence: int) -> None:
        """Tell the guard that a renewal was confirmed, begun when the call began (L2)."""
        self._renewals += 1
        self._counts_until = max(self._counts_until, self._begun + silence)
        self._standing.outbox.ask(Back(self.ballot, self.node, self._begun, silence))

    def _asked(self) -> int:
        """Return the silence to write: what an earlier, longer renewal still counts, at least."""
        if not self._standing.rules.holds("silence-outlasts"):
            return self.silence
        return max(self.silence, self._counts_until - self._standing.now)

    def _matched(self, index: int) -> None:
        self.match = index
        reply = Appended(ballot=self.ballot, match=index, storage=self.acceptor.id.storage)
        self._standing.answer(self.node, reply)

    def _deposed(self, higher: Ballot) -> None:
        """A higher promise stands here: nothing that was written counts."""
        standing = self._standing
        refusal = Refused(ballot=self.ballot, promised=higher, key=standing.log.last, remaining=0)
        standing.answer(self.node, refusal)

    # --- promising -------------------------------------------------------------------------------

    def _awaits(self, owner: Ballot) -> bool:
        """Return whether an armed stamp of ``owner`` binds this candidate (R5)."""
        page = self._standing.page()
        released = page.freed and page.renewed >= owner
        return owner.node != self._standing.me.node and not released

    def _wait(self, silence: int) -> int:
        """Return how long a stamp must have stood still, by this clock.

        What its writer says counts, too: this node may not know yet that the profile changed.
        """
        waits = self._standing.rules.holds("stamp-wait")
        return awaited(max(self.silence, silence)) if waits else 0

    def _look_again(self, remaining: int) -> None:
        self._look_at = self._standing.now + max(_LOOK_NS, min(remaining, self.silence // 8))

    def _welcome(self, promised: Ballot, key: Key, *, willing: bool = True) -> None:
        """Answer a pre-probe."""
        probe, self._probe = self._probe, None
        if probe is not None:
            reply = PreProbeReply(round=probe.round, willing=willing, promised=promised, key=key)
            self._standing.answer(self.node, reply)

    def _refuse(self, promised: Ballot, key: Key) -> None:
        prepare, self._prepare = self._prepare, None
        if prepare is not None:
            refusal = Refused(ballot=prepare.ballot, promised=promised, key=key, remaining=0)
            self._standing.answer(self.node, refusal)

    def _promise(self, renewed: Ballot, *, freed: bool, after: int = 0) -> None:
        """Answer the candidate: promised, and nothing is here that its log lacks (P4)."""
        prepare, self._prepare = self._prepare, None
        if prepare is not None:
            promised = Promised(
                ballot=prepare.ballot,
                renewed=renewed,
                freed=freed,
                no_memory=False,
                key=self._standing.log.last,
                storage=self.acceptor.id.storage,
            )
            self._standing.answer(self.node, promised, after)
