"""A shared disk as an acceptor: one block per node, written by that node alone (P1-P4).

Rules:

- P1: a candidate reads all blocks. A higher promise: refused. An armed stamp of another node must
  have stood still for ``silence``, stretched by the rates, between two readings.
- P2: it writes its own block {promised}, both copies. P3: it reads all blocks again; a higher
  promise, or a stamp that moved: not promised. Who renewed last (L6) is what this reading shows:
  who arms a stamp later finds the promise behind its write, so that stamp never counts, and its
  owner may run by the lease of the leader before.
- P4: the region with the highest accepted ballot; what it holds beyond the own log is copied there,
  durably, before the vote counts. Afterwards all blocks are read again: if that region is not the
  one named any more, it is done again from P3. What was copied once is not read again. What
  contradicts an entry that is committed in the own log is older than that commit: the candidate
  is refused as behind, for it lacks the entry by which its own one was committed.
- Before that, where the disk has reservations, a former owner that did not release is *fenced*:
  what it had on its way when it was frozen comes too late, and what was adopted stays as it is.
  It opens the disk anew, reads, and finds itself outbid.
- A leader's block names the nodes that were *evicted*; then they are fenced. A node that finds
  itself there writes nothing, and the adapter does not register it again.
- A leader writes entries to its own region and then reads all blocks; a higher promise deposes it,
  and nothing is acknowledged. The first write of a term is a new content in the other region, with
  everything since the snapshot; so ``accepted`` is also the ballot of the last entry there. So is
  every 64th write: a region is to be read within an election.

Theory of operation: two proposers each write and then read; so at least one of them sees the other
(Gafni and Lamport, Disk Paxos). The own block is kept here as it was written last; after a failure
it is read again, and the region that was being written counts as spoiled.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from leitwolf.core.messages import Prepare
from leitwolf.core.quorum.passive import Passive
from leitwolf.core.quorum.standing import NEVER, Standing
from leitwolf.model.errors import check
from leitwolf.model.limits import REGION_APPENDED_BYTES_MAX, REGION_WRITES_MAX
from leitwolf.model.quorum import Acceptor
from leitwolf.model.witness import NO_BLOCK, DiskBlock, Region, is_evicted
from leitwolf.ports.witness import (
    DiskCall,
    DiskResult,
    RegionRead,
    RegionWrite,
    WitnessResult,
)
from leitwolf.wire.ballot import NO_BALLOT, NO_KEY, Ballot, Key

__all__ = ["DiskAcceptor"]


class _Copy(NamedTuple):
    """A region of which the own log holds all."""

    ballot: Ballot
    """Accepted there."""
    last: Key
    """Of the own log then."""


class _Reading(NamedTuple):
    """What a call that fences and reads was made for, and what the own log held then."""

    ballot: Ballot
    region: RegionRead | None
    log: tuple[Key, int]
    """Last entry and commit index."""


class DiskAcceptor(Passive):
    """One shared disk, as this node uses it."""

    def __init__(self, standing: Standing, acceptor: Acceptor) -> None:
        super().__init__(standing, acceptor)
        self._own = replace(NO_BLOCK, node=standing.me.node)
        self._others: dict[int, DiskBlock] = {}
        self._seen: dict[int, int] = {}
        """By node: when a reading that showed its block as it is now ended first."""
        self._writing: DiskBlock | None = None
        self._reaches = NO_KEY
        """Last entry written to the own region in this office."""
        self._end = 0
        """Last index in the entries that are being written, 0: none are."""
        self._fresh = True
        self._doubtful = False
        """What a call that failed did to the own block is not known: it is read first."""
        self._sequence = 0
        self._generation = 0
        self._reading: _Reading | None = None
        """The call under way fences the former owner and reads what is to be adopted."""
        self._copied = _Copy(NO_BALLOT, NO_KEY)
        self._copied_at = 0
        """Position at which the own log is durable with that."""
        self._stood: tuple[DiskBlock, ...] = ()
        """Blocks of others as P3 showed them."""
        self._writes = self._appended = 0
        """In the content of the own region: writes, and bytes of payload behind the first."""
        self._releasing = False
        """The call under way says that nobody need wait for this node."""
        self._fencing: tuple[int, ...] = ()
        self._fenced: tuple[int, ...] = ()
        """Evicted nodes that the call under way, or one before it in this office, fences."""

    # --- reading ---------------------------------------------------------------------------------

    def free_at(self) -> int:
        """Return when every armed stamp of others will have stood still for long enough."""
        if self.looked_at < 0:
            return NEVER
        return max(map(self._still_at, self._bound()), default=0)

    def _still_at(self, block: DiskBlock) -> int:
        return self._seen[block.node] + self._wait(block.silence)

    def _bound(self) -> list[DiskBlock]:
        """Return the blocks of others whose owner may hold a lease that rests on this disk."""
        return [
            block
            for block in self._others.values()
            if block.armed and not block.released and self._awaits(block.promised)
        ]

    def _higher(self) -> Ballot:
        return max((block.promised for block in self._others.values()), default=NO_BALLOT)

    def _look(self) -> None:
        self._call(DiskCall(read=True))

    def work(self) -> None:
        """Begin the next call; after a failure the own block is read before it is written."""
        idle = not self._busy and self._standing.now >= self._retry_at and not self.distrusted
        if idle and self._doubtful and (self.ballot != NO_BALLOT or self._freeing):
            self._look()
            return
        super().work()

    def _take(self, blocks: tuple[DiskBlock, ...]) -> None:
        """Note what stands there, and since when it stands still."""
        standing = self._standing
        self._memory.note({block.node: block.sequence for block in blocks})
        self._record([(one.node, one.promised, one.accepted, one.generation) for one in blocks])
        for block in blocks:
            if block.node == standing.me.node:
                if block.sequence >= self._own.sequence:
                    self._own = block
                continue
            former = self._others.get(block.node)
            if former is None or (former.boot, former.sequence) != (block.boot, block.sequence):
                self._seen[block.node] = standing.now
            self._others[block.node] = block
        self._sequence = max(self._sequence, self._own.sequence)
        self._generation = max(self._generation, self._own.generation)
        self.looked_at = standing.now
        self._doubtful = False

    # --- results ---------------------------------------------------------------------------------

    def _done(self, result: WitnessResult) -> None:
        check(isinstance(result, DiskResult), f"a disk answered {type(result).__name__}")
        if not isinstance(result, DiskResult):
            return
        self.unfenced = result.unfenced
        reading, self._reading = self._reading, None
        if reading is not None:
            self._fetched(reading, result)
            return
        self._releasing = False
        self._fenced, self._fencing = (*self._fenced, *self._fencing), ()
        written, self._writing = self._writing, None
        end, self._end = self._end, 0
        if result.full:
            self._overflow()
            return
        if self._forgot(result.blocks):
            return
        if written is not None:
            self._own = written
        self._take(result.blocks)
        if self._outcast():
            return
        if self.ballot != NO_BALLOT:
            if self._called_in == self.ballot:
                self._wrote(written, end)
        elif self._prepare is not None and written is not None:
            self._prepared(self._prepare, written)
        else:
            self._answer()

    def _forgot(self, blocks: tuple[DiskBlock, ...]) -> bool:
        """Leave a disk that lacks what this node saw there, or of which another one says so."""
        rules = self._standing.rules
        warner = next((block.node for block in blocks if block.distrusted), 0)
        lost = self._memory.lost({block.node: block.sequence for block in blocks})
        if warner and rules.holds("witness-distrust"):
            text = f"node {warner} found that it was restored from an older copy"
            self._distrust(text, marked=True)
        elif lost and rules.holds("witness-memory"):
            self._distrust(lost)
        return bool(self.distrusted)

    def _mark(self) -> None:
        self._call(DiskCall(block=self._block(distrusted=True), read=True))

    def _marked(self, result: WitnessResult) -> bool:
        return isinstance(result, DiskResult) and any(one.distrusted for one in result.blocks)

    def _overflow(self) -> None:
        """No room behind what is in the region: begin anew in the other one."""
        if self._fresh:
            self.fault = "witness-full: the state of the cluster is larger than a region"
            self._retry_at = self._standing.now + self.silence
            self._doubtful = True
        self._fresh, self._feed_at = True, self._standing.now

    def _outcast(self) -> bool:
        """Return whether the disk says that this node was evicted: it asks for nothing any more."""
        blocks = (*self._others.values(), self._own)
        found = is_evicted(self._standing.me.node, blocks)
        if found and self._standing.rules.holds("evicted-writes-nothing"):
            self.cancel()
            self._freeing = False
            self.fault = "witness-fenced: this node was evicted, as the disk says"
            return True
        return False

    def _failed(self) -> None:
        self._doubtful, self._reading = True, None
        self._writing, self._fencing = None, ()
        self._freeing, self._releasing = self._freeing or self._releasing, False
        self._again()
        if self._end:
            self._end, self._fresh = 0, True
        if self._probe is not None or self._prepare is not None:
            self._look_at = self._standing.now

    # --- candidate -------------------------------------------------------------------------------

    def _answer(self) -> None:
        """Answer a candidate after a reading, or look again when it may be free (P1)."""
        standing = self._standing
        higher = self._higher()
        prepare = self._prepare
        outbid = prepare is not None and higher > prepare.ballot
        if outbid and standing.rules.holds("disk-outbid"):
            self._refuse(higher, NO_KEY)
            return
        remaining = self.free_at() - standing.now
        if remaining > 0 and (prepare is not None or self._probe is not None):
            self._look_again(remaining)
            return
        self._welcome(higher, NO_KEY)
        if prepare is not None:
            claim = self._claim(prepare.ballot)
            claims = standing.rules.holds("disk-claim")
            self._change(None, claim if claims else None, self._prepare_after)

    def _block(self, **fields: object) -> DiskBlock:
        """Return the own block as it is to be written next."""
        standing = self._standing
        self._sequence = max(self._sequence, self._own.sequence) + 1
        given = {
            "boot": standing.boot,
            "sequence": self._sequence,
            "commit": standing.commit,
            **fields,
        }
        self._writing = replace(self._own, **given)
        return self._writing

    def _change(
        self,
        write: RegionWrite | None,
        block: DiskBlock | None,
        after: int = 0,
        fence: tuple[int, ...] = (),
    ) -> None:
        """Begin to write, over nothing but what is known to stand there, and to read then."""
        known = self._memory.sequence(self._standing.me.node)
        if not self._standing.rules.holds("witness-memory"):
            known = 0
        call = DiskCall(write=write, block=block, known=known, fence=fence, read=True)
        self._call(call, after)

    def _claim(self, ballot: Ballot) -> DiskBlock:
        """Return the block that promises ``ballot`` (P2).

        While the page shows a leader lease the stamp stays armed (L13). An office that is over
        may have left a run-lease behind, which a release did not end: that stays marked.
        """
        page = self._standing.page()
        leading = page.office != NO_BALLOT and page.leader_end > self._standing.now
        armed = self._own.armed and leading
        released = not armed and (self._own.armed or self._own.released)
        return self._block(promised=ballot, armed=armed, released=released)

    def _prepared(self, prepare: Prepare, written: DiskBlock) -> None:
        """The own promise stands there, and all blocks were read after it (P3)."""
        if written.promised != prepare.ballot:
            self._look_at = self._standing.now
            return
        if self._outbid(prepare):
            return
        # The stamp stood still up to the START of the writing, or its owner may live.
        moved = any(self._begun < self._still_at(block) for block in self._bound())
        if moved and self._standing.rules.holds("disk-reread"):
            self._look_again(self.silence // 8)
            return
        self._stood = tuple(self._others.values())
        self._fetch(prepare)

    def _outbid(self, prepare: Prepare) -> bool:
        """Refuse a candidate if a reading after its promise shows a higher one."""
        higher = self._higher()
        found = higher > prepare.ballot and self._standing.rules.holds("disk-reread")
        if found:
            self._refuse(higher, NO_KEY)
        return found

    def _fetch(self, prepare: Prepare) -> None:
        """Fence the former owner, and read what the disk holds beyond the own log (P4)."""
        standing, rules = self._standing, self._standing.rules
        best = max([*self._others.values(), self._own], key=lambda block: block.accepted)
        behind = NO_BALLOT < best.accepted >= standing.log.last.ballot and not self._has(best)
        behind = behind and rules.holds("disk-adopt")
        fence = self._former(best) if rules.holds("fence-former-owner") else ()
        if not behind and not fence:
            self._vouch(self._copied_at)
            return
        read = RegionRead(block=best) if behind else None
        self._reading = _Reading(prepare.ballot, read, (standing.log.last, standing.commit))
        self._call(DiskCall(fence=fence, region=read))

    def _has(self, best: DiskBlock) -> bool:
        """Return whether the own log holds all that was ever acknowledged in a region.

        It was read when the own promise stood here, above its ballot, so that its owner could
        acknowledge nothing any more; or it was written from the own log.
        """
        copied, holds = self._copied, self._standing.rules.holds("adopted-once")
        return holds and best.accepted == copied.ballot and self._standing.log.last >= copied.last

    def _former(self, best: DiskBlock) -> tuple[int, ...]:
        """Return the nodes that wrote here last and did not release.

        A block of an earlier owner may stay armed for long: what it promised is outdone.
        """
        return tuple(
            block.node
            for block in self._others.values()
            if (block is best or (block.armed and block.promised > best.accepted))
            and not block.released
        )

    def _fetched(self, reading: _Reading, result: DiskResult) -> None:
        """Copy what was read (P4), and promise; a campaign that came meanwhile begins with P1."""
        standing = self._standing
        if reading.region is not None:
            if self._forgot(result.blocks):
                return
            self._take(result.blocks)
            if self._outcast():
                return
        copied = reading.region is None or self._copy(reading, result.region)
        prepare = self._prepare
        if prepare is None or self.ballot != NO_BALLOT:
            return
        if prepare.ballot != reading.ballot and standing.rules.holds("adopted-in-ballot"):
            self._look_at = standing.now
            return
        if reading.region is not None and self._outbid(prepare):
            return
        if copied:
            self._vouch(self._copied_at)
        else:
            self._fetch(prepare)

    def _copy(self, reading: _Reading, region: Region | None) -> bool:
        """Copy a region into the own log; False: refused, or region or log changed meanwhile.

        What comes too late for its campaign is copied, too: the next one need not read it again.
        """
        standing = self._standing
        wanted, same = reading.region, (standing.log.last, standing.commit) == reading.log
        if wanted is None or region is None or not same or self.ballot != NO_BALLOT:
            return False
        if standing.refutes(region.snapshot, region.entries):
            newest = region.entries[-1]
            self._refuse(self._higher(), Key(newest.ballot, newest.index))
            return False
        self._copied_at = standing.adopt(region.snapshot, region.entries)
        if wanted.block.accepted < reading.ballot:
            self._copied = _Copy(wanted.block.accepted, standing.log.last)
        return True

    def _vouch(self, after: int) -> None:
        """Promise, and say who renewed here last (L6)."""
        renewed, freed = NO_BALLOT, False
        before = self._standing.rules.holds("renewed-before-promise")
        for block in self._stood if before else self._others.values():
            if (block.armed or block.released) and block.promised > renewed:
                renewed, freed = block.promised, block.released
        self._promise(renewed, freed=freed, after=after)

    # --- leader ----------------------------------------------------------------------------------

    def lead(self, ballot: Ballot) -> None:
        """This node is in office: its first write begins a new content."""
        super().lead(ballot)
        self._fresh, self._fenced, self._releasing = True, (), False

    def _write(self, *, entries: bool, renew: bool, armed: bool) -> None:
        standing = self._standing
        write: RegionWrite | None = None
        fields: dict[str, object] = {}
        if entries:
            write = self._entries()
            self._copied = _Copy(self.ballot, standing.log.last)
            self._copied_at = standing.outbox.position
            if self._fresh:
                fields = {
                    "accepted": self.ballot,
                    "region": write.region,
                    "generation": write.generation,
                }
            self._reaches = standing.log.last
        block: DiskBlock | None = None
        evicted = standing.evicted()
        named = evicted == self._own.evicted
        # A copy of the past differs by its block: entries that come seldom raise it, too.
        seldom = entries and not self.armed
        if renew or self._fresh or seldom or armed != self._own.armed or not named:
            if entries or (self.match and not self._fresh):
                fields["key"] = self._reaches
            fields |= {"promised": self.ballot, "released": False, "armed": armed}
            fields["stamp"] = self._own.stamp + armed
            fields["silence"] = self._asked()
            fields["evicted"] = evicted
            block = self._block(**fields)
        self._fencing = tuple(node for node in evicted if node not in self._fenced)
        fence = self._fencing if standing.rules.holds("fence-evicted") else ()
        self._change(write, block, fence=fence)

    def _news(self) -> bool:
        """Return whether an eviction is to be written, and its node to be fenced."""
        evicted = self._standing.evicted()
        return evicted != self._own.evicted or not set(evicted) <= set(self._fenced)

    def _entries(self) -> RegionWrite:
        """Return what the own region lacks; the whole log when its content begins anew.

        That is now and then, with a snapshot: who takes the disk over reads all of it, while leases
        of other nodes run out.
        """
        log = self._standing.log
        self._end = log.last.index
        entries = () if self._fresh else log.after(self.match)
        size = sum(len(entry.payload) for entry in entries)
        full = self._writes >= REGION_WRITES_MAX
        full = full or self._appended + size > REGION_APPENDED_BYTES_MAX
        if full and self._standing.rules.holds("region-bounded"):
            self._fresh = True
        if not self._fresh:
            self._writes, self._appended = self._writes + 1, self._appended + size
            return RegionWrite(
                region=self._own.region,
                generation=self._own.generation,
                accepted=self.ballot,
                fresh=False,
                entries=entries,
            )
        snapshot = self._standing.snapshot()
        self._generation += 1
        self._writes, self._appended = 1, 0
        return RegionWrite(
            region=1 - self._own.region,  # what the block names stays whole until the next one
            generation=self._generation,
            accepted=self.ballot,
            fresh=True,
            entries=log.after(snapshot.last.index if snapshot else 0),
            snapshot=snapshot,
        )

    def _wrote(self, written: DiskBlock | None, end: int) -> None:
        """A write of this office is done, and all blocks were read after it."""
        higher = self._higher()
        if higher > self.ballot and self._standing.rules.holds("disk-reread"):
            self._deposed(higher)
            return
        if written is not None:
            self.armed = written.armed
            if written.accepted == self.ballot:
                self._fresh = False
            if written.armed and not self._dropping:
                self._renewed(min(written.silence, self.silence))
            if not written.armed:
                self._renewals = 0
                self._dropping = self._dropped = False
        if end and not self._fresh:
            self._matched(end)

    def _free(self) -> None:
        self._freeing, self._releasing = False, True
        self.armed = False
        self._change(None, self._block(released=True, armed=False))
