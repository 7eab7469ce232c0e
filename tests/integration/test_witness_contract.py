"""Every back-end keeps the contract of ``ports.witness.Cas``: real stores, on loopback."""

from __future__ import annotations

import contextlib
import datetime as dt
import http.client
import ipaddress
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.integration.witness_support import HANG_S, Proxy, Witness, etcd, s3, wait_for
from tests.witness_fakes import MemoryCas, Store

from leitwolf.model.errors import InvalidConfig, WitnessError
from leitwolf.model.limits import CAS_BYTES_MAX
from leitwolf.model.location import EtcdLocation, parse_location
from leitwolf.ports.witness import RemovableCas
from leitwolf.witness.etcd import EtcdCas
from leitwolf.witness.opening import open_location, try_location
from leitwolf.witness.selftest import self_test

Open = Callable[[], RemovableCas]
ROOT = Path(__file__).parents[2]
TIMEOUT_S = 20.0


class Places:
    """Starts stores when they are first asked for, once for the module."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self.stack = stack
        self.ports: dict[str, int] = {}
        self.count = 0

    def port(self, kind: str) -> int:
        if kind not in self.ports:
            make = {"s3": s3, "etcd": lambda: etcd(self.folder)}[kind]
            self.ports[kind] = self.stack.enter_context(make())
        return self.ports[kind]

    def location(self, kind: str, port: int = 0) -> str:
        """Return a location that nobody used before, at a store or at a proxy before it."""
        self.count += 1
        name = f"office-{self.count}"
        if kind == "share":
            return f"share:{self.folder}/{name}?local=yes"
        if kind == "witness":
            return self._witness(name)
        port = port or self.port(kind)
        if kind == "s3":
            return f"s3://quorum/{name}?endpoint=http://127.0.0.1:{port}&region=us-east-1"
        return f"etcd://127.0.0.1:{port}/{name}"

    def _witness(self, name: str) -> str:
        if "witness" not in self.ports:
            self.witness = Witness(self.folder / "witness")
            self.witness.token(name)
            self.witness.start()
            self.stack.callback(self.witness.stop)
            self.ports["witness"] = self.witness.port
        location = self.witness.location(name)
        with (self.folder / "witness.ini").open("a") as file:
            file.write(f"[{location}]\ntoken = {self.witness.token(name)}\n")
        (self.folder / "witness.ini").chmod(0o600)
        return location

    def open(self, location: str, timeout_s: float = TIMEOUT_S) -> RemovableCas:
        return open_location(parse_location(location), config_dir=self.folder, timeout_s=timeout_s)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    if shutil.which("etcd") is None:
        pytest.fail("package etcd-server is missing; ./run test installs it")
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        yield Places(tmp_path_factory.mktemp("witness"), stack)


KINDS = ("memory", "share", "s3", "etcd", "witness")


@pytest.fixture(params=KINDS)
def opened(request: pytest.FixtureRequest, places: Places) -> Iterator[Open]:
    """Open the same new value again and again."""
    store = Store()
    location = "" if request.param == "memory" else places.location(request.param)
    with contextlib.ExitStack() as stack:

        def open_again() -> RemovableCas:
            cas = places.open(location) if location else MemoryCas(store)
            stack.callback(cas.close)
            return cas

        yield open_again


def test_create_read_replace(opened: Open) -> None:
    """The first write creates, a second creation is refused, versions decide about the others."""
    one, two = opened(), opened()
    assert one.get() is None
    first = one.put(b"first", None)
    assert first is not None
    assert two.put(b"other", None) is None
    found = two.get()
    assert found is not None
    assert (found.data, found.version) == (b"first", first)
    second = two.put(b"second", first)
    assert second not in {None, first}
    assert one.put(b"third", first) is None
    found = one.get()
    assert found is not None
    assert (found.data, found.version) == (b"second", second)


def test_a_version_never_comes_again(opened: Open) -> None:
    """Not with the same bytes, not after a removal."""
    cas = opened()
    versions = []
    version = None
    for data in (b"a", b"b", b"a", b"a"):
        version = cas.put(data, version)
        versions.append(version)
    cas.remove()
    assert cas.get() is None
    cas.remove()
    assert cas.put(b"c", versions[-1]) is None
    versions.append(cas.put(b"a", None))
    assert None not in versions
    assert len(set(versions)) == 5


def test_many_writers_lose_nothing(opened: Open) -> None:
    """Four clients count up by compare-and-swap: no increment is lost."""
    opened().put(b"0", None)
    clients = [opened() for _ in range(4)]
    errors: list[BaseException] = []

    def count(cas: RemovableCas) -> None:
        try:
            for _ in range(8):
                while True:
                    found = cas.get()
                    assert found is not None
                    if cas.put(b"%d" % (int(found.data) + 1), found.version):
                        break
        except BaseException as error:  # noqa: BLE001 — looked at below
            errors.append(error)

    threads = [threading.Thread(target=count, args=(cas,)) for cas in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    found = opened().get()
    assert found is not None
    assert found.data == b"32"


@pytest.mark.parametrize("size", [0, 1, 4_056, 4_057, 1_000_000])
def test_sizes(opened: Open, size: int) -> None:
    """Every size comes back as it went."""
    cas = opened()
    data = os.urandom(size)
    assert cas.put(data, None) is not None
    found = cas.get()
    assert found is not None
    assert found.data == data


@pytest.mark.parametrize("kind", ["share", "s3", "witness"])
def test_the_largest_values_have_conditions_too(places: Places, kind: str) -> None:
    """Stores write large objects in parts, where conditions do not count: not these."""
    cas = places.open(places.location(kind))
    data = os.urandom(CAS_BYTES_MAX)
    version = cas.put(data, None)
    assert version is not None
    assert cas.put(bytes(CAS_BYTES_MAX), None) is None
    assert cas.put(data, version)
    assert cas.put(bytes(CAS_BYTES_MAX), version) is None
    with pytest.raises(WitnessError, match="at most"):
        cas.put(bytes(CAS_BYTES_MAX + 1), version)
    found = cas.get()
    assert found is not None
    assert found.data == data
    cas.close()


def test_the_self_test_accepts_it(opened: Open) -> None:
    """A whole store is fit."""
    report = self_test(opened)
    assert report.ok, report


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_location_is_tested_beside_its_value(places: Places, kind: str) -> None:
    """The real value is not touched and nothing is left."""
    location = places.location(kind)
    cas = places.open(location)
    assert cas.put(b"real", None)
    assert try_location(location, config_dir=places.folder, timeout_s=TIMEOUT_S).ok
    found = cas.get()
    assert found is not None
    assert found.data == b"real"
    cas.close()
    assert not list(places.folder.rglob("*selftest*"))


@pytest.mark.parametrize("kind", ["s3", "etcd"])
@pytest.mark.parametrize("fault", ["no-conditions", "stale"])
def test_a_broken_store_is_refused(places: Places, kind: str, fault: str) -> None:
    """Conditions ignored, reads stale: unfit, and told why."""
    with Proxy(places.port(kind), fault) as proxy:
        report = try_location(
            places.location(kind, proxy.port), config_dir=None, timeout_s=TIMEOUT_S
        )
    with pytest.raises(WitnessError) as caught:
        report.demand(kind)
    assert caught.value.code == "witness-unfit"


@pytest.mark.parametrize("kind", ["s3", "etcd"])
def test_a_lost_reply_is_an_error_and_the_write_may_have_happened(
    places: Places, kind: str
) -> None:
    """Never None, which says that nothing changed: that would be the answer to a repetition."""
    with Proxy(places.port(kind)) as proxy:
        location = places.location(kind, proxy.port)
        if kind == "etcd":  # a second endpoint invites to try again
            location = location.replace("/office", f",127.0.0.1:{places.port(kind)}/office")
        cas = places.open(location)
        version = cas.put(b"one", None)
        proxy.fault = "lose-a-reply"
        with pytest.raises(WitnessError) as caught:
            cas.put(b"two", version)
        assert caught.value.code == "witness-unreachable"
        assert proxy.fault == ""
        found = cas.get()
        assert found is not None
        assert found.data == b"two"
        assert cas.put(b"three", found.version)
        cas.close()


@pytest.mark.parametrize("kind", ["s3", "etcd"])
def test_a_store_that_hangs_is_left_in_time(places: Places, kind: str) -> None:
    """The limit holds for the whole call."""
    with Proxy(places.port(kind), "hang") as proxy:
        cas = places.open(places.location(kind, proxy.port), timeout_s=0.5)
        begun = time.monotonic()
        for step in (cas.get, lambda: cas.put(b"", None)):
            with pytest.raises(WitnessError) as caught:
                step()
            assert caught.value.code == "witness-unreachable"
        assert time.monotonic() - begun < HANG_S / 2
        proxy.release.set()
        cas.close()


def test_a_missing_bucket_is_no_empty_value(places: Places) -> None:
    """Its absence must not look like a value that is not there."""
    location = places.location("s3").replace("//quorum/", "//nothing/")
    cas = places.open(location)
    for step in (cas.get, lambda: cas.put(b"", None)):
        with pytest.raises(WitnessError, match="NoSuchBucket"):
            step()
    cas.close()


def test_etcd_takes_the_next_endpoint(places: Places) -> None:
    """A dead endpoint does not matter, for reads and for writes; one of another cluster does."""
    port = places.port("etcd")
    location = places.location("etcd").replace(f":{port}/", f":1,127.0.0.1:{port}/")
    cas = places.open(location)
    version = cas.put(b"one", None)
    assert version is not None
    found = cas.get()
    assert found is not None
    assert found.data == b"one"
    cas.close()


def test_etcd_endpoints_must_belong_together(places: Places, tmp_path: Path) -> None:
    """Two clusters behind one location would be two values."""
    with etcd(tmp_path) as other, Proxy(places.port("etcd")) as proxy:
        location = places.location("etcd", proxy.port)
        cas = places.open(location.replace("/office", f",127.0.0.1:{other}/office"))
        assert cas.put(b"one", None)
        proxy.fault = "lose-a-reply"
        with pytest.raises(WitnessError):
            cas.put(b"", "1")  # the first endpoint is left
        with pytest.raises(WitnessError) as caught:
            cas.get()
        assert caught.value.code == "witness-foreign"
        cas.close()


def ask_etcd(port: int, path: str, **body: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("POST", path, json.dumps(body))
    response = connection.getresponse()
    assert response.status == 200, response.read()
    connection.close()


def test_etcd_with_a_password(tmp_path: Path) -> None:
    """Right, wrong and missing credentials; a token that etcd forgot is replaced by itself."""
    with etcd(tmp_path) as port:
        ask_etcd(port, "/v3/auth/user/add", name="root", password="secret")
        ask_etcd(port, "/v3/auth/role/add", name="root")
        ask_etcd(port, "/v3/auth/user/grant", user="root", role="root")
        ask_etcd(port, "/v3/auth/enable")
        location = parse_location(f"etcd://127.0.0.1:{port}/office")
        assert isinstance(location, EtcdLocation)
        right = {"username": "root", "password": "secret"}
        cas = EtcdCas(location, right, timeout_s=TIMEOUT_S)
        version = cas.put(b"one", None)
        assert version is not None
        cas._token = "forgotten"
        assert cas.put(b"two", version) is not None
        cas.close()
        for wrong in ({}, {"username": "root", "password": "wrong"}):
            cas = EtcdCas(location, wrong, timeout_s=TIMEOUT_S)
            with pytest.raises(WitnessError) as caught:
                cas.put(b"three", None)
            assert caught.value.code == "witness-denied"
            assert "wrong" not in caught.value.text
            cas.close()


def server_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate of 127.0.0.1 that is its own authority; return it and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "etcd")])
    now = dt.datetime.now(dt.UTC)
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(alternative, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "etcd.crt").write_bytes(certificate.public_bytes(pem))
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "etcd.key").write_bytes(key.private_bytes(pem, form, plain))
    return folder / "etcd.crt", folder / "etcd.key"


def test_etcd_with_tls(places: Places, tmp_path: Path) -> None:
    """With its authority it is spoken to; without, it is not."""
    certificate, key = server_certificate(tmp_path)
    with etcd(tmp_path, certificate, key) as port:
        location = f"etcd://127.0.0.1:{port}/office?tls=yes"
        cas = places.open(f"{location}&ca={certificate}")
        wait_for(lambda: is_up(cas), "etcd")
        assert cas.put(b"one", None)
        cas.close()
        stranger = places.open(location)
        with pytest.raises(WitnessError, match="CERTIFICATE_VERIFY_FAILED"):
            stranger.get()
        stranger.close()
    with pytest.raises(InvalidConfig, match="no file with certificates"):
        places.open(f"{location}&ca={tmp_path}/nothing.pem")


def is_up(cas: RemovableCas) -> bool:
    with contextlib.suppress(WitnessError):
        cas.get()
        return True
    return False


WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
from leitwolf.model.location import parse_location
from leitwolf.witness.share import ShareCas
cas = ShareCas(parse_location(sys.argv[2]), timeout_s=20)
number = 0
while True:
    found = cas.get()
    number = int(found.data[:9]) + 1 if found else 1
    if cas.put(b"%9d" % number + bytes([number % 256]) * 300_000, found and found.version):
        print(number, flush=True)
"""


def test_a_writer_that_is_killed_loses_nothing(places: Places) -> None:
    """kill -9 at many points of a put: the value is whole and as new as what was confirmed."""
    location = places.location("share")
    reader = places.open(location)
    for attempt in range(20):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(ROOT / "src"), location], stdout=subprocess.PIPE
        )
        assert writer.stdout is not None
        first = writer.stdout.readline()
        time.sleep(0.0017 * attempt)
        writer.send_signal(signal.SIGKILL)
        lines = (first + writer.stdout.read()).splitlines(keepends=True)
        confirmed = max(int(line) for line in lines if line.endswith(b"\n"))
        writer.stdout.close()
        writer.wait()
        found = reader.get()
        assert found is not None
        number = int(found.data[:9])
        assert number >= confirmed
        assert found.data[9:] == bytes([number % 256]) * 300_000
    reader.close()
