"""``witness://``: a value kept by a witness daemon on another machine."""

from __future__ import annotations

import contextlib
import hmac
import select
import socket
import ssl
from collections.abc import Mapping

from leitwolf.model.errors import InvalidConfig, WitnessError
from leitwolf.model.limits import CAS_BYTES_MAX
from leitwolf.model.location import WitnessLocation
from leitwolf.peers.identity import fingerprint, joiner_context
from leitwolf.ports.witness import Versioned
from leitwolf.witness.credentials import FILE
from leitwolf.witness.speech import (
    FRAME_BYTES_MAX,
    LENGTH_BYTES,
    PROTOCOL,
    Ask,
    Code,
    Hello,
    Kind,
    Reply,
    decode,
    frame,
    length_of,
    parse_witness_token,
)

__all__ = ["RemoteCas"]

_CODES = {
    Code.DENIED: "witness-denied",
    Code.PROTOCOL: "witness-foreign",
    Code.DAMAGED: "witness-damaged",
}
_EXPECTED = {
    Kind.GET: {Code.OK, Code.NONE},
    Kind.PUT: {Code.OK, Code.CONFLICT},
    Kind.REMOVE: {Code.NONE},
}


class RemoteCas:
    """A value at a witness daemon.

    Args:
        location: where.
        credentials: ``token``.
        timeout_s: seconds for one step of a request.

    Raises:
        InvalidConfig: there is no token (code ``token-missing``), or it is malformed.
    """

    def __init__(
        self, location: WitnessLocation, credentials: Mapping[str, str], *, timeout_s: float
    ) -> None:
        self._location = location
        self._timeout_s = timeout_s
        self._channel: ssl.SSLSocket | None = None
        if "token" not in credentials:
            raise InvalidConfig(
                f"location {location.address!r}: there is no token for it",
                code="token-missing",
                hint=f"on the witness: leitwolf witness token {location.name}; then, in {FILE} of"
                f" the configuration directory: [{location.address}] and, below it, token = ...",
                field="location",
            )
        self._token = parse_witness_token(credentials["token"])

    def get(self) -> Versioned | None:
        """Return the value."""
        reply = self._ask(Ask(kind=Kind.GET))
        if reply.code is Code.NONE:
            return None
        return Versioned(data=reply.data, version=reply.version)

    def put(self, data: bytes, expected: str | None) -> str | None:
        """Replace the value if its version still is ``expected``."""
        if len(data) > CAS_BYTES_MAX:
            raise WitnessError(f"{len(data)} bytes, a value has at most {CAS_BYTES_MAX}")
        reply = self._ask(Ask(kind=Kind.PUT, data=data, expected=expected))
        return None if reply.code is Code.CONFLICT else reply.version

    def remove(self) -> None:
        """Remove the value."""
        self._ask(Ask(kind=Kind.REMOVE))

    def close(self) -> None:
        """Hang up."""
        channel, self._channel = self._channel, None
        if channel is not None:
            with contextlib.suppress(OSError):
                channel.close()

    def _ask(self, ask: Ask) -> Reply:
        """Ask, by the connection that is there or a new one.

        Raises:
            WitnessError: nothing was sent, or the reply is lost, or it is a refusal.
        """
        channel = self._connected()
        try:
            reply = _exchange(channel, ask)
        except (OSError, ValueError, EOFError) as error:
            self.close()
            raise self._error(f"no reply, a write may have happened: {_words(error)}") from error
        if reply.code not in _EXPECTED[ask.kind]:
            self.close()
            raise self._refusal(reply)
        return reply

    def _connected(self) -> ssl.SSLSocket:
        """Return a connection that was not closed by the other side while it was idle."""
        if self._channel is not None:
            # The witness says nothing unasked: what can be read is the end.
            if not select.select([self._channel], [], [], 0)[0]:
                return self._channel
            self.close()
        endpoint = self._location.endpoint
        try:
            plain = socket.create_connection((endpoint.host, endpoint.port), self._timeout_s)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            channel = joiner_context().wrap_socket(plain)
        except OSError as error:
            raise self._error(_words(error)) from error
        try:
            self._introduce(channel)
        except (OSError, ValueError, EOFError) as error:
            channel.close()
            raise self._error(f"it does not greet: {_words(error)}") from error
        except BaseException:
            channel.close()
            raise
        self._channel = channel
        return channel

    def _introduce(self, channel: ssl.SSLSocket) -> None:
        """Make sure who is there before the secret is said."""
        shown = fingerprint(channel.getpeercert(binary_form=True) or b"")
        if not hmac.compare_digest(shown, self._token.fingerprint):
            raise self._error(
                "another witness answers there: its certificate is not the token's",
                code="witness-denied",
                hint="is it the right address? A witness with a new folder needs new tokens",
            )
        hello = Hello(
            protocol=PROTOCOL,
            name=self._location.name,
            secret=self._token.secret,
            scratch=self._location.scratch,
        )
        reply = _exchange(channel, hello)
        if reply.code is not Code.OK:
            raise self._refusal(reply)

    def _refusal(self, reply: Reply) -> WitnessError:
        code = _CODES.get(reply.code, "witness")
        damaged = "remove that file on the machine of the witness, then: leitwolf quorum replace"
        hint = damaged if reply.code is Code.DAMAGED else ""
        return self._error(reply.text or f"answered {reply.code}", code=code, hint=hint)

    def _error(
        self, text: str, *, code: str = "witness-unreachable", hint: str = ""
    ) -> WitnessError:
        return WitnessError(f"{self._location.address}: {text}", code=code, hint=hint)


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _exchange(channel: ssl.SSLSocket, message: Hello | Ask) -> Reply:
    channel.sendall(frame(message))
    length = length_of(_receive(channel, LENGTH_BYTES), FRAME_BYTES_MAX)
    return decode(_receive(channel, length), Reply)


def _receive(channel: ssl.SSLSocket, length: int) -> bytes:
    parts = bytearray()
    while len(parts) < length:
        part = channel.recv(length - len(parts))
        if not part:
            raise EOFError("it hung up")
        parts += part
    return bytes(parts)
