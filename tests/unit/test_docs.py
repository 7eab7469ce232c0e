"""The pages say what the program does: reference, commands, links."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from docs.generate import FOLDER, PAGES, ROUTES, api
from msgspec.structs import replace

from leitwolf.cli import render
from leitwolf.cli.commands import cli
from leitwolf.core.membership.votes import wanted_acceptors
from leitwolf.core.policy import survives
from leitwolf.daemon.views import advice
from leitwolf.model import limits, views
from leitwolf.model.ids import NodeId
from leitwolf.model.quorum import QuorumConfig
from leitwolf.model.state import State
from leitwolf.sim.forming import formed_log
from leitwolf.state import fold

ROOT = Path(__file__).parents[2]
GUIDES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    if "reference" not in path.parts and ".venv" not in path.parts
)


@pytest.mark.parametrize("name", PAGES)
def test_the_reference_is_up_to_date(name: str) -> None:
    """The committed page is what ./run docs would write."""
    assert (FOLDER / name).read_text() == PAGES[name](), "run: ./run docs"


def test_no_page_of_the_reference_is_left_over() -> None:
    """Every page of the reference is generated."""
    assert {path.name for path in FOLDER.iterdir()} == set(PAGES)


def test_every_route_is_described() -> None:
    """The page of the API has a line with a text for every route, and none for others."""
    found = re.findall(r"^\| `(?:GET|POST) (\S+)` \| (.*?) \|", api(), re.MULTILINE)
    assert {path for path, text in found if text} == {path for path, _ in found} == set(ROUTES)


def test_every_limit_has_its_reason() -> None:
    """No limit stands in the reference without a reason."""
    text = (FOLDER / "limits.md").read_text()
    for name in limits.__all__:
        assert re.search(rf"^\| `{name}` \| [\d,]+ \| \S.* \|$", text, re.MULTILINE), name


def fenced(path: Path) -> Iterator[str]:
    """Yield the commands in a page: lines of sh blocks and short code in the text."""
    text = path.read_text()
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from (line.split("  #")[0].strip() for line in block.splitlines())
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"`([^`\n]+)`", prose)


def commands(start: str) -> list[object]:
    found = []
    for path in GUIDES:
        for shown in fenced(path):
            line = shown.removeprefix("sudo ")
            if line.startswith(start):
                found.append(pytest.param(line, id=f"{path.stem}: {line}"))
    return found


@pytest.mark.parametrize("line", commands("leitwolf "))
def test_commands_in_pages_exist(line: str) -> None:
    """Every command, option and number of arguments that a page shows is accepted."""
    words = shlex.split(line)[1:]
    command: click.Command = cli
    before = {option for param in cli.params for option in param.opts if not param.is_flag}  # type: ignore[attr-defined]
    while words[:1] and words[0] in before - {"--version"}:
        del words[:2]
    path = "leitwolf"
    context = click.Context(cli, info_name=path)
    while words and isinstance(command, click.Group) and not words[0].startswith("-"):
        name = words.pop(0)
        names = name.split("|")
        found = [command.get_command(context, item) for item in names]
        assert all(found), f"{path} has no {name}"
        assert found[0] is not None
        command, path = found[0], f"{path} {names[0]}"
    if words in (["--version"], ["--help"]):
        return
    if isinstance(command, click.Group):
        assert not words, f"{path} takes no {words}"
        return
    options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
    for word in words:
        if word.startswith("--"):
            assert word.partition("=")[0] in options, f"{path} has no {word}"
    if words and not any("|" in word for word in words) and words[-1] != "--help":
        command.make_context(path, words, parent=context, resilient_parsing=False)


@pytest.mark.parametrize("line", commands("./run"))
def test_verbs_in_pages_exist(line: str) -> None:
    """./run knows every verb that a page shows."""
    words = line.split()
    usage = subprocess.run([ROOT / "run"], capture_output=True, text=True, check=True).stdout
    if len(words) > 1:
        lines = [text for text in usage.splitlines() if text.split()[1] == words[1]]
        assert lines, f"./run has no verb {words[1]}"
        for option in words[2:]:
            assert option in lines[0], f"./run {words[1]} has no {option}"


def anchors(path: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    """Every relative link names a file of the repository, and a heading in it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), f"{target} leads nowhere"
        if anchor:
            assert anchor in anchors(file), f"{name} has no heading {anchor}"


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_has_one_title(path: Path) -> None:
    """A page begins with its title and has no other."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert text.startswith("# ")
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1


def test_every_guide_is_linked_from_the_readme() -> None:
    """Whoever starts at the README finds every page."""
    readme = (ROOT / "README.md").read_text()
    for path in ROOT.glob("docs/*.md"):
        assert f"docs/{path.name}" in readme, f"{path.name} is not linked"


def test_the_command_answers_as_the_readme_shows() -> None:
    """The program starts from a checkout, and a command without a daemon says what to do."""
    environment = {"PYTHONPATH": str(ROOT / "src"), "LEITWOLF_RUNTIME": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-m", "leitwolf.cli", "status"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 7
    assert "[unreachable]" in done.stderr
    assert "->" in done.stderr


def two_of_three() -> State:
    """Return a cluster of three nodes of which the third was lost."""
    log = formed_log(nodes=3, groups=1, links=1, profile="default", dynamic=True)
    state = fold(State(), log.entries[0])
    assert state.quorum is not None
    nodes = [acceptor.id for acceptor in state.quorum.acceptors]
    acceptors = wanted_acceptors(state.wish, nodes, {NodeId(3)}, NodeId(1))
    up = {node.id: replace(node, up=node.id != NodeId(3)) for node in state.nodes.values()}
    return replace(state, nodes=up, quorum=QuorumConfig(acceptors=acceptors))


def example() -> views.StatusView:
    def node(number: int, *, up: bool = True) -> views.NodeLine:
        link = views.LinkView(network="interconnect", up=up, round_trip_ms=0.6 if up else 0)
        return views.NodeLine(
            id=NodeId(number),
            name=f"n{number}",
            standing="member",
            up=up,
            paused=False,
            leader=number == 1,
            here=number == 1,
            connected=up,
            reason="" if up else "holds no lease: nothing runs there",
            links=() if number == 1 else (link,),
        )

    def resource(name: str, kind: str, **parameters: str) -> views.ResourceView:
        return views.ResourceView(
            id=name,
            type=kind,
            state="online",
            wish="online",
            reason="",
            code="",
            parameters=parameters,
            depends=(),
            changed=0,
        )

    group = views.GroupView(
        id="web",
        status="online",
        wish="online",
        phase="active",
        owner="n1",
        reason="web is to be online and n1 can take it",
        generation=1,
        preferred=(),
        resources=(
            resource("web-app", "process", command='/usr/sbin/nginx -g "daemon off;"'),
            resource("web-ip", "ip_address", address="192.0.2.10/24"),
        ),
        changed=0,
    )

    def network(name: str, subnet: str, role: str, reason: str) -> views.NetworkView:
        return views.NetworkView(name=name, subnets=(subnet,), role=role, up=True, reason=reason)

    state = two_of_three()
    return views.StatusView(
        formed=True,
        cluster="office",
        uuid="",
        node="n1",
        profile="default",
        leader="n1",
        quorum=True,
        fresh=True,
        index=23,
        survives=survives(state).text,
        advice=advice(state),
        proof=views.ProofView(address=True, process=True, data=False),
        nodes=(node(1), node(2), node(3, up=False)),
        networks=(
            network("client", "192.0.2.0/24", "client", "192.0.2.1 on eth0"),
            network("interconnect", "10.0.0.0/24", "interconnect", "10.0.0.1 on eth1"),
        ),
        groups=(group,),
    )


def test_the_status_in_the_readme_is_what_the_program_prints() -> None:
    """The example is the output for such a cluster, sign by sign."""
    shown = re.search(
        r"^```\n(office .*?)\n```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert shown is not None
    assert shown[1] == render.status(example())
