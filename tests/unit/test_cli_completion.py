"""Completion by each shell: what the script passes on is understood, and answered in its form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import get_completion_class
from click.testing import CliRunner

from leitwolf.cli.commands import cli

FOLDER = Path(__file__).parents[2] / "completion"


def bash(answer: str) -> list[str]:
    """What bash offers: lines of kind and name."""
    return [line.removeprefix("plain,") for line in answer.splitlines()]


def zsh(answer: str) -> list[str]:
    """What zsh offers: three lines each, the third for people."""
    lines = answer.splitlines()
    assert lines[::3] == ["plain"] * (len(lines) // 3)
    assert all(lines[2::3])
    return lines[1::3]


def fish(answer: str) -> list[str]:
    """What fish offers: lines of kind and name, a tab, and something for people."""
    found = [line.removeprefix("plain,").split("\t") for line in answer.splitlines()]
    assert all(len(parts) == 2 and parts[1] for parts in found)
    return [parts[0] for parts in found]


SHELLS: dict[str, Callable[[str], list[str]]] = {"bash": bash, "zsh": zsh, "fish": fish}


def groups(command: click.Command, path: list[str]) -> Iterator[tuple[list[str], set[str]]]:
    """Yield the words before each set of commands, and the commands."""
    if isinstance(command, click.Group):
        yield path, set(command.commands)
        for name, inner in command.commands.items():
            yield from groups(inner, [*path, name])


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_the_one_of_the_library(shell: str) -> None:
    """What ./install copies speaks the language of the click that answers it."""
    kind = get_completion_class(shell)
    assert kind is not None
    wanted = kind.source_template % kind(cli, {}, "leitwolf", "_LEITWOLF_COMPLETE").source_vars()
    assert (FOLDER / f"leitwolf.{shell}").read_text().strip() == wanted.strip()


@pytest.mark.parametrize("shell", SHELLS)
def test_every_command_is_offered(shell: str) -> None:
    """At every place of the command line, all that can stand there and nothing else."""
    for path, names in groups(cli, ["leitwolf"]):
        for begun in ("", min(names)[:2]):
            current = begun if shell == "fish" else str(len(path))
            environment = {
                "_LEITWOLF_COMPLETE": f"{shell}_complete",
                "COMP_WORDS": " ".join([*path, begun]),
                "COMP_CWORD": current,
            }
            done = CliRunner().invoke(cli, [], prog_name="leitwolf", env=environment)
            offered = SHELLS[shell](done.stdout)
            assert sorted(offered) == sorted(name for name in names if name.startswith(begun))
