"""A modality that costs next to nothing: prepared PDUs over raw sockets, one thread an association.

So that a benchmark of receivers measures the receivers. Started as a process of its own; prints one line of JSON. Each
image is a 2 MB projection radiograph, explicit little endian, with a SOP instance UID of its own.
"""

import argparse
import json
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, build_context, evt
from pynetdicom.dsutils import encode
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification
from pynetdicom.sop_class import ModalityPerformedProcedureStep  # type: ignore[attr-defined]  # made at import

from client.dicom.requestor import no_delay

ROWS, COLUMNS = 1024, 1024
IMAGE_BYTES = ROWS * COLUMNS * 2
LARGEST_PDU = 131072  # what dcmtk sends at most
RELEASE = b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00"


@dataclass(slots=True)
class Message:
    """A C-STORE request as it goes over the wire, and where the instance's UID stands in it."""

    content: bytearray
    uid_at: list[int]
    uid: bytes

    def rename(self, uid: bytes) -> None:
        """Make it another instance; the new UID is as long as the old one."""
        for at in self.uid_at:
            self.content[at : at + len(uid)] = uid
        self.uid = uid


def radiograph(study: str) -> Dataset:
    """The image that is sent: 2 MB of nothing in particular."""
    image = Dataset()
    image.SOPClassUID = DigitalXRayImageStorageForPresentation
    image.SOPInstanceUID = _uid(0).decode()
    image.StudyInstanceUID, image.SeriesInstanceUID = study, f"{study}.1"
    image.Modality, image.BodyPartExamined, image.ViewPosition = "DX", "CHEST", "PA"
    image.PatientID, image.PatientName, image.PatientSex, image.PatientAge = "BENCH", "Bench^Mark", "O", "050Y"
    image.StudyDate, image.StudyTime, image.AccessionNumber = "20240101", "120000", "BENCH"
    image.PhotometricInterpretation, image.SamplesPerPixel = "MONOCHROME2", 1
    image.Rows, image.Columns = ROWS, COLUMNS
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.PixelData = os.urandom(IMAGE_BYTES)
    return image


def prepare(image: Dataset, pdu: int = LARGEST_PDU) -> Message:
    """A request for an image, explicit little endian, cut into PDUs of at most `pdu` bytes."""
    uid = str(image.SOPInstanceUID).encode()
    command = Dataset()
    command.AffectedSOPClassUID = image.SOPClassUID
    command.CommandField, command.MessageID, command.Priority, command.CommandDataSetType = 0x0001, 1, 0, 0x0001
    command.AffectedSOPInstanceUID = image.SOPInstanceUID
    elements, dataset = encode(command, True, True), encode(image, False, True)
    assert elements is not None
    assert dataset is not None
    elements = struct.pack("<HHLL", 0, 0, 4, len(elements)) + elements
    content = bytearray(value(elements, 3))
    step = pdu - 6
    for at in range(0, len(dataset), step):
        content += value(dataset[at : at + step], 2 if at + step >= len(dataset) else 0)
    found, at = [], content.find(uid)
    while at >= 0:
        found.append(at)
        at = content.find(uid, at + 1)
    return Message(content, found, uid)


class Association:
    """One association, for one kind of image.

    Args:
        sop_class: what will be sent, in explicit little endian.
        patience: seconds until an answer is given up.

    Raises:
        OSError, RuntimeError: nobody listens, or it is not accepted.
    """

    def __init__(
        self,
        port: int,
        called: str,
        sop_class: str = DigitalXRayImageStorageForPresentation,
        calling: str = "MODALITY",
        patience: float = 120.0,
    ) -> None:
        self._peer = socket.create_connection(("127.0.0.1", port), patience)
        try:
            self._peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._peer.sendall(request(called, sop_class, calling))
            _pdu(self._peer, 2)
        except BaseException:
            self._peer.close()
            raise

    def store(self, message: Message) -> int:
        """Send one image; the status of the answer.

        Raises:
            OSError, RuntimeError: the association is lost.
        """
        self._peer.sendall(message.content)
        answer = _pdu(self._peer, 4)
        status = answer.find(struct.pack("<HHL", 0, 0x0900, 2))
        if status < 0:
            raise RuntimeError("an answer without a status")
        return int.from_bytes(answer[status + 8 : status + 10], "little")

    def release(self) -> None:
        """End it in order."""
        with self._peer:
            self._peer.sendall(RELEASE)
            _pdu(self._peer, 6)

    def drop(self) -> None:
        """End it at once."""
        self._peer.close()


def announce(port: int, called: str, images: Sequence[Dataset], calling: str = "MODALITY") -> None:
    """Create and complete a performed procedure step that names a study's images (PS3.4 F.7).

    Raises:
        RuntimeError: it is not taken, or nobody listens.
    """
    entity = AE(calling)
    entity.add_requested_context(ModalityPerformedProcedureStep, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", port, ae_title=called, evt_handlers=[(evt.EVT_CONN_OPEN, no_delay)])
    begun, scheduled, ended, series = Dataset(), Dataset(), Dataset(), Dataset()
    scheduled.StudyInstanceUID = images[0].StudyInstanceUID
    begun.ScheduledStepAttributesSequence = [scheduled]
    begun.PerformedProcedureStepStatus, begun.PerformedSeriesSequence = "IN PROGRESS", []
    series.SeriesInstanceUID = images[0].SeriesInstanceUID
    series.ReferencedImageSequence = [_reference(image) for image in images]
    ended.PerformedProcedureStepStatus, ended.PerformedSeriesSequence = "COMPLETED", [series]
    uid = generate_uid(prefix=None)
    first, _ = association.send_n_create(begun, ModalityPerformedProcedureStep, uid)
    second, _ = association.send_n_set(ended, ModalityPerformedProcedureStep, uid)
    association.release()
    if first.get("Status") != 0 or second.get("Status") != 0:
        raise RuntimeError("the procedure step was not taken")


def _reference(image: Dataset) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = image.SOPClassUID
    reference.ReferencedSOPInstanceUID = image.SOPInstanceUID
    return reference


def send(port: int, called: str, message: Message, images: int, first: int, go: threading.Barrier) -> None:
    """One association: `images` requests, each after the answer to the one before.

    Raises:
        RuntimeError: an answer that is no success.
    """
    go.wait()
    association = Association(port, called)
    for number in range(first, first + images):
        message.rename(_uid(number))
        if status := association.store(message):
            raise RuntimeError(f"an image was not stored: {status:04X}")
    association.release()


def announced_pdu(port: int, called: str) -> int:
    """The longest PDU that a receiver takes, as it says when it accepts; 0 is any."""
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.settimeout(30)
        peer.sendall(request(called))
        accepted = A_ASSOCIATE_AC()
        accepted.decode(_pdu(peer, 2))
        peer.sendall(RELEASE)
        _pdu(peer, 6)
    return int(accepted.user_information.maximum_length or 0) if accepted.user_information else 0


def request(called: str, sop_class: str = DigitalXRayImageStorageForPresentation, calling: str = "MODALITY") -> bytes:
    """An A-ASSOCIATE-RQ PDU: one context, number 1, in explicit little endian."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"  # type: ignore[assignment]
    primitive.calling_ae_title, primitive.called_ae_title = calling, called
    context = build_context(sop_class, ExplicitVRLittleEndian)
    context.context_id = 1
    primitive.presentation_context_definition_list = [context]
    longest, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    longest.maximum_length_received = LARGEST_PDU
    implementation.implementation_class_uid = "1.2.3.4"  # type: ignore[assignment]
    primitive.user_information = [longest, implementation]
    return A_ASSOCIATE_RQ(primitive).encode()


def _pdu(peer: socket.socket, expected: int) -> bytes:
    header = _exactly(peer, 6)
    if header[0] != expected:
        raise RuntimeError(f"PDU of type {header[0]} where {expected} was expected")
    return header + _exactly(peer, int.from_bytes(header[2:]))


def _exactly(peer: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        piece = peer.recv(size - len(found))
        if not piece:
            raise RuntimeError("the receiver has closed the connection")
        found += piece
    return bytes(found)


def value(data: bytes, control: int) -> bytes:
    """A P-DATA-TF PDU of one presentation data value: control 1 is a command, 2 the last of its kind."""
    return struct.pack(">BxLLBB", 4, len(data) + 6, len(data) + 2, 1, control) + data


def _uid(number: int) -> bytes:
    return f"2.25.1{os.getpid():010d}{time.time_ns() // 10**9:011d}{number:08d}".encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--called", default="PACS")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--associations", type=int, default=1)
    parser.add_argument("--pdu", type=int, default=LARGEST_PDU)
    parser.add_argument("--sink", action="store_true", help="the port takes bytes and answers nothing")
    options = parser.parse_args()
    share = options.images // options.associations
    if options.sink:
        message = prepare(radiograph("1.2.3"), options.pdu)
        began = time.perf_counter()
        with socket.create_connection(("127.0.0.1", options.port)) as peer:
            for number in range(options.images):
                message.rename(_uid(number))
                peer.sendall(message.content)
            peer.shutdown(socket.SHUT_WR)
            peer.recv(1)
        json.dump({"images": options.images, "seconds": time.perf_counter() - began}, sys.stdout)
        return
    longest = announced_pdu(options.port, options.called)
    pdu = min(options.pdu, longest or options.pdu)
    go = threading.Barrier(options.associations + 1)
    failures: list[BaseException] = []

    def association(number: int) -> None:
        try:
            message = prepare(radiograph(f"2.25.{os.getpid()}{time.time_ns()}{number}"), pdu)
            send(options.port, options.called, message, share, number * share, go)
        except BaseException as error:
            failures.append(error)
            go.abort()
            raise

    threads = [threading.Thread(target=association, args=(number,)) for number in range(options.associations)]
    for thread in threads:
        thread.start()
    go.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if failures:
        sys.exit(1)
    json.dump({"images": share * options.associations, "seconds": seconds, "pdu": pdu}, sys.stdout)


if __name__ == "__main__":
    main()
