"""The cluster's own authority: makes and issues certificates.

ECDSA P-256. Certificates are valid from 1970 to the end of 9999 (RFC 5280 for "no expiry"): time
decides nothing here, the log decides who is a member. Imports x509 (10 MiB): init and join only.
"""

from __future__ import annotations

import datetime as dt
import os

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from leitwolf.model.errors import InvalidConfig
from leitwolf.peers.identity import HEARTBEAT_KEY_BYTES, Identity

__all__ = [
    "NodeKey",
    "create_identity",
    "create_self_signed",
    "issue_certificate",
    "issued_by",
    "new_heartbeat_key",
    "new_node_key",
    "node_uuid",
    "sign",
    "signed_by",
]

_NOT_BEFORE = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_NOT_AFTER = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)
_CN_CHARACTERS_MAX = 64


class NodeKey:
    """A new node's private key and the request for its certificate, both PEM."""

    __slots__ = ("key", "request")

    def __init__(self, key: bytes, request: bytes) -> None:
        self.key = key
        self.request = request


def _name(common_name: str) -> x509.Name:
    if not 1 <= len(common_name) <= _CN_CHARACTERS_MAX:
        raise InvalidConfig(
            f"{common_name!r} has {len(common_name)} characters, a certificate's name has"
            f" 1..{_CN_CHARACTERS_MAX}",
            code="certificate-name",
        )
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _create_authority(cluster: str) -> tuple[bytes, bytes]:
    """Return certificate and key (PEM) of a new authority for the cluster of this uuid."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"leitwolf {cluster}")
    certificate = (
        _builder(name, name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), _key_pem(key)


def create_self_signed(common_name: str) -> tuple[bytes, bytes]:
    """Return certificate and key (PEM) of a server that is known by its fingerprint alone.

    Args:
        common_name: 1..64 characters; only shown.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(common_name)
    certificate = (
        _builder(name, name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), _key_pem(key)


def new_node_key(uuid: str) -> NodeKey:
    """Make a private key and a certificate request for a node."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = (
        x509.CertificateSigningRequestBuilder().subject_name(_name(uuid)).sign(key, hashes.SHA256())
    )
    return NodeKey(_key_pem(key), request.public_bytes(serialization.Encoding.PEM))


def sign(key: bytes, statement: bytes) -> bytes:
    """Sign a statement with a node's private key (PEM).

    Raises:
        InvalidConfig: it is no such key (code ``identity-broken``).
    """
    try:
        signer = serialization.load_pem_private_key(key, None)
    except ValueError as error:
        raise InvalidConfig(
            f"the node's key is damaged: {error}", code="identity-broken"
        ) from error
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise InvalidConfig("the node's key is no ECDSA key", code="identity-broken")
    return signer.sign(statement, ec.ECDSA(hashes.SHA256()))


def signed_by(certificate: bytes, statement: bytes, signature: bytes) -> bool:
    """Return whether the key of a certificate (PEM) signed a statement; never raises."""
    try:
        key = x509.load_pem_x509_certificate(certificate).public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            return False
        key.verify(signature, statement, ec.ECDSA(hashes.SHA256()))
    except (ValueError, InvalidSignature):
        return False
    return True


def new_heartbeat_key() -> bytes:
    """Return 32 random bytes."""
    return os.urandom(HEARTBEAT_KEY_BYTES)


def issue_certificate(
    authority_certificate: bytes, authority_key: bytes, request: bytes, uuid: str
) -> bytes:
    """Issue a node's certificate.

    Args:
        authority_certificate: PEM.
        authority_key: PEM.
        request: certificate request (PEM) with a P-256 key, signed by that key. Nothing else in it
            counts.
        uuid: of the node; becomes the name in the certificate.

    Returns:
        The certificate in PEM.

    Raises:
        InvalidConfig: the request is damaged or its key is of another kind
            (code ``certificate-request``).
    """
    issuer = x509.load_pem_x509_certificate(authority_certificate)
    issuer_key = serialization.load_pem_private_key(authority_key, None)
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
        raise InvalidConfig("the authority's key is no ECDSA key", code="identity-broken")
    key = _requested_key(request)
    certificate = (
        _builder(_name(uuid), issuer.subject, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
        .sign(issuer_key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def _requested_key(request: bytes) -> ec.EllipticCurvePublicKey:
    try:
        parsed = x509.load_pem_x509_csr(request)
        key = parsed.public_key()
        signed = parsed.is_signature_valid
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidConfig(
            f"the certificate request is damaged: {error}", code="certificate-request"
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidConfig("the request's key is not ECDSA P-256", code="certificate-request")
    if not signed:
        raise InvalidConfig("the request is not signed by its key", code="certificate-request")
    return key


def create_identity(cluster: str, node: str) -> Identity:
    """Make the authority of a new cluster and everything that its first node needs.

    Args:
        cluster: uuid of the cluster.
        node: uuid of the first node.
    """
    authority_certificate, authority_key = _create_authority(cluster)
    made = new_node_key(node)
    return Identity(
        authority_certificate=authority_certificate,
        authority_key=authority_key,
        certificate=issue_certificate(authority_certificate, authority_key, made.request, node),
        key=made.key,
        heartbeat_keys=new_heartbeat_key(),
    )


def issued_by(authority: bytes, certificate: bytes) -> bool:
    """Tell whether this authority's key signed this certificate of a node (both DER)."""
    try:
        issuer = x509.load_der_x509_certificate(authority)
        issued = x509.load_der_x509_certificate(certificate)
        issued.verify_directly_issued_by(issuer)
        constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.ExtensionNotFound):
        return False
    return constraints.ca


def node_uuid(certificate: bytes) -> str:
    """Return the node uuid in a certificate (PEM) of this authority.

    Raises:
        ValueError: it is no certificate, or has no single name.
    """
    parsed = x509.load_pem_x509_certificate(certificate)
    (name,) = parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(name.value)
