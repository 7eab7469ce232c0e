"""Transcripts of the quorum core: commands, and every message that follows from them.

A file in ``quorum/`` holds blocks: command lines, a line of dashes, and what happened. With
``LEITWOLF_REWRITE=1`` in the environment the files are written anew; review them as a diff.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.quorum_world import MS, World, acceptors, configuration, describe

from leitwolf.model.quorum import QuorumConfig

FILES = sorted((Path(__file__).parent / "quorum").glob("*.txt"))
RULE = "----"


def nodes(word: str) -> tuple[int, ...]:
    return tuple(int(node) for node in word.split(",") if node)


class Player:
    """Executes the commands of one transcript."""

    def __init__(self) -> None:
        self.world: World | None = None

    def play(self, line: str) -> list[str]:
        """Execute one command and return what happened."""
        name, *words = line.split()
        options = dict(word.split("=", 1) for word in words if "=" in word)
        words = [word for word in words if "=" not in word]
        if name == "world":
            voters = nodes(options["voters"])
            learners = nodes(options.get("learners", ""))
            self.world = World(configuration(*voters, learners=learners), voters + learners)
            self.world.trace = []
            return []
        world = self.world
        assert world is not None
        assert world.trace is not None
        match name:
            case "elect":
                world.elect(int(words[0]))
            case "propose":
                world.propose(int(words[0]), words[1].encode())
            case "joint":
                former = world.cores[int(words[0])].config.acceptors
                config = QuorumConfig(acceptors=acceptors(*nodes(words[1])), former=former)
                world.propose(int(words[0]), b"joint", config)
            case "final":
                now = world.cores[int(words[0])].config
                world.propose(int(words[0]), b"final", QuorumConfig(acceptors=now.acceptors))
            case "transfer":
                world.cores[int(words[0])].transfer(world.now, int(words[1]))
                world.settle(int(words[0]))
            case "crash":
                world.crash(int(words[0]))
                world.lose_guard(int(words[0]))
            case "start":
                world.start(int(words[0]))
            case "part":
                world.part(*nodes(words[0]))
            case "heal":
                world.heal()
            case "quiet":
                world.quiet()
            case "time":
                world.pass_time(int(words[0]) * MS)
            case "state":
                for node, core in sorted(world.cores.items()):
                    world.trace.append(
                        f"n{node} {core.role} {core.ballot} promised {core.promised} "
                        f"last {core.last_key.index}@{core.last_key.ballot} commit {core.commit}"
                    )
            case _:
                pytest.fail(f"unknown command {line!r}")
        for node, signals in sorted(world.signals.items()):
            told = [describe(s) for s in signals if type(s).__name__ != "MayLead"]
            world.trace.extend(f"n{node} signal   {text}" for text in told)
            signals.clear()
        lines, world.trace[:] = list(world.trace), []
        return lines


def replay(text: str) -> str:
    """Return the transcript with what really happens."""
    player = Player()
    out: list[str] = []
    commands: list[str] = []
    skipping = False
    for line in [*text.splitlines(), ""]:
        if skipping:
            skipping = bool(line)
            if not line:
                out.append("")
        elif line == RULE:
            happened = [text for command in commands for text in player.play(command)]
            out += [*commands, RULE, *(happened or ["ok"])]
            commands, skipping = [], True
        elif line.startswith("#") or (not line and not commands):
            out.append(line)
        else:
            commands.append(line)
    return "\n".join(out).rstrip() + "\n"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    """The same commands cause exactly the messages that were reviewed."""
    text = path.read_text()
    happened = replay(text)
    if os.environ.get("LEITWOLF_REWRITE"):
        path.write_text(happened)
        return
    assert happened == text


def test_there_are_transcripts() -> None:
    """The files are found."""
    assert FILES
