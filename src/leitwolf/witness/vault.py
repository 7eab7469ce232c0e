"""What a witness daemon keeps on its disk: its certificate, and for each cluster tokens and values.

::

    DIR/lock  DIR/witness.crt  DIR/witness.key
    DIR/clusters/NAME/tokens            digests of the secrets, one a line
    DIR/clusters/NAME/value             {magic, counter, nonce, crc; value}
    DIR/clusters/NAME/scratch.SUFFIX    values of self-tests

A value is replaced by temporary file, fsync, rename, fsync of the folder. If an fsync fails, nobody
knows what a crash would leave: the daemon must end (A2).
"""

from __future__ import annotations

import contextlib
import fcntl
import hmac
import os
import re
import struct
import threading
from pathlib import Path

from google_crc32c import value as crc32c

from leitwolf.model.errors import (
    Conflict,
    InvalidConfig,
    LogCorrupt,
    NotPermitted,
    StorageError,
    SyncFailed,
)
from leitwolf.model.limits import NODES_MAX
from leitwolf.peers.identity import fingerprint_of_pem
from leitwolf.ports.witness import Versioned
from leitwolf.witness.speech import WitnessToken, digest, new_token

__all__ = ["Vault"]

_MAGIC = b"LWVALUE1"
_HEAD = struct.Struct(">8sQ16sI")
_CHECKED = struct.Struct(">Q16s")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_SCRATCH_MAX = 2 * NODES_MAX
"""Every node has one while its daemon starts; what is beyond was left by tests that were killed."""
_TOKENS_MAX = 8
_TEMPORARY = ".new"


class Vault:
    """The folder of a witness.

    Methods may be called by several threads; one cluster never waits for another one.

    Args:
        folder: its state directory; made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._clusters = folder / "clusters"
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._lock_file = -1

    # --- the folder ------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the folder and the certificate, where missing.

        Raises:
            NotPermitted: the folder cannot be made or read.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._clusters.mkdir(mode=0o700, exist_ok=True)
            self._own(self._clusters)
            if not (self._folder / "witness.crt").exists():
                self._make_certificate()
        except OSError as error:
            raise NotPermitted(
                f"cannot use {self._folder}: {error.strerror}",
                hint="give a directory of your own: --state DIR",
            ) from error

    def _make_certificate(self) -> None:
        from leitwolf.peers.authority import create_self_signed  # noqa: PLC0415 — 10 MiB, once

        certificate, key = create_self_signed("leitwolf witness")
        self._replace(self._folder / "witness.key", key)
        self._replace(self._folder / "witness.crt", certificate)

    def occupy(self) -> None:
        """Take the folder for this process, and make durable what an earlier one left.

        Raises:
            Conflict: another process has it.
            SyncFailed: fsync failed.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._lock_file = os.open(self._folder / "lock", flags, 0o600)
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Conflict(
                f"another witness serves {self._folder}", hint="one process serves all clusters"
            ) from error
        for folder in self._clusters.iterdir():
            for path in folder.iterdir():
                if path.name.endswith(_TEMPORARY):
                    path.unlink()
                elif path.name != "tokens":
                    _sync(path)
            _sync(folder)
        _sync(self._clusters)

    def close(self) -> None:
        """Give the folder up."""
        if self._lock_file >= 0:
            os.close(self._lock_file)
            self._lock_file = -1

    @property
    def certificate(self) -> Path:
        """File of the certificate (PEM)."""
        return self._folder / "witness.crt"

    @property
    def key(self) -> Path:
        """File of its private key (PEM)."""
        return self._folder / "witness.key"

    # --- tokens ----------------------------------------------------------------------------------

    def add_token(self, name: str, *, replace: bool) -> WitnessToken:
        """Make a token for a cluster.

        Args:
            name: of the cluster; usually its UUID.
            replace: the tokens that it had count no more.

        Raises:
            InvalidConfig: the name is malformed, or it has 8 tokens.
            NotPermitted: the folder cannot be written.
        """
        if not _NAME.fullmatch(name):
            raise InvalidConfig(
                f"name {name!r} is not 1..63 letters, digits and '-'",
                hint="usually the UUID of the cluster: leitwolf status --json",
                field="name",
            )
        try:
            folder = self._clusters / name
            folder.mkdir(mode=0o700, exist_ok=True)
            self._own(folder)
            known = [] if replace else self._tokens(name)
            if len(known) >= _TOKENS_MAX:
                raise InvalidConfig(
                    f"{name} has {len(known)} tokens, at most {_TOKENS_MAX} are possible",
                    hint="--replace makes the earlier ones void",
                    field="name",
                )
            made = new_token(fingerprint_of_pem(self.certificate.read_bytes()))
            lines = "".join(f"{text}\n" for text in (*known, digest(made.secret)))
            self._replace(folder / "tokens", lines.encode())
            _sync(self._clusters)
        except OSError as error:
            raise NotPermitted(f"cannot write {error.filename}: {error.strerror}") from error
        return made

    def _tokens(self, name: str) -> list[str]:
        try:
            return (self._clusters / name / "tokens").read_text(encoding="ascii").split()
        except FileNotFoundError:
            return []

    def admits(self, name: str, secret: bytes) -> bool:
        """Tell whether a secret is one of a cluster's."""
        if not _NAME.fullmatch(name):
            return False
        given = digest(secret)
        return any(hmac.compare_digest(given, known) for known in self._tokens(name))

    # --- values ----------------------------------------------------------------------------------

    def get(self, name: str, scratch: str) -> Versioned | None:
        """Return a value of a cluster.

        Raises:
            LogCorrupt: it is damaged.
        """
        with self._lock(name):
            return _decoded(self._path(name, scratch))[1]

    def put(self, name: str, scratch: str, data: bytes, expected: str | None) -> str | None:
        """Replace a value of a cluster if its version still is ``expected``.

        Returns:
            The new version, durable; None: it is another one.

        Raises:
            SyncFailed: fsync failed; the process must end.
            StorageError: the disk refused; nothing was changed.
        """
        with self._lock(name):
            path = self._path(name, scratch)
            counter, found = _decoded(path)
            if expected != (None if found is None else found.version):
                return None
            if scratch and found is None:
                self._make_room(path.parent)
            nonce = os.urandom(16)
            crc = crc32c(_CHECKED.pack(counter + 1, nonce) + data)
            self._replace(path, _HEAD.pack(_MAGIC, counter + 1, nonce, crc) + data)
            return f"{counter + 1}-{nonce.hex()}"

    def remove(self, name: str, scratch: str) -> None:
        """Remove a value of a cluster."""
        with self._lock(name):
            path = self._path(name, scratch)
            path.unlink(missing_ok=True)
            _sync(path.parent)

    def _lock(self, name: str) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(name, threading.Lock())

    def _path(self, name: str, scratch: str) -> Path:
        if not _NAME.fullmatch(name) or (scratch and not _NAME.fullmatch(scratch)):
            raise StorageError(f"malformed name {name[:80]!r} or {scratch[:80]!r}")
        return self._clusters / name / (f"scratch.{scratch}" if scratch else "value")

    def _make_room(self, folder: Path) -> None:
        """Remove what aborted self-tests left, the oldest first."""
        left = sorted(folder.glob("scratch.*"), key=lambda path: path.stat().st_mtime)
        for path in left[: max(0, len(left) - _SCRATCH_MAX + 1)]:
            path.unlink(missing_ok=True)

    # --- files -----------------------------------------------------------------------------------

    def _replace(self, path: Path, data: bytes) -> None:
        temporary = path.with_name(path.name + _TEMPORARY)
        try:
            temporary.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
                file.write(data)
                file.flush()
                self._own(temporary)
                _sync(temporary)
            temporary.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise StorageError(f"cannot write {path}: {error.strerror}") from error
        _sync(path.parent)

    def _own(self, path: Path) -> None:
        """Give a file that root makes to whom the folder belongs: the user of the daemon."""
        if os.geteuid() == 0:
            owner = self._folder.stat()
            os.chown(path, owner.st_uid, owner.st_gid)


def _decoded(path: Path) -> tuple[int, Versioned | None]:
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return 0, None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    if len(text) >= _HEAD.size:
        magic, counter, nonce, crc = _HEAD.unpack_from(text)
        data = text[_HEAD.size :]
        if magic == _MAGIC and crc == crc32c(_CHECKED.pack(counter, nonce) + data):
            return counter, Versioned(data=data, version=f"{counter}-{nonce.hex()}")
    raise LogCorrupt(
        f"{path} is damaged",
        hint="what it held is lost: remove the file; in the cluster: leitwolf quorum replace",
    )


def _sync(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise SyncFailed(f"fsync of {path} failed: {error.strerror}") from error
