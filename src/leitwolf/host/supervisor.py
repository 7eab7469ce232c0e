"""One supervisor per resource: carries out its orders one after the other, and watches it.

Rules

- A record is on file before anything is started, and removed only after ``stopped`` said so.
- The permission is read before the start, after it, and when it became ready; not permitted after
  the start: killed at once (L7).
- An order to stop interrupts a start; nothing else does, besides the end of the lease.
- A resource that failed is cleaned up at once, without an order; a new start waits for that.
- What could not be stopped keeps its record and its state ``failed`` (code ``stop-...``): its group
  is not attested. It is tried again every second; when a stop was ordered, ``offline`` follows
  when nothing is left after all.
- Each order to start is answered by a report of its generation and attempt that is not offline; one
  that must not be done, by ``failed``.

Theory of operation

Orders wait in a queue; the supervisor's task takes them one by one. ``kill`` (the lease is over)
acts at once, from outside the task. When the queue is empty and the resource is offline, the
supervisor ends; the next order makes a new one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from leitwolf.host.permission import Permission
from leitwolf.host.records import Ledger, Record, Records
from leitwolf.host.transitions import Happening, follow
from leitwolf.model.errors import ResourceError, check
from leitwolf.model.ids import GroupId, ResourceId, ResourceState
from leitwolf.model.observations import HostReport, ResourceReport, StartResource, StopResource
from leitwolf.resources import (
    NOT_PERMITTED,
    Machine,
    ResourceType,
    Surroundings,
    make_resource,
)

__all__ = ["ORDERS_WAITING_MAX", "Owner", "Supervisor"]

ORDERS_WAITING_MAX = 16
"""Orders of one resource that wait; equal neighbours count once, so a sane daemon needs three."""
PERMISSION_WAIT_S = 0.5
"""How long a start waits for a lease that is just ending or a guard that is just stalled."""
_PERMISSION_POLL_S = 0.005
STOP_AGAIN_S = 1.0
"""Pause before what could not be stopped is tried again."""
STARTS_MAX = 3
"""Starts of one order that the end of a stall or of a lease undid."""
_PASSING = ("lease-ending", "guard-stalled")
"""Reasons that the next heartbeat ends."""


class Owner(Protocol):
    """What a supervisor needs from the host."""

    machine: Machine
    permission: Permission
    records: Records
    ledger: Ledger

    def report(self, report: HostReport) -> None:
        """Tell the daemon; dropped when none is connected (it gets an inventory later)."""

    def closing(self, group: GroupId) -> int:
        """Highest generation that is attested or about to be."""

    def settled(self, supervisor: Supervisor) -> None:
        """The supervisor has nothing more to do for the moment."""


class _Clean:
    """Internal order: make sure that nothing is left of what failed."""


class _Resume:
    """Internal order: go on with a start that an earlier host began."""


_Work = StartResource | StopResource | _Clean | _Resume


class Supervisor:
    """The life of one resource on this node.

    Args:
        order: the start that it is about (the first one, or the one adopted).
        owner: the host.
    """

    def __init__(self, order: StartResource, owner: Owner) -> None:
        self.order = order
        self.state = ResourceState.OFFLINE
        self.dirty = False
        """Something may be left running: not verified to be stopped."""
        self._owner = owner
        self._code, self._text = "stopped", ""
        self._memory: dict[str, str] = {}
        self._instance: ResourceType | None = None
        self._queue: deque[_Work] = deque()
        self._current: _Work | None = None
        self._wake = asyncio.Event()
        self._starting: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._ended: tuple[str, str] | None = None
        """Why ``kill`` ended a start."""
        self._stop_owed = False
        """A stop was ordered and failed: it is to be answered by ``offline``."""
        self._retry: asyncio.TimerHandle | None = None

    @property
    def resource(self) -> ResourceId:
        """The resource."""
        return self.order.resource

    @property
    def busy(self) -> bool:
        """Whether orders are being carried out or wait."""
        return self._current is not None or bool(self._queue)

    @property
    def active(self) -> bool:
        """Whether it runs or starts under its lease."""
        return self.state in (ResourceState.ONLINE, ResourceState.ONLINE_PENDING)

    def current_report(self) -> ResourceReport:
        """Return the present state as a report."""
        order = self.order
        return ResourceReport(
            resource=order.resource,
            group=order.group,
            lease=order.lease,
            generation=order.generation,
            attempt=order.attempt,
            state=self.state,
            code=self._code,
            text=self._text,
        )

    # --- orders ----------------------------------------------------------------------------------

    def accept(self, order: StartResource | StopResource) -> None:
        """Take an order; it is carried out when those before it are.

        Raises:
            InvariantError: the daemon sends more than can wait.
        """
        if order == (self._queue[-1] if self._queue else self._current):
            return
        check(len(self._queue) < ORDERS_WAITING_MAX, f"{self.resource}: too many orders wait")
        self._push(order)
        if self._starting is not None and self._stop_waits(self.order.generation):
            self._starting.cancel()

    def clean(self) -> None:
        """Try once more to end what is left of a resource that could not be stopped."""
        self._push(_Clean())

    def kill(self, code: str, text: str) -> None:
        """End it at once: it may not run any more. Cleaning up and reporting follow."""
        if self._instance is None or not (self.active or self.dirty):
            return
        self._instance.kill()
        if self._starting is not None:
            self._ended = (code, text)
            self._starting.cancel()
        elif self.state is ResourceState.ONLINE:
            self._fail(code, text)

    async def run(self) -> None:
        """Carry out orders until the resource is offline and no order waits."""
        while True:
            while self._queue:
                self._current = self._queue.popleft()
                await self._carry_out(self._current)
                self._current = None
            self._owner.settled(self)
            if self._queue:
                continue
            if self.state is ResourceState.OFFLINE:
                return
            self._wake.clear()
            await self._wake.wait()

    def _push(self, work: _Work, *, first: bool = False) -> None:
        if first:
            self._queue.appendleft(work)
        else:
            self._queue.append(work)
        self._wake.set()

    def _stop_waits(self, generation: int) -> bool:
        """Whether an order to stop this generation waits: then it is not worth starting."""
        return any(
            isinstance(work, StopResource) and work.generation >= generation for work in self._queue
        )

    async def _carry_out(self, work: _Work) -> None:
        match work:
            case StartResource() if self._stop_waits(work.generation):
                return
            case _Resume() if self._stop_waits(self.order.generation):
                return
            case StartResource():
                await self._bring_online(work)
            case StopResource():
                await self._take_offline(work)
            case _Clean():
                await self._clean_up()
            case _Resume():
                await self._begin(fresh=False)

    # --- adoption --------------------------------------------------------------------------------

    async def adopt(self, record: Record) -> None:
        """Take over what an earlier host left, as its record tells. Nothing is restarted.

        What started goes on to start, what was being stopped goes on to stop.
        """
        self.state, self._code, self._text = record.state, record.code, record.text
        self._memory = dict(record.memory)
        self.dirty = True
        try:
            self._instance = self._make()
            if not self.active:
                self._push(self._stop_order() if self._is_stopping() else _Clean())
                return
            if not await self._instance.adopt():
                self._fail("lost", "was not running when the host came back")
                return
        except (ResourceError, OSError) as error:
            self._fail(*_reason(error))
            return
        refused = self._owner.permission.run(self.order.lease)
        if refused:
            self.kill_adopted(refused)
        elif self.state is ResourceState.ONLINE_PENDING:
            self._push(_Resume())
        else:
            self._code, self._text = "adopted", "a new host took it over"
            self._watch()

    def kill_adopted(self, refused: str) -> None:
        """End what was found running without a lease."""
        check(self._instance is not None, "adopted without an instance")
        if self._instance is not None:
            self._instance.kill()
        self._fail("lease-over", refused)

    def _is_stopping(self) -> bool:
        return self.state is ResourceState.OFFLINE_PENDING

    def _stop_order(self) -> StopResource:
        order = self.order
        return StopResource(resource=order.resource, group=order.group, generation=order.generation)

    # --- starting --------------------------------------------------------------------------------

    async def _bring_online(self, order: StartResource) -> None:
        if order.generation <= self._owner.closing(order.group):
            self._refuse(order, "generation-closed", "this generation was attested here")
            return
        if self.state is not ResourceState.OFFLINE:
            now = (self.order.generation, self.order.attempt)
            asked = (order.generation, order.attempt)
            if asked < now or (asked == now and order.lease == self.order.lease):
                self._owner.report(self.current_report())
                return
            if self.dirty and not await self._end(told=False):
                self._refuse(order, self._code, self._text)
                return
        self.order = order
        self._memory = {}
        try:
            self._instance = self._make()
        except (ResourceError, OSError) as error:
            self._move(Happening.ORDERED_START, "starting", "")
            self._fail(*_reason(error))
            return
        await self._begin(fresh=True)

    async def _begin(self, *, fresh: bool) -> None:
        """Start the instance, or go on with a start, and follow it until it is online."""
        check(self._instance is not None, "nothing to start")
        self._stop_owed = False
        if fresh:
            self._move(Happening.ORDERED_START, "starting", "")
        self._ended = None
        self._starting = self._owner.machine.tasks.start(
            self._start(fresh), f"start {self.resource}", handled=True
        )
        try:
            await asyncio.wait({self._starting})
        finally:
            task, self._starting = self._starting, None
        if self._ended is not None:
            self._fail(*self._ended)
        elif task.cancelled():
            return  # the order to stop that did it is the next one
        elif (error := task.exception()) is None:
            self._move(Happening.STARTED, "started", "")
            self._watch()
        elif isinstance(error, ResourceError | OSError):
            if self._instance is not None:
                self._instance.kill()
            self._fail(*_reason(error))
        else:
            raise error

    async def _start(self, fresh: bool) -> None:
        instance = self._instance
        if instance is None:
            return
        if fresh:
            instance = await self._start_permitted(instance)
        await instance.ready()
        if reason := self._owner.permission.run(self.order.lease):
            raise _not_permitted(reason)

    async def _start_permitted(self, instance: ResourceType) -> ResourceType:
        """Start under permission: read before, read again after, else kill (L7).

        A refusal that passes with the next heartbeat is no failure of the resource: it is killed
        all the same, and started anew when the lease permits it.
        """
        reason = refused = ""
        for _ in range(STARTS_MAX):
            await self._wait_for_permission()
            self.dirty = True
            refused = ""
            try:
                await instance.start()
            except ResourceError as error:
                if error.code != NOT_PERMITTED:
                    raise
                refused = error.text
            reason = self._owner.permission.start(self.order.lease)
            if not reason and not refused:
                return instance
            instance.kill()
            if reason and reason not in _PASSING:
                break
            await instance.stop()
            instance = self._instance = self._make()
        raise _not_permitted(reason or refused)

    async def _wait_for_permission(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PERMISSION_WAIT_S
        while reason := self._owner.permission.start(self.order.lease):
            if reason not in _PASSING or loop.time() >= deadline:
                raise _not_permitted(reason)
            await asyncio.sleep(_PERMISSION_POLL_S)

    def _refuse(self, order: StartResource, code: str, text: str) -> None:
        self._owner.report(
            ResourceReport(
                resource=order.resource,
                group=order.group,
                lease=order.lease,
                generation=order.generation,
                attempt=order.attempt,
                state=ResourceState.FAILED,
                code=code,
                text=text,
            )
        )

    # --- watching --------------------------------------------------------------------------------

    def _watch(self) -> None:
        check(self._instance is not None, "nothing to watch")
        if self._instance is None:
            return
        self._watching = self._owner.machine.tasks.start(
            self._watch_over(self._instance), f"watch {self.resource}"
        )

    async def _watch_over(self, instance: ResourceType) -> None:
        try:
            await instance.watch()
        except (ResourceError, OSError) as error:
            self._watching = None
            if self.state is not ResourceState.ONLINE or self._instance is not instance:
                return
            code, text = _reason(error)
            if refused := self._owner.permission.run(self.order.lease):
                # the guard killed it: that is the reason, its death only the consequence
                code, text = "lease-over", f"{refused}; {text}"
            self._fail(code, text)

    def _fail(self, code: str, text: str) -> None:
        """Report the failure at once and clean up next, before any order that waits."""
        self._unwatch()
        self._move(Happening.FAILED, code, text)
        if self.dirty:
            self._push(_Clean(), first=True)

    def _unwatch(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None

    # --- stopping --------------------------------------------------------------------------------

    async def _take_offline(self, order: StopResource) -> None:
        if self.state is ResourceState.OFFLINE or order.generation < self.order.generation:
            self._owner.report(self.current_report())
            return
        self._stop_owed = True
        await self._end()

    async def _end(self, *, told: bool = True) -> bool:
        """Stop it; tell whether nothing is left. ``told``: the daemon asked for it."""
        self._unwatch()
        if not self._is_stopping():
            self._move(Happening.ORDERED_STOP, "stopping", "", told=told)
        error = await self._stop_instance()
        if error is not None:
            self._move(Happening.FAILED, *_stop_failure(error), told=told)
            self._try_again_later()
            return False
        self._instance = None
        self._stop_owed = False
        self._move(Happening.STOPPED, "stopped", "", told=told)
        return True

    async def _clean_up(self) -> None:
        """End what is left of a failed resource; quietly, as long as nothing new is known."""
        if not self.dirty:
            return
        error = await self._stop_instance()
        if error is not None:
            self._note(*_stop_failure(error))
            self._save()
            self._try_again_later()
        elif self._stop_owed:
            await self._end()
        elif self._code.startswith("stop-"):
            self._note("cleaned", "nothing is left of it after all")
            self._save()

    def _try_again_later(self) -> None:
        if self._retry is None:
            loop = asyncio.get_running_loop()
            self._retry = loop.call_later(STOP_AGAIN_S, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        if self.dirty and not self.busy:
            self._push(_Clean())

    async def _stop_instance(self) -> Exception | None:
        """Stop the instance and ask the kernel whether nothing is left; None: nothing is."""
        if not self.dirty:
            return None
        if self._instance is None:  # of a type that this version does not know
            return ResourceError(self._text, code=self._code)
        try:
            await self._instance.stop()
            if not await self._instance.stopped():
                return ResourceError("something is left after the stop", code="stop-timeout")
        except (ResourceError, OSError) as error:
            return error
        self.dirty = False
        return None

    async def stopped(self) -> bool:
        """Whether the kernel says that nothing of it is left."""
        return not self.dirty and (self._instance is None or await self._instance.stopped())

    def forget(self) -> None:
        """Its generation is attested: a failure of it means nothing any more."""
        check(not self.dirty, f"{self.resource} may still run")
        self._unwatch()
        self._instance = None
        self.state = ResourceState.OFFLINE
        self._owner.records.remove(self.resource)
        self._wake.set()

    # --- state -----------------------------------------------------------------------------------

    def _make(self) -> ResourceType:
        owner, order = self._owner, self.order
        return make_resource(
            order.type,
            Surroundings(
                order=order,
                machine=owner.machine,
                memory=self._memory,
                remember=self._remember,
                permitted=lambda: owner.permission.start(order.lease),
                note=self._note,
            ),
        )

    def _remember(self, facts: dict[str, str]) -> None:
        self._memory |= facts
        self._save()

    def _note(self, code: str, text: str) -> None:
        if (code, text) == (self._code, self._text):
            return
        self._code, self._text = code, text
        self._owner.report(self.current_report())

    def _move(self, happening: Happening, code: str, text: str, *, told: bool = True) -> None:
        self.state = follow(self.state, happening)
        self._code, self._text = code, text
        if self.state is ResourceState.OFFLINE:
            self._owner.records.remove(self.resource)
        else:
            self._save()
        if told:
            self._owner.report(self.current_report())

    def _save(self) -> None:
        records = self._owner.records
        records.save(
            Record(
                boot=records.boot,
                order=self.order,
                state=self.state,
                code=self._code,
                text=self._text,
                memory=self._memory,
            )
        )


def _not_permitted(reason: str) -> ResourceError:
    return ResourceError(f"the lease does not permit it: {reason}", code="lease-over")


def _stop_failure(error: BaseException) -> tuple[str, str]:
    """Return code and text of a stop that failed; such codes begin with ``stop-``."""
    code, text = _reason(error)
    return (code, text) if code.startswith("stop-") else ("stop-failed", f"{code}: {text}")


def _reason(error: BaseException) -> tuple[str, str]:
    """Return code and text of a failure."""
    if isinstance(error, ResourceError):
        return error.code, error.text
    if isinstance(error, OSError) and error.strerror:
        path = f" ({error.filename})" if error.filename else ""
        return "system-error", error.strerror + path
    return "system-error", str(error)
