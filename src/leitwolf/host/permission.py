"""May a resource be started, may it go on: read from the guard's page, each time anew (L1, L7).

Rules

- Before a start and after it the whole rule of :func:`leitwolf.wire.permit.may_start` holds.
- What runs may go on while its lease is open and not over. The guard ends it earlier, by itself;
  the host's reading matters when the guard is gone longer than the lease.
- A page that cannot be read permits nothing.
"""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from leitwolf.host.records import replace_file
from leitwolf.system.clock import now
from leitwolf.system.page import PageReader
from leitwolf.wire.ballot import Now
from leitwolf.wire.page import LeasePage
from leitwolf.wire.permit import may_start, slept

__all__ = ["Permission", "Tenure", "may_run"]


def may_run(page: LeasePage | None, instant: Now, lease: int) -> str:
    """Return '' while what was started under ``lease`` may go on, else why not.

    Args:
        page: as just read, None: there is none of this boot.
        instant: both clocks, read after the page.
        lease: id of the run-lease that it was started under.

    Returns:
        ``''``, ``no-page``, ``other-lease``, ``gate-closed``, ``lease-ended`` or ``slept``.
    """
    if page is None:
        return "no-page"
    if page.lease != lease:
        return "other-lease"
    if not page.gate:
        return "gate-closed"
    if instant.raw >= page.lease_end:
        return "lease-ended"
    if slept(page, instant):
        return "slept"
    return ""


class Tenure:
    """Which host process is in charge: the one that took office last.

    A host may be killed between forking a child and that child's entering its cell. The next host
    then sees an empty cell. When the child comes to ask for its permission, it finds another host
    in office and executes nothing.

    Args:
        path: file that names the host in office.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._name = uuid4().bytes

    def take(self) -> None:
        """Take office; before anything is looked at.

        Raises:
            OSError: the file cannot be written.
        """
        replace_file(self._path, self._name)

    def lasts(self) -> bool:
        """Tell whether no other host took office since."""
        try:
            return self._path.read_bytes() == self._name
        except FileNotFoundError:
            return False


class Permission:
    """The page, asked with this machine's clocks.

    Args:
        reader: of the guard's page.
        tenure: of this host.
    """

    def __init__(self, reader: PageReader, tenure: Tenure) -> None:
        self._reader = reader
        self.tenure = tenure

    def start(self, lease: int) -> str:
        """Return '' when something ordered under ``lease`` may be started now, else why not.

        Also asked by children of this host, between fork and exec.
        """
        if not self.tenure.lasts():
            return "host-replaced"
        page, instant = self.look()
        return may_start(page, instant.raw, lease) or may_run(page, instant, lease)

    def run(self, lease: int) -> str:
        """Return '' while something started under ``lease`` may go on, else why not."""
        return may_run(*self.look(), lease)

    def look(self) -> tuple[LeasePage | None, Now]:
        """Return the page, and the clocks as they were after it was read."""
        page = self._reader.read()
        return page, now()
