"""The committed changes by index: for the timeline, for `why`, and for those who wait."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator

from leitwolf.model.events import Change
from leitwolf.model.log import Entry
from leitwolf.state import decode_change

__all__ = ["Timeline"]

_RECENT_MAX = 4_096
"""Changes kept in memory; older ones are read from the history of the log."""


class Timeline:
    """What was committed, newest in memory, the rest read when asked for.

    Changes are decoded when somebody asks for them, which is seldom.
    """

    def __init__(self, history: Callable[[int, int], Iterator[Entry]]) -> None:
        """Use ``history(after, limit)`` of the store for what is not in memory."""
        self._history = history
        self._recent: OrderedDict[int, Entry] = OrderedDict()
        self._applied = 0
        self._news = asyncio.Event()

    @property
    def applied(self) -> int:
        """Index of the last entry known here."""
        return self._applied

    def add(self, entries: tuple[Entry, ...]) -> None:
        """Take in committed entries, in order, and wake those who wait."""
        for entry in entries:
            self._recent[entry.index] = entry
            self._applied = max(self._applied, entry.index)
        while len(self._recent) > _RECENT_MAX:
            self._recent.popitem(last=False)
        self._wake()

    def restored(self, index: int) -> None:
        """A snapshot replaced everything up to ``index``."""
        self._recent.clear()
        self._applied = max(self._applied, index)
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def wait_beyond(self, index: int, timeout_s: float) -> int:
        """Wait until something above ``index`` is applied or the time is over."""
        if self._applied > index:
            return self._applied
        try:
            async with asyncio.timeout(timeout_s):
                while self._applied <= index:
                    await self._news.wait()
        except TimeoutError:
            pass
        return self._applied

    def lookup(self, index: int) -> Change | None:
        """Return the change at ``index``, None when the history does not reach back so far."""
        found = self._recent.get(index)
        if found is None and 0 < index <= self._applied:
            found = next(iter(self._history(index - 1, 1)), None)
        if found is None or found.index != index:
            return None
        return decode_change(found.payload)

    def lines(self, after: int, limit: int) -> list[tuple[int, Change]]:
        """Return changes with an index above ``after``, oldest first, at most ``limit``."""
        found: list[tuple[int, Change]] = []
        oldest = next(iter(self._recent), self._applied + 1)
        if after + 1 < oldest:
            for entry in self._history(after, min(limit, oldest - after - 1)):
                if entry.index >= oldest:
                    break
                found.append((entry.index, decode_change(entry.payload)))
        for index, entry in self._recent.items():
            if len(found) >= limit:
                break
            if index > after:
                found.append((index, decode_change(entry.payload)))
        return found[:limit]
