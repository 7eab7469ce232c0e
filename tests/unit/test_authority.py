"""Certificates, key files and TLS contexts of a cluster."""

from __future__ import annotations

import datetime as dt
import ssl
import stat
import uuid
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from leitwolf.model.errors import InvalidConfig
from leitwolf.peers import identity as identities
from leitwolf.peers.authority import (
    create_identity,
    issue_certificate,
    issued_by,
    new_node_key,
    node_uuid,
)
from leitwolf.peers.identity import (
    Identity,
    TlsContexts,
    fingerprint,
    fingerprint_of_pem,
    load_contexts,
    load_identity,
    save_heartbeat_keys,
    save_identity,
)

CLUSTER = str(uuid.uuid4())
NODE = str(uuid.uuid4())


@pytest.fixture(scope="module")
def first() -> Identity:
    return create_identity(CLUSTER, NODE)


def saved(folder: Path, identity: Identity) -> TlsContexts:
    save_identity(folder, identity)
    return load_contexts(folder)


def der(pem: bytes) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem.decode())


def shake_hands(dial: ssl.SSLContext, serve: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Run one TLS handshake in memory; raises what either side raises."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = dial.wrap_bio(back, there)
    server = serve.wrap_bio(there, back, server_side=True)
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return client, server


def test_members_recognise_each_other(tmp_path: Path, first: Identity) -> None:
    """A node that got its certificate from another member passes TLS both ways, in TLS 1.3."""
    other = str(uuid.uuid4())
    key = new_node_key(other)
    second = Identity(
        authority_certificate=first.authority_certificate,
        authority_key=first.authority_key,
        certificate=issue_certificate(
            first.authority_certificate, first.authority_key, key.request, other
        ),
        key=key.key,
        heartbeat_keys=first.heartbeat_keys,
    )
    client, server = shake_hands(
        saved(tmp_path / "1", first).dial, saved(tmp_path / "2", second).serve
    )
    assert client.version() == "TLSv1.3"
    assert fingerprint(server.getpeercert(binary_form=True) or b"") == fingerprint_of_pem(
        first.certificate
    )
    assert node_uuid(second.certificate) == other


def test_foreign_authority_is_refused(tmp_path: Path, first: Identity) -> None:
    """Nodes of two clusters fail the handshake, whichever dials, also with the same uuid."""
    ours = saved(tmp_path / "1", first)
    theirs = saved(tmp_path / "2", create_identity(CLUSTER, NODE))
    for dial, serve in ((ours.dial, theirs.serve), (theirs.dial, ours.serve)):
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(dial, serve)


def test_foreign_client_is_refused_by_the_server(tmp_path: Path, first: Identity) -> None:
    """A client that trusts us but has a certificate of another authority is refused."""
    ours = saved(tmp_path / "1", first)
    foreign = create_identity(CLUSTER, NODE)
    saved(tmp_path / "2", foreign)
    dial = identities.joiner_context()
    dial.load_cert_chain(tmp_path / "2/pki/node.crt", tmp_path / "2/pki/node.key")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(dial, ours.serve)


def test_foreign_server_is_refused_by_the_client(tmp_path: Path, first: Identity) -> None:
    """A server of another authority is refused by who dials, even if it asks for nothing."""
    saved(tmp_path / "2", create_identity(CLUSTER, NODE))
    serve = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serve.load_cert_chain(tmp_path / "2/pki/node.crt", tmp_path / "2/pki/node.key")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(saved(tmp_path / "1", first).dial, serve)


def test_certificate_of_a_node_issues_nothing(tmp_path: Path, first: Identity) -> None:
    """A member's own key is no authority: what it signs is refused."""
    key = new_node_key(NODE)
    forged = issue_certificate(first.certificate, first.key, key.request, NODE)
    assert not issued_by(der(first.authority_certificate), der(forged))
    assert not issued_by(der(first.certificate), der(forged))
    chain = Identity(
        authority_certificate=first.authority_certificate,
        authority_key=first.authority_key,
        certificate=forged + first.certificate,
        key=key.key,
        heartbeat_keys=first.heartbeat_keys,
    )
    ours = saved(tmp_path / "1", first)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(saved(tmp_path / "2", chain).dial, ours.serve)


def test_old_tls_is_refused(tmp_path: Path, first: Identity) -> None:
    """A client of TLS 1.2 gets nowhere."""
    ours = saved(tmp_path, first)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname = False
    old.verify_mode = ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        shake_hands(old, ours.serve)


def test_caller_without_certificate_is_seen_as_such(tmp_path: Path, first: Identity) -> None:
    """TLS lets a joiner through; the server sees that it has no certificate."""
    _, server = shake_hands(identities.joiner_context(), saved(tmp_path, first).serve)
    assert server.getpeercert(binary_form=True) is None


@pytest.mark.parametrize("year", [1971, 2090])
def test_dates_decide_nothing(tmp_path: Path, year: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates that are over, or not yet valid, serve as well: no clock can break the cluster.

    The dates stand in for a wrong clock: OpenSSL reads the machine's, which a test must not set.
    """
    monkeypatch.setattr(
        "leitwolf.peers.authority._NOT_BEFORE", dt.datetime(year, 1, 1, tzinfo=dt.UTC)
    )
    monkeypatch.setattr(
        "leitwolf.peers.authority._NOT_AFTER", dt.datetime(year, 1, 2, tzinfo=dt.UTC)
    )
    ours = saved(tmp_path, create_identity(CLUSTER, NODE))
    client, server = shake_hands(ours.dial, ours.serve)
    assert client.getpeercert(binary_form=True) == server.getpeercert(binary_form=True)


def test_certificates_never_expire(first: Identity) -> None:
    """Valid from 1970 to the end of 9999, for programs that do look at dates."""
    for pem in (first.authority_certificate, first.certificate):
        certificate = x509.load_pem_x509_certificate(pem)
        assert certificate.not_valid_before_utc.year == 1970
        assert certificate.not_valid_after_utc.year == 9999


def test_request_must_be_whole_and_own_its_key(first: Identity) -> None:
    """Damaged requests and other kinds of keys are refused with a code."""
    rsa_key = rsa.generate_private_key(65537, 2048)
    curve_key = ec.generate_private_key(ec.SECP384R1())
    bad = [b"", b"x", new_node_key(NODE).request[:-60] + b"-----END CERTIFICATE REQUEST-----\n"]
    for key in (rsa_key, curve_key):
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        signed = request.sign(key, hashes.SHA256())
        bad.append(signed.public_bytes(serialization.Encoding.PEM))
    for request_pem in bad:
        with pytest.raises(InvalidConfig) as caught:
            issue_certificate(first.authority_certificate, first.authority_key, request_pem, NODE)
        assert caught.value.code == "certificate-request"


def test_request_signed_by_another_key_is_refused(first: Identity) -> None:
    """Who does not hold the private key gets no certificate for the public one."""
    request = bytearray(
        x509.load_pem_x509_csr(new_node_key(NODE).request).public_bytes(serialization.Encoding.DER)
    )
    request[-1] ^= 1
    parsed = x509.load_der_x509_csr(bytes(request))
    with pytest.raises(InvalidConfig):
        issue_certificate(
            first.authority_certificate,
            first.authority_key,
            parsed.public_bytes(serialization.Encoding.PEM),
            NODE,
        )


def test_issued_by_never_raises(first: Identity) -> None:
    """Garbage and the authority of others are simply not issued by this one."""
    authority, certificate = der(first.authority_certificate), der(first.certificate)
    assert issued_by(authority, certificate)
    other = create_identity(CLUSTER, NODE)
    assert not issued_by(der(other.authority_certificate), certificate)
    for garbage in (b"", b"x", certificate[:-1], authority[:40]):
        assert not issued_by(authority, garbage)
        assert not issued_by(garbage, certificate)


def test_files_are_private_and_come_back(tmp_path: Path, first: Identity) -> None:
    """All files are 0600 in a 0700 directory and read back equal; no temporary file is left."""
    save_identity(tmp_path, first)
    assert load_identity(tmp_path) == first
    folder = tmp_path / "pki"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert sorted(path.name for path in folder.iterdir()) == [
        "authority.crt",
        "authority.key",
        "heartbeat.key",
        "node.crt",
        "node.key",
    ]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_a_failing_write_leaves_the_old_file(
    tmp_path: Path, first: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a sync fails, the old contents stay and no half file appears."""
    save_identity(tmp_path, first)

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("leitwolf.system.durable.os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        save_heartbeat_keys(tmp_path, bytes(64))
    assert load_identity(tmp_path) == first
    assert not list((tmp_path / "pki").glob("*.new"))


def test_missing_exposed_and_damaged_files_are_named(tmp_path: Path, first: Identity) -> None:
    """Each way in which the files can be wrong has its code and names the file."""
    with pytest.raises(InvalidConfig, match=r"authority\.crt") as caught:
        load_identity(tmp_path)
    assert caught.value.code == "identity-missing"
    save_identity(tmp_path, first)
    key = tmp_path / "pki" / "node.key"
    key.chmod(0o640)
    with pytest.raises(InvalidConfig, match=r"node\.key") as caught:
        load_identity(tmp_path)
    assert caught.value.code == "identity-exposed"
    key.chmod(0o600)
    for contents in (b"garbage", create_identity(CLUSTER, NODE).key):
        key.write_bytes(contents)
        with pytest.raises(InvalidConfig) as caught:
            load_contexts(tmp_path)
        assert caught.value.code == "identity-broken"
    key.write_bytes(first.key)
    (tmp_path / "pki" / "authority.crt").write_bytes(b"\xff")
    with pytest.raises(InvalidConfig) as caught:
        load_contexts(tmp_path)
    assert caught.value.code == "identity-broken"


def test_heartbeat_keys_are_counted(tmp_path: Path, first: Identity) -> None:
    """1..4 whole keys; rekey replaces the file."""
    save_identity(tmp_path, first)
    save_heartbeat_keys(tmp_path, bytes(64))
    assert load_identity(tmp_path).heartbeat_keys == bytes(64)
    for keys in (b"", bytes(31), bytes(33), bytes(32 * 5)):
        with pytest.raises(InvalidConfig):
            save_heartbeat_keys(tmp_path, keys)


def test_secrets_are_not_in_the_representation(first: Identity) -> None:
    """A logged identity betrays no key."""
    text = repr(first)
    assert "PRIVATE" not in text
    assert repr(first.heartbeat_keys) not in text
