"""All errors that leave a module, as a tree.

::

    LeitwolfError
     +- UsageError            the request is wrong; exit code 2..5
     |   +- InvalidConfig     names field, value, allowed range and the fix
     |   +- NotFound
     |   +- Conflict
     |   +- NotPermitted
     +- UnavailableError      the request may be right, but not now; exit code 6
     |   +- NoQuorum
     |   +- NotLeader
     |   +- RequestTimeout
     |   +- ShuttingDown
     +- TransportError        exit code 7
     |   +- PeerUnreachable
     |   +- HandshakeRejected
     |   +- ProtocolError
     +- StorageError          exit code 8
     |   +- LogCorrupt
     |   +- DiskFull
     |   +- SyncFailed
     |   +- WitnessError
     +- ResourceError         exit code 9
     +- InvariantError        a broken invariant: stops resources or the node; exit code 70
"""

from __future__ import annotations

import msgspec

__all__ = [
    "MALFORMED",
    "Conflict",
    "DiskFull",
    "HandshakeRejected",
    "InvalidConfig",
    "InvariantError",
    "LeitwolfError",
    "LogCorrupt",
    "NoQuorum",
    "NotFound",
    "NotLeader",
    "NotPermitted",
    "PeerUnreachable",
    "ProtocolError",
    "RequestTimeout",
    "ResourceError",
    "ShuttingDown",
    "StorageError",
    "SyncFailed",
    "TransportError",
    "UnavailableError",
    "UsageError",
    "WitnessError",
    "check",
]

MALFORMED = (msgspec.MsgspecError, ValueError, OverflowError, RecursionError)
"""What msgspec raises for input that is none."""


class LeitwolfError(Exception):
    """Base of all errors.

    Attributes:
        code: stable, kebab-case; documented in the reference.
        http_status: status of an API answer.
        exit_code: of the command line.
        retryable: the same request may succeed later.
        hint: what to do about it.
        field: the wrong field of the request, if one is.
    """

    code = "error"
    http_status = 500
    exit_code = 1
    retryable = False

    def __init__(self, text: str, *, code: str = "", hint: str = "", field: str = "") -> None:
        super().__init__(text)
        if code:
            self.code = code
        self.text = text
        self.hint = hint
        self.field = field


class UsageError(LeitwolfError):
    """The request is wrong."""

    code, http_status, exit_code = "usage", 400, 2


class InvalidConfig(UsageError):
    """A value is outside its range; the text names field, value, range and the fix."""

    code, http_status, exit_code = "invalid-config", 422, 2


class NotFound(UsageError):
    """No such object."""

    code, http_status, exit_code = "not-found", 404, 3


class Conflict(UsageError):
    """The request contradicts the present state."""

    code, http_status, exit_code = "conflict", 409, 4


class NotPermitted(UsageError):
    """The caller may not do this."""

    code, http_status, exit_code = "not-permitted", 403, 5


class UnavailableError(LeitwolfError):
    """Not now."""

    code, http_status, exit_code, retryable = "unavailable", 503, 6, True


class NoQuorum(UnavailableError):
    """This part of the cluster has no quorum."""

    code = "no-quorum"


class NotLeader(UnavailableError):
    """Another node leads."""

    code = "not-leader"


class RequestTimeout(UnavailableError):
    """No answer in time; the request may still be done."""

    code, http_status = "timeout", 504


class ShuttingDown(UnavailableError):
    """The daemon is stopping."""

    code = "shutting-down"


class TransportError(LeitwolfError):
    """Talking to another process or node failed."""

    code, http_status, exit_code, retryable = "transport", 502, 7, True


class PeerUnreachable(TransportError):
    """No answer from a node or daemon."""

    code = "unreachable"


class HandshakeRejected(TransportError):
    """The other side is no member, of another cluster, or of an unsupported version."""

    code, retryable = "handshake-rejected", False


class ProtocolError(TransportError):
    """The other side broke the protocol."""

    code, retryable = "protocol", False


class StorageError(LeitwolfError):
    """The quorum log cannot be used."""

    code, exit_code = "storage", 8


class LogCorrupt(StorageError):
    """A record that was durable is unreadable: this acceptor must be re-seeded."""

    code = "log-corrupt"


class DiskFull(StorageError):
    """No space for the quorum log."""

    code = "disk-full"


class SyncFailed(StorageError):
    """fsync failed: what was written may be lost; never retried (A2)."""

    code = "sync-failed"


class WitnessError(StorageError):
    """A shared disk or witness did not do what was asked.

    A write that failed may have happened, may still happen, or never. Codes: ``witness`` (in
    general), ``witness-unreachable``, ``witness-denied``, ``witness-foreign`` (it holds something
    else), ``witness-unformatted``, ``witness-damaged``, ``witness-unfit`` (wrong semantics),
    ``witness-fenced`` (this node's reservation key was removed), ``witness-rolled-back`` (an older
    copy of it was put back).
    """

    code, retryable = "witness", True


class ResourceError(LeitwolfError):
    """A resource type refused or failed an operation."""

    code, exit_code = "resource", 9


class InvariantError(LeitwolfError):
    """Something that cannot be is. Never caught to go on."""

    code, exit_code = "invariant", 70


def check(condition: object, text: str) -> None:
    """Raise :class:`InvariantError` unless ``condition`` holds; survives ``python -O``."""
    if not condition:
        raise InvariantError(text)
