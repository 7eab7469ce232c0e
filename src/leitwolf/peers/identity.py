"""What a node is known by: its certificate, the authority's, and the keys; files and TLS contexts.

Every member has the authority's key, so that any node can admit another. Files in the
configuration directory, each written atomically, 0600::

    pki/authority.crt  pki/authority.key  pki/node.crt  pki/node.key  pki/heartbeat.key

``heartbeat.key`` holds 1..4 keys of 32 bytes one behind the other, the sealing one first.

Time decides nothing: certificates are checked by their chain to the authority (dates ignored) and
by their fingerprint, which the replicated log knows.
"""

from __future__ import annotations

import hashlib
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from leitwolf.model.errors import InvalidConfig
from leitwolf.model.limits import HEARTBEAT_KEY_BYTES
from leitwolf.system.durable import write_durably

__all__ = [
    "HEARTBEAT_KEY_BYTES",
    "Identity",
    "TlsContexts",
    "fingerprint",
    "fingerprint_of_pem",
    "joiner_context",
    "load_contexts",
    "load_identity",
    "save_heartbeat_keys",
    "save_identity",
]


_HEARTBEAT_KEYS_MAX = 4
_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which the ssl module does not name."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Everything in the ``pki`` directory. Certificates and keys are PEM."""

    authority_certificate: bytes
    authority_key: bytes = field(repr=False)
    certificate: bytes
    key: bytes = field(repr=False)
    heartbeat_keys: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class TlsContexts:
    """TLS of a member: ``dial`` presents the node's certificate, ``serve`` asks for one.

    A caller without a certificate passes ``serve``; it may speak nothing but join. One with a
    certificate of another authority fails the handshake.
    """

    dial: ssl.SSLContext
    serve: ssl.SSLContext
    authority: bytes
    """The authority's certificate (DER), shown to joiners, who know its fingerprint."""


_FILES = {
    "authority_certificate": "authority.crt",
    "authority_key": "authority.key",
    "heartbeat_keys": "heartbeat.key",
    "key": "node.key",
    "certificate": "node.crt",
}


def fingerprint(certificate: bytes) -> str:
    """Return the SHA-256 of a certificate (DER), 64 hex digits."""
    return hashlib.sha256(certificate).hexdigest()


def fingerprint_of_pem(certificate: bytes) -> str:
    """Return the fingerprint of a certificate in PEM.

    Raises:
        ValueError: it is no PEM certificate.
    """
    return fingerprint(ssl.PEM_cert_to_DER_cert(certificate.decode("ascii")))


def save_identity(config: Path, identity: Identity) -> None:
    """Write the ``pki`` directory; the node's certificate comes last and marks it as complete.

    Raises:
        OSError: a file cannot be written.
    """
    folder = config / "pki"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, file in _FILES.items():
        write_durably(folder / file, getattr(identity, name))


def save_heartbeat_keys(config: Path, keys: bytes) -> None:
    """Replace the heartbeat keys (rekey).

    Raises:
        InvalidConfig: the data is not 1..4 whole keys.
        OSError: the file cannot be written.
    """
    _check_heartbeat_keys(keys)
    write_durably(config / "pki" / _FILES["heartbeat_keys"], keys)


def _check_heartbeat_keys(keys: bytes) -> None:
    count, rest = divmod(len(keys), HEARTBEAT_KEY_BYTES)
    if rest or not 1 <= count <= _HEARTBEAT_KEYS_MAX:
        raise InvalidConfig(
            f"{len(keys)} bytes of heartbeat keys, expected 1..{_HEARTBEAT_KEYS_MAX} times"
            f" {HEARTBEAT_KEY_BYTES}",
            code="identity-broken",
        )


def load_identity(config: Path) -> Identity:
    """Return what :func:`save_identity` wrote.

    Raises:
        InvalidConfig: a file is missing (code ``identity-missing``), readable by others
            (``identity-exposed``) or of the wrong size (``identity-broken``).
    """
    values = {}
    for name, file in _FILES.items():
        path = config / "pki" / file
        try:
            mode = path.stat().st_mode
            values[name] = path.read_bytes()
        except OSError as error:
            raise InvalidConfig(
                f"cannot read {path}: {error.strerror}",
                code="identity-missing",
                hint="form a cluster with 'leitwolf init' or join one with 'leitwolf join TOKEN'",
            ) from error
        if mode & 0o077:
            raise InvalidConfig(
                f"{path} can be read by others than its owner",
                code="identity-exposed",
                hint=f"chmod 600 {path}",
            )
    _check_heartbeat_keys(values["heartbeat_keys"])
    return Identity(**values)


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET
    context.verify_flags |= _NO_CHECK_TIME
    return context


def load_contexts(config: Path) -> TlsContexts:
    """Return the TLS contexts of this member.

    Raises:
        InvalidConfig: files are missing, exposed, broken, or do not belong together.
    """
    identity = load_identity(config)
    folder = config / "pki"
    dial = _context(ssl.PROTOCOL_TLS_CLIENT)
    dial.check_hostname = False
    dial.verify_mode = ssl.CERT_REQUIRED
    serve = _context(ssl.PROTOCOL_TLS_SERVER)
    serve.verify_mode = ssl.CERT_OPTIONAL
    serve.num_tickets = 0
    try:
        authority = ssl.PEM_cert_to_DER_cert(identity.authority_certificate.decode("ascii"))
        for context in (dial, serve):
            context.load_verify_locations(cadata=authority)
            context.load_cert_chain(folder / _FILES["certificate"], folder / _FILES["key"])
    except (ssl.SSLError, ValueError) as error:
        raise InvalidConfig(
            f"the certificates and keys in {folder} are damaged or do not belong together: {error}",
            code="identity-broken",
            hint="evict this node on another one, remove the directory, and join again",
        ) from error
    return TlsContexts(dial=dial, serve=serve, authority=authority)


def joiner_context() -> ssl.SSLContext:
    """Return the TLS context of a node that joins.

    It presents no certificate and checks none: the caller must compare the authority's fingerprint
    with the token's and check that it issued the certificate of the other side.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
