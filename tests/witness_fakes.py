"""A store in memory, whole or broken in one way."""

from __future__ import annotations

import hashlib
import threading

from leitwolf.model.errors import WitnessError
from leitwolf.ports.witness import Versioned

FAULTS = (
    "creates-twice",
    "ignores-versions",
    "conflicts-both",
    "conflicts-none",
    "stale-reads",
    "forgets",
    "content-versions",
    "truncates",
    "refuses-large",
)


class Store:
    """What is behind :class:`MemoryCas`; shared by its clients."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.lock = threading.Lock()
        self.history: list[Versioned | None] = [None]
        self.counter = 0
        self.raced = threading.Barrier(2)


class MemoryCas:
    """A client of a store."""

    def __init__(self, store: Store, *, reader: bool = False) -> None:
        self.store = store
        self.reader = reader

    def get(self) -> Versioned | None:
        with self.store.lock:
            history = self.store.history
            stale = self.store.fault == "stale-reads" and self.reader and len(history) > 2
            found = history[-2 if stale else -1]
            if found is not None and self.store.fault == "truncates":
                return Versioned(data=found.data[:65_536], version=found.version)
            return found

    def put(self, data: bytes, expected: str | None) -> str | None:
        store, fault = self.store, self.store.fault
        with store.lock:
            found = store.history[-1]
            matches = expected == (None if found is None else found.version)
            if not matches and not (
                (fault == "creates-twice" and expected is None)
                or (fault == "ignores-versions" and expected is not None)
            ):
                return None
        if fault == "refuses-large" and len(data) > 65_536:
            return None
        if fault in {"conflicts-both", "conflicts-none"} and threading.current_thread().daemon:
            store.raced.wait(10)  # both have compared before either writes
            if fault == "conflicts-none":
                return None
        return self.write(data)

    def write(self, data: bytes) -> str:
        store = self.store
        with store.lock:
            store.counter += 1
            version = str(store.counter)
            if store.fault == "content-versions":
                version = hashlib.sha256(data).hexdigest()
            if store.fault != "forgets" or store.counter < 3:
                store.history.append(Versioned(data=data, version=version))
            return version

    def remove(self) -> None:
        with self.store.lock:
            self.store.history.append(None)

    def close(self) -> None:
        pass


class LosingCas(MemoryCas):
    """Writes, and loses the reply."""

    def put(self, data: bytes, expected: str | None) -> str | None:
        super().put(data, expected)
        raise WitnessError("the reply is lost", code="witness-unreachable")
