"""The witness daemon as a process: who may speak, what survives, what is refused."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import ssl
import subprocess
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.witness_support import ROOT, Witness, witness_command

from leitwolf.model.errors import InvalidConfig, LogCorrupt, WitnessError
from leitwolf.model.limits import NODES_MAX
from leitwolf.model.location import parse_location
from leitwolf.peers.identity import joiner_context
from leitwolf.ports.witness import RemovableCas
from leitwolf.witness.opening import open_location
from leitwolf.witness.speech import (
    PROTOCOL,
    Ask,
    Code,
    Hello,
    Kind,
    Reply,
    decode,
    frame,
    parse_witness_token,
)
from leitwolf.witness.vault import _SCRATCH_MAX, Vault

TIMEOUT_S = 20.0


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Witness]:
    made = Witness(tmp_path / "state")
    made.token("office")
    made.start()
    with contextlib.closing(contextlib.ExitStack()) as stack:
        stack.callback(made.stop)
        yield made


def client(
    monkeypatch: pytest.MonkeyPatch, witness: Witness, token: str, name: str = "office"
) -> RemovableCas:
    monkeypatch.setenv("LEITWOLF_WITNESS_TOKEN", token)
    location = parse_location(witness.location(name))
    return open_location(location, config_dir=None, timeout_s=TIMEOUT_S)


def code_of(cas: RemovableCas) -> str:
    with pytest.raises(WitnessError) as caught:
        cas.get()
    cas.close()
    return caught.value.code


def test_clusters_are_apart(monkeypatch: pytest.MonkeyPatch, witness: Witness) -> None:
    """A token opens the value of its own cluster only."""
    office, branch = witness.token("office"), witness.token("branch")
    cas = client(monkeypatch, witness, office)
    assert cas.put(b"office", None)
    other = client(monkeypatch, witness, branch, "branch")
    assert other.get() is None
    assert other.put(b"branch", None)
    found = cas.get()
    assert found is not None
    assert found.data == b"office"
    assert code_of(client(monkeypatch, witness, office, "branch")) == "witness-denied"
    assert code_of(client(monkeypatch, witness, office, "unknown")) == "witness-denied"
    cas.close()
    other.close()


def test_tokens_come_and_go_while_it_runs(
    monkeypatch: pytest.MonkeyPatch, witness: Witness
) -> None:
    """Several tokens count beside each other until they are replaced."""
    first, second = witness.token("office"), witness.token("office")
    for token in (first, second):
        cas = client(monkeypatch, witness, token)
        assert cas.get() is None
        cas.close()
    third = witness.token("office", replace=True)
    assert code_of(client(monkeypatch, witness, first)) == "witness-denied"
    cas = client(monkeypatch, witness, third)
    assert cas.get() is None
    cas.close()


def test_another_witness_gets_no_secret(
    monkeypatch: pytest.MonkeyPatch, witness: Witness, tmp_path: Path
) -> None:
    """Who has not the certificate of the token hears nothing."""
    Vault(tmp_path / "other").prepare()
    foreign = str(Vault(tmp_path / "other").add_token("office", replace=False))
    cas = client(monkeypatch, witness, foreign)
    with pytest.raises(WitnessError, match="another witness answers") as caught:
        cas.get()
    assert caught.value.code == "witness-denied"
    cas.close()
    log = (tmp_path / "witness.log").read_text()
    assert "a caller is denied" not in log  # nothing was said to it
    assert parse_witness_token(foreign).secret.hex() not in log


def test_what_was_confirmed_survives_kill_9(
    monkeypatch: pytest.MonkeyPatch, witness: Witness
) -> None:
    """Ended at any point, it comes back with what it confirmed, or with the write under way."""
    token = witness.token("office")
    cas = client(monkeypatch, witness, token)
    confirmed = under_way = b""
    version = None
    for attempt in range(50):
        if attempt > 4 and confirmed:
            break  # a slow machine has confirmed nothing until then
        killer = threading.Timer(0.02 * attempt, lambda: witness.stop(signal.SIGKILL))
        killer.start()
        with contextlib.suppress(WitnessError):
            for number in range(100_000):
                under_way = b"%d-%d" % (attempt, number) + bytes(50_000)
                version = cas.put(under_way, version)
                assert version is not None
                confirmed = under_way
        killer.join()
        witness.start()
        found = cas.get()
        version = None if found is None else found.version
        assert (b"" if found is None else found.data) in {confirmed, under_way}
        confirmed = b"" if found is None else found.data
    assert confirmed
    cas.close()
    assert not list(witness.folder.rglob("*.new"))
    with warnings.catch_warnings():
        # Where the peer dies within wrap_socket, the socket is left to the collector.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def test_a_restart_is_no_event_for_an_idle_client(
    monkeypatch: pytest.MonkeyPatch, witness: Witness
) -> None:
    """A connection that ended while it was idle is made anew; SIGTERM ends it with status 0."""
    cas = client(monkeypatch, witness, witness.token("office"))
    version = cas.put(b"one", None)
    assert witness.stop() == 0
    with pytest.raises(WitnessError) as caught:
        cas.get()
    assert caught.value.code == "witness-unreachable"
    witness.start()
    found = cas.get()
    assert found is not None
    assert found.version == version
    witness.stop()
    witness.start()
    assert cas.put(b"two", version)
    cas.close()


def test_damage_of_one_cluster_is_its_own(
    monkeypatch: pytest.MonkeyPatch, witness: Witness
) -> None:
    """A damaged value is told to its cluster; others go on."""
    token = witness.token("office")
    cas = client(monkeypatch, witness, token)
    cas.put(b"value", None)
    path = witness.folder / "clusters" / "office" / "value"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert code_of(cas) == "witness-damaged"
    witness.stop()
    witness.start()
    again = client(monkeypatch, witness, token)
    with pytest.raises(WitnessError) as caught:
        again.get()
    assert caught.value.code == "witness-damaged"
    assert caught.value.hint.endswith("leitwolf quorum replace")
    again.close()
    other = client(monkeypatch, witness, witness.token("branch"), "branch")
    assert other.get() is None
    other.close()


def dial(witness: Witness) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", witness.port), TIMEOUT_S)
    return joiner_context().wrap_socket(plain)


def heard(channel: ssl.SSLSocket) -> bytes:
    with contextlib.suppress(OSError):
        return channel.recv(65_536)
    return b""


NONSENSE = (
    b"GET / HTTP/1.1\r\n\r\n",
    b"\xff\xff\xff\xff",
    (1_025).to_bytes(4, "big"),
    (3).to_bytes(4, "big") + b"abc",
    frame(Ask(kind=Kind.GET)),
    frame(Hello(protocol=PROTOCOL, name="office", secret=bytes(2_000))),
)


@pytest.mark.parametrize("said", NONSENSE)
def test_nonsense_is_hung_up_on(witness: Witness, said: bytes) -> None:
    """Who is not admitted can make it read 1 KiB, not more."""
    with dial(witness) as channel:
        channel.sendall(said)
        assert heard(channel) == b""


def test_greetings_that_are_refused(witness: Witness) -> None:
    """Another version, another secret, names that would leave the folder."""
    secret = parse_witness_token(witness.token("office")).secret
    for hello, code in (
        (Hello(protocol=PROTOCOL + 1, name="office", secret=secret), Code.PROTOCOL),
        (Hello(protocol=PROTOCOL, name="office", secret=bytes(16)), Code.DENIED),
        (Hello(protocol=PROTOCOL, name="../clusters/office", secret=secret), Code.DENIED),
    ):
        with dial(witness) as channel:
            channel.sendall(frame(hello))
            assert decode(heard(channel)[4:], Reply).code is code
    with dial(witness) as channel:
        hello = Hello(protocol=PROTOCOL, name="office", secret=secret, scratch="../value")
        channel.sendall(frame(hello))
        assert decode(heard(channel)[4:], Reply).code is Code.OK
        channel.sendall(frame(Ask(kind=Kind.PUT, data=b"x")))
        assert decode(heard(channel)[4:], Reply).code is Code.FAILED
    assert not list(witness.folder.rglob("value"))


def test_left_scratch_values_are_limited(witness: Witness) -> None:
    """Aborted self-tests do not fill the disk; all nodes may test at once."""
    assert _SCRATCH_MAX > NODES_MAX
    vault = Vault(witness.folder)
    for number in range(_SCRATCH_MAX + 12):
        assert vault.put("office", f"selftest-{number}", b"left", None)
    assert len(list(witness.folder.rglob("scratch.*"))) == _SCRATCH_MAX
    assert vault.get("office", f"selftest-{_SCRATCH_MAX + 11}") is not None


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        witness_command(*arguments),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )


def test_two_daemons_never_share_a_folder(witness: Witness) -> None:
    """The second one is refused: exit code 4."""
    done = run("serve", "--listen", "127.0.0.1:0", "--state", str(witness.folder))
    assert done.returncode == 4
    assert "another witness serves" in done.stderr


def test_an_address_that_cannot_be_used(witness: Witness, tmp_path: Path) -> None:
    """Exit code 2, and the address."""
    taken = f"127.0.0.1:{witness.port}"
    done = run("serve", "--listen", taken, "--state", str(tmp_path / "second"))
    assert done.returncode == 2
    assert f"cannot listen at {taken}" in done.stderr


def test_from_the_token_to_the_test(witness: Witness, tmp_path: Path) -> None:
    """As an administrator does it: token, credentials file, test; then with a wrong file."""
    made = json.loads(run("token", "shop", "--state", str(witness.folder), "--json").stdout)
    config = tmp_path / "config"
    config.mkdir()
    location = witness.location("shop")
    credentials = config / "witness.ini"
    credentials.write_text(f"[{location}]\ntoken = {made['token']}\n")
    credentials.chmod(0o600)
    done = run("test", location, "--config", str(config), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["ok"] is True
    assert not list((witness.folder / "clusters" / "shop").glob("scratch.*"))
    credentials.chmod(0o644)
    done = run("test", location, "--config", str(config), "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["code"] == "credentials-exposed"


def test_commands_name_what_is_wrong(tmp_path: Path) -> None:
    """Malformed names and locations: exit code 2; an unfit store: 8."""
    done = run("token", "../x", "--state", str(tmp_path / "state"))
    assert (done.returncode, "letters, digits" in done.stderr) == (2, True)
    done = run("test", "ftp://host/file")
    assert (done.returncode, "allowed forms" in done.stderr) == (2, True)
    done = run("test", f"share:{tmp_path}/value", "--json")
    assert (done.returncode, json.loads(done.stdout)["code"]) == (8, "witness-unfit")


def test_the_vault_refuses_more_tokens_than_it_keeps(tmp_path: Path) -> None:
    """Eight count beside each other; --replace is the way out."""
    vault = Vault(tmp_path / "state")
    vault.prepare()
    for _ in range(8):
        vault.add_token("office", replace=False)
    with pytest.raises(InvalidConfig, match="8 tokens"):
        vault.add_token("office", replace=False)
    assert vault.admits("office", vault.add_token("office", replace=True).secret)


def test_files_are_for_their_owner_only(witness: Witness) -> None:
    """No secret, key or value can be read by others; secrets are not kept at all."""
    token = witness.token("office")
    vault = Vault(witness.folder)
    vault.put("office", "", b"value", None)
    for path in witness.folder.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    secret = parse_witness_token(token).secret
    for path in (path for path in witness.folder.rglob("*") if path.is_file()):
        assert secret not in path.read_bytes()
        assert secret.hex() not in path.read_text(errors="replace")


def test_a_short_value_file_is_damage(tmp_path: Path) -> None:
    """An empty file is no empty value."""
    vault = Vault(tmp_path / "state")
    vault.prepare()
    vault.add_token("office", replace=False)
    (tmp_path / "state" / "clusters" / "office" / "value").write_bytes(b"")
    with pytest.raises(LogCorrupt):
        vault.get("office", "")
