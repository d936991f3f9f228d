"""DICOM and later truths over TLS with certificates on both sides, and an allow-list of addresses."""

import datetime
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, evt
from sqlalchemy import func, select

from client.arrival.gateway import Gateway
from client.delivery.sender import Pace, Sender
from client.store.site import Site
from client.store.tables import delivery, instance
from configs.schema import PeerConfig, SiteConfig, TlsConfig, TruthConfig, save
from models.errors import ConfigurationError


@dataclass(frozen=True)
class Authority:
    """A certificate authority in a folder."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls, folder: Path) -> "Authority":
        folder.mkdir()
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate("ca", key, "ca", key, authority=True)
        (folder / "ca.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return cls(folder, key, certificate)

    def issue(self, name: str) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        paths = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        paths[0].write_bytes(_certificate(name, key, "ca", self.key).public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return paths

    def client(self, name: str | None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.folder / "ca.pem")
        if name:
            context.load_cert_chain(*self.issue(name))
        return context


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    signer: ec.EllipticCurvePrivateKey,
    *,
    authority: bool = False,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(signer, hashes.SHA256())
    )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path / "authority")


@pytest.fixture
def secured(site: Site, authority: Authority) -> Iterator[Gateway]:
    certificate, key = authority.issue("node")
    site.config.tls = TlsConfig(str(certificate), str(key), str(authority.folder / "ca.pem"))
    gateway = Gateway(site)
    yield gateway
    gateway.close()


def store(port: int, image: Dataset, tls: ssl.SSLContext | None) -> int | None:
    """The status of one C-STORE, None where no association came about."""
    entity = AE("MODALITY")
    entity.connection_timeout = entity.acse_timeout = 5.0
    entity.add_requested_context(image.SOPClassUID)
    association = entity.associate("localhost", port, tls_args=(tls, "localhost") if tls else None)
    if not association.is_established:
        return None
    try:
        return association.send_c_store(image).get("Status")
    finally:
        association.release()


def stored(site: Site) -> int:
    with site.database.read() as connection:
        return int(connection.execute(select(func.count()).select_from(instance)).scalar_one())


@pytest.mark.integration
def test_truths_are_taken_of_a_sender_with_a_certificate_alone(
    site: Site, run_node: Callable[[Site], Any], authority: Authority
) -> None:
    config = site.config
    certificate, key = authority.issue("node")
    config.tls = TlsConfig(str(certificate), str(key), str(authority.folder / "ca.pem"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config.truth = TruthConfig(port=port, addresses=["127.0.0.1"])
    save(config, site.folder / "site.yaml")
    run_node(site)
    message = b"\x0bMSH|^~\\&|LAB|PATH|||20260102||ADT^A08|C1|P|2.5.1\r\x1c\r"

    def answered(tls: ssl.SSLContext | None) -> bytes:
        call = socket.create_connection(("127.0.0.1", port), timeout=60)
        try:
            if tls is not None:
                call = tls.wrap_socket(call, server_hostname="localhost")
            call.sendall(message)
            return call.recv(4096)
        except (ssl.SSLError, ConnectionError):
            return b""
        finally:
            call.close()

    assert b"MSA|" not in answered(None)
    assert answered(authority.client(None)) == b""
    assert b"MSA|AR|C1" in answered(authority.client("lab"))


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_only_a_peer_with_a_certificate_of_our_authority_gets_in(
    site: Site, secured: Gateway, authority: Authority, radiograph: Callable[..., Dataset], tmp_path: Path
) -> None:
    stranger = Authority.make(tmp_path / "stranger").issue("modality")
    forged = authority.client(None)
    forged.load_cert_chain(*stranger)
    old = authority.client("old")
    old.maximum_version = ssl.TLSVersion.TLSv1_1

    assert store(secured.port, radiograph(), None) is None
    assert store(secured.port, radiograph(), authority.client(None)) is None
    assert store(secured.port, radiograph(), forged) is None
    assert store(secured.port, radiograph(), old) is None
    assert stored(site) == 0
    assert store(secured.port, radiograph(), authority.client("modality")) == 0
    assert stored(site) == 1


def test_a_large_image_comes_whole_over_tls(
    site: Site, secured: Gateway, authority: Authority, radiograph: Callable[..., Dataset]
) -> None:
    image = radiograph(rows=2000, columns=1500)  # 6 MB: more than the gateway gathers in memory
    assert store(secured.port, image, authority.client("modality")) == 0
    (path,) = site.archive.glob("*/*.dcm")
    assert dcmread(path).PixelData == image.PixelData


def test_a_silent_peer_keeps_nobody_out(
    secured: Gateway, authority: Authority, radiograph: Callable[..., Dataset]
) -> None:
    with socket.create_connection(("127.0.0.1", secured.port)) as silent:
        assert store(secured.port, radiograph(), authority.client("modality")) == 0
        silent.setblocking(False)
        with pytest.raises(BlockingIOError):  # its handshake is still waited for
            silent.recv(1)


@pytest.mark.parametrize(("allowed", "gets_in"), [(["10.0.0.0/8"], False), (["10.0.0.0/8", "127.0.0.1"], True)])
def test_only_allowed_addresses_get_in(
    site: Site, radiograph: Callable[..., Dataset], allowed: list[str], gets_in: bool
) -> None:
    site.config.calling_addresses = allowed
    gateway = Gateway(site)
    try:
        entity = AE("MODALITY")
        image = radiograph()
        entity.add_requested_context(image.SOPClassUID)
        association = entity.associate("127.0.0.1", gateway.port)
        assert association.is_established is gets_in
        if gets_in:
            association.release()
    finally:
        gateway.close()


def test_results_go_to_a_pacs_over_tls(
    site: Site, authority: Authority, scored: Callable[..., str], eventually: Callable[..., Any]
) -> None:
    certificate, key = authority.issue("node")
    site.config.tls = TlsConfig(str(certificate), str(key), str(authority.folder / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("pacs"))
    context.load_verify_locations(authority.folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    entity = AE("PACS")
    entity.supported_contexts = AllStoragePresentationContexts
    server = entity.start_server(
        ("localhost", 0), block=False, ssl_context=context, evt_handlers=[(evt.EVT_C_STORE, lambda _event: 0)]
    )
    assert server is not None
    site.config.pacs = PeerConfig("localhost", server.server_address[1], "PACS", tls=True)
    scored(objects=True)
    sender = Sender(site, Pace(first=0.05, poll=0.05, answer=5.0))
    sender.start()
    try:

        def states() -> set[str]:
            with site.database.read() as connection:
                return set(connection.execute(select(delivery.c.state)).scalars())

        eventually(lambda: states() == {"sent"})
    finally:
        sender.stop()
        server.shutdown()


def test_settings_that_cannot_work_are_named(site: Site, authority: Authority) -> None:
    with pytest.raises(ConfigurationError, match="all of certificate, key and ca"):
        TlsConfig(certificate="node.pem")
    with pytest.raises(ConfigurationError, match="tls"):
        SiteConfig(pacs=PeerConfig(tls=True))
    certificate, _ = authority.issue("node")
    site.config.tls = TlsConfig(str(certificate), "missing.key", str(authority.folder / "ca.pem"))
    with pytest.raises(ConfigurationError, match="belong together"):
        Gateway(site)
    site.config.tls = TlsConfig()
    site.config.calling_addresses = ["hospital"]
    with pytest.raises(ConfigurationError, match="calling_addresses"):
        Gateway(site)
