"""The command line against a daemon that is played: text, JSON, exit codes, what to do next."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner, Result
from tests.unit.api_support import (
    STOPPED,
    FakeService,
    group_view,
    log_line,
    node_line,
    resource_view,
    status_view,
)
from tests.unit.test_store_log import IDENTITY, SMALL, entry

from leitwolf.api import serve_unix
from leitwolf.cli.commands import cli
from leitwolf.client import Client
from leitwolf.model.commands import (
    Answer,
    EvictNode,
    ForceQuorum,
    PauseNode,
    Refusal,
    SetVotes,
    TransferLeader,
)
from leitwolf.model.errors import (
    Conflict,
    NotPermitted,
    PeerUnreachable,
    RequestTimeout,
    StorageError,
    UnavailableError,
)
from leitwolf.model.ids import NodeId
from leitwolf.model.log import ForcedRecord
from leitwolf.model.state import State
from leitwolf.model.views import (
    EndView,
    FindingView,
    ForceGroup,
    ForceNode,
    ForceView,
    NetworkView,
    PairView,
    StatusView,
)
from leitwolf.state import encode_backup, take_backup
from leitwolf.store import QuorumLog
from leitwolf.wire.ballot import Ballot

# The server is cut off at the end of a test, with whatever connection it keeps.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@contextlib.contextmanager
def served(service: FakeService, folder: Path) -> Iterator[None]:
    """The real server on a Unix socket, in a thread."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(serve_unix(service, folder / "api.sock"))

    def run() -> None:
        try:
            with contextlib.suppress(asyncio.CancelledError):
                loop.run_until_complete(task)
            loop.run_until_complete(asyncio.sleep(0.01))  # connections that ended are closed
        finally:
            loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    deadline = time.monotonic() + 30
    try:
        while not listens(folder / "api.sock") and time.monotonic() < deadline:
            time.sleep(0.005)
        yield
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(30)


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeService, Path]]:
    service, folder = FakeService(), tmp_path_factory.mktemp("run")
    with served(service, folder):
        yield service, folder


@pytest.fixture
def service(server: tuple[FakeService, Path]) -> FakeService:
    vars(server[0]).update(vars(FakeService()))
    return server[0]


@pytest.fixture
def folder(server: tuple[FakeService, Path], service: FakeService) -> Path:
    assert service is server[0]
    return server[1]


def run(folder: Path, *arguments: str, typed: str | None = None) -> Result:
    return CliRunner().invoke(cli, ["--runtime", str(folder), *arguments], input=typed)


# --- run -----------------------------------------------------------------------------------------


def test_run_becomes_the_keeper_and_keeps_nothing_of_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Guards are forked from the keeper: what commands import would be in every one of them."""
    became: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr("os.execve", lambda *arguments: became.append(arguments))
    done = CliRunner().invoke(cli, ["run", "--runtime", str(tmp_path)])
    assert done.exit_code == 0, done.output
    [(program, argv, environment)] = became
    assert argv == [program, "-m", "leitwolf.keeper.main"]
    assert environment["LEITWOLF_RUNTIME"] == str(tmp_path)


# --- status --------------------------------------------------------------------------------------


def test_status_shows_the_tree_and_ends_with_0(folder: Path) -> None:
    """Leader, nodes and groups on one screen."""
    done = run(folder, "status")
    assert done.exit_code == 0, done.output
    assert "leader n1" in done.output
    assert "n2" in done.output
    assert "web" in done.output


def test_status_without_quorum_ends_with_6(folder: Path, service: FakeService) -> None:
    """It says NO QUORUM, what stopped, when and why, and that all may be old."""
    service.view = status_view(quorum=False, fresh=False, stopped=STOPPED)
    done = run(folder, "status")
    assert done.exit_code == 6
    assert "NO QUORUM" in done.output
    assert "may be old" in done.output
    assert "2023-11-1" in done.output
    assert "run-lease over" in done.output


def test_status_with_a_failed_group_ends_with_10(folder: Path, service: FakeService) -> None:
    """A script notices a failed group by the exit code."""
    (group,) = service.view.groups
    failed = msgspec.structs.replace(group, status="failed")
    service.view = status_view(groups=(failed,))
    assert run(folder, "status").exit_code == 10


@pytest.mark.parametrize(
    ("view", "words"),
    [
        (
            status_view(formed=False, advice="leitwolf init", cluster=""),
            ["not running in a cluster", "leitwolf init"],
        ),
        (
            status_view(
                formed=False,
                fault="state-rolled-back",
                advice="locked out of the cluster [state-rolled-back]\n  -> leitwolf rejoin TOKEN",
            ),
            ["takes no part", "state-rolled-back", "leitwolf rejoin TOKEN"],
        ),
    ],
)
def test_status_of_a_node_outside(
    folder: Path, service: FakeService, view: StatusView, words: list[str]
) -> None:
    """In no cluster, or shut out of it: why, and the way in."""
    service.view = view
    done = run(folder, "status")
    assert done.exit_code == 6
    for word in words:
        assert word in done.output


def test_json_is_one_value_on_stdout(folder: Path) -> None:
    """With --json stdout holds one object and nothing else."""
    done = run(folder, "status", "--json")
    assert json.loads(done.stdout)["cluster"] == "lab"
    assert not done.stderr


# --- errors --------------------------------------------------------------------------------------


def test_no_daemon_ends_with_7_and_says_how_to_start_it(tmp_path: Path) -> None:
    """Nobody listens: the path, the reason, the command."""
    done = run(tmp_path, "status")
    assert done.exit_code == 7
    assert "api.sock" in done.stderr
    assert "systemctl start leitwolf" in done.stderr


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (Conflict("no", code="still-a-member", hint="leitwolf leave"), 4),
        (NotPermitted("no", hint="ask as root"), 5),
        (StorageError("rotten", code="log-corrupt", hint="leitwolf rejoin TOKEN"), 8),
    ],
)
def test_errors_show_code_hint_and_exit_code(
    folder: Path, service: FakeService, error: StorageError, exit_code: int
) -> None:
    """As text on stderr, as one JSON object on stdout, with the same exit code."""
    service.error = error
    done = run(folder, "destroy", "--yes")
    assert done.exit_code == exit_code
    assert f"[{error.code}]" in done.stderr
    assert error.hint in done.stderr
    done = run(folder, "destroy", "--yes", "--json")
    assert done.exit_code == exit_code
    assert json.loads(done.stdout)["code"] == error.code


def test_refusal_of_a_minority_ends_with_6(folder: Path, service: FakeService) -> None:
    """A command without quorum is refused with what to do."""
    service.answer = Answer(
        refusal=Refusal(code="no-quorum", text="no leader", hint="mend it", retryable=True)
    )
    done = run(folder, "node", "pause", "n2", "--no-wait")
    assert done.exit_code == 6
    assert "no-quorum" in done.stderr
    assert "mend it" in done.stderr


def test_unknown_node_lists_the_nodes(folder: Path) -> None:
    """A typing error needs no second command to be mended."""
    done = run(folder, "node", "evict", "n9")
    assert done.exit_code == 3
    assert "n1, n2, n3" in done.stderr


# --- commands about groups -----------------------------------------------------------------------


def test_nobody_waits_for_an_empty_group(folder: Path, service: FakeService) -> None:
    """With nothing in it, it never comes online."""
    service.answer = Answer(index=1)
    (group,) = service.view.groups
    service.view = status_view(groups=(msgspec.structs.replace(group, status="offline"),))
    done = run(folder, "group", "online", "web", "--timeout", "0.1")
    assert done.exit_code == 0, done.output
    assert "first resource" in done.stdout
    done = run(folder, "group", "move", "web", "n2", "--timeout", "0.1")
    assert done.exit_code == 0, done.output
    assert "empty on n2" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--run", ""), "run is empty"),
        (("--user", "www-data"), "--user without --run"),
        (("--check-http", "http://127.0.0.1/"), "--check-http without --run"),
    ],
)
def test_nothing_of_a_new_group_is_left_out_silently(
    folder: Path, service: FakeService, words: tuple[str, ...], said: str
) -> None:
    """Whoever gave a check believes that it checks."""
    done = run(folder, "group", "add", "web2", *words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert not service.commands


@pytest.mark.parametrize("words", [("set",), ("group", "set", "web"), ("resource", "set", "x")])
def test_a_change_of_nothing_is_refused(
    folder: Path, service: FakeService, words: tuple[str, ...]
) -> None:
    """It is not told as done."""
    done = run(folder, *words)
    assert done.exit_code == 2
    assert "nothing to change" in done.stderr
    assert not service.commands


def test_networks_of_no_cluster_are_no_empty_list(folder: Path, service: FakeService) -> None:
    """A node that was removed says so."""
    service.view = status_view(formed=False, networks=())
    done = run(folder, "network", "list", "--json")
    assert done.exit_code == 4
    assert json.loads(done.stdout)["code"] == "not-in-a-cluster"


def test_networks_are_listed_with_each_link(folder: Path, service: FakeService) -> None:
    """Also with those that work, of which the status says nothing; as text and for programs."""
    ends = (EndView(node="n2", hears=True), EndView(node="n3", unknown="n3 is not heard"))
    pair = PairView(
        nodes=("n2", "n3"), state="unknown", reason="not all is known", since_wall=0, ends=ends
    )
    lan = NetworkView(
        name="lan",
        subnets=("10.0.0.0/24",),
        role="interconnect",
        up=True,
        reason="x",
        pairs=(pair,),
    )
    service.every_link = (lan,)
    text = run(folder, "network", "list").stdout
    assert text == "up    lan  10.0.0.0/24  interconnect  x\n      ? not all is known\n"
    [found] = json.loads(run(folder, "network", "list", "--json").stdout)
    assert [end["hears"] for end in found["pairs"][0]["ends"]] == [True, None]


def test_a_new_network_needs_its_subnets(folder: Path, service: FakeService) -> None:
    """The option that is missing is named."""
    done = run(folder, "network", "set", "storage", "--role", "interconnect")
    assert done.exit_code == 2
    assert "--subnet" in done.stderr
    assert not service.commands


# --- commands about nodes ------------------------------------------------------------------------


def test_node_commands_send_what_they_say(folder: Path, service: FakeService) -> None:
    """Names become numbers; the commands are those of the model."""
    for arguments, command in (
        (("pause", "n3", "--no-wait"), PauseNode(node=NodeId(3), paused=True)),
        (("resume", "n3"), PauseNode(node=NodeId(3), paused=False, drain=False)),
        (("evict", "3", "--no-wait"), EvictNode(node=NodeId(3))),
        (("lead", "n1"), TransferLeader(node=NodeId(1))),
    ):
        done = run(folder, "node", *arguments)
        assert done.exit_code == 0, done.output
        assert service.commands[-1][0] == command


def test_an_office_that_another_node_took_is_told(folder: Path, service: FakeService) -> None:
    """The one that was named was slower; an entry that the former leader wrote tells nothing."""
    service.answer = Answer(index=service.view.index - 1)
    done = run(folder, "node", "lead", "n2")
    assert (done.exit_code, "another-leads" in done.stderr) == (4, True)
    assert "n1 was quicker" in done.stderr
    assert service.commands[-1][0] == TransferLeader(node=NodeId(2))
    assert "handed over to n1" in run(folder, "node", "lead").stdout


def test_votes_that_are_being_changed_are_waited_for(folder: Path, service: FakeService) -> None:
    """They follow who is there, by nobody's order; other refusals are told at once."""
    text = "another change of the quorum is under way"
    service.refusals = [UnavailableError(text, code="quorum-changing") for _ in range(2)]
    done = run(folder, "quorum", "set", "nodes", "--no-wait")
    assert done.exit_code == 0, done.output
    assert done.stderr.count("waiting for its end") == 1
    assert len(service.commands) == 1
    service.refusals = [UnavailableError("too few", code="not-ready")]
    assert run(folder, "quorum", "set", "nodes").exit_code == 6
    assert len(service.commands) == 1


@pytest.mark.parametrize("named", ["n3", "3"])
def test_a_node_is_replaced_under_its_name(folder: Path, service: FakeService, named: str) -> None:
    """However it was named here: its number is no name, and nobody would be replaced."""
    service.view = status_view(nodes=(node_line(1), node_line(3, up=False)))
    done = run(folder, "node", "replace", named, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["command"].endswith(" --replace --node-name n3")
    service.view = status_view()
    assert "[node-alive]" in run(folder, "node", "replace", named).stderr


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (("votes", "--dynamic"), SetVotes(dynamic=True)),
        (("votes", "--strict", "--prefer-none"), SetVotes(dynamic=False, prefer=NodeId(0))),
        (("votes", "--prefer", "n2"), SetVotes(prefer=NodeId(2))),
        (("weight", "n3", "0"), SetVotes(weights={NodeId(3): 0})),
        (("weight", "n3", "1"), SetVotes(weights={NodeId(3): 1})),
    ],
)
def test_commands_about_votes_send_what_they_say(
    folder: Path, service: FakeService, arguments: tuple[str, ...], command: SetVotes
) -> None:
    """What is not named is left as it is."""
    done = run(folder, "quorum", *arguments, "--no-wait")
    assert done.exit_code == 0, done.output
    assert service.commands[-1][0] == command


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("votes",), 2, "nothing to change"),
        (("votes", "--prefer", "n9"), 3, "n1, n2, n3"),
        (("votes", "--prefer", "n2", "--prefer-none"), 2, "exclude each other"),
        (("weight", "n3", "2"), 2, "0<=x<=1"),
    ],
)
def test_what_is_no_command_about_votes_is_refused(
    folder: Path, service: FakeService, arguments: tuple[str, ...], code: int, said: str
) -> None:
    """Nothing is sent, and it is said what is wrong."""
    done = run(folder, "quorum", *arguments)
    assert done.exit_code == code
    assert said in done.stderr
    assert not service.commands


@pytest.mark.parametrize("name", ["n2", "2"])
def test_pause_waits_until_the_groups_are_gone(
    folder: Path, service: FakeService, name: str
) -> None:
    """Whether the node was given by its name or by its number."""
    service.view = status_view(groups=(group_view(resource_view("web-ip")),))
    done = run(folder, "node", "pause", name, "--timeout", "0.1")
    assert done.exit_code == 6
    assert "web still on n2" in done.stderr


def test_if_index_goes_with_every_change(folder: Path, service: FakeService) -> None:
    """Nobody else may have changed anything since; what this invocation changed itself counts."""
    arguments = ("node", "pause", "n3", "--no-wait")
    assert run(folder, *arguments).exit_code == 0
    assert service.since == -1
    assert run(folder, "--if-index", "7", *arguments).exit_code == 0
    assert service.since == 7
    refusal = Refusal(code="changed-meanwhile", text="entry 9 changed", hint="read again")
    service.answer = Answer(refusal=refusal)
    done = run(folder, "--if-index", "7", *arguments)
    assert (done.exit_code, "changed-meanwhile" in done.stderr) == (4, True)
    assert run(folder, "--if-index", "-1", *arguments).exit_code == 2


@pytest.mark.parametrize("words", [("destroy", "--yes"), ("rekey",), ("token",), ("give-up",)])
def test_an_index_that_nobody_would_check_is_refused(
    folder: Path, service: FakeService, words: tuple[str, ...]
) -> None:
    """Who gives one counts on it."""
    done = run(folder, "--if-index", "7", *words)
    assert (done.exit_code, "[index-not-checked]" in done.stderr) == (2, True)
    assert service.view.formed
    assert not service.asked
    assert run(folder, "--if-index", "7", "status").exit_code == 0


def test_a_client_that_changed_something_itself_goes_on(folder: Path, service: FakeService) -> None:
    """The second of two commands counts on what the first one did."""
    client = Client(folder, unchanged_since=7)
    assert client.command(PauseNode(node=NodeId(3), paused=True)).index == 8
    client.command(PauseNode(node=NodeId(3), paused=False))
    assert service.since == 8


def test_evict_waits_until_the_node_is_gone(folder: Path, service: FakeService) -> None:
    """It does not say that it is done before it is."""
    service.answer = Answer(index=1)
    done = run(folder, "node", "evict", "n3", "--timeout", "0.2")
    assert done.exit_code == 6
    assert "not removed after" in done.stderr
    service.view = status_view(nodes=(node_line(1), node_line(2)))
    assert run(folder, "node", "evict", "n2", "--no-wait").exit_code == 0


def test_leave_of_the_last_node_says_destroy(folder: Path, service: FakeService) -> None:
    """One node is no cluster that could be left."""
    service.view = status_view(nodes=(node_line(1),))
    done = run(folder, "leave")
    assert done.exit_code == 4
    assert "leitwolf destroy" in done.stderr


def test_rejoin_sets_the_unusable_state_aside(folder: Path, service: FakeService) -> None:
    """`rejoin` is a join that says that the state here may go; `join` does not."""
    assert run(folder, "rejoin", "leitwolf1-x").exit_code == 0
    assert run(folder, "join", "leitwolf1-x").exit_code == 0
    assert [request.again for request in service.joined] == [True, False]


def test_join_tells_progress_on_stderr(folder: Path) -> None:
    """Progress does not mix with the outcome."""
    done = run(folder, "join", "leitwolf1-x")
    assert done.stderr.strip() == "calling"
    assert "node 1 of cluster lab" in done.stdout


@pytest.mark.parametrize(
    ("head", "words", "said"),
    [
        (b"Content-Length: 99", ("status",), "no daemon answers"),
        (b"Transfer-Encoding: chunked", ("join", "leitwolf1-x"), "before it could tell"),
    ],
)
def test_a_daemon_that_ends_in_the_middle_of_an_answer(
    tmp_path: Path, head: bytes, words: tuple[str, ...], said: str
) -> None:
    """It is an error with a code, never a success without an outcome."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "api.sock"))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                line = b'{"progress":"calling"}\n'
                body = b"%x\r\n%b\r\n" % (len(line), line) if b"chunked" in head else line
                connection.sendall(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + body)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):  # unread, it would reset the connection
                    pass

        thread = threading.Thread(target=answer)
        thread.start()
        done = run(tmp_path, *words)
        thread.join(30)
    assert done.exit_code == 7, done.output
    assert said in done.stderr
    assert "[unreachable]" in done.stderr


def test_destroy_asks_first(folder: Path, service: FakeService) -> None:
    """Without an answer nothing is destroyed."""
    for answer in (None, "n\n"):
        done = run(folder, "destroy", typed=answer)
        assert done.exit_code == 2
        assert "[not-confirmed]" in done.stderr
        assert "leitwolf destroy --yes" in done.stderr
        assert done.stdout == ""
    assert service.view.formed
    assert run(folder, "destroy", typed="y\n").exit_code == 0
    assert not service.view.formed


def test_destroy_with_json_asks_nobody(folder: Path, service: FakeService) -> None:
    """It answers one JSON object, whatever stands on its input."""
    done = run(folder, "destroy", "--json", typed="y\n")
    assert done.exit_code == 2
    assert json.loads(done.stdout)["code"] == "not-confirmed"
    assert service.view.formed


# --- forced quorum -------------------------------------------------------------------------------


def plan(**changes: object) -> Answer:
    """What a node says about a force."""
    line = ForceNode(node="n1", here=True, named=True, answers=True, heard_ms=0, index=8)
    lost = ForceNode(node="n2", here=False, named=False, answers=False, heard_ms=9_000, index=-1)
    view = ForceView(
        nodes=(line, lost),
        index=8,
        known=9,
        known_at="n2",
        loss="entry 9, which n2 holds",
        groups=(ForceGroup(group="web", node="n1"),),
        wait_ms=4_000,
        **changes,  # type: ignore[arg-type]
    )
    return Answer(index=12, data={"plan": msgspec.json.encode(view).decode()})


def test_force_shows_what_would_be_lost_and_asks(folder: Path, service: FakeService) -> None:
    """Without an answer nothing is forced; the answer, or the option, does it for those shown."""
    service.view, service.answer = status_view(), plan()
    for typed in (None, "n\n"):
        done = run(folder, "force", typed=typed)
        assert done.exit_code == 2
        assert "entry 9, which n2 holds" in done.stderr
        assert "web on n1" in done.stderr
        assert "last heard 9.0 s ago" in done.stderr
        assert "[not-confirmed]" in done.stderr
    assert not any(command.others_down for command, _ in service.commands)  # type: ignore[union-attr]
    for arguments, typed in ((("force",), "y\n"), (("force", "--confirm-others-down"), None)):
        service.commands.clear()
        assert run(folder, *arguments, typed=typed).exit_code == 0
        assert service.commands[-1][0] == ForceQuorum(nodes=(NodeId(1),), others_down=True)


def test_force_that_would_be_refused_asks_nobody(folder: Path, service: FakeService) -> None:
    """The code of the refusal is the command's."""
    service.view = status_view()
    service.answer = plan(code="others-heard", text="n3 can be heard", hint="switch it off")
    done = run(folder, "force", "--confirm-others-down")
    assert done.exit_code != 0
    assert "n3 can be heard [others-heard]" in done.stderr
    shown = run(folder, "force", "--show", "--json")
    assert shown.exit_code == 0
    assert json.loads(shown.stdout)["code"] == "others-heard"


def test_give_up_and_prevent_say_who_asked(folder: Path, service: FakeService) -> None:
    """Giving up asks first when a half is heard; preventing asks nobody."""
    service.view = status_view(
        findings=(FindingView(code="two-forced-halves", text="TWO FORCED HALVES", fix="decide"),)
    )
    assert run(folder, "give-up", typed="n\n").exit_code == 2
    assert not service.asked
    assert run(folder, "give-up", "--yes").exit_code == 0
    assert run(folder, "node", "prevent").exit_code == 0
    assert run(folder, "node", "prevent", "--end").exit_code == 0
    assert [line.split(" by")[0] for line in service.asked] == [
        "give-up",
        "prevent=True",
        "prevent=False",
    ]


# --- wrong calls ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("stauts", "--json"), "status"),
        (("token", "--lifetime", "1h", "--json"), "1h"),
        (("group", "move", "--json"), "NAME"),
        (("group", "online", "web", "--timeout", "-1", "--json"), "-1"),
    ],
)
def test_a_wrong_call_with_json_is_answered_in_json(
    folder: Path, words: tuple[str, ...], said: str
) -> None:
    """A program reads what is wrong where it reads everything else."""
    done = run(folder, *words)
    assert done.exit_code == 2
    answer = json.loads(done.stdout)
    assert answer["code"] == "usage"
    assert said in answer["error"]
    assert answer["hint"].endswith("--help")


def test_a_wrong_call_of_a_person_is_answered_in_text(folder: Path) -> None:
    """On stderr, with the usage."""
    done = run(folder, "token", "--lifetime", "1h")
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "not a valid integer" in done.stderr


@pytest.mark.parametrize("name", ["", "a/b", "ä ö/../x", "100%"])
def test_any_text_may_be_the_name_of_a_group_that_is_not_there(folder: Path, name: str) -> None:
    """It is looked up as a name, not as a part of the API."""
    done = run(folder, "why", "--", name)
    assert done.exit_code == 3
    assert f"there is no group {name!r}" in done.stderr


def test_a_user_who_may_not_open_the_socket_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starting the daemon would not help."""

    def refuse(_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("leitwolf.client.client._UnixConnection.connect", refuse)
    done = run(tmp_path, "status")
    assert done.exit_code == 5
    assert "group leitwolf" in done.stderr


def test_a_daemon_that_hangs_does_not_hold_a_read_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one who waits is told where to look."""
    monkeypatch.setattr("leitwolf.client.client._READ_TIMEOUT_S", 0.1)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "api.sock"))
        listener.listen()
        with pytest.raises(RequestTimeout) as caught:
            Client(tmp_path).status()
    assert "journalctl" in caught.value.hint


# --- a daemon that dies while somebody waits ------------------------------------------------------


def unreachable(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Have the daemon answer so many times only that it is not there, once it took a command."""
    real, left = Client.status, iter(range(times))

    def status(client: Client) -> StatusView:
        if next(left, None) is not None:
            raise PeerUnreachable("no daemon answers at api.sock", hint="see whether it runs")
        return real(client)

    monkeypatch.setattr(Client, "status", status)


def test_a_daemon_that_starts_again_is_waited_for(
    folder: Path, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was asked goes on without it, and so does who waits for that."""
    online = group_view(resource_view("web-ip"))
    service.answer = Answer(index=9)
    service.later = [status_view(index=9, groups=(online,))]
    unreachable(monkeypatch, 2)
    done = run(folder, "group", "online", "web")
    assert done.exit_code == 0, done.stderr
    assert done.stderr.count("no daemon answers at api.sock") == 1
    assert "group web is online" in done.stdout


def test_a_daemon_that_stays_away_leaves_word_of_what_goes_on(
    folder: Path, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command was taken: it is not to be repeated blindly."""
    service.answer = Answer(index=99)
    unreachable(monkeypatch, 1_000)
    done = run(folder, "group", "online", "web", "--timeout", "0.3")
    assert done.exit_code == 7
    assert "it goes on without you; ask: leitwolf why web; see whether it runs" in done.stderr


# --- Ctrl-C --------------------------------------------------------------------------------------


def press_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "wait_beyond", pressed)


def test_ctrl_c_ends_the_waiting_and_says_what_goes_on(
    folder: Path, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one who gave up knows that the group moves all the same."""
    service.answer = Answer(index=99)
    press_ctrl_c(monkeypatch)
    done = run(folder, "group", "move", "web")
    assert done.exit_code == 130
    assert "leitwolf why web" in done.stderr
    done = run(folder, "group", "move", "web", "--json")
    assert (done.exit_code, json.loads(done.stdout)["code"]) == (130, "interrupted")


def test_ctrl_c_is_how_one_leaves_what_goes_on_until_then(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is wrong, and nothing is said."""
    press_ctrl_c(monkeypatch)
    done = run(folder, "status", "--watch")
    assert done.exit_code == 130
    assert done.stderr == ""


# --- completion ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("group move w", ["web"]),
        ("group move web ", ["n1", "n2", "n3"]),
        ("node pause n2", ["n2"]),
        ("why x", []),
        ("group add w", []),
        ("group set web --prefer n", ["n1", "n2", "n3"]),
    ],
)
def test_shells_complete_names_that_the_daemon_knows(
    folder: Path, typed: str, names: list[str]
) -> None:
    """Nobody has to remember or copy them."""
    assert completed(folder, typed) == names


def test_completion_without_a_daemon_is_silent(tmp_path: Path) -> None:
    """A shell is no place for errors."""
    assert completed(tmp_path, "why ") == []


def completed(folder: Path, typed: str) -> list[str]:
    environment = {
        "_LEITWOLF_COMPLETE": "bash_complete",
        "COMP_WORDS": f"leitwolf --runtime {folder} {typed}",
        "COMP_CWORD": str(len(typed.split(" ")) + 2),
    }
    done = CliRunner().invoke(cli, [], prog_name="leitwolf", env=environment)
    return [line.removeprefix("plain,") for line in done.stdout.splitlines() if line]


# --- following -----------------------------------------------------------------------------------


def test_log_after_an_index(folder: Path, service: FakeService) -> None:
    """The timeline goes on where the reader was."""
    service.lines = [log_line(i) for i in (1, 2)]
    done = run(folder, "log", "--after", "1")
    assert "e2" in done.output
    assert "e1" not in done.output


@pytest.mark.parametrize("words", [("why", "web"), ("log",), ("network", "list")])
def test_reads_without_quorum_say_that_they_may_be_old(
    folder: Path, service: FakeService, words: tuple[str, ...]
) -> None:
    """They answer all the same; the warning stands beside, not in, what they print."""
    for more in ((), ("--json",)):
        assert "may be old" not in run(folder, *words, *more).stderr
    service.view = status_view(quorum=False, fresh=False)
    for more in ((), ("--json",)):
        done = run(folder, *words, *more)
        assert done.exit_code == 0, done.output
        assert "may be old" in done.stderr
        assert "may be old" not in done.stdout


def test_log_without_an_index_shows_the_newest(folder: Path, service: FakeService) -> None:
    """Who looks at night wants to know what has just happened."""
    service.view = status_view(index=9)
    service.lines = [log_line(i) for i in range(1, 10)]
    done = run(folder, "log", "--limit", "2")
    assert done.exit_code == 0, done.output
    assert [line.split()[0] for line in done.output.splitlines()] == ["8", "9"]


def test_every_command_has_help_and_json() -> None:
    """Each leaf of the command line says what it does, and each but `run` can speak JSON."""

    def leaves(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
        for name, command in group.commands.items():
            if isinstance(command, click.Group):
                yield from leaves(command, f"{path} {name}")
            else:
                yield f"{path} {name}", command

    assert isinstance(cli, click.Group)
    for path, command in leaves(cli, "leitwolf"):
        assert command.help, path
        options = {option for item in command.params for option in item.opts}
        assert "--json" in options or path == "leitwolf run", path


# --- backup and restore --------------------------------------------------------------------------


def saved() -> bytes:
    state = State(uuid="u", name="lab", index=7)
    made = take_backup(state, product="0", node="n1", fresh=False, wall=0, ballot=Ballot(0, 1, 1))
    return encode_backup(made)


def test_a_backup_is_written_once_for_its_owner_alone(
    folder: Path, service: FakeService, tmp_path: Path
) -> None:
    """The file is 0600, never overwritten, and says when it may be old."""
    service.saved = saved()
    file = tmp_path / "lab.backup"
    done = run(folder, "backup", str(file))
    assert done.exit_code == 0, done.output
    assert "changes may be missing" in done.output
    assert file.read_bytes() == service.saved
    assert file.stat().st_mode & 0o777 == 0o600
    done = run(folder, "backup", str(file), "--json")
    assert done.exit_code == 4
    assert json.loads(done.output)["code"] == "file-exists"
    assert [path.name for path in tmp_path.iterdir()] == ["lab.backup"]


def test_a_folder_that_takes_no_file_is_told_as_it_is(
    folder: Path, service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That nothing was begun there is no second error in the place of the first."""
    service.saved = saved()
    opened = os.open

    def refuse(path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        if str(path).endswith(".new"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, flags, mode, **more)

    monkeypatch.setattr(os, "open", refuse)
    done = run(folder, "backup", str(tmp_path / "lab.backup"))
    assert "cannot be written: Permission denied [file-io]" in done.stderr


def test_a_backup_is_verified_without_a_daemon(tmp_path: Path) -> None:
    """A whole one is described; a truncated one is refused with its code."""
    file = tmp_path / "lab.backup"
    file.write_bytes(saved())
    done = run(tmp_path, "backup", str(file), "--verify", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["index"] == 7
    file.write_bytes(saved()[:-3])
    done = run(tmp_path, "backup", str(file), "--verify")
    assert done.exit_code == 2
    assert "backup-truncated" in done.output
    assert "no-such-file" in run(tmp_path, "backup", "nowhere", "--verify").output


def test_restore_asks_before_it_replaces(
    folder: Path, service: FakeService, tmp_path: Path
) -> None:
    """A file that is no backup never reaches the daemon; replacing wants a yes."""
    file = tmp_path / "lab.backup"
    file.write_bytes(b"no backup")
    assert "backup-foreign" in run(folder, "restore", str(file)).output
    file.write_bytes(saved())
    assert "not-confirmed" in run(folder, "restore", str(file), "--replace", "--json").output
    assert run(folder, "restore", str(file), "--replace", typed="n\n").exit_code == 2
    assert service.restored == []
    done = run(folder, "restore", str(file), "--replace", "--yes", "--node-name", "n9")
    assert done.exit_code == 0, done.output
    assert run(folder, "restore", str(file)).exit_code == 0
    assert service.restored == [(saved(), "n9", True), (saved(), "", False)]


def test_a_log_dump_marks_what_is_bad(tmp_path: Path) -> None:
    """Exit code 1 and a mark for damage, 0 without; a folder that holds no log is refused."""
    log = QuorumLog.create(tmp_path / "quorum", IDENTITY, sizes=SMALL)
    for index in range(1, 5):
        log.write([entry(index)])
        log.sync()
    forced = Ballot(9, 0, 0)
    log.write([ForcedRecord(ballot=forced, lineage=(7,) * 9)])
    log.sync()
    log.close()
    arguments = ("quorum", "log", "dump", "--state", str(tmp_path))
    done = run(tmp_path, *arguments, "--after", "2", "--until", "3")
    assert done.exit_code == 0, done.output
    assert done.output.count("entry") == 1
    assert f"forced    {forced}" in run(tmp_path, *arguments).output
    path = tmp_path / "quorum" / "quolog.0000000001"
    data = bytearray(path.read_bytes())
    data[8192 + 30] ^= 1
    path.write_bytes(data)
    (tmp_path / "quorum" / "identity.json").unlink()
    done = run(tmp_path, *arguments)
    assert done.exit_code == 1
    assert "! unreadable" in done.output
    assert "! quorum log of node 3" in done.output
    done = run(tmp_path, *arguments, "--json")
    assert [line["what"] for line in json.loads(done.output) if "bad" in line]
    assert path.read_bytes() == data
    done = run(tmp_path, "quorum", "log", "dump", "--state", str(tmp_path / "nothing"))
    assert "no-log" in done.output
