"""Routes of the API. Bodies and answers are JSON; errors are problem documents (RFC 9457)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from leitwolf.model.commands import Answer, Command
from leitwolf.model.errors import (
    MALFORMED,
    Conflict,
    InvalidConfig,
    LeitwolfError,
    NotFound,
    NotPermitted,
    UnavailableError,
)
from leitwolf.model.limits import TOKEN_LIFETIME_S_MAX
from leitwolf.model.types import TYPES
from leitwolf.model.views import InitRequest, JoinRequestView, PreventRequest
from leitwolf.ports.service import Service
from leitwolf.state import BACKUP_BYTES_MAX

__all__ = ["Caller", "application"]

_BODY_BYTES_MAX = 1 << 20
_TIMEOUT_S_DEFAULT = 30.0
_TIMEOUT_S_MAX = 600.0
_LOG_LINES_MAX = 10_000

_DECODERS: dict[Any, msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind)
    for kind in (Command, InitRequest, JoinRequestView, PreventRequest)
}
"""Made once: for a union of all commands that takes longer than to decode one."""

Handler = Callable[[Request], Awaitable[Response]]

_NOT_FOUND = frozenset({"unknown-group", "unknown-network", "unknown-node", "unknown-resource"})
_INVALID = frozenset(
    {
        "address-outside",
        "dependency-cycle",
        "dependency-depth",
        "dependency-unknown",
        "missing-parameter",
        "out-of-range",
        "unknown-parameter",
        "unknown-profile",
        "unknown-type",
    }
)
"""Codes of refusals that are about a value, whatever the state; other ones are conflicts."""


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, by the credentials of the connection."""

    name: str
    may_read: bool
    may_change: bool


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _problem(error: LeitwolfError) -> Response:
    body = {
        "type": f"urn:leitwolf:{error.code}",
        "title": error.text,
        "status": error.http_status,
        "code": error.code,
        "hint": error.hint,
        "field": error.field,
        "retryable": error.retryable,
        "exit_code": error.exit_code,
    }
    return Response(
        msgspec.json.encode(body), error.http_status, media_type="application/problem+json"
    )


def _answer(answer: Answer) -> Response:
    """Return an answer of the leader: what was done, or the refusal as a problem."""
    refusal = answer.refusal
    if refusal is None:
        return _json(answer)
    kind = UnavailableError if refusal.retryable else _refusal_kind(refusal.code)
    error = kind(refusal.text, code=refusal.code, hint=refusal.hint, field=refusal.field)
    error.retryable = refusal.retryable
    return _problem(error)


def _refusal_kind(code: str) -> type[LeitwolfError]:
    """Return what is wrong: the named thing is not there, a value, or else the present state."""
    if code in _NOT_FOUND:
        return NotFound
    return InvalidConfig if code in _INVALID or code.startswith("invalid-") else Conflict


async def _raw_body(request: Request, limit: int) -> bytes:
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > limit:
            raise InvalidConfig(
                f"the request body has more than {limit} bytes", code="body-too-large"
            )
    return bytes(data)


async def _body(request: Request, kind: Any) -> Any:
    data = await _raw_body(request, _BODY_BYTES_MAX)
    try:
        value = _DECODERS[kind].decode(data)
        # What cannot be told to another node (a number of 100 digits) is not valid either.
        msgspec.msgpack.encode(value)
    except MALFORMED as error:
        raise InvalidConfig(f"the request body is not valid: {error}") from error
    return value


def _no_route(request: Request, error: Exception) -> Response:
    """Answer a path or method that is none, as a problem like all others."""
    status = error.status_code if isinstance(error, HTTPException) else 404
    problem = NotFound(
        f"there is no {request.method} {request.url.path} in this API", code="no-such-route"
    )
    problem.http_status = status
    return _problem(problem)


def _number(request: Request, name: str, default: float, maximum: float) -> float:
    text = request.query_params.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError as error:
        raise InvalidConfig(f"{name} = {text!r} is not a number", field=name) from error
    if not 0 <= value <= maximum:
        raise InvalidConfig(f"{name} = {text}, allowed is 0..{maximum:g}", field=name)
    return value


class _Api:
    """The handlers, bound to one service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def status(self, _: Request) -> Response:
        return _json(self._service.status())

    async def networks(self, _: Request) -> Response:
        return _json(self._service.networks())

    async def quorum(self, _: Request) -> Response:
        return _json(self._service.quorum())

    async def why(self, request: Request) -> Response:
        return _json(self._service.why(request.path_params["group"]))

    async def types(self, _: Request) -> Response:
        return _json(list(TYPES.values()))

    async def log(self, request: Request) -> Response:
        after = int(_number(request, "after", 0, float(1 << 53)))
        limit = int(_number(request, "limit", 1_000, _LOG_LINES_MAX))
        wait_s = _number(request, "wait_s", 0, _TIMEOUT_S_MAX)
        lines = self._service.log(after, limit)
        if not lines and wait_s:
            await self._service.wait_beyond(after, wait_s)
            lines = self._service.log(after, limit)
        return _json(lines)

    async def wait(self, request: Request) -> Response:
        after = int(_number(request, "after", 0, float(1 << 53)))
        wait_s = _number(request, "wait_s", _TIMEOUT_S_DEFAULT, _TIMEOUT_S_MAX)
        return _json({"index": await self._service.wait_beyond(after, wait_s)})

    async def command(self, request: Request) -> Response:
        command = await _body(request, Command)
        timeout_s = _number(request, "timeout_s", _TIMEOUT_S_DEFAULT, _TIMEOUT_S_MAX)
        since = int(_number(request, "unchanged_since", -1, float(1 << 53)))
        caller = request.state.caller.name
        return _answer(await self._service.command(command, caller, timeout_s, since))

    async def rekey(self, request: Request) -> Response:
        return _answer(await self._service.rekey(request.state.caller.name))

    async def form(self, request: Request) -> Response:
        return _json(await self._service.form(await _body(request, InitRequest)))

    async def join(self, request: Request) -> Response:
        wanted = await _body(request, JoinRequestView)

        async def lines() -> AsyncIterator[bytes]:
            try:
                async for item in self._service.join(wanted):
                    key = "progress" if isinstance(item, str) else "joined"
                    yield msgspec.json.encode({key: item}) + b"\n"
            except LeitwolfError as error:
                yield bytes(_problem(error).body) + b"\n"

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    async def token(self, request: Request) -> Response:
        lifetime_s = int(_number(request, "lifetime_s", 3_600, TOKEN_LIFETIME_S_MAX))
        return _json({"token": await self._service.token(lifetime_s, request.state.caller.name)})

    async def backup(self, request: Request) -> Response:
        data = await self._service.backup(request.state.caller.name)
        return Response(data, media_type="application/octet-stream")

    async def restore(self, request: Request) -> Response:
        data = await _raw_body(request, BACKUP_BYTES_MAX)
        node = request.query_params.get("node_name", "")
        replace = request.query_params.get("replace", "") == "yes"
        return _json(await self._service.restore(data, node, replace=replace))

    async def give_up(self, request: Request) -> Response:
        await self._service.give_up(request.state.caller.name)
        return _json({"given_up": True})

    async def prevent(self, request: Request) -> Response:
        wanted = await _body(request, PreventRequest)
        await self._service.prevent(request.state.caller.name, on=wanted.prevent)
        return _json({"prevented": wanted.prevent})

    async def destroy(self, _: Request) -> Response:
        await self._service.destroy()
        return _json({"destroyed": True})


def application(service: Service, caller: Callable[[Request], Caller]) -> Starlette:
    """Return the API as an ASGI application.

    Args:
        service: the daemon.
        caller: tells who is behind a request.
    """
    api = _Api(service)

    def guarded(handler: Handler, *, changes: bool) -> Handler:
        async def handle(request: Request) -> Response:
            who = caller(request)
            try:
                if not (who.may_change if changes else who.may_read):
                    need = "root" if changes else "root or a member of the group leitwolf"
                    raise NotPermitted(f"{who.name} may not do this", hint=f"ask as {need}")
                request.state.caller = who
                return await handler(request)
            except LeitwolfError as error:
                return _problem(error)

        return handle

    def read(path: str, handler: Handler) -> Route:
        return Route(path, guarded(handler, changes=False), methods=["GET"])

    def change(path: str, handler: Handler) -> Route:
        return Route(path, guarded(handler, changes=True), methods=["POST"])

    return Starlette(
        routes=[  # tried in this order: what many ask at once comes first
            change("/v1/command", api.command),
            read("/v1/status", api.status),
            read("/v1/quorum", api.quorum),
            read("/v1/networks", api.networks),
            read("/v1/why/{group:path}", api.why),
            read("/v1/types", api.types),
            read("/v1/log", api.log),
            read("/v1/wait", api.wait),
            change("/v1/init", api.form),
            change("/v1/join", api.join),
            change("/v1/token", api.token),
            change("/v1/rekey", api.rekey),
            change("/v1/backup", api.backup),
            change("/v1/restore", api.restore),
            change("/v1/give-up", api.give_up),
            change("/v1/prevent", api.prevent),
            change("/v1/destroy", api.destroy),
        ],
        exception_handlers={HTTPException: _no_route},
    )
