"""What a machine that stands still now and then does to tests, and which of them can run again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lab.stalls import STALL_MS, Stalls

__all__ = ["NOT_NOW", "TwoOwners", "again_if_stalled"]

NOT_NOW = (6, 7)
"""Exit codes of a command that may succeed when it is asked again."""
_TRIES = 3


class TwoOwners(AssertionError):
    """Two nodes answered for one address at once, which nothing excuses."""


def again_if_stalled(run: Callable[[], object], stalls: Stalls) -> Iterator[str]:
    """Run what fails only because the machine stood still until it did not; yields why again.

    A node rightly stops or moves what it has when it was not run for so long: a failure shows
    something only where the machine ran.

    Raises:
        Exception: it failed although no processor stood still, or each time, or by two owners.
    """
    for left in reversed(range(_TRIES)):
        stalls.stall_ms()
        try:
            run()
        except Exception as error:
            stood = stalls.stall_ms()
            unsafe = isinstance(error, TwoOwners) or "two_owners" in str(error)
            if unsafe or stood < STALL_MS or not left:
                raise
            yield f"a processor stood still for {stood:.0f} ms: {error}"
        else:
            return
