"""Certificates: made, read and checked here, with the `cryptography` package, and nowhere else.

An authority signs one certificate for the broker, good for servers only, and one for each client, good for clients
only, whose common name is the client's name. Keys are on the curve P-256, signatures are ECDSA with SHA-256.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from midstream.errors import MidstreamError, MissingExtraError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

AUTHORITY_DAYS: Final = 3650
LEAF_DAYS: Final = 730

# Boards without a clock that runs on lag behind after a start.
_BACKDATED: Final = datetime.timedelta(days=1)


class CertificateError(MidstreamError):
    """A certificate or a key cannot be read, or they do not belong together."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its key, both as PEM."""

    certificate: bytes
    key: bytes


def new_key() -> bytes:
    """A new private key, as unencrypted PKCS #8 in PEM. Raises MissingExtraError."""
    _need()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def authority_certificate(key: bytes, name: str, now: datetime.datetime, days: int = AUTHORITY_DAYS) -> bytes:
    """The certificate of an authority with this key, which it signs itself."""
    from cryptography import x509

    own = _key(key)
    subject = _subject(name)
    builder = (
        _builder(own, subject, subject, now, now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(own.public_key()), critical=False)
    )
    return _signed(builder, own)


def server_certificate(
    authority: Pair, key: bytes, hosts: Sequence[str], now: datetime.datetime, days: int = LEAF_DAYS
) -> bytes:
    """The certificate of a server with this key that is reached by these names and addresses."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
    builder = _leaf(authority, key, "midstream broker", now, days, ExtendedKeyUsageOID.SERVER_AUTH)
    return _signed(builder.add_extension(names, critical=False), _key(authority.key))


def client_certificate(authority: Pair, key: bytes, name: str, now: datetime.datetime, days: int = LEAF_DAYS) -> bytes:
    """The certificate of a client with this key; ``name`` is its common name."""
    from cryptography.x509.oid import ExtendedKeyUsageOID

    return _signed(_leaf(authority, key, name, now, days, ExtendedKeyUsageOID.CLIENT_AUTH), _key(authority.key))


def check(pair: Pair, authority: bytes | None = None) -> None:
    """Raise CertificateError unless key and certificate belong together, and to this authority if one is given."""
    from cryptography.exceptions import InvalidSignature

    certificate = _certificate(pair.certificate)
    if certificate.public_key() != _key(pair.key).public_key():
        raise CertificateError("the key is not that of the certificate")
    if authority is not None:
        try:
            certificate.verify_directly_issued_by(_certificate(authority))
        except (ValueError, TypeError, InvalidSignature):
            raise CertificateError("another authority has signed the certificate") from None


def expires(certificate: bytes) -> datetime.datetime:
    """Until when it is valid, in UTC. Raises CertificateError."""
    return _certificate(certificate).not_valid_after_utc


def common_name(certificate: bytes) -> str:
    """Whose it is; raises CertificateError."""
    from cryptography.x509.oid import NameOID

    names = _certificate(certificate).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def hosts(certificate: bytes) -> list[str]:
    """The names and addresses that a server's certificate is good for; raises CertificateError."""
    from cryptography import x509

    try:
        extension = _certificate(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, ValueError):
        return []
    return [str(name.value) for name in extension.value]


def _need() -> None:
    try:
        import cryptography  # noqa: F401 - whether it is there
    except ImportError:
        raise MissingExtraError("cryptography", "secure", "A broker with certificates") from None


def _key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    _need()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise CertificateError("it is not a private key without a password, in PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateError("it is not a key on an elliptic curve")
    return key


def _certificate(pem: bytes) -> x509.Certificate:
    _need()
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise CertificateError("it is not a certificate in PEM") from None


def _leaf(
    authority: Pair, key: bytes, name: str, now: datetime.datetime, days: int, purpose: x509.ObjectIdentifier
) -> x509.CertificateBuilder:
    from cryptography import x509

    issuer = _certificate(authority.certificate)
    end = min(now + datetime.timedelta(days=days), issuer.not_valid_after_utc)
    return (
        _builder(_key(key), _subject(name), issuer.subject, now, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(_key(authority.key).public_key()), critical=False
        )
    )


def _builder(
    key: ec.EllipticCurvePrivateKey,
    subject: x509.Name,
    issuer: x509.Name,
    now: datetime.datetime,
    end: datetime.datetime,
) -> x509.CertificateBuilder:
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, end) - _BACKDATED)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _signed(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import hashes, serialization

    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _subject(name: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
