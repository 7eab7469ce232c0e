"""The self-test of stores, time limits, credentials."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.witness_fakes import FAULTS, LosingCas, MemoryCas, Store

from leitwolf.model.errors import InvalidConfig, WitnessError
from leitwolf.model.location import parse_location
from leitwolf.ports.witness import Versioned
from leitwolf.witness.bounded import Bounded
from leitwolf.witness.credentials import load_credentials
from leitwolf.witness.opening import open_cas, try_location
from leitwolf.witness.selftest import self_test

SAID = {
    "creates-twice": "created a second time",
    "ignores-versions": "conditions are ignored",
    "conflicts-both": "2 are done, not one",
    "conflicts-none": "0 are done, not one",
    "stale-reads": "reads are stale",
    "forgets": "does not read what he wrote",
    "content-versions": "same version again",
    "truncates": "not what was written",
    "refuses-large": "a large value is refused",
}


def clients(store: Store) -> list[MemoryCas]:
    return [MemoryCas(store, reader=True), MemoryCas(store)]


def test_a_good_store_passes_and_nothing_is_left() -> None:
    """All checks are made; the scratch value is removed."""
    store = Store()
    report = self_test(clients(store).pop)
    assert report.ok
    names = [check.name for check in report.checks]
    assert names == ["create", "fresh reads", "compare", "conflict", "size"]
    assert store.history[-1] is None
    report.demand("memory")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_store_is_refused(fault: str) -> None:
    """Each kind of wrong semantics is found and named; what was written is removed."""
    store = Store(fault)
    report = self_test(clients(store).pop)
    assert not report.ok
    assert [check.ok for check in report.checks].count(False) == 1
    with pytest.raises(WitnessError) as caught:
        report.demand("memory")
    assert caught.value.code == "witness-unfit"
    assert SAID[fault] in caught.value.text
    assert store.history[-1] is None


def test_a_lost_reply_is_no_verdict() -> None:
    """A store whose reply is lost is not called unfit; the error says that it is unreachable."""
    store = Store()
    with pytest.raises(WitnessError) as caught:
        self_test(lambda: LosingCas(store))
    assert caught.value.code == "witness-unreachable"


class Slow(MemoryCas):
    """Hangs until it is told to go on."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.go_on = threading.Event()
        self.calls = 0
        self.begun = threading.Event()
        self.closed = threading.Event()

    def put(self, data: bytes, expected: str | None) -> str | None:
        self.calls += 1
        self.begun.set()
        self.go_on.wait(30)
        return super().put(data, expected)

    def close(self) -> None:
        self.closed.set()


def test_a_call_that_hangs_fails_in_time_and_may_still_happen() -> None:
    """The caller goes on; further calls are not begun; the write happens later (A4)."""
    slow = Slow(Store())
    cas = Bounded(slow, timeout_s=0.05, what="slow")
    with pytest.raises(WitnessError, match="may still happen") as caught:
        cas.put(b"late", None)
    assert caught.value.code == "witness-unreachable"
    assert slow.begun.wait(30)
    with pytest.raises(WitnessError, match="not begun"):
        cas.put(b"never", None)
    assert slow.calls == 1
    slow.go_on.set()
    patient = Bounded(slow, timeout_s=20, what="slow")
    while (found := patient.get()) is None:
        pass
    assert found.data == b"late"
    cas.close()
    patient.close()
    assert slow.closed.wait(20)
    with pytest.raises(WitnessError, match="closed"):
        cas.get()


def test_errors_of_the_inner_store_come_out() -> None:
    """What the store raises is raised where it was called; the next call works."""
    store = Store()
    cas = Bounded(LosingCas(store), timeout_s=20, what="losing")
    with pytest.raises(WitnessError, match="the reply is lost"):
        cas.put(b"done", None)
    assert cas.get() == Versioned(data=b"done", version="1")
    cas.close()


LOCATION = "etcd://10.0.0.1:2379/leitwolf/office"


def credentials(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "witness.ini"
    path.write_text(text)
    path.chmod(mode)
    return folder


def test_credentials_of_a_location(tmp_path: Path) -> None:
    """The section of the location counts, whatever signs are in its values; others do not."""
    text = f"[{LOCATION}]\nusername = root\npassword = a=b:%(c)s;#d\n[s3://b/k]\nusername = other\n"
    folder = credentials(tmp_path, text)
    location = parse_location(LOCATION + "?tls=yes")
    assert load_credentials(location, folder) == {"username": "root", "password": "a=b:%(c)s;#d"}
    assert load_credentials(parse_location("etcd://10.0.0.2:2379/a"), folder) == {}
    assert load_credentials(location, tmp_path / "nowhere") == {}
    assert load_credentials(location, None) == {}


@pytest.mark.parametrize("location", [LOCATION, "s3://bucket/k"])
def test_the_scratch_value_is_reached_by_the_secrets_of_the_real_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    """The store is tested with what it is going to be used with, though the name is another."""
    given = []

    class Told(MemoryCas):
        def __init__(self, scratch: object, secrets: Mapping[str, str], *, timeout_s: float):
            super().__init__(store)
            given.append((str(scratch).startswith(f"{location}.selftest-"), dict(secrets)))

    store = Store()
    monkeypatch.setattr("leitwolf.witness.etcd.EtcdCas", Told)
    monkeypatch.setattr("leitwolf.witness.object_store.ObjectStoreCas", Told)
    folder = credentials(tmp_path, f"[{location}]\npassword = x\n")
    assert try_location(location, config_dir=folder, timeout_s=5).ok
    assert given
    assert all(one == (True, {"password": "x"}) for one in given)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_exposed_credentials_are_refused(tmp_path: Path, mode: int) -> None:
    """A file that others can read is not used."""
    folder = credentials(tmp_path, "", mode)
    with pytest.raises(InvalidConfig) as caught:
        load_credentials(parse_location(LOCATION), folder)
    assert caught.value.code == "credentials-exposed"


def test_malformed_credentials_are_not_shown(tmp_path: Path) -> None:
    """The error says what is expected, never what is there."""
    folder = credentials(tmp_path, "password: hunter2\n")
    with pytest.raises(InvalidConfig) as caught:
        load_credentials(parse_location(LOCATION), folder)
    assert caught.value.code == "credentials-malformed"
    assert "hunter2" not in caught.value.text + caught.value.hint
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("limit", [0, -1, 601, float("nan")])
def test_a_time_limit_out_of_range_is_refused(limit: float) -> None:
    """The range is named."""
    with pytest.raises(InvalidConfig, match="at most 600"):
        open_cas("share:/mnt/a/b", config_dir=None, timeout_s=limit)


@pytest.mark.parametrize("token", ["", "leitwolfw1-", "leitwolf1-abc", "leitwolfw1-AAAAAAAAAAAA"])
def test_a_witness_needs_a_whole_token(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    """No token, or a part of one, is told before anybody is called."""
    monkeypatch.delenv("LEITWOLF_WITNESS_TOKEN", raising=False)
    if token:
        monkeypatch.setenv("LEITWOLF_WITNESS_TOKEN", token)
    with pytest.raises(InvalidConfig) as caught:
        open_cas("witness://192.0.2.9:6475/office", config_dir=None, timeout_s=1)
    assert caught.value.code == ("token-malformed" if token else "token-missing")
