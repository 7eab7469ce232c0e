"""Settings of a node: options over environment over defaults, refused with a clear text."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import click
import pytest

from leitwolf.cli.commands import cli
from leitwolf.system.settings import Settings, SettingsError


def test_defaults_are_those_of_the_documentation() -> None:
    """Nothing given: the documented directories, real time where permitted, reboot as fence."""
    settings = Settings.load({})
    assert settings.runtime == Path("/run/leitwolf")
    assert settings.state == Path("/var/lib/leitwolf")
    assert settings.config == Path("/etc/leitwolf")
    assert settings.cgroup is None
    assert (settings.containment, settings.realtime, settings.fence) == ("auto", "auto", "reboot")
    assert settings.watchdog == "/dev/watchdog"


def test_an_option_wins_over_the_environment_and_that_over_the_default() -> None:
    """Options beat variables; an empty variable is not set."""
    environment = {
        "LEITWOLF_RUNTIME": "/dev/shm/a",
        "LEITWOLF_STATE": "/srv/state",
        "LEITWOLF_CONFIG": "",
        "LEITWOLF_WATCHDOG": "none",
    }
    settings = Settings.load(environment, runtime="/dev/shm/b", state=None)
    assert settings.runtime == Path("/dev/shm/b")
    assert settings.state == Path("/srv/state")
    assert settings.config == Path("/etc/leitwolf")
    assert settings.watchdog == "none"


def test_children_get_the_same_settings_through_the_environment() -> None:
    """What a keeper hands down makes the same block again, with and without a cgroup."""
    for cgroup in (None, Path("/sys/fs/cgroup/leitwolf")):
        settings = Settings(runtime=Path("/dev/shm/x"), cgroup=cgroup, fence="namespace")
        assert Settings.load(settings.environment()) == settings


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("containment", "docker"),
        ("realtime", "yes"),
        ("fence", "off"),
        ("watchdog", "watchdog0"),
        ("runtime", "run/leitwolf"),
        ("cgroup", "leitwolf"),
        ("runtime", "/" + "x" * 100),
        ("colour", "red"),
    ],
)
def test_a_wrong_value_is_refused_by_name_of_option_and_variable(option: str, value: str) -> None:
    """The text names the option, where there is one, its variable and the value."""
    with pytest.raises(SettingsError) as caught:
        Settings.load({}, **{option: value})
    assert caught.value.field == option
    [run] = [command for name, command in cli.commands.items() if name == "run"]
    there = any(f"--{option}" in item.opts for item in run.params)
    assert (f"--{option}" in str(caught.value)) is there
    assert f"LEITWOLF_{option.upper()}" in str(caught.value)


OF_OTHERS = {
    "--clear": "sg_persist",
    "--election-timeout": "etcd",
    "--heartbeat-interval": "etcd",
    "--now": "systemctl",
    "--objectstore": "./install",
}
"""Options that are named in texts, and whose they are."""


def options(command: click.Command) -> set[str]:
    """Return the options of a command and of all below it."""
    found = {
        word
        for item in command.params
        for word in (*item.opts, *item.secondary_opts)
        if word.startswith("--")
    }
    below = command.commands.values() if isinstance(command, click.Group) else ()
    return found.union(*map(options, below))


def test_no_text_names_an_option_that_there_is_not() -> None:
    """A hint that cannot be followed; most settings of a node are environment variables only."""
    known = options(cli) | set(cli.context_settings["help_option_names"]) | OF_OTHERS.keys()
    named = {}
    for path in (Path(__file__).parents[2] / "src").rglob("*.py"):
        for part in ast.walk(ast.parse(path.read_text())):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                found = re.findall(r"(?<![\w-])--[a-z]+(?:-[a-z]+)*(?![\w-])", part.value)
                named.update(dict.fromkeys(found, f"{path.name}:{part.lineno}"))
    assert {word: at for word, at in named.items() if word not in known} == {}
    assert OF_OTHERS.keys() <= named.keys()
