"""``etcd://``: a key in an etcd cluster, over the JSON gateway that etcd serves (``/v3``).

A put is a transaction that compares the key's modification revision (0: there is no key). Reads
are linearizable: etcd asks a majority of itself. Asked again at the next endpoint is every read; a
write only if no byte of it was sent.
"""

from __future__ import annotations

import base64
import http.client
import json
import select
import ssl
from collections.abc import Mapping
from typing import Any

from leitwolf.model.errors import InvalidConfig, WitnessError
from leitwolf.model.limits import CAS_BYTES_MAX
from leitwolf.model.location import Endpoint, EtcdLocation
from leitwolf.ports.witness import Versioned

__all__ = ["EtcdCas"]

_ANSWER_BYTES_MAX = 2 * CAS_BYTES_MAX
_UNAUTHENTICATED = 16
"""Code of gRPC: the token is missing, unknown or too old."""
_UNAUTHENTICATED_PHRASES = ("user name is empty", "revision of auth store is old")
"""etcd gives these the code of malformed requests."""
_DENIED = frozenset({7, _UNAUTHENTICATED})


class _NotSentError(Exception):
    """Nothing of the request left this machine."""


class _RefusedError(Exception):
    """etcd answered with an error. Unless it denied access, the write may still happen."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def _text(data: bytes | str) -> str:
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


class EtcdCas:
    """A key in etcd.

    Args:
        location: where.
        credentials: ``username`` and ``password``, or nothing.
        timeout_s: seconds for one step of a request.
    """

    def __init__(
        self, location: EtcdLocation, credentials: Mapping[str, str], *, timeout_s: float
    ) -> None:
        self._address = location.address
        self._key = _text(location.key)
        self._endpoints = list(location.endpoints)
        self._timeout_s = timeout_s
        self._tls = _tls(location)
        self._credentials = dict(credentials)
        self._token = ""
        self._cluster = ""
        self._connection: http.client.HTTPConnection | None = None

    def get(self) -> Versioned | None:
        """Return the value, as a majority of etcd has it."""
        answer = self._ask("/v3/kv/range", {"key": self._key, "limit": 1}, again=True)
        found = answer.get("kvs") or []
        if not found:
            return None
        data = base64.b64decode(found[0].get("value", ""))
        return Versioned(data=data, version=str(found[0]["mod_revision"]))

    def put(self, data: bytes, expected: str | None) -> str | None:
        """Replace the value if its version still is ``expected``."""
        if len(data) > CAS_BYTES_MAX:
            raise WitnessError(f"{len(data)} bytes, a value has at most {CAS_BYTES_MAX}")
        revision = "0" if expected is None else expected
        condition = {"key": self._key, "target": "MOD", "result": "EQUAL", "mod_revision": revision}
        change = {"request_put": {"key": self._key, "value": _text(data)}}
        body = {"compare": [condition], "success": [change]}
        answer = self._ask("/v3/kv/txn", body, again=False)
        return str(answer["header"]["revision"]) if answer.get("succeeded") else None

    def remove(self) -> None:
        """Remove the key."""
        self._ask("/v3/kv/deleterange", {"key": self._key}, again=True)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self, path: str, body: Mapping[str, object], *, again: bool) -> dict[str, Any]:
        """Ask the endpoints one after the other.

        Args:
            path: of the request.
            body: of the request.
            again: it may be asked again when the reply is lost.
        """
        trouble = ""
        for _ in self._endpoints:
            try:
                return self._checked(self._authenticated(path, body))
            except _RefusedError as error:
                # Members that cannot reach the others answer "no leader": the next one may.
                trouble = f"{self._endpoints[0]}: {error}"
                if error.code in _DENIED or not again:
                    code = "witness-denied" if error.code in _DENIED else "witness-unreachable"
                    self._give_up()
                    raise WitnessError(f"{self._address}: {trouble}", code=code) from error
            except _NotSentError as error:
                trouble = f"{self._endpoints[0]}: {error}"
            except (OSError, ValueError, KeyError, http.client.HTTPException) as error:
                trouble = f"{self._endpoints[0]}: {str(error) or type(error).__name__}"
                if not again:
                    self._give_up()
                    raise WitnessError(
                        f"{self._address}: no reply, the write may have happened: {trouble}",
                        code="witness-unreachable",
                    ) from error
            self._give_up()
        raise WitnessError(f"{self._address}: {trouble}", code="witness-unreachable")

    def _give_up(self) -> None:
        """Leave this endpoint: the next call begins with the one behind it."""
        self.close()
        self._token = ""
        self._endpoints.append(self._endpoints.pop(0))

    def _authenticated(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        """Send with a token, if there are credentials; with a new one if it is refused."""
        if not self._credentials:
            return self._send(path, body)
        if self._token:
            try:
                return self._send(path, body)
            except _RefusedError as error:
                if error.code != _UNAUTHENTICATED:
                    raise
                self._token = ""
        name = self._credentials.get("username", "")
        login = {"name": name, "password": self._credentials.get("password", "")}
        try:
            self._token = str(self._send("/v3/auth/authenticate", login)["token"])
        except _RefusedError as error:
            raise _RefusedError(_UNAUTHENTICATED, f"user {name!r}: {error}") from error
        except (OSError, ValueError, KeyError, http.client.HTTPException) as error:
            raise _NotSentError(str(error) or type(error).__name__) from error
        return self._send(path, body)

    def _checked(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Two clusters of etcd behind one location would be two values."""
        cluster = str(answer["header"]["cluster_id"])
        if self._cluster and cluster != self._cluster:
            raise WitnessError(
                f"{self._address}: {self._endpoints[0]} belongs to another cluster of etcd",
                code="witness-foreign",
                hint="name members of one cluster only",
            )
        self._cluster = cluster
        return answer

    def _send(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        """Make one request.

        Raises:
            _NotSentError: nothing was sent.
            _RefusedError: etcd says no.
            OSError, ValueError, HTTPException: the reply is lost.
        """
        connection = self._connected()
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = self._token
        connection.request("POST", path, json.dumps(body).encode(), headers)
        response = connection.getresponse()
        data = response.read(_ANSWER_BYTES_MAX + 1)
        if len(data) > _ANSWER_BYTES_MAX:
            raise ValueError("the answer is too large")
        answer = json.loads(data)
        if not isinstance(answer, dict):
            raise ValueError("the answer is no object")  # noqa: TRY004 — of the other side
        if response.status != http.HTTPStatus.OK:
            text = str(answer.get("error", ""))[:200]
            old = any(phrase in text for phrase in _UNAUTHENTICATED_PHRASES)
            raise _RefusedError(_UNAUTHENTICATED if old else int(answer.get("code", 0)), text)
        return answer

    def _connected(self) -> http.client.HTTPConnection:
        """Return a connection that was not closed by the other side while it was idle."""
        if self._connection is not None and self._connection.sock is not None:
            if not select.select([self._connection.sock], [], [], 0)[0]:
                return self._connection
            self.close()
        made = _connection(self._endpoints[0], self._tls, self._timeout_s)
        try:
            made.connect()
        except OSError as error:
            made.close()
            raise _NotSentError(str(error)) from error
        self._connection = made
        return made


def _connection(
    endpoint: Endpoint, tls: ssl.SSLContext | None, timeout_s: float
) -> http.client.HTTPConnection:
    if tls is None:
        return http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=timeout_s)
    return http.client.HTTPSConnection(endpoint.host, endpoint.port, timeout=timeout_s, context=tls)


def _tls(location: EtcdLocation) -> ssl.SSLContext | None:
    if not location.tls:
        return None
    authority = location.option("ca") or None
    try:
        return ssl.create_default_context(cafile=authority)
    except OSError as error:
        raise InvalidConfig(
            f"location {location.address!r}: ca {authority!r} is no file with certificates",
            hint="a PEM file with the authority that issued the certificates of etcd",
            field="location",
        ) from error
