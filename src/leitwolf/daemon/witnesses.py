"""The threads that talk to shared disks and witnesses, so that a slow one never stops the loop.

Rules:

- One call at a time per acceptor. The next one begins when the one before has ended (A4); the
  adapters see to it that what they gave up on is over, or answer with a failure until it is.
- A failure closes the acceptor; the next call opens it anew, at another place perhaps. A disk is
  not opened while something is on its way to it by an earlier opening: by another path nothing else
  would keep that from coming after a newer write. Nor is a share, whose threads hang with it.
- What an object holds must be of this cluster and of the storage that the configuration names.
- Nothing is answered before the self-test passed (:mod:`leitwolf.daemon.trials`). The core looks at
  once at whatever it may need one day; so that is when it is tested, not in a takeover. Another way
  is tested as soon as it is known: to an object while the former one is still used, for its test
  may take longer than a lease; to a disk, which must not be open twice, when the former is closed.

What this does not guarantee: that a call ends. The core counts nothing until it does.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from leitwolf.core.effects import CallWitness, FromWitness
from leitwolf.core.quorum.predicate import witnesses
from leitwolf.daemon.trials import Lingering, Trial
from leitwolf.model.errors import InvalidConfig, InvariantError, WitnessError
from leitwolf.model.quorum import Acceptor, AcceptorId, Relocation, location_of
from leitwolf.ports.witness import (
    Cas,
    CasFound,
    CasPut,
    CasWritten,
    DiskCall,
    WitnessCall,
    WitnessFault,
    WitnessResult,
)
from leitwolf.system.clock import raw_ns
from leitwolf.system.diary import log
from leitwolf.witness.objects import decode_object, encode_object

if TYPE_CHECKING:
    from leitwolf.core.node import Node
    from leitwolf.witness.disk import TimedDisk
    from leitwolf.witness.selftest import SelfTestReport

__all__ = ["CheckedObject", "Witnesses", "used_by"]

T = TypeVar("T")

_TIMEOUT_S = 5.0
"""Of one call. Longer than any lease: what takes so long failed, whatever it does later."""
_QUIET_NS = 100_000_000


def used_by(core: Node) -> tuple[Acceptor, ...]:
    """Return the disks and witnesses of the configuration, with the ways to them of this node."""
    ways = core.state.relocations
    return tuple(
        msgspec.structs.replace(acceptor, location=location_of(acceptor, ways, core.me))
        for acceptor in witnesses(core.quorum.config)
    )


class Witnesses:
    """All disks and witnesses that the core calls."""

    def __init__(
        self, *, cluster: str, node: int, config: Path, on_end: Callable[[FromWitness], None]
    ) -> None:
        """Open nothing yet; ``on_end`` runs in the event loop that is running now."""
        self._cluster, self._node, self._config = cluster, node, config
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._channels: dict[AcceptorId, _Channel] = {}
        self._coming: dict[AcceptorId, _Channel] = {}
        """Other ways to objects, which are being tested."""
        self._trials: dict[tuple[AcceptorId, str], Trial] = {}
        self._ways: tuple[Relocation, ...] = ()
        self._stopped: list[_Channel] = []
        """Something of theirs may still be on its way."""

    def call(self, acceptor: Acceptor, call: CallWitness) -> None:
        """Begin a call; its end comes back as an event."""
        self._channel(acceptor).queue.put(call)

    def follow(self, core: Node) -> None:
        """Have the ways tested that were committed since the last time."""
        if core.state.relocations is not self._ways:
            self._ways = core.state.relocations
            self.move(used_by(core))

    def move(self, acceptors: tuple[Acceptor, ...]) -> None:
        """Test other ways to what is used already, before they are needed."""
        for acceptor in acceptors:
            former = self._channels.get(acceptor.id)
            if former is not None and self._channel(acceptor) is not former:
                self._channels[acceptor.id].prepare()

    def _channel(self, acceptor: Acceptor) -> _Channel:
        channel = self._channels.get(acceptor.id)
        if channel is not None and channel.acceptor.location != acceptor.location:
            if acceptor.kind != "disk" and not self._arrived(acceptor):
                return channel
            self._stop(self._channels, acceptor.id)
            channel = None
        self._stop(self._coming, acceptor.id)
        if channel is None:
            for other in self._channels.values():
                if other.acceptor.location == acceptor.location:
                    other.release()  # formatted anew: one process writes there as this node
            channel = self._made(acceptor, self._former(acceptor))
            self._channels[acceptor.id] = channel
        return channel

    def _made(self, acceptor: Acceptor, former: list[_Channel]) -> _Channel:
        trial = self._trials.setdefault((acceptor.id, acceptor.location), Trial())
        return _Channel(acceptor, trial, self._open, self._ended, former)

    def _arrived(self, acceptor: Acceptor) -> bool:
        """Return whether another way to an object was tested, whatever came out of it."""
        coming = self._coming.get(acceptor.id)
        if coming is None or coming.acceptor.location != acceptor.location:
            self._stop(self._coming, acceptor.id)
            coming = self._coming[acceptor.id] = self._made(acceptor, self._former(acceptor))
            coming.prepare()
        return coming.prepared

    def keep(self, acceptors: tuple[Acceptor, ...]) -> None:
        """Close all that are not among these."""
        wanted = {acceptor.id for acceptor in acceptors}
        for channels in (self._channels, self._coming):
            for identity in [one for one in channels if one not in wanted]:
                self._stop(channels, identity)

    def _stop(self, channels: dict[AcceptorId, _Channel], identity: AcceptorId) -> None:
        channel = channels.pop(identity, None)
        if channel is not None:
            channel.stop()
            self._stopped.append(channel)

    def _former(self, acceptor: Acceptor) -> list[_Channel]:
        """Return who used the same storage before and is not over, whatever it was called then."""
        self._stopped = [one for one in self._stopped if not one.over]
        return [one for one in self._stopped if one.acceptor.id.storage == acceptor.id.storage]

    def stop(self) -> None:
        """Close all."""
        self.keep(())

    def _open(
        self, acceptor: Acceptor, trial: Trial, begun: Callable[[Lingering], None]
    ) -> TimedDisk | CheckedObject:
        """Open what passed its test, or passes it now."""
        make = self._open_disk if acceptor.kind == "disk" else self._open_object
        opened, test = make(acceptor, begun)
        if not trial.passed:
            try:
                trial.run(acceptor, test)
            except BaseException:
                opened.close()
                raise
        return opened

    # Imported in the thread that needs it: most clusters have none.

    def _open_disk(
        self, acceptor: Acceptor, begun: Callable[[Lingering], None]
    ) -> tuple[TimedDisk, Callable[[], SelfTestReport]]:
        from leitwolf.witness.disk import open_disk  # noqa: PLC0415

        disk = open_disk(
            acceptor.location,
            cluster=self._cluster,
            storage=acceptor.id.storage,
            node=self._node,
            timeout_s=_TIMEOUT_S,
            begun=begun,
        )
        return disk, disk.self_test

    def _open_object(
        self, acceptor: Acceptor, begun: Callable[[Lingering], None]
    ) -> tuple[CheckedObject, Callable[[], SelfTestReport]]:
        from leitwolf.witness.opening import open_cas, try_location  # noqa: PLC0415

        cas = open_cas(acceptor.location, config_dir=self._config, timeout_s=_TIMEOUT_S)
        begun(cas)
        checked = CheckedObject(cas, acceptor, self._cluster)

        def test() -> SelfTestReport:
            checked.get()  # of another cluster: not even a scratch value is written beside it
            return try_location(
                acceptor.location,
                config_dir=self._config,
                timeout_s=_TIMEOUT_S,
                scratch=f"{self._cluster}-{self._node}",
                begun=begun,
            )

        return checked, test

    def _ended(self, call: CallWitness, started: int, result: WitnessResult) -> None:
        event = FromWitness(
            node=call.acceptor.node, serial=call.serial, started=started, result=result
        )
        try:
            self._loop.call_soon_threadsafe(self._on_end, event)
        except RuntimeError:
            log.info("a witness answered after the daemon ended", acceptor=call.acceptor.storage)


class _Release:
    """Between calls: close what is open."""


class _Prepare:
    """Between calls: test what was not tested yet."""


class _Channel:
    """One acceptor with its thread."""

    def __init__(
        self,
        acceptor: Acceptor,
        trial: Trial,
        open_acceptor: Callable[
            [Acceptor, Trial, Callable[[Lingering], None]], TimedDisk | CheckedObject
        ],
        ended: Callable[[CallWitness, int, WitnessResult], None],
        former: list[_Channel],
    ) -> None:
        """Start the thread; ``former``: used the same storage before, and were stopped."""
        self.acceptor = acceptor
        self.queue: queue.SimpleQueue[CallWitness | _Release | _Prepare | None] = (
            queue.SimpleQueue()
        )
        self.prepared = False
        """A test that was wanted by :meth:`prepare` is over, whatever came out of it."""
        self._trial = trial
        self._open, self._ended = open_acceptor, ended
        self._opened: TimedDisk | CheckedObject | None = None
        self._former = former
        self._begun: list[Lingering] = []
        """Threads by which something may be on its way, of this opening and earlier ones."""
        name = f"witness-{acceptor.id.node}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread after what it has begun."""
        self.queue.put(None)

    def release(self) -> None:
        """Close what is open, after what was begun; the next call opens it anew."""
        self.queue.put(_Release())

    def prepare(self) -> None:
        """Test it, unless that was done; :attr:`prepared` says when it is over."""
        self.queue.put(_Prepare())

    def _run(self) -> None:
        while (call := self.queue.get()) is not None:
            if isinstance(call, _Release):
                self._close()
            elif isinstance(call, _Prepare):
                self._tried()
                self.prepared = True
            else:
                # A test is no part of the call: what its calls take decides how long others wait.
                result = self._tried()
                started = raw_ns()
                self._ended(call, started, result or self._do(call.call))
        self._close()

    def _tried(self) -> WitnessFault | None:
        """Return why the acceptor is not fit, or cannot be tested; None: it passed."""
        found = None if self._trial.passed else self._attempt(self._opening)
        return found if isinstance(found, WitnessFault) else None

    def _do(self, call: WitnessCall) -> WitnessResult:
        return self._attempt(lambda: _perform(self._opening(), call))

    def _opening(self) -> TimedDisk | CheckedObject:
        if self._opened is None:
            self._trial.demand()
            self._demand_quiet()
            self._opened = self._open(self.acceptor, self._trial, self._begun.append)
        return self._opened

    def _attempt(self, step: Callable[[], T]) -> T | WitnessFault:
        try:
            return step()
        except (WitnessError, InvalidConfig) as error:
            self._close()
            return WitnessFault(code=error.code, text=error.text)
        except InvariantError as error:
            # Never gone on from: the guard releases what this daemon decided about.
            log.critical("a broken invariant; this daemon ends", error=error.text)
            os._exit(InvariantError.exit_code)
        except Exception as error:  # noqa: BLE001 — without an answer the core waits for ever
            text = f"{type(error).__name__}: {error}"
            log.critical("a call of a witness broke", acceptor=self.acceptor.location, error=text)
            self._close()
            return WitnessFault(code="witness", text=text)

    def _close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()

    @property
    def over(self) -> bool:
        """Whether the thread is gone, after :meth:`stop`, and all that it began (A4)."""
        return not self._thread.is_alive() and all(one.over for one in self._begun)

    def _quiet(self) -> bool:
        """Return whether nothing is on its way that was begun here, or by who was here before."""
        self._begun = [one for one in self._begun if not one.over]
        self._former = [one for one in self._former if not one.over]
        return not self._begun and not self._former

    def _demand_quiet(self) -> None:
        """Wait a moment for what is on its way; it is over at once where a path only changes."""
        until = raw_ns() + _QUIET_NS
        while not self._quiet() and raw_ns() < until:
            time.sleep(_QUIET_NS / 100e9)
        if not self._quiet():
            raise WitnessError(
                f"{self.acceptor.location}: an earlier command is still on its way to the disk",
                code="witness-unreachable",
            )


class CheckedObject:
    """An object that is of this cluster, or refused."""

    def __init__(self, cas: Cas, acceptor: Acceptor, cluster: str) -> None:
        self._cas, self._acceptor, self._cluster = cas, acceptor, cluster

    def get(self) -> CasFound:
        """Return what stands there."""
        found = self._cas.get()
        where = self._acceptor.location
        if found is None:
            text = f"{where} holds nothing any more"
            raise WitnessError(text, code="witness-unformatted", hint="leitwolf quorum replace")
        value = decode_object(found.data, where)
        if value.cluster != self._cluster:
            text = f"{where} belongs to cluster {value.cluster}"
            raise WitnessError(text, code="witness-foreign")
        if value.storage != self._acceptor.id.storage:
            raise _replaced(self._acceptor, value.storage)
        return CasFound(value=value, version=found.version)

    def put(self, put: CasPut) -> CasWritten:
        """Replace what was read."""
        version = self._cas.put(encode_object(put.value), put.expected)
        return CasWritten(version=version or "")

    def close(self) -> None:
        """Close it."""
        self._cas.close()


def _perform(opened: TimedDisk | CheckedObject, call: WitnessCall) -> WitnessResult:
    if isinstance(opened, CheckedObject):
        return opened.put(call) if isinstance(call, CasPut) else opened.get()
    if isinstance(call, DiskCall):
        return opened.call(call)
    raise WitnessError(f"a disk cannot do {type(call).__name__}")


def _replaced(acceptor: Acceptor, found: str) -> WitnessError:
    return WitnessError(
        f"{acceptor.location} was formatted anew: it is {found}, the cluster knows "
        f"{acceptor.id.storage}, and has forgotten what it promised",
        code="witness-foreign",
        hint="leitwolf quorum replace",
    )
