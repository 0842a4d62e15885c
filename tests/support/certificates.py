"""A self-made certificate for loopback, as an installation without a certificate authority has."""

from __future__ import annotations

import datetime
import ipaddress
import pathlib
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class CertificateFiles(NamedTuple):
    """PEM files; the certificate is its own authority."""

    certificate: pathlib.Path
    key: pathlib.Path


def self_signed(
    folder: pathlib.Path, *, names: tuple[str, ...] = ("localhost",), ip: str = "127.0.0.1"
) -> CertificateFiles:
    """Makes a certificate for `names` and, unless it is empty, `ip`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "luthier test")])
    alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
    if ip:
        alternatives.append(x509.IPAddress(ipaddress.ip_address(ip)))
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = CertificateFiles(folder / "tls.crt", folder / "tls.key")
    files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files
