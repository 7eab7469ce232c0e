"""The API: who may do what, every error as a problem, no input that breaks it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.api_support import FakeService, ask, status_view

from leitwolf.api.app import Caller
from leitwolf.model.commands import Answer, PauseNode, Refusal
from leitwolf.model.errors import Conflict, NoQuorum, RequestTimeout, StorageError
from leitwolf.model.events import Cause
from leitwolf.model.ids import NodeId
from leitwolf.model.views import LogLine

READER = Caller(name="ann", may_read=True, may_change=False)
STRANGER = Caller(name="eve", may_read=False, may_change=False)
PAUSE = msgspec.json.encode(PauseNode(node=NodeId(2), paused=True))
CHANGES = ("command", "init", "join", "token", "rekey", "destroy")
READS = ("status", "networks", "quorum", "why/web", "types", "log", "wait")


def problem(reply: Any, status: int, code: str) -> dict[str, Any]:
    assert (reply.status, reply.json["code"]) == (status, code), reply
    assert reply.kind == "application/problem+json"
    assert reply.json["type"] == f"urn:leitwolf:{code}"
    assert reply.json["status"] == status
    return dict(reply.json)


# --- who may -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CHANGES)
def test_readers_change_nothing(path: str) -> None:
    """A member of the readers' group is told that root may, and nothing happens."""
    service = FakeService()
    reply = ask(service, "POST", f"/v1/{path}", PAUSE, caller=READER)
    assert "root" in problem(reply, 403, "not-permitted")["hint"]
    assert not service.commands
    assert not service.joined
    assert service.view.formed


@pytest.mark.parametrize("path", READS)
def test_strangers_read_nothing(path: str) -> None:
    """Who is neither root nor a reader gets no state at all."""
    reply = ask(FakeService(), "GET", f"/v1/{path}", caller=STRANGER)
    assert "leitwolf" in problem(reply, 403, "not-permitted")["hint"]


def test_readers_read() -> None:
    """A member of the readers' group sees the status."""
    assert ask(FakeService(), "GET", "/v1/status", caller=READER).json["cluster"] == "lab"


# --- commands ------------------------------------------------------------------------------------


def test_command_reaches_the_daemon_with_the_name_of_the_caller() -> None:
    """What was asked, by whom, and the index at which it is done."""
    service = FakeService()
    reply = ask(service, "POST", "/v1/command", PAUSE, parts=3)
    assert (reply.status, reply.json["index"]) == (200, 8)
    assert service.commands == [(PauseNode(node=NodeId(2), paused=True), "root")]


def test_a_command_names_the_entry_since_which_nothing_may_have_changed() -> None:
    """Or none does; what is no index is refused."""
    service = FakeService()
    ask(service, "POST", "/v1/command", PAUSE)
    assert service.since == -1
    ask(service, "POST", "/v1/command", PAUSE, query="unchanged_since=7")
    assert service.since == 7
    reply = ask(service, "POST", "/v1/command", PAUSE, query="unchanged_since=-3")
    assert (reply.status, reply.json["code"]) == (422, "invalid-config")


@pytest.mark.parametrize(
    ("refusal", "status", "exit_code"),
    [
        (Refusal(code="no-quorum", text="no leader", hint="mend", retryable=True), 503, 6),
        (Refusal(code="group-online", text="it is online", hint="take it offline"), 409, 4),
        (Refusal(code="unknown-node", text="no node 9", field="node"), 404, 3),
        (Refusal(code="invalid-name", text="no name", field="name"), 422, 2),
    ],
)
def test_refusals_are_problems(refusal: Refusal, status: int, exit_code: int) -> None:
    """Code, hint and field come through; status and exit code follow from the code."""
    reply = ask(FakeService(answer=Answer(refusal=refusal)), "POST", "/v1/command", PAUSE)
    body = problem(reply, status, refusal.code)
    assert body["exit_code"] == exit_code
    assert body["retryable"] is refusal.retryable
    assert (body["title"], body["hint"], body["field"]) == (
        refusal.text,
        refusal.hint,
        refusal.field,
    )


@pytest.mark.parametrize(
    "error",
    [
        NoQuorum("none"),
        RequestTimeout("late"),
        Conflict("no", code="not-in-a-cluster"),
        StorageError("rotten", code="log-corrupt", hint="leitwolf rejoin TOKEN"),
    ],
)
def test_errors_of_the_daemon_are_problems(error: Any) -> None:
    """Every error of the tree keeps its code, its status and what to do."""
    reply = ask(FakeService(error=error), "POST", "/v1/command", PAUSE)
    body = problem(reply, error.http_status, error.code)
    assert body["hint"] == error.hint
    assert body["exit_code"] == error.exit_code


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v2/status", 404),
        ("POST", "/v1/status", 405),
        ("DELETE", "/v1/command", 405),
        ("GET", "/v1/whys/web", 404),
    ],
)
def test_unknown_routes_are_problems(method: str, path: str, status: int) -> None:
    """A wrong path or method is answered in the same form as everything else."""
    problem(ask(FakeService(), method, path), status, "no-such-route")


def test_oversized_body_is_refused_before_it_is_read() -> None:
    """More than a megabyte is no request; it is not collected first."""
    reply = ask(FakeService(), "POST", "/v1/command", b"[" * (3 << 20), parts=64)
    problem(reply, 422, "body-too-large")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b'{"kind":"PauseNode"}',
        b'{"kind":"PauseNode","node":1,"paused":true,"more":1}',
        b'{"kind":"NoSuchCommand"}',
        b'{"kind":"PauseNode","node":"one","paused":true}',
        b'{"kind":"PauseNode","node":' + b"9" * 100 + b',"paused":true}',
        b'{"kind":"WishGroup","group":"\\ud800","wish":"online"}',
        b'{"kind":"WishGroup","group":"\xff","wish":"online"}',
        b"[" * 100_000,
    ],
)
def test_bodies_that_are_no_commands(body: bytes) -> None:
    """Nothing that is not a command gets further than the API."""
    service = FakeService()
    problem(ask(service, "POST", "/v1/command", body), 422, "invalid-config")
    assert not service.commands


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("log", "after=x"),
        ("log", "after=-1"),
        ("log", "limit=1e9"),
        ("log", "wait_s=nan"),
        ("log", "wait_s=inf"),
        ("wait", "after=1e300"),
    ],
)
def test_numbers_out_of_range_name_themselves(path: str, query: str) -> None:
    """A parameter that is no number or out of range is named."""
    body = problem(ask(FakeService(), "GET", f"/v1/{path}", query=query), 422, "invalid-config")
    assert body["field"] == query.split("=", maxsplit=1)[0]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
KINDS = st.sampled_from(
    ["AddGroup", "AddNode", "EvictNode", "MoveGroup", "PauseNode", "SetNetwork", "TellRecord", ""]
)
FIELDS = st.sampled_from(
    ["group", "node", "paused", "wish", "preferred", "resources", "subnets", "lines", "token"]
)


@settings(max_examples=60, deadline=None)
@given(body=JSON | st.dictionaries(FIELDS, JSON, max_size=5), kind=KINDS)
def test_no_body_breaks_the_api(body: Any, kind: str) -> None:
    """Random JSON is a command that can be passed on, or a problem: never an error of ours."""
    if isinstance(body, dict):
        body = {"kind": kind, **body}
    service = FakeService()
    reply = ask(service, "POST", "/v1/command", msgspec.json.encode(body))
    assert reply.status in (200, 422), reply
    assert bool(service.commands) is (reply.status == 200)


@settings(max_examples=40, deadline=None)
@given(body=st.binary(max_size=200), path=st.sampled_from(["command", "init", "join"]))
def test_no_bytes_break_the_api(body: bytes, path: str) -> None:
    """The same for what is no JSON at all."""
    assert ask(FakeService(), "POST", f"/v1/{path}", body).status in (200, 422)


# --- streams and the rest ------------------------------------------------------------------------


def test_join_tells_progress_then_the_error_as_a_problem() -> None:
    """The stream has begun with 200 when it fails, so its last line says what and why."""
    failed = Conflict("the name is taken", code="name-taken", hint="another name")
    service = FakeService(error=failed)
    reply = ask(service, "POST", "/v1/join", b'{"token":"t","again":true}')
    lines = [msgspec.json.decode(line) for line in reply.body.splitlines()]
    assert lines[0] == {"progress": "calling"}
    assert (lines[1]["code"], lines[1]["exit_code"]) == ("name-taken", 4)
    assert service.joined[0].again


def test_log_is_resumable() -> None:
    """Only lines behind the index that the caller has seen."""
    cause = Cause(code="c", text="t")
    lines = [
        {"index": index, "wall": 0, "by": "x", "code": cause.code, "because": cause.text}
        | {"cause": 0, "events": []}
        for index in (1, 2, 3)
    ]
    service = FakeService()
    service.lines = msgspec.convert(lines, list[LogLine])
    reply = ask(service, "GET", "/v1/log", query="after=1&limit=1")
    assert [line["index"] for line in reply.json] == [2]


def test_reads_answer_without_quorum_and_say_so() -> None:
    """A node alone shows what it knows."""
    view = status_view(quorum=False, fresh=False, leader="")
    reply = ask(FakeService(view=view), "GET", "/v1/status")
    assert (reply.status, reply.json["quorum"]) == (200, False)
