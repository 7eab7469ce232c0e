"""A witness whose calls return or fail in time, whatever the one inside does."""

from __future__ import annotations

from leitwolf.ports.witness import RemovableCas, Versioned
from leitwolf.witness.worker import Worker

__all__ = ["Bounded"]


class Bounded:
    """A :class:`RemovableCas` with a time limit, see :mod:`leitwolf.witness.worker`.

    Args:
        inner: what does the work; used by one thread at a time.
        timeout_s: seconds for one call.
        what: location, for errors.
    """

    def __init__(self, inner: RemovableCas, *, timeout_s: float, what: str) -> None:
        self._inner = inner
        self._worker = Worker(what, timeout_s)

    def get(self) -> Versioned | None:
        """Return the newest value, see :class:`leitwolf.ports.witness.Cas`."""
        return self._worker.run(self._inner.get)

    def put(self, data: bytes, expected: str | None) -> str | None:
        """Replace the value, see :class:`leitwolf.ports.witness.Cas`."""
        return self._worker.run(lambda: self._inner.put(data, expected))

    def remove(self) -> None:
        """Remove the value, see :class:`leitwolf.ports.witness.RemovableCas`."""
        self._worker.run(self._inner.remove)

    def close(self) -> None:
        """Release everything; waits a second at most for a call that hangs."""
        self._worker.close(self._inner.close)

    @property
    def over(self) -> bool:
        """Whether nothing is on its way any more, after :meth:`close`."""
        return self._worker.over
