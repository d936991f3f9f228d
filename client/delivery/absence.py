"""Why a PACS gives no association although it refuses none: the network, TLS, or a port of something else."""

import socket
import ssl
from typing import Final

from client.dicom.listener import client_tls
from client.store.site import Site

_REFUSAL_SECONDS: Final = 1.0
_NETWORK: Final = "check host, port and firewall in site.yaml; is it up?"


def absence(site: Site, patience: float) -> tuple[str, str]:
    """What is wrong with the way to the PACS, and what to do about it.

    Args:
        patience: seconds that it may take to answer.

    Raises:
        ConfigurationError: our own certificate, key or authority do not fit.
    """
    peer, context = site.config.pacs, client_tls(site)
    where = f"{peer.ae_title} at {peer.host}:{peer.port}"
    try:
        connection = socket.create_connection((peer.host, peer.port), timeout=patience)
    except OSError as error:
        return f"{where} does not answer: {error.strerror or type(error).__name__}", _NETWORK
    with connection:
        if context is None:
            advice = "check its port: is it another service's, or does it want TLS (pacs: {tls: true})?"
            return f"{where} takes the connection and answers no DICOM", advice
        return _handshake(connection, context, peer.host, where)


def _handshake(connection: socket.socket, context: ssl.SSLContext, host: str, where: str) -> tuple[str, str]:
    try:
        with context.wrap_socket(connection, server_hostname=host) as wrapped:
            wrapped.settimeout(_REFUSAL_SECONDS)
            # by TLS 1.3 a peer refuses our certificate after the handshake; one that takes it waits for us to speak
            said = wrapped.recv(1)
    except ssl.SSLCertVerificationError as error:
        advice = (
            "tls.ca has to be the certificate of whoever signed the PACS's, pacs.host a name or address that stands in"
            " it, and it has to be in date"
        )
        return f"{where}: its certificate is not taken: {error.verify_message}", advice
    except TimeoutError:
        said = b" "
    except OSError as error:  # ssl.SSLError is one
        reason = getattr(error, "reason", None) or error.strerror or type(error).__name__
        advice = (
            "let the PACS trust whoever signed tls.certificate here; or its port speaks no TLS, or none of PS3.15: name"
            " its TLS port, or turn pacs.tls off"
        )
        return f"{where}: no TLS with it: {reason}", advice
    if not said:
        return f"{where} ends the connection after TLS", "let the PACS trust whoever signed tls.certificate here"
    return f"{where} takes the connection and answers no DICOM", "is it the port of another service?"
