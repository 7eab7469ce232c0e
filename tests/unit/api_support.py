"""A daemon that is none, and a caller of the API without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from leitwolf.api.app import Caller, application
from leitwolf.model.commands import Answer, Command
from leitwolf.model.errors import LeitwolfError, NotFound
from leitwolf.model.ids import NodeId
from leitwolf.model.views import (
    ClusterSetup,
    ExplanationView,
    GroupView,
    InitRequest,
    JoinRequestView,
    LogLine,
    NetworkView,
    NodeLine,
    QuorumView,
    ResourceView,
    StatusView,
    StoppedView,
)

__all__ = [
    "ROOT",
    "FakeService",
    "Reply",
    "ask",
    "group_view",
    "log_line",
    "node_line",
    "resource_view",
    "status_view",
]

ROOT = Caller(name="root", may_read=True, may_change=True)


def node_line(number: int, **changes: Any) -> NodeLine:
    """A node that is well."""
    line = NodeLine(
        id=NodeId(number),
        name=f"n{number}",
        standing="member",
        up=True,
        paused=False,
        leader=number == 1,
        here=number == 1,
        connected=True,
        reason="",
    )
    return msgspec.structs.replace(line, **changes)


def resource_view(name: str, state: str = "online", **changes: Any) -> ResourceView:
    """A process that shall be online."""
    item = ResourceView(
        id=name,
        type="process",
        state=state,
        wish="online",
        code="c",
        reason=f"{name} is {state}",
        parameters={},
        depends=(),
        changed=5,
    )
    return msgspec.structs.replace(item, **changes)


def group_view(*resources: ResourceView, **changes: Any) -> GroupView:
    """The group web, online on n2."""
    view = GroupView(
        id="web",
        status="online",
        wish="online",
        phase="active",
        owner="n2",
        reason="started",
        generation=1,
        preferred=(),
        resources=resources,
        changed=5,
    )
    return msgspec.structs.replace(view, **changes)


def log_line(index: int) -> LogLine:
    """One line of the timeline."""
    return LogLine(
        index=index,
        wall=0,
        by="x",
        code="c",
        because=f"b{index}",
        cause=0,
        events=(f"e{index}",),
    )


def status_view(**changes: Any) -> StatusView:
    """A cluster of three that is well and owns one group."""
    view = StatusView(
        formed=True,
        cluster="lab",
        uuid="u",
        node="n1",
        profile="default",
        leader="n1",
        quorum=True,
        fresh=True,
        index=7,
        advice="",
        nodes=(node_line(1), node_line(2), node_line(3)),
        groups=(group_view(),),
    )
    return msgspec.structs.replace(view, **changes)


STOPPED = (StoppedView(at_wall=1_700_000_000_000_000_000, text="run-lease over (lease-over)"),)


@dataclass
class FakeService:
    """Answers what a test wants to hear, and remembers what it was asked."""

    view: StatusView = field(default_factory=status_view)
    later: list[StatusView] = field(default_factory=list)
    """What is to be seen next, each after somebody waited."""
    answer: Answer = field(default_factory=lambda: Answer(index=8))
    error: LeitwolfError | None = None
    refusals: list[LeitwolfError] = field(default_factory=list)
    """How the next commands are refused, one after the other."""
    commands: list[tuple[Command, str]] = field(default_factory=list)
    since: int = -2
    """What the last command named as unchanged."""
    lines: list[LogLine] = field(default_factory=list)
    joined: list[JoinRequestView] = field(default_factory=list)
    saved: bytes = b""
    restored: list[tuple[bytes, str, bool]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    every_link: tuple[NetworkView, ...] = ()
    """Networks with all links."""

    def _check(self) -> None:
        if self.error is not None:
            raise self.error

    def status(self) -> StatusView:
        return self.view

    def networks(self) -> tuple[NetworkView, ...]:
        self._check()
        return self.every_link

    def quorum(self) -> QuorumView:
        self._check()
        raise NotFound("not played here")

    def why(self, group: str) -> ExplanationView:
        self._check()
        if group != "web":
            raise NotFound(f"there is no group {group!r}; groups are: web")
        return ExplanationView(group=group, summary="fine", lines=(), waits_for="", causes=())

    def log(self, after: int, limit: int) -> list[LogLine]:
        self._check()
        return [line for line in self.lines if line.index > after][:limit]

    async def wait_beyond(self, index: int, timeout_s: float) -> int:
        await asyncio.sleep(0)
        if self.later:
            self.view = self.later.pop(0)
        return max(index, self.view.index) if timeout_s >= 0 else index

    async def command(
        self, command: Command, by: str, timeout_s: float, unchanged_since: int = -1
    ) -> Answer:
        self._check()
        if self.refusals:
            raise self.refusals.pop(0)
        assert timeout_s > 0
        self.commands.append((command, by))
        self.since = unchanged_since
        msgspec.msgpack.decode(msgspec.msgpack.encode(command), type=Command)
        return self.answer

    async def form(self, request: InitRequest) -> ClusterSetup:
        self._check()
        return self._setup(request.name or "leitwolf")

    async def join(self, request: JoinRequestView) -> AsyncIterator[str | ClusterSetup]:
        self.joined.append(request)
        yield "calling"
        self._check()
        yield self._setup("lab")

    @staticmethod
    def _setup(name: str) -> ClusterSetup:
        return ClusterSetup(
            cluster=name, uuid="u", node="n1", node_id=1, profile="default", networks={}, advice=""
        )

    async def token(self, lifetime_s: int, by: str) -> str:
        self._check()
        return f"leitwolf1-{lifetime_s}-{by}"

    async def rekey(self, by: str) -> Answer:
        self._check()
        assert by
        return self.answer

    async def backup(self, by: str) -> bytes:
        self._check()
        assert by
        return self.saved

    async def restore(self, data: bytes, node_name: str, *, replace: bool) -> ClusterSetup:
        self._check()
        self.restored.append((data, node_name, replace))
        return self._setup("restored")

    async def give_up(self, by: str) -> None:
        self._check()
        self.asked.append(f"give-up by {by}")

    async def prevent(self, by: str, *, on: bool) -> None:
        self._check()
        self.asked.append(f"prevent={on} by {by}")

    async def destroy(self) -> None:
        self._check()
        self.view = status_view(formed=False)


@dataclass
class Reply:
    """What came back."""

    status: int
    kind: str
    body: bytes

    @property
    def json(self) -> Any:
        """The body."""
        return msgspec.json.decode(self.body)


def ask(
    service: FakeService,
    method: str,
    path: str,
    body: bytes = b"",
    *,
    caller: Caller = ROOT,
    query: str = "",
    parts: int = 1,
) -> Reply:
    """Ask the application as a server would, the body in some parts."""
    size = -(-len(body) // parts) or 1
    chunks = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
    sent: list[dict[str, Any]] = []
    pulled = iter(range(len(chunks)))

    async def receive() -> dict[str, Any]:
        at = next(pulled, None)
        if at is None:
            await asyncio.sleep(3600)
            return {"type": "http.disconnect"}
        return {
            "type": "http.request",
            "body": chunks[at],
            "more_body": at + 1 < len(chunks),
        }

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "scheme": "http",
        "headers": [(b"host", b"leitwolf")],
        "client": ("0", 0),
        "server": None,
    }
    asyncio.run(application(service, lambda _: caller)(scope, receive, send))  # type: ignore[arg-type]
    headers = dict(sent[0]["headers"])
    return Reply(
        status=sent[0]["status"],
        kind=headers.get(b"content-type", b"").decode(),
        body=b"".join(message.get("body", b"") for message in sent[1:]),
    )
