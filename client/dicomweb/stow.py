"""STOW-RS: images that come by HTTP go the same way as those that come by C-STORE.

Each part of a request is filed as soon as it has come, before the next one is taken; a request that breaks off half-way
leaves what had come whole, under the same digests as when it is sent again.

Source: PS3.18 10.5, tables 10.5.3-1 (status), I.2.1-2 (the response's dataset); annex I.2.2 (failure reasons).
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Final

from starlette.concurrency import run_in_threadpool

from client.arrival.intake import STATUS, Header, Intake, NotKept, Offer, read_header
from client.dicomweb.multipart import Malformed, Parser, Part, TooLarge
from client.dicomweb.part10 import split
from models.errors import InvalidStudy

LARGEST_INSTANCE: Final = 1 << 30
_CANNOT_UNDERSTAND: Final = STATUS["not-dicom"]
_NO_RESOURCES: Final = (STATUS["disk-full"], STATUS["queue-full"], STATUS["out-of-resources"])


@dataclass(slots=True)
class Stored:
    """What became of the instances of a request.

    Attributes:
        kept: those that are durable.
        failed: (SOP class, SOP instance, reason as PS3.4 and PS3.18 number them); empty where they could not be read.
        broken: the body broke off, was no multipart body or had a part that was too large.
    """

    kept: list[Header] = field(default_factory=lambda: list[Header]())
    failed: list[tuple[str, str, int]] = field(default_factory=lambda: list[tuple[str, str, int]]())
    broken: str = ""

    @property
    def status(self) -> int:
        """The HTTP status that says so."""
        if self.broken == "too-large":
            return 413
        if self.broken or not (self.kept or self.failed):
            return 400
        if not self.failed:
            return 200
        if self.kept:
            return 202
        return 503 if all(reason in _NO_RESOURCES for *_, reason in self.failed) else 409

    def dataset(self, root: str) -> dict[str, Any]:
        """The response in the JSON model.

        Args:
            root: URL of the service.
        """
        made: dict[str, Any] = {}
        studies = {header.study_uid for header in self.kept}
        if len(studies) == 1:
            made["00081190"] = {"vr": "UR", "Value": [f"{root}/studies/{studies.pop()}"]}
        if self.failed:
            made["00081198"] = _sequence(
                _reference(sop_class, sop_uid) | {"00081197": {"vr": "US", "Value": [reason]}}
                for sop_class, sop_uid, reason in self.failed
            )
        if self.kept:
            made["00081199"] = _sequence(
                _reference(header.sop_class, header.sop_uid)
                | {
                    "00081190": {
                        "vr": "UR",
                        "Value": [
                            f"{root}/studies/{header.study_uid}/series/{header.series_uid}/instances/{header.sop_uid}"
                        ],
                    }
                }
                for header in self.kept
            )
        return made


async def store(
    intake: Intake, body: AsyncIterator[bytes], boundary: str, calling: str, study: str | None, largest: int
) -> Stored:
    """File the instances of a body, one after the other.

    Args:
        calling: who sends them.
        study: the only study that they may be of, if any.
        largest: bytes that one instance may have.
    """
    stored = Stored()
    sender = id(stored)
    try:
        parser = Parser(boundary, largest)
        async for chunk in body:
            for part in parser.feed(chunk):
                await run_in_threadpool(_file, intake, part, calling, sender, study, stored)
        if not parser.finished:
            stored.broken = "half"
    except Malformed:
        stored.broken = "malformed"
    except TooLarge:
        stored.broken = "too-large"
    finally:
        intake.ended(sender)
    return stored


def _file(intake: Intake, part: Part, calling: str, sender: int, study: str | None, stored: Stored) -> None:
    media = part.headers.get("content-type", "application/dicom").partition(";")[0].strip().lower()
    header: Header | None = None
    try:
        if media != "application/dicom":
            raise InvalidStudy("not-dicom", "a part that is no DICOM file")
        syntax, start = split(part.content)
        dataset = BytesIO(memoryview(part.content)[start:])
        header = read_header(dataset, syntax)
        if study is not None and header.study_uid != study:
            raise InvalidStudy("uid-mismatch", "an instance of another study")
        offer = Offer(header.sop_class, header.sop_uid, syntax, calling, sender, account=True)
        stored.kept.append(intake.receive(memoryview(part.content)[start:], offer))
    except (InvalidStudy, NotKept) as error:
        sop_class, sop_uid = (header.sop_class, header.sop_uid) if header else ("", "")
        stored.failed.append((sop_class, sop_uid, STATUS.get(error.reason, _CANNOT_UNDERSTAND)))


def _reference(sop_class: str, sop_uid: str) -> dict[str, Any]:
    values = {"00081150": sop_class, "00081155": sop_uid}
    return {tag: {"vr": "UI", "Value": [value]} if value else {"vr": "UI"} for tag, value in values.items()}


def _sequence(items: Any) -> dict[str, Any]:
    return {"vr": "SQ", "Value": list(items)}
