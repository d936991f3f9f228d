"""The ways by which a result object gets to the PACS, and what came back: here by C-STORE, in `stow.py` by STOW-RS.

An object goes out as it lies in the archive and as it was checked, unparsed, over an association that is kept for as
long as there is more to send.
"""

import io
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset, read_preamble
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
from pynetdicom.dsutils import encode
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made from a table at import
from sqlalchemy import Row

from client.delivery.transmission import Transmission
from client.dicom.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from client.dicom.listener import client_tls
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

Lost = Literal["", "broken", "silent", "busy"]
"""Why there is no answer that is of use: the association broke off, nothing came for as long as is waited, or the PACS
cannot just now."""


class Unreachable(Exception):
    """The PACS cannot be reached, or answers nothing that concerns an object; the text says which."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A delivery that may be offered.

    Attributes:
        row: of the `delivery` table.
        content: its Part 10 file, as it was checked.
    """

    row: Row[Any]
    content: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one object.

    Attributes:
        sent: the PACS keeps it.
        problem: why it does not, or what it has changed.
        lost: why there is no answer, where there is none.
        final: it will never be taken as it is: another attempt would be answered in the same way.
    """

    sent: bool
    problem: str
    lost: Lost = ""
    final: bool = False
    at: float = field(default_factory=time.time)


class Carrier(Protocol):
    """One way to the PACS."""

    def offer(self, checked: Iterable[Checked]) -> Iterator[tuple[Row[Any], Answer]]:
        """Offer deliveries and say of each what became of it; ends early after one that is broken or silent.

        Raises:
            Unreachable: as said; objects not yet answered are untouched.
        """
        ...

    def prepare(self) -> None:
        """Something will be offered soon; whatever goes wrong shows then."""
        ...

    def alive(self) -> bool:
        """Whether the PACS answers at all."""
        ...

    def close(self) -> None:
        """End what is open; it opens again by itself."""
        ...


def rejecting(site: Site, refusal: str) -> str:
    """What a PACS does that wants no association with us, and under which names it was asked for one.

    Args:
        refusal: its reason.
    """
    return f"rejects us, {site.config.ae_title}, calling it {site.config.pacs.ae_title}: {refusal}"


class StoreCarrier:
    """C-STORE over an association that is kept (PS3.4 B).

    Args:
        answer_seconds: how long the PACS may take to answer.
    """

    def __init__(self, site: Site, answer_seconds: float) -> None:
        self._site = site
        self._answer = answer_seconds
        self._transmission: Transmission | None = None

    def offer(self, checked: Iterable[Checked]) -> Iterator[tuple[Row[Any], Answer]]:
        transmission = self._established()
        if transmission.rejected and not transmission.accepted:
            # it is there and takes none of these kinds: a refusal of the objects, not an absence
            for one in checked:
                yield one.row, Answer(False, "the PACS does not take this kind of object")
            return
        if transmission.refusal:
            raise Unreachable(f"the PACS {rejecting(self._site, transmission.refusal)}")
        if not transmission.established:
            raise Unreachable("the PACS cannot be reached")
        for one in checked:
            if not transmission.established:
                return  # it ended between two objects; neither was begun
            yield one.row, _store(transmission, one.content)

    def prepare(self) -> None:
        self._established()

    def alive(self) -> bool:
        transmission = self._begin()
        if not transmission.established:
            return False
        try:
            return transmission.echo() in (None, 0x0000)
        except OSError:
            return False
        finally:
            transmission.release()

    def close(self) -> None:
        transmission, self._transmission = self._transmission, None
        if transmission is not None:
            transmission.release()

    def _established(self) -> Transmission:
        """The association of before, or a new one, which may not have come about."""
        if self._transmission is None or not self._transmission.established:
            self._transmission = self._begin()
        return self._transmission

    def _begin(self) -> Transmission:
        entity = caller(self._site, self._answer)
        # the optional ones always: what waits from before a switch was turned off still goes, and is withdrawn;
        # each syntax in a context of its own: of several in one a PACS takes the one that it prefers, and every object
        # would have to be written anew
        entity.requested_contexts = [
            *(
                build_context(sop_class, syntax)
                for sop_class in (*RESULT_CLASSES, *OPTIONAL_CLASSES.values())
                for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
            ),
            build_context(ParametricMapStorage, RLELossless),
        ]
        entity.add_requested_context(Verification)
        peer = self._site.config.pacs
        return Transmission(entity, peer.host, peer.port, peer.ae_title, client_tls(self._site), self._answer)


def caller(site: Site, answer_seconds: float) -> AE:
    """Ourselves, as we call the PACS; contexts are still to be added."""
    entity = AE(site.config.ae_title)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.connection_timeout = entity.acse_timeout = min(answer_seconds, 10.0)
    entity.dimse_timeout = entity.network_timeout = answer_seconds
    return entity


def _store(transmission: Transmission, content: bytes) -> Answer:
    try:
        meta, begins_at = _file_meta(content)
        agreed = _agreed(transmission, meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID)
        if agreed is None:
            return Answer(False, "the PACS does not take this kind of object")
        # another transfer syntax than it lies in has to be written first
        as_it_is = agreed.transfer_syntax[0] == meta.TransferSyntaxUID
        dataset = memoryview(content)[begins_at:] if as_it_is else _rewritten(content, agreed.transfer_syntax[0])
    except (AttributeError, EOFError, InvalidDicomError):
        return Answer(False, "it is no DICOM file")
    if dataset is None:
        return Answer(False, "it cannot be written in the transfer syntax that the PACS takes")
    try:
        code = transmission.store(agreed, meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, dataset)
    except TimeoutError:
        return Answer(False, "", "silent")
    except OSError:
        return Answer(False, "", "broken")
    if code == 0x0000:
        return Answer(True, "")
    if busy := out_of_resources(code):
        return busy
    # PS3.4 table B.2-1: B000 coerced, B006 elements discarded, B007 does not match its class: stored all the same
    return Answer(code & 0xF000 == 0xB000, f"status {code:04X}")


def out_of_resources(code: int) -> Answer | None:
    """The answer that a status of "out of resources" is (PS3.4 table B.2-1, A7xx): it is told for all, and passes."""
    return Answer(False, f"the PACS cannot take it just now: status {code:04X}", "busy") if code >> 8 == 0xA7 else None


def _agreed(transmission: Transmission, sop_class: UID, lies_in: UID) -> PresentationContext | None:
    """What the PACS took for a class: the transfer syntax that the object lies in where it took several; None where it
    takes no such object uncompressed.
    """
    taken = [context for context in transmission.accepted if context.abstract_syntax == sop_class]
    for context in taken:
        if context.transfer_syntax[0] == lies_in:
            return context
    return next((context for context in taken if not context.transfer_syntax[0].is_compressed), None)


def _file_meta(content: bytes) -> tuple[Dataset, int]:
    """The file meta elements, and where the dataset begins."""
    stream = io.BytesIO(content)
    read_preamble(stream, force=False)
    meta = read_dataset(
        stream, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, _vr, _length: tag.group != 2
    )
    return meta, stream.tell()


def _rewritten(content: bytes, transfer_syntax: UID) -> memoryview | None:
    """The dataset in another uncompressed transfer syntax; None where it cannot be written in it."""
    dataset = pydicom.dcmread(io.BytesIO(content))
    try:
        if dataset.file_meta.TransferSyntaxUID.is_compressed:
            dataset.decompress(generate_instance_uid=False)
        encoded = encode(dataset, transfer_syntax.is_implicit_VR, transfer_syntax.is_little_endian)
    except (NotImplementedError, RuntimeError, ValueError):
        return None
    return None if encoded is None else memoryview(encoded)
