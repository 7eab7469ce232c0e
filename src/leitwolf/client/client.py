"""The API over a Unix socket, as typed calls."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from leitwolf.model.commands import Answer, Command
from leitwolf.model.errors import (
    LeitwolfError,
    NotPermitted,
    PeerUnreachable,
    RequestTimeout,
    UsageError,
)
from leitwolf.model.views import (
    ClusterSetup,
    ExplanationView,
    InitRequest,
    JoinRequestView,
    LogLine,
    NetworkView,
    PreventRequest,
    QuorumView,
    StatusView,
)

__all__ = ["Client"]

T = TypeVar("T")
_TIMEOUT_S = 60.0
_READ_TIMEOUT_S = 10.0
"""A read waits for nothing but what it asks to wait for: a daemon that is slower hangs."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("leitwolf", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Client:
    """Calls to the daemon of this machine.

    Every call raises :class:`LeitwolfError` with the code that the daemon gave, or
    :class:`PeerUnreachable` when no daemon answers.
    """

    def __init__(
        self,
        runtime: Path | None = None,
        timeout_s: float = _TIMEOUT_S,
        unchanged_since: int | None = None,
    ) -> None:
        """Use the daemon whose runtime directory this is (default: LEITWOLF_RUNTIME or /run).

        With ``unchanged_since``, the index of a status, commands are refused as
        ``changed-meanwhile`` if anybody else changed the configuration since then.
        """
        directory = runtime or Path(os.environ.get("LEITWOLF_RUNTIME", "/run/leitwolf"))
        self._socket = directory / "api.sock"
        self._timeout_s = timeout_s
        self._unchanged_since = unchanged_since

    def _response(
        self, method: str, path: str, body: bytes | None, wait_s: float = 0
    ) -> tuple[_UnixConnection, http.client.HTTPResponse]:
        checked = method == "GET" or path.startswith("/v1/command?")
        if self._unchanged_since is not None and not checked:
            raise UsageError(
                "an index goes with changes of the configuration, and this is none",
                code="index-not-checked",
                hint="ask without --if-index",
            )
        longest_s = min(self._timeout_s, _READ_TIMEOUT_S) if method == "GET" else self._timeout_s
        connection = _UnixConnection(self._socket, longest_s + wait_s)
        try:
            with self._told(connection):
                connection.request(method, path, body, {"Content-Type": "application/json"})
                return connection, connection.getresponse()
        except LeitwolfError:
            connection.close()
            raise

    @contextlib.contextmanager
    def _told(self, connection: http.client.HTTPConnection) -> Iterator[None]:
        """Say in our own words what goes wrong with a connection."""
        try:
            yield
        except TimeoutError as error:
            raise RequestTimeout(
                f"the daemon does not answer within {connection.timeout:g} s",
                hint="see whether it hangs, or its machine: journalctl -u leitwolf -n 100",
            ) from error
        except PermissionError as error:
            raise NotPermitted(
                f"this user may not open {self._socket}",
                hint="ask as root, or to read: as a member of the group leitwolf",
            ) from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", "") or error
            raise PeerUnreachable(
                f"no daemon answers at {self._socket}: {reason}",
                hint="a moment after its death it is back; else: systemctl start leitwolf",
            ) from error

    def _call(
        self,
        method: str,
        path: str,
        kind: type[T] | Any,
        body: object = None,
        *,
        wait_s: float = 0,
    ) -> Any:
        data = None if body is None else msgspec.json.encode(body)
        return msgspec.json.decode(self._raw(method, path, data, wait_s), type=kind)

    def _raw(self, method: str, path: str, data: bytes | None, wait_s: float = 0) -> bytes:
        connection, response = self._response(method, path, data, wait_s)
        try:
            with self._told(connection):
                raw = response.read()
        finally:
            connection.close()
        if response.status >= 400:
            raise _error(raw)
        return raw

    def status(self) -> StatusView:
        """Return the cluster as this node sees it."""
        view: StatusView = self._call("GET", "/v1/status", StatusView)
        return view

    def networks(self) -> tuple[NetworkView, ...]:
        """Return the networks with all links of all pairs of nodes."""
        views: tuple[NetworkView, ...] = self._call("GET", "/v1/networks", tuple[NetworkView, ...])
        return views

    def quorum(self) -> QuorumView:
        """Return who promised what."""
        view: QuorumView = self._call("GET", "/v1/quorum", QuorumView)
        return view

    def why(self, group: str) -> ExplanationView:
        """Explain where a group is and why."""
        path = f"/v1/why/{quote(group, safe='')}"
        view: ExplanationView = self._call("GET", path, ExplanationView)
        return view

    def types(self) -> list[dict[str, Any]]:
        """Return the resource types with their parameters."""
        types: list[dict[str, Any]] = self._call("GET", "/v1/types", list[dict[str, Any]])
        return types

    def log(self, after: int = 0, limit: int = 1_000, wait_s: float = 0) -> list[LogLine]:
        """Return lines of the timeline behind ``after``, waiting for one for ``wait_s``."""
        path = f"/v1/log?after={after}&limit={limit}&wait_s={wait_s:g}"
        lines: list[LogLine] = self._call("GET", path, list[LogLine], wait_s=wait_s)
        return lines

    def wait_beyond(self, index: int, wait_s: float) -> int:
        """Wait until something above ``index`` is applied; return the applied index."""
        path = f"/v1/wait?after={index}&wait_s={wait_s:g}"
        answer = self._call("GET", path, dict[str, int], wait_s=wait_s)
        return int(answer["index"])

    def command(self, command: Command, timeout_s: float = 30) -> Answer:
        """Have the leader do something; the answer names the committed entry."""
        known = self._unchanged_since
        since = "" if known is None else f"&unchanged_since={known}"
        path = f"/v1/command?timeout_s={timeout_s:g}{since}"
        answer: Answer = self._call("POST", path, Answer, command)
        if known is not None:
            self._unchanged_since = max(known, answer.index)
        return answer

    def form(self, request: InitRequest) -> ClusterSetup:
        """Form a cluster of one."""
        setup: ClusterSetup = self._call("POST", "/v1/init", ClusterSetup, request)
        return setup

    def join(self, request: JoinRequestView) -> Iterator[str | ClusterSetup]:
        """Join a cluster; yields progress, at last the outcome."""
        body = msgspec.json.encode(request)
        connection, response = self._response("POST", "/v1/join", body)
        try:
            if response.status >= 400:
                raise _error(response.read())
            for line in self._lines(connection, response):
                item = msgspec.json.decode(line)
                if "progress" in item:
                    yield item["progress"]
                elif "joined" in item:
                    yield msgspec.convert(item["joined"], ClusterSetup)
                    return
                else:
                    raise _error(line)
            raise PeerUnreachable(
                "the daemon ended before it could tell whether this node has joined",
                hint="leitwolf status; if it is in no cluster, ask the same again",
            )
        finally:
            connection.close()

    def _lines(
        self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse
    ) -> Iterator[bytes]:
        while True:
            with self._told(connection):
                line = response.readline()
            if not line:
                return
            yield line

    def token(self, lifetime_s: int) -> str:
        """Return a new one-time join token."""
        answer = self._call("POST", f"/v1/token?lifetime_s={lifetime_s}", dict[str, str], {})
        return str(answer["token"])

    def rekey(self) -> Answer:
        """Replace the heartbeat key of all guards."""
        answer: Answer = self._call("POST", "/v1/rekey", Answer, {})
        return answer

    def backup(self) -> bytes:
        """Return the state of the cluster as a backup file."""
        return self._raw("POST", "/v1/backup", b"{}")

    def restore(self, data: bytes, node_name: str = "", *, replace: bool = False) -> ClusterSetup:
        """Make a cluster of one from a backup file."""
        path = f"/v1/restore?node_name={quote(node_name)}&replace={'yes' if replace else 'no'}"
        setup: ClusterSetup = msgspec.json.decode(self._raw("POST", path, data), type=ClusterSetup)
        return setup

    def give_up(self) -> None:
        """Give up the history of this node for the other one that it hears."""
        self._call("POST", "/v1/give-up", dict[str, bool], {})

    def prevent(self, *, on: bool) -> None:
        """Let this node join only, or not."""
        self._call("POST", "/v1/prevent", dict[str, bool], PreventRequest(prevent=on))

    def destroy(self) -> None:
        """Set the state of this node aside."""
        self._call("POST", "/v1/destroy", dict[str, bool], {})


def _error(raw: bytes) -> LeitwolfError:
    try:
        problem = msgspec.json.decode(raw)
        error = LeitwolfError(
            problem["title"],
            code=problem["code"],
            hint=problem.get("hint", ""),
            field=problem.get("field", ""),
        )
        error.exit_code = problem.get("exit_code", 1)
        error.retryable = problem.get("retryable", False)
    except (msgspec.DecodeError, KeyError, TypeError):
        return LeitwolfError(f"the daemon answered with an error: {raw[:200]!r}")
    return error
