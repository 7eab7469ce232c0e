"""What a host must not forget: what it runs, and which generations it attested.

One file per resource and one for the groups, in ``host`` below the runtime directory: on a tmpfs,
for nothing that runs outlives a boot. Every file is replaced as a whole (rename), so a crash leaves
the old or the new one. A record of another boot is no record.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from leitwolf.model.errors import InvariantError, check
from leitwolf.model.ids import GroupId, ResourceId, ResourceState
from leitwolf.model.limits import NAME_LENGTH_MAX
from leitwolf.model.observations import StartResource

__all__ = ["NAME", "Ledger", "Record", "Records", "replace_file"]

NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{NAME_LENGTH_MAX - 1}}}\Z")
"""Names of resources become file and cell names; a dot would collide with derived names."""
_SUFFIX = ".json"


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the next host process must know of a resource that is not offline."""

    boot: str
    """Boot id, hexadecimal."""
    order: StartResource
    state: ResourceState
    """Written before the act that leads to it: ``online-pending`` before the start."""
    code: str
    text: str
    memory: dict[str, str] = {}
    """What the resource type needs to find it again: pid, interface."""


def replace_file(path: Path, data: bytes) -> None:
    """Replace a file as a whole; on a tmpfs a rename needs no sync.

    Raises:
        OSError: the tmpfs is full; the old file stands.
    """
    temporary = path.with_name(path.name + ".new")
    temporary.write_bytes(data)
    temporary.replace(path)


class Records:
    """The records of one host.

    Args:
        folder: made if it is not there, 0700.
        boot: id of this boot, hexadecimal.
    """

    def __init__(self, folder: Path, boot: str) -> None:
        self._folder = folder
        self._boot = boot
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def load(self) -> list[Record]:
        """Return all records of this boot; files of another boot are removed.

        Raises:
            InvariantError: a file is no record: what runs here is not known.
        """
        records = []
        for path in sorted(self._folder.glob("*" + _SUFFIX)):
            try:
                record = msgspec.json.decode(path.read_bytes(), type=Record)
            except msgspec.MsgspecError as error:
                raise InvariantError(f"{path} is no record of a resource: {error}") from error
            if record.boot == self._boot:
                records.append(record)
            else:
                path.unlink()
        return records

    def save(self, record: Record) -> None:
        """Write the record of ``record.order.resource``.

        Raises:
            OSError: it cannot be written; then nothing may be started.
        """
        replace_file(self._path(record.order.resource), msgspec.json.encode(record))

    def remove(self, resource: ResourceId) -> None:
        """Forget a resource that is verified to be stopped."""
        self._path(resource).unlink(missing_ok=True)

    @property
    def boot(self) -> str:
        """Boot id, hexadecimal."""
        return self._boot

    def _path(self, resource: ResourceId) -> Path:
        check(NAME.match(resource), f"{resource!r} is no name of a resource")
        return self._folder / f"{resource}{_SUFFIX}"


class _Closed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    boot: str
    groups: dict[GroupId, int]


class Ledger:
    """The highest attested generation of each group: it and lower ones never run again (I11).

    Args:
        path: the file; made with the first attest.
        boot: id of this boot, hexadecimal.

    Raises:
        InvariantError: the file is there and unreadable: what was attested is not known.
    """

    def __init__(self, path: Path, boot: str) -> None:
        self._path = path
        self._boot = boot
        self._closed: dict[GroupId, int] = {}
        if path.exists():
            try:
                found = msgspec.json.decode(path.read_bytes(), type=_Closed)
            except msgspec.MsgspecError as error:
                raise InvariantError(f"{path} is no list of attested groups: {error}") from error
            if found.boot == boot:
                self._closed = found.groups

    def closed(self, group: GroupId) -> int:
        """Return the highest attested generation, 0: none."""
        return self._closed.get(group, 0)

    def close(self, group: GroupId, generation: int) -> None:
        """Attest a generation: on file when this returns, before anybody is told.

        Raises:
            OSError: it cannot be written; the generation is not attested.
        """
        if generation <= self.closed(group):
            return
        groups = self._closed | {group: generation}
        replace_file(self._path, msgspec.json.encode(_Closed(boot=self._boot, groups=groups)))
        self._closed = groups

    def all(self) -> dict[GroupId, int]:
        """Return the highest attested generation of every group."""
        return dict(self._closed)
