"""The hospital's DICOM door: C-STORE and C-ECHO; what tells of studies is in `procedure_steps.py`.

An instance is answered with success when its file and its index entry are on disk, not before (`intake.py`); what
cannot be kept whole is answered with a failure and leaves nothing behind. A second instance with the same UID and other
content is answered with success too: it is kept, apart and flagged, and a failure would only make the PACS send it for
ever.
"""

import contextlib
import copy
import socket
import threading
from functools import cache
from typing import Any, Final, cast

from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom import _config as pynetdicom_config
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,  # type: ignore[attr-defined]  # made from a table at import
    Verification,  # type: ignore[attr-defined]
)

from client.arrival.intake import STATUS, SUCCESS, Instance, Intake, NotKept, Offer
from client.arrival.procedure_steps import STEP_CLASSES, ProcedureSteps
from client.arrival.reception import Announcement, Reception, hand_over
from client.arrival.storable import STORAGE_CLASSES, unknown_among
from client.delivery import commitment
from client.dicom.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from client.dicom.listener import Listener, networks, server_tls
from client.dicom.requestor import no_delay
from client.dicom.syntaxes import ACCEPTED
from client.store.site import Site

_STOP_SECONDS: Final = 5.0
_MAX_ASSOCIATIONS: Final = 64
_UNASKED: Final = "Sta2"  # PS3.8 9.2.1: connected, and nobody has asked for an association yet


class Gateway:
    """The storage SCP of a site; started on construction, stopped by `close`.

    Raises:
        ConfigurationError: certificates or addresses that cannot work.
        OSError: the port is taken.
    """

    def __init__(self, site: Site) -> None:
        config = site.config
        tls, allowed = server_tls(site), networks(config.calling_addresses)
        self.intake = Intake(site)
        self._receptions: set[Reception] = set()
        self._lock = threading.Lock()
        pynetdicom_config.LOG_HANDLER_LEVEL = "none"
        pynetdicom_config.LOG_REQUEST_IDENTIFIERS = False
        pynetdicom_config.LOG_RESPONSE_IDENTIFIERS = False
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, no_delay),
            (evt.EVT_FSM_TRANSITION, hand_over),
            (evt.EVT_ESTABLISHED, self._on_established),
            (evt.EVT_CONN_CLOSE, self._on_close),
            *ProcedureSteps(site).handlers(),
            *commitment.handlers(site),
        ]
        if config.unknown_classes:
            handlers.append((evt.EVT_REQUESTED, _support_unknown))
        entity = _entity(config.ae_title, config.calling_ae_titles)
        entity.require_called_aet = config.require_called_ae
        server = cast(
            Listener,
            entity.make_server(
                (config.host, config.dicom_port),
                contexts=_contexts(),
                ssl_context=tls,
                evt_handlers=handlers,
                server_class=Listener,
            ),
        )
        server.networks = allowed
        threading.Thread(target=server.serve_forever, name="listener", daemon=True).start()
        self._server = server

    @property
    def port(self) -> int:
        """The TCP port that it listens on."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Abort what is being received (it was not acknowledged), commit what was, and stop."""
        self._server.shutdown()
        with self._lock:
            receptions = list(self._receptions)
        for reception in receptions:
            reception.stop()
        for reception in receptions:
            reception.wait(_STOP_SECONDS)
        for association in self._server.active_associations:
            if association.dul.state_machine.current_state == _UNASKED:  # there is nothing yet that could be aborted
                connection = association.dul.socket and association.dul.socket.socket
                if connection is not None:
                    with contextlib.suppress(OSError):  # it has gone meanwhile
                        connection.shutdown(socket.SHUT_RDWR)
            else:
                association.abort()
        self.intake.close()

    def _on_established(self, event: evt.Event) -> None:
        reception = Reception(event.assoc, self._begin)
        with self._lock:
            self._receptions.add(reception)
        try:
            reception.run()
        finally:
            with self._lock:
                self._receptions.discard(reception)

    def _begin(self, announcement: Announcement) -> Instance:
        return self.intake.begin(
            Offer(
                announcement.sop_class,
                announcement.sop_uid,
                announcement.transfer_syntax,
                str(announcement.association.requestor.ae_title),
                id(announcement.association),
                originator=announcement.originator,
            )
        )

    def take(self, event: evt.Event) -> int:
        """Keep an instance that comes over an association of ours; the status to answer with."""
        request: Any = event.request
        if request.DataSet is None:
            return STATUS["not-dicom"]
        offer = Offer(
            str(request.AffectedSOPClassUID),
            str(request.AffectedSOPInstanceUID),
            str(event.context.transfer_syntax),
            str(event.assoc.acceptor.ae_title),
            id(event.assoc),
            fetching=True,
        )
        try:
            self.intake.receive(request.DataSet.getvalue(), offer)
        except NotKept as error:
            return STATUS[error.reason]
        return SUCCESS

    def _on_close(self, event: evt.Event) -> None:
        self.intake.ended(id(event.assoc))


def _entity(ae_title: str, calling_ae_titles: list[str]) -> AE:
    entity = AE(ae_title=ae_title)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.maximum_associations = _MAX_ASSOCIATIONS
    entity.maximum_pdu_size = 0  # the sender's choice
    entity.network_timeout = 120
    entity.acse_timeout = 10  # whoever connects and asks for nothing takes a place from others
    entity.require_calling_aet = list(calling_ae_titles)
    return entity


class _Context(PresentationContext):
    """pynetdicom copies every context for every association, 60 ms for ours, most of it UIDs that never change."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Context":
        made = copy.copy(self)
        made._transfer_syntax = [*self._transfer_syntax]
        return made


def _contexts() -> list[PresentationContext]:
    """What is accepted: every storage class in every transfer syntax, verification, and what tells of studies."""
    found: list[PresentationContext] = []
    for abstract_syntax in (*sorted(STORAGE_CLASSES), Verification, StorageCommitmentPushModel, *STEP_CLASSES):
        context = _context(abstract_syntax)
        if abstract_syntax == StorageCommitmentPushModel:
            context.scu_role, context.scp_role = False, True  # the peer provides it, we only hear its reports
        found.append(context)
    return found


def _context(abstract_syntax: str) -> PresentationContext:
    context = copy.deepcopy(_accepting())
    context.abstract_syntax = UID(abstract_syntax)
    return context


@cache
def _accepting() -> PresentationContext:
    """Without an abstract syntax; pynetdicom looks at every transfer syntax anew, for each of two hundred classes."""
    context = _Context()
    context.transfer_syntax = [*ACCEPTED]
    return context


def _support_unknown(event: evt.Event) -> None:
    """Before it is negotiated: support what a peer proposes that may be storage.

    pynetdicom's own switch holds for the whole process, and takes whatever transfer syntax is proposed first.
    """
    association = event.assoc
    proposed = association.requestor.primitive
    if association.is_acceptor and proposed is not None:
        unknown = unknown_among(proposed.presentation_context_definition_list)
        association.acceptor.supported_contexts = [
            *association.acceptor.supported_contexts,
            *(_context(abstract_syntax) for abstract_syntax in unknown),
        ]
