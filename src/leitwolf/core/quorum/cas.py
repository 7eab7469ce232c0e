"""An object with compare-and-swap as an acceptor: a value that only its last reader may replace.

Rules:

- A candidate reads; a higher promise: refused. An armed stamp of another owner must stand still for
  ``silence``, stretched by the rates. Then it writes its promise over exactly what it read.
- Mode tag: a candidate whose log is behind the key there is refused (R2); so a leader names only
  what is durable in its own log, and lacks nothing but the tag to be committed. Mode full: a
  candidate copies what the object holds beyond its own log, durably, before the vote counts; if
  that contradicts what is committed in its own log, it is refused, too.
- A leader writes the new key (and entries) and its stamp over exactly what it read or wrote last.
  Who finds another value looks whose promise it holds: a higher one deposes, else it tries again.
- A reply that was lost is found again by its nonce.

Theory of operation: the object is one linearizable register, so the rules of an acceptor are
evaluated by whoever writes, and hold because a value is only replaced by one who saw it.
"""

from __future__ import annotations

from msgspec.structs import replace

from leitwolf.core.messages import Prepare
from leitwolf.core.quorum.passive import Passive
from leitwolf.core.quorum.standing import NEVER, Standing
from leitwolf.model.errors import check
from leitwolf.model.limits import COMMIT_HINT_ENTRIES
from leitwolf.model.quorum import Acceptor
from leitwolf.model.witness import CasObject, WitnessMode
from leitwolf.ports.witness import CasFound, CasGet, CasPut, CasWritten, WitnessResult
from leitwolf.wire.ballot import NO_BALLOT, NO_KEY, Ballot

__all__ = ["CasAcceptor"]


class CasAcceptor(Passive):
    """One object, as this node uses it."""

    def __init__(self, standing: Standing, acceptor: Acceptor) -> None:
        super().__init__(standing, acceptor)
        self._value: CasObject | None = None
        self._version = ""
        """Of ``_value``; '': it must be read before anything is written."""
        self._seen = 0
        """When a reading that showed this version ended first."""
        self._writing: CasObject | None = None
        self._nonce = 0

    # --- reading ---------------------------------------------------------------------------------

    def free_at(self) -> int:
        """Return when an armed stamp of another node will have stood still for long enough."""
        if self.looked_at < 0:
            return NEVER
        value = self._value
        return self._seen + self._wait(value.silence) if value and self._bound() else 0

    def _bound(self) -> bool:
        value = self._value
        return value is not None and value.armed and self._awaits(value.holder)

    def _look(self) -> None:
        self._call(CasGet())

    def _done(self, result: WitnessResult) -> None:
        standing = self._standing
        written, self._writing = self._writing, None
        if isinstance(result, CasFound):
            if self._forgot(result.value):
                return
            lost = self._nonce and result.value.nonce == self._nonce
            if result.version != self._version:
                self._seen = standing.now
            self._value, self._version = result.value, result.version
            self.looked_at = standing.now
            self._nonce = 0
            self._note(result.value)
            if lost:  # what was written last stands there, but since when is not known
                self._wrote(result.value, counted=False)
            else:
                self._found(result.value)
            return
        check(isinstance(result, CasWritten), f"an object answered {type(result).__name__}")
        if not isinstance(result, CasWritten) or written is None:
            return
        if not result.version:
            self._version = ""
            self._look_at = standing.now
            self._again()
            return
        self._value, self._version, self._seen = written, result.version, standing.now
        self.looked_at = standing.now
        self._nonce = 0
        self._note(written)
        self._wrote(written)

    def _failed(self) -> None:
        if self._writing is not None:
            self._nonce = self._writing.nonce
        self._writing, self._version = None, ""
        if self._probe is not None or self._prepare is not None:
            self._look_at = self._standing.now
        self._again()

    def work(self) -> None:
        """Begin the next call; what stands there must be known before it is replaced."""
        leading = self.ballot != NO_BALLOT
        idle = not self._busy and self._standing.now >= self._retry_at
        if idle and not self.distrusted and (leading or self._freeing) and not self._version:
            self._look()
            return
        super().work()

    # --- memory ----------------------------------------------------------------------------------

    def _note(self, value: CasObject) -> None:
        """Remember what stands there; write it down to the entry when this node wants to lead."""
        self._memory.note({0: value.stamp}, value.promised, value.key)
        wants = self._probe is not None or self._prepare is not None
        block = 1 if wants else COMMIT_HINT_ENTRIES
        self._record((value.promised, value.key.ballot, value.key.index // block))

    def _forgot(self, value: CasObject) -> bool:
        """Leave an object that lacks what this node saw there, or of which another says so."""
        rules = self._standing.rules
        lost = self._memory.lost({0: value.stamp}, value.promised, value.key)
        if value.distrusted and rules.holds("witness-distrust"):
            text = "a node found that it was restored from an older copy"
            self._distrust(text, marked=True)
        elif lost and rules.holds("witness-memory"):
            self._distrust(lost)
            self._version = ""
        return bool(self.distrusted)

    def _mark(self) -> None:
        if self._value is None or not self._version:
            self._look()
        else:
            self._put(replace(self._value, distrusted=True))

    def _marked(self, result: WitnessResult) -> bool:
        if isinstance(result, CasFound):
            self._value, self._version = result.value, result.version
            return result.value.distrusted
        done = isinstance(result, CasWritten) and bool(result.version)
        self._version = ""
        return done

    def _put(self, value: CasObject) -> None:
        standing = self._standing
        value = replace(value, nonce=standing.nonce())
        self._writing = value
        self._call(CasPut(value=value, expected=self._version), self._prepare_after)

    # --- candidate -------------------------------------------------------------------------------

    def _found(self, value: CasObject) -> None:
        """Answer a candidate by what stands there, or look again when it may be free."""
        if self.ballot != NO_BALLOT:
            if value.promised > self.ballot:
                self._deposed(value.promised)
            return
        standing, prepare = self._standing, self._prepare
        outbid = prepare is not None and value.promised >= prepare.ballot
        if outbid and standing.rules.holds("object-promise"):
            self._refuse(value.promised, NO_KEY)
            return
        remaining = self.free_at() - standing.now
        if remaining > 0 and (prepare is not None or self._probe is not None):
            self._look_again(remaining)
            return
        if value.mode is WitnessMode.TAG:
            behind = value.key > standing.log.last and standing.rules.holds("tag-compare")
        else:
            behind = standing.refutes(value.snapshot, value.entries)
        if behind:
            self._welcome(value.promised, value.key, willing=False)
            self._refuse(value.promised, value.key)
            return
        self._welcome(value.promised, NO_KEY)
        if prepare is not None:
            self._put(self._claim(value, prepare.ballot))

    def _claim(self, value: CasObject, ballot: Ballot) -> CasObject:
        """Return the value that promises ``ballot``; a raised office keeps its stamp (L13)."""
        page = self._standing.page()
        leading = page.office != NO_BALLOT and page.leader_end > self._standing.now
        own = value.holder.node == self._standing.me.node
        if own and value.armed:
            return replace(value, promised=ballot, armed=leading, released=not leading)
        return replace(value, promised=ballot)

    def _prepared(self, prepare: Prepare, value: CasObject) -> None:
        if value.promised != prepare.ballot:
            self._look_at = self._standing.now
            return
        after = 0
        if value.mode is WitnessMode.FULL and value.key > self._standing.log.last:
            after = self._standing.adopt(value.snapshot, value.entries)
        counts = value.armed or value.released
        self._promise(value.holder if counts else NO_BALLOT, freed=value.released, after=after)

    # --- leader ----------------------------------------------------------------------------------

    def _write(self, *, entries: bool, renew: bool, armed: bool) -> None:
        standing, value = self._standing, self._value
        if value is None or not self._version:
            self._look()
            return
        if value.promised > self.ballot:
            self._deposed(value.promised)
            return
        value = replace(
            value,
            promised=self.ballot,
            holder=self.ballot,
            stamp=value.stamp + renew,
            armed=armed,
            silence=self._asked(),
            released=False,
        )
        if entries:
            key = standing.log.key_at(self._reach)
            value = replace(value, accepted=self.ballot, key=key, commit=standing.commit)
            if value.mode is WitnessMode.FULL:
                snapshot = standing.snapshot()
                behind = standing.log.after(snapshot.last.index if snapshot else 0)
                value = replace(value, snapshot=snapshot, entries=behind)
        self._put(value)

    @property
    def _reach(self) -> int:
        """A tag names only what it makes a quorum for, with those who have that on their disks.

        It refuses for ever who lost what it names, or never had it. That could be everybody.
        """
        standing, value = self._standing, self._value
        holds = value is not None and value.mode is WitnessMode.FULL
        if holds or not standing.rules.holds("tag-durable"):
            return standing.log.last.index
        reach = min(standing.log.last.index, standing.outbox.durable_index)
        if standing.rules.holds("tag-backed"):
            reach = min(reach, standing.backed)
        return reach if standing.log.ballot_at(reach) == self.ballot else 0

    def _wrote(self, value: CasObject, *, counted: bool = True) -> None:
        """A write stands there; ``counted``: it is known when it was begun."""
        if self.ballot == NO_BALLOT:
            if self._prepare is not None:
                self._prepared(self._prepare, value)
            return
        if value.holder != self.ballot:
            return
        self.armed = value.armed
        if value.armed and not self._dropping and counted:
            self._renewed(min(value.silence, self.silence))
        if not value.armed:
            self._renewals = 0
            self._dropping = self._dropped = False
        if value.accepted == self.ballot and value.key.index > self.match:
            self._matched(value.key.index)

    def _free(self) -> None:
        value = self._value
        if value is None or value.holder.node != self._standing.me.node or not value.armed:
            self._freeing = self.armed = False
            return
        self._freeing = self.armed = False
        self._put(replace(value, armed=False, released=True))
