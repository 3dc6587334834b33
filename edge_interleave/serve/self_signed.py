"""A self-signed certificate for https on a local network, kept below the user's data folder.

Browsers give a page the camera only over https or on this machine itself. The certificate is made once and kept, so
that a phone that has accepted it is not asked again.
"""

from __future__ import annotations

import datetime
import ipaddress
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge_interleave.errors import UsageError
from edge_interleave.serve.own_addresses import own_addresses
from edge_interleave.util.atomic_file import atomic_file
from edge_interleave.util.user_folder import user_folder

_VALID = datetime.timedelta(days=397)
"""Apple's systems accept no server certificate that is valid for longer than 398 days."""
_RENEW = datetime.timedelta(days=14)
"""How long before its end a certificate is replaced."""
_REMEDY = "give --tls-cert and --tls-key instead"


@dataclass(frozen=True)
class SelfSigned:
    """A certificate on disk."""

    cert: Path
    key: Path
    fingerprint: str
    """SHA-256 of the certificate, as browsers show it: pairs of hexadecimal digits."""


def default_folder() -> Path:
    """The folder of the certificate. Raises UsageError if the user has no home folder."""
    folder = user_folder("tls")
    if folder is None:
        raise UsageError(f"no home folder to keep a certificate in; {_REMEDY}")
    return folder


def self_signed(folder: Path) -> SelfSigned:
    """The certificate in `folder`; a new one if there is none or it ends soon.

    Raises InputError if a file cannot be written, UsageError if the folder cannot be made.
    """
    cert, key = folder / "cert.pem", folder / "key.pem"
    found = _valid(cert, key)
    if found is None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{folder}: cannot be made ({error.strerror}); {_REMEDY}") from error
        found = _write(cert, key)
    return SelfSigned(cert, key, found.fingerprint(hashes.SHA256()).hex(":").upper())


def _valid(cert: Path, key: Path) -> x509.Certificate | None:
    """The certificate on disk, if it is valid for a while and belongs to its key."""
    try:
        found = x509.load_pem_x509_certificate(cert.read_bytes())
        private = serialization.load_pem_private_key(key.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        return None
    ends = found.not_valid_after_utc - _RENEW
    return found if private.public_key() == found.public_key() and _now() < ends else None


def _write(cert: Path, key: Path) -> x509.Certificate:
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"edge-interleave on {socket.gethostname()[:40]}")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        # An hour ago: clocks of phones and boxes differ.
        .not_valid_before(_now() - datetime.timedelta(hours=1))
        .not_valid_after(_now() + _VALID)
        .add_extension(x509.SubjectAlternativeName(list(_names())), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(private, hashes.SHA256())
    )
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    for path, content in (
        (key, private.private_bytes(serialization.Encoding.PEM, *form)),
        (cert, made.public_bytes(serialization.Encoding.PEM)),
    ):
        with atomic_file(path, private=True, remedy=_REMEDY) as temporary:
            temporary.write_bytes(content)
    return made


def _names() -> Iterator[x509.GeneralName]:
    host = socket.gethostname().partition(".")[0].lower()
    for name in dict.fromkeys(("localhost", host, f"{host}.local")):
        if name and name.isascii():
            yield x509.DNSName(name)
    for address in ("127.0.0.1", "::1", *own_addresses()):
        yield x509.IPAddress(ipaddress.ip_address(address))


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
