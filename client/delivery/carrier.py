"""The ways by which a result object gets to the PACS, and what came back: here by C-STORE, in `stow.py` by STOW-RS.

An object goes out as it lies in the archive, unparsed, over an association that is kept for as long as there is more to
send.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    ImplicitVRLittleEndian,
    KeyObjectSelectionDocumentStorage,
    ParametricMapStorage,
    RLELossless,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from pynetdicom import AE, build_context
from pynetdicom import _config as pynetdicom_config
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made from a table at import
from sqlalchemy import Row

from client.dicom.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from client.dicom.listener import client_tls
from client.dicom.requestor import associate
from client.store.archive import Archive
from client.store.site import Site

RESULT_CLASSES: Final = (
    Comprehensive3DSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
"""What every hospital gets."""
OPTIONAL_CLASSES: Final = {"heat_maps": ParametricMapStorage, "structure_sets": RTStructureSetStorage}
"""By the switch in `results` of `site.yaml`, what is made only where the site asks for it."""

Lost = Literal["", "broken", "silent"]
"""Why there is no answer: the association broke off, or nothing came for as long as is waited."""


class Unreachable(Exception):
    """The PACS cannot be reached, or answers nothing that concerns an object; the text says which."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one object.

    Attributes:
        sent: the PACS keeps it.
        problem: why it does not, or what it has changed.
        lost: why there is no answer, where there is none.
    """

    sent: bool
    problem: str
    lost: Lost = ""
    at: float = field(default_factory=time.time)


class Carrier(Protocol):
    """One way to the PACS."""

    def offer(self, rows: Iterable[Row[Any]]) -> Iterator[tuple[Row[Any], Answer]]:
        """Offer deliveries and say of each what became of it; ends early after one that has no answer.

        Raises:
            Unreachable: as said; objects not yet answered are untouched.
        """
        ...

    def alive(self) -> bool:
        """Whether the PACS answers at all."""
        ...

    def close(self) -> None:
        """End what is open; it opens again by itself."""
        ...


class StoreCarrier:
    """C-STORE over an association that is kept (PS3.4 B).

    Args:
        answer_seconds: how long the PACS may take to answer.
    """

    def __init__(self, site: Site, archive: Archive, answer_seconds: float) -> None:
        self._site = site
        self._archive = archive
        self._answer = answer_seconds
        self._association: Association | None = None
        pynetdicom_config.STORE_SEND_CHUNKED_DATASET = True  # a path is sent as it lies there

    def offer(self, rows: Iterable[Row[Any]]) -> Iterator[tuple[Row[Any], Answer]]:
        association = self._established()
        if not association.is_established and association.rejected_contexts:
            # it is there and takes none of these kinds: a refusal of the objects, not an absence
            for row in rows:
                yield row, Answer(False, "the PACS does not take this kind of object")
            return
        if not association.is_established:
            raise Unreachable("the PACS cannot be reached")
        for row in rows:
            if not association.is_established:
                return  # it ended between two objects; neither was begun
            yield row, _store(association, self._archive.path(row.sha256), self._answer)

    def alive(self) -> bool:
        association = self._associate()
        if not association.is_established:
            return False
        try:
            if any(context.abstract_syntax == Verification for context in association.accepted_contexts):
                return association.send_c_echo().get("Status") == 0x0000
            return True
        except RuntimeError:
            return False
        finally:
            _release(association)

    def close(self) -> None:
        association, self._association = self._association, None
        if association is not None:
            _release(association)

    def _established(self) -> Association:
        """The association of before, or a new one, which may not have come about."""
        if self._association is None or not self._association.is_established:
            self._association = self._associate()
        return self._association

    def _associate(self) -> Association:
        entity = caller(self._site, self._answer)
        # the optional ones always: what waits from before a switch was turned off still goes, and is withdrawn
        for sop_class in (*RESULT_CLASSES, *OPTIONAL_CLASSES.values()):
            entity.add_requested_context(sop_class, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        entity.requested_contexts = [*entity.requested_contexts, build_context(ParametricMapStorage, RLELossless)]
        entity.add_requested_context(Verification)
        peer = self._site.config.pacs
        return associate(entity, peer.host, peer.port, peer.ae_title, client_tls(self._site))


def caller(site: Site, answer_seconds: float) -> AE:
    """Ourselves, as we call the PACS; contexts are still to be added."""
    entity = AE(site.config.ae_title)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.connection_timeout = entity.acse_timeout = min(answer_seconds, 10.0)
    entity.dimse_timeout = entity.network_timeout = answer_seconds
    return entity


def _release(association: Association) -> None:
    if association.is_established:
        with suppress(RuntimeError):  # it ended meanwhile
            association.release()


def _store(association: Association, path: Path, patience: float) -> Answer:
    try:
        meta = read_file_meta_info(path)
        agreed = _agreed(association, meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID)
    except (AttributeError, EOFError, InvalidDicomError, OSError):
        return Answer(False, "its file in the archive is missing or damaged")
    if agreed is None:
        return Answer(False, "the PACS does not take this kind of object")
    began = time.monotonic()
    try:
        # another transfer syntax than it lies in has to be written first
        status = association.send_c_store(path if agreed == meta.TransferSyntaxUID else _rewritten(path))
    except ValueError:
        return Answer(False, "it cannot be written in the transfer syntax that the PACS takes")
    except RuntimeError:
        return Answer(False, "", "broken")
    code = status.get("Status")
    if code is None:
        return Answer(False, "", "silent" if time.monotonic() - began > 0.9 * patience else "broken")
    if code == 0x0000:
        return Answer(True, "")
    # PS3.4 table B.2-1: B000 coerced, B006 elements discarded, B007 does not match its class: stored all the same
    return Answer(code & 0xF000 == 0xB000, f"status {code:04X}")


def _agreed(association: Association, sop_class: UID, lies_in: UID) -> UID | None:
    """The transfer syntax that the PACS took for a class, the one that the object lies in where it took several; None
    where it takes no such object uncompressed.
    """
    taken = [
        context.transfer_syntax[0] for context in association.accepted_contexts if context.abstract_syntax == sop_class
    ]
    return lies_in if lies_in in taken else next((one for one in taken if not one.is_compressed), None)


def _rewritten(path: Path) -> Dataset:
    dataset = pydicom.dcmread(path)
    if dataset.file_meta.TransferSyntaxUID.is_compressed:
        dataset.decompress(generate_instance_uid=False)
    return dataset
