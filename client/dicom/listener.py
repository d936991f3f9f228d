"""Who may connect to the DICOM door, and by which means.

TLS follows PS3.15 B.12 (BCP 195): 1.2 or later, ephemeral keys, and a certificate on both sides.
"""

import logging
import socket
import ssl
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from socketserver import BaseServer
from typing import Any, Final

from pynetdicom.transport import ThreadedAssociationServer

import client.dicom.closing  # noqa: F401  # pyright: ignore[reportUnusedImport]
from client.store.site import Site
from models.errors import ConfigurationError

log = logging.getLogger(__name__)

Network = IPv4Network | IPv6Network
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM"
_HANDSHAKE_SECONDS: Final = 10.0
_CROWD: Final = 2


class Listener(ThreadedAssociationServer):
    """Takes connections from allowed addresses; shakes hands in the connection's own thread.

    pynetdicom shakes hands in the thread that accepts, where one silent peer keeps everybody else out.
    """

    networks: tuple[Network, ...] = ()
    request_queue_size = 128  # five of pynetdicom's, and a sixth modality at once waits for a second

    def get_request(self) -> tuple[socket.socket, Any]:
        assert self.socket is not None  # it listens
        return self.socket.accept()

    def shutdown(self) -> None:
        """Take no connection any more; pynetdicom's own looks itself up in a list that it is not in."""
        BaseServer.shutdown(self)
        self.server_close()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        if len(self.active_associations) >= _CROWD * self.ae.maximum_associations:
            # so many that even to refuse each in DICOM would take a thread too many
            log.warning("a connection from %s was closed: too many are open", client_address[0])
            return False
        if not self.networks or any(ip_address(client_address[0]) in network for network in self.networks):
            return True
        log.warning("a connection from %s was refused: the address is not in calling_addresses", client_address[0])
        return False

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.ssl_context is not None:
            request.settimeout(_HANDSHAKE_SECONDS)
            try:
                request = self.ssl_context.wrap_socket(request, server_side=True)
            except OSError as error:  # ssl.SSLError is one
                reason = getattr(error, "reason", None) or type(error).__name__
                log.warning("a TLS connection from %s failed: %s", client_address[0], reason)
                request.close()
                return
        # until the association stands: pynetdicom waits without end for the rest of a request
        request.settimeout(self.ae.acse_timeout)
        super().finish_request(request, client_address)


def networks(addresses: list[str]) -> tuple[Network, ...]:
    """Addresses and networks as the configuration names them, `10.0.0.5` or `10.0.0.0/8`.

    Raises:
        ConfigurationError: one of them is none.
    """
    try:
        return tuple(ip_network(address, strict=False) for address in addresses)
    except ValueError as error:
        raise ConfigurationError(f"calling_addresses: {error}") from error


def server_tls(site: Site) -> ssl.SSLContext | None:
    """What a peer has to meet that calls us; None where TLS is not configured.

    Raises:
        ConfigurationError: a file is missing or does not fit.
    """
    return _loaded(site, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)) if site.config.tls.certificate else None


def client_tls(site: Site) -> ssl.SSLContext | None:
    """With what we call the PACS; None where it is called without TLS.

    Raises:
        ConfigurationError: as `server_tls`.
    """
    return _loaded(site, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)) if site.config.pacs.tls else None


def _loaded(site: Site, context: ssl.SSLContext) -> ssl.SSLContext:
    files = site.config.tls
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(site.folder / files.certificate, site.folder / files.key, _passphrase)
        context.load_verify_locations(site.folder / files.ca)
    except OSError as error:
        raise ConfigurationError(
            f"tls: certificate, key and ca are PEM files that belong together ({error.strerror or error})"
        ) from error
    return context


def _passphrase() -> str:
    """What OpenSSL asks for where a key is protected; it would ask on the terminal of a node that has none."""
    raise ConfigurationError("tls: the key is protected by a passphrase: put it there without one, for its owner only")
