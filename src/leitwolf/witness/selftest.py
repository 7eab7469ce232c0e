"""Does a store do what the quorum needs of it? Asked before a witness counts, on a scratch value.

A store that ignores conditions, answers with old values or loses what it confirmed looks healthy
until the day on which it gives two nodes the same office.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator

import msgspec

from leitwolf.model.errors import WitnessError
from leitwolf.ports.witness import RemovableCas, Versioned

__all__ = ["CasFactory", "Check", "SelfTestReport", "self_test"]

CasFactory = Callable[[], RemovableCas]
"""Opens the scratch value anew, as another node would."""

_ROUNDS = 8
"""Of what may go well by chance: reads behind writes, conflicting writes."""
_LARGE_BYTES = 256 << 10
_LIMIT_S = 60.0
"""Of all steps together: who is so slow is out of reach for a quorum."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One property, and what was seen."""

    name: str
    ok: bool
    found: str


class SelfTestReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a store does; the first check that fails is the last one."""

    ok: bool
    checks: tuple[Check, ...]

    def demand(self, what: str, role: str = "a witness") -> None:
        """Refuse the store unless all is well.

        Args:
            what: location, for the error.
            role: what it was to be.

        Raises:
            WitnessError: code ``witness-unfit``; the text says what is wrong.
        """
        for check in self.checks:
            if not check.ok:
                raise WitnessError(
                    f"{what} cannot be {role}: {check.name}: {check.found}",
                    code="witness-unfit",
                    hint="with this store two nodes could own the same group; use another one",
                )


class _UnfitError(Exception):
    pass


def self_test(open_scratch: CasFactory) -> SelfTestReport:
    """Try a store with two clients.

    Args:
        open_scratch: opens the scratch value; called twice. It is removed at the end, and at the
            beginning what a test of this name left that was killed.

    Raises:
        WitnessError: the store cannot be reached, denies access, or lost a reply; the test takes
            longer than a minute.
    """
    with contextlib.ExitStack() as stack:
        until = time.monotonic() + _LIMIT_S
        first = _Limited(stack.enter_context(_closing(open_scratch())), until)
        second = _Limited(stack.enter_context(_closing(open_scratch())), until)
        stack.enter_context(_removing(first))
        first.remove()
        checks: list[Check] = []
        for name, step in _STEPS:
            try:
                found = step(first, second)
            except _UnfitError as error:
                checks.append(Check(name=name, ok=False, found=str(error)))
                return SelfTestReport(ok=False, checks=tuple(checks))
            checks.append(Check(name=name, ok=True, found=found))
        return SelfTestReport(ok=True, checks=tuple(checks))


class _Limited:
    """A client that begins nothing after an instant (``time.monotonic``), except to clean up."""

    def __init__(self, inner: RemovableCas, until: float) -> None:
        self._inner, self._until = inner, until

    def get(self) -> Versioned | None:
        self._demand_time()
        with _judged():
            return self._inner.get()

    def put(self, data: bytes, expected: str | None) -> str | None:
        self._demand_time()
        with _judged():
            return self._inner.put(data, expected)

    def remove(self) -> None:
        self._inner.remove()

    def close(self) -> None:
        self._inner.close()

    def _demand_time(self) -> None:
        if time.monotonic() > self._until:
            raise WitnessError(
                f"the self-test takes longer than {_LIMIT_S:g} s", code="witness-unreachable"
            )


@contextlib.contextmanager
def _judged() -> Iterator[None]:
    """Take damage for what it is here: nobody but the test wrote there."""
    try:
        yield
    except WitnessError as error:
        if error.code != "witness-damaged":
            raise
        raise _UnfitError(error.text) from error


@contextlib.contextmanager
def _closing(cas: RemovableCas) -> Iterator[RemovableCas]:
    try:
        yield cas
    finally:
        cas.close()


@contextlib.contextmanager
def _removing(cas: RemovableCas) -> Iterator[None]:
    """Clean up; a store that fails before is told by that error, not by the clean-up's."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(WitnessError):
            cas.remove()
        raise
    cas.remove()


def _demand(condition: object, text: str) -> None:
    if not condition:
        raise _UnfitError(text)


def _value(cas: RemovableCas) -> Versioned:
    found = cas.get()
    if found is None:
        raise _UnfitError("a value that was confirmed is not there")
    return found


def _random() -> bytes:
    return os.urandom(32)


def _create(first: RemovableCas, second: RemovableCas) -> str:
    _demand(first.get() is None, "there is a value before anything was written")
    data = _random()
    version = first.put(data, None)
    _demand(version is not None, "the first write of a value is refused")
    _demand(second.put(_random(), None) is None, "a value that is there is created a second time")
    found = _value(first)
    _demand(found.data == data, "the refused creation changed the value")
    _demand(found.version == version, "a read gives another version than the write")
    return "the second creation is refused and changes nothing"


def _compare(first: RemovableCas, second: RemovableCas) -> str:
    old = _value(first)
    data = _random()
    new = first.put(data, old.version)
    _demand(new is not None, "a write that names the newest version is refused")
    _demand(new != old.version, "a new value has the version of the old one")
    refused = second.put(_random(), old.version) is None
    _demand(refused, "a write that names an old version is done: conditions are ignored")
    _demand(_value(second).data == data, "a refused write changed the value")
    # The same bytes as before: a version made from the content would come again.
    again = first.put(old.data, new)
    _demand(again is not None, "a write that names the newest version is refused")
    _demand(again != old.version, "the same content has the same version again")
    return "a write that names an old version is refused and changes nothing"


def _fresh(first: RemovableCas, second: RemovableCas) -> str:
    version: str | None = _value(first).version
    for number in range(_ROUNDS):
        writer, reader = (second, first) if number % 2 else (first, second)
        data = _random()
        version = writer.put(data, version)
        _demand(version is not None, "a write that names the newest version is refused")
        _demand(_value(writer).data == data, "the writer does not read what he wrote")
        seen = _value(reader)
        _demand(seen.data == data, "another client reads an old value: reads are stale")
        _demand(seen.version == version, "another client sees another version")
    return f"{_ROUNDS} times, two clients read at once what either wrote"


def _conflict(first: RemovableCas, second: RemovableCas) -> str:
    for _ in range(_ROUNDS):
        base = _value(first).version
        written = {0: _random(), 1: _random()}
        versions = _race((first, second), written, base)
        winners = [number for number, version in versions.items() if version is not None]
        _demand(len(winners) == 1, f"of two conflicting writes {len(winners)} are done, not one")
        found = _value(second)
        _demand(found.data == written[winners[0]], "the value is not that of the write that won")
        _demand(found.version == versions[winners[0]], "the version is not that of the winner")
    return f"{_ROUNDS} times, of two conflicting writes exactly one is done"


def _race(
    clients: tuple[RemovableCas, RemovableCas], written: dict[int, bytes], base: str
) -> dict[int, str | None]:
    """Let two clients write at the same time; return their versions."""
    versions: dict[int, str | None] = {}
    errors: list[BaseException] = []
    start = threading.Barrier(2)

    def write(number: int) -> None:
        start.wait()
        try:
            versions[number] = clients[number].put(written[number], base)
        except BaseException as error:  # noqa: BLE001 — raised again below
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,), daemon=True) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return versions


def _large(first: RemovableCas, second: RemovableCas) -> str:
    data = os.urandom(_LARGE_BYTES)
    _demand(first.put(data, _value(first).version) is not None, "a large value is refused")
    _demand(_value(second).data == data, "a large value is not what was written")
    _demand(first.put(b"", _value(first).version) is not None, "an empty value is refused")
    _demand(_value(second).data == b"", "a large value is not wholly replaced by an empty one")
    return f"{_LARGE_BYTES >> 10} KiB, then nothing, are kept as written"


_STEPS = (
    ("create", _create),
    ("fresh reads", _fresh),
    ("compare", _compare),
    ("conflict", _conflict),
    ("size", _large),
)
