"""Keys and certificates, made on the spot; every private file is born readable by its owner only.

Two kinds: the coordinator's own certificate authority with its server's certificate (TLS), and one ECDSA P-384 pair
per hospital, with which its SuperNode proves which hospital it is. Keys that sign versions are in models/signing.py.
"""

import datetime
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from models import durable
from models.errors import ConfigurationError

LIFETIME = datetime.timedelta(days=825)
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """Where the coordinator's certificate authority and its server's certificate lie (PEM)."""

    ca: Path
    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """Where a key pair lies."""

    private: Path
    public: Path


def make_server(folder: Path, hosts: Iterable[str] = (), *, now: datetime.datetime | None = None) -> ServerFiles:
    """Make a certificate authority and one server certificate for the loopback names and the hosts given.

    The authority's private key is not kept: it signs this one certificate and is forgotten, so that nobody can make
    another that the hospitals would trust. A renewal makes a new authority, which hospitals install knowingly.

    Args:
        folder: gets `ca.crt`, `server.crt` and `server.key`.
        hosts: names or addresses under which hospitals reach the coordinator.
        now: start of validity (UTC); the present unless a test says otherwise.

    Raises:
        ConfigurationError: the folder already holds one.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    files = ServerFiles(folder / "ca.crt", folder / "server.crt", folder / "server.key")
    start = (now or datetime.datetime.now(datetime.UTC)) - datetime.timedelta(minutes=5)
    ca_key, key = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Vigie coordinator CA")])
    authority = (
        _blank(ca_name, ca_name, ca_key.public_key(), start)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA384())
    )
    names = [_alternative(host) for host in dict.fromkeys((*LOOPBACK, *hosts))]
    server_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Vigie coordinator")])
    certificate = (
        _blank(server_name, ca_name, key.public_key(), start)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA384())
    )
    write_private(files.key, _private_pem(key))
    files.ca.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return files


def make_supernode(private: Path, public: Path | None = None) -> KeyFiles:
    """Make a hospital's ECDSA P-384 pair in OpenSSH form, as Flower's SuperNode and its registration read it.

    Raises:
        ConfigurationError: the private file already exists.
    """
    files = KeyFiles(private, public or private.with_name(private.name + ".pub"))
    key = ec.generate_private_key(ec.SECP384R1())
    write_private(
        files.private,
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        ),
    )
    line = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    files.public.write_bytes(line + b"\n")
    return files


def join_public(keys: Iterable[tuple[Path, str]], public: Path) -> Path:
    """Write the public halves of private keys in one file, a line each with its purpose: one thing to send.

    Args:
        keys: private files, as `make_supernode` writes them, and what each is for.
        public: written anew.
    """
    lines: list[bytes] = []
    for private, purpose in keys:
        key = serialization.load_ssh_private_key(private.read_bytes(), None).public_key()
        line = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        lines.append(line + b" " + purpose.encode() + b"\n")
    draft = public.with_name(public.name + ".new")
    draft.write_bytes(b"".join(lines))
    draft.replace(public)
    return public


def supernode_public_pems(public: Path) -> dict[str, bytes]:
    """A hospital's public keys by purpose, read from its file, in the PEM form in which the SuperLink keeps them.

    A lone line, whatever stands behind its key, is of a hospital that has only one yet: for `training`.

    Args:
        public: a line each, key and purpose, as `join_public` writes them.

    Raises:
        ConfigurationError: not ECDSA P-384 public keys, a purpose twice, or one key for two.
    """
    found: dict[str, bytes] = {}
    try:
        lines = [line for line in public.read_bytes().splitlines() if line.strip()]
        for line in lines:
            key = serialization.load_ssh_public_key(line)
            purpose = "training" if len(lines) == 1 else b" ".join(line.split()[2:]).decode()
            if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
                raise ConfigurationError(f"{public.name} is not an ECDSA P-384 public key")
            pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            if purpose in found or pem in found.values():
                raise ConfigurationError(f"{public.name} has two keys for {purpose!r}, or one key twice")
            found[purpose] = pem
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"{public.name} is not an OpenSSH public key") from error
    if not found:
        raise ConfigurationError(f"{public.name} is not an OpenSSH public key: it is empty")
    return found


def load_supernode(private: Path) -> ec.EllipticCurvePrivateKey:
    """A hospital's private key.

    Raises:
        ConfigurationError: missing, or not ECDSA P-384.
    """
    try:
        key = serialization.load_ssh_private_key(private.read_bytes(), None)
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"{private} is not a readable key: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ConfigurationError(f"{private} is not an ECDSA P-384 key")
    return key


def supernode_point(public: Path) -> str:
    """A hospital's public key, read from its OpenSSH file, as terms name it: a compressed point in hexadecimal.

    Raises:
        ConfigurationError: not an ECDSA P-384 public key.
    """
    pems = supernode_public_pems(public)
    if "training" not in pems:
        raise ConfigurationError(f"{public.name} has no key for training")
    key = serialization.load_pem_public_key(pems["training"])
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint).hex()


def write_supernode_public(public: Path, point: str) -> None:
    """Write a public key that terms name, as the OpenSSH file that the hospital itself has of it."""
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), bytes.fromhex(point))
    line = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    public.parent.mkdir(parents=True, exist_ok=True)
    public.write_bytes(line + b"\n")


def write_private(path: Path, content: bytes) -> None:
    """Write a secret that only its owner may read, never over another.

    Raises:
        ConfigurationError: the file already exists.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not durable.make(path, content):
        raise ConfigurationError(f"{path.name} already exists; a key is never replaced silently")


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _blank(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, start: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + LIFETIME)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
