"""Settings of a node: options over environment over defaults, refused with a clear text."""

from __future__ import annotations

from pathlib import Path

import pytest

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
    """The text names the option, its variable and the value."""
    with pytest.raises(SettingsError) as caught:
        Settings.load({}, **{option: value})
    assert caught.value.field == option
    assert f"--{option}" in str(caught.value)
    assert f"LEITWOLF_{option.upper()}" in str(caught.value)
