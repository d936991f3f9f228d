"""Later truths as HL7 v2 says them: the coded observations of ORU^R01 (HL7 v2.5.1, chapter 7).

An observation becomes a statement where the site's settings say what its codes mean. Text is never read. What is not
final is none; what looks cut off is refused, for the rest of it may have said the opposite.
"""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from hl7apy.exceptions import HL7apyException
from hl7apy.parser import parse_message

from client.vigilance import meanings
from client.vigilance.later import RETRACTED, Refusal, Statement
from configs.schema import TruthConfig
from models.errors import InvalidVerdict
from models.validation import told

_FINAL: Final = "F"
_CORRECTED: Final = "C"
_WITHDRAWN: Final = ("D", "W")  # HL7 table 0085: deleted; posted as wrong
_BATCH: Final = ("FHS", "BHS", "BTS", "FTS")


def read_hl7(path: Path, config: TruthConfig) -> Iterator[tuple[str, Statement | Refusal]]:
    """What a file of messages says, one after another, with or without batch headers.

    Raises:
        InvalidVerdict: it is no such file.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # universal newlines: a segment ends with CR
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidVerdict(f"{path} cannot be read as HL7 v2 in UTF-8: {error}") from error
    segments = [line for line in text.split("\n") if line and line[:3] not in _BATCH]
    starts = [number for number, line in enumerate(segments) if line.startswith("MSH")]
    if not starts or starts[0]:
        raise InvalidVerdict(f"{path} does not begin with an HL7 v2 message (MSH)")
    whole = text.endswith("\n")
    for count, (start, end) in enumerate(zip(starts, [*starts[1:], len(segments)], strict=True), 1):
        ends = "\r" if whole or end < len(segments) else ""
        yield from statements("\r".join(segments[start:end]) + ends, config, f"message {count}")


def statements(message: str, config: TruthConfig, place: str = "message") -> Iterator[tuple[str, Statement | Refusal]]:
    """What one message says.

    Args:
        message: its segments, each ended by CR.
        place: what it is called where something is refused.
    """
    try:
        if not message.endswith("\r"):
            raise InvalidVerdict("it ends within a segment: the rest is missing")
        parsed = parse_message(message, find_groups=False)
        segments = [_Segment(one, parsed.encoding_chars) for one in parsed.children or ()]
        _check(segments)
    except InvalidVerdict as error:
        yield place, Refusal(place, str(error))
        return
    except (HL7apyException, ValueError, IndexError) as error:  # the parser's own, and what damage makes of it
        yield place, Refusal(place, f"it cannot be read as HL7 v2: {told(error)}")
        return
    header = segments[0]
    persons = [one for one in segments if one.name == "PID"]
    order: _Segment | None = None
    met, observations = False, 0
    for segment in segments:
        if segment.name == "OBR":
            order = segment
        observations += segment.name == "OBX"
        if segment.name != "OBX" or not meanings.known(segment.codes(3), config):
            continue
        met = True
        where = f"{place}, OBX {observations}"
        try:
            if len(persons) != 1 or order is None:
                raise InvalidVerdict("a message has one patient (PID), and an order (OBR) before its observations")
            yield where, _statement(header, persons[0], order, segment, config)
        except InvalidVerdict as error:
            yield where, Refusal(where, str(error))
    if not met:
        yield place, Refusal(place, "truth.codes names none of its observations")


class _Segment:
    """One segment, by numbers as the standard has them."""

    def __init__(self, segment: Any, marks: dict[str, str]) -> None:
        self.name = str(segment.name)
        self._marks = marks
        self._fields: dict[int, list[str]] = {}
        for one in segment.children:
            self._fields.setdefault(int(str(one.name).rpartition("_")[2]), []).append(str(one.to_er7()))

    def component(self, field: int, number: int = 1) -> str:
        """A component of the first repetition; empty if there is none.

        Raises:
            InvalidVerdict: it is escaped, which identifiers and codes are not.
        """
        found = self.repetitions(field)
        return found[0][number - 1] if found and len(found[0]) >= number else ""

    def repetitions(self, field: int) -> list[list[str]]:
        """The components of every repetition; of a component, its first part."""
        found = self._fields.get(field, [])
        if any(self._marks["ESCAPE"] in one for one in found):
            raise InvalidVerdict(f"{self.name}-{field} has an escape sequence")
        parts = [one.split(self._marks["COMPONENT"]) for one in found]
        return [[part.split(self._marks["SUBCOMPONENT"])[0].strip() for part in one] for one in parts]

    def codes(self, field: int) -> list[str]:
        """The codes of a coded element and of its translation (CWE.1/3, CWE.4/6), SCHEME:VALUE; [] if it is none."""
        try:
            found = self.repetitions(field)
        except InvalidVerdict:  # a text may be escaped; it is not read
            return []
        padded = [one + [""] * 6 for one in found]
        pairs = [(one[at + 2], one[at]) for one in padded for at in (0, 3)]
        return [f"{scheme}:{value}" for scheme, value in pairs if scheme and value]


def _check(segments: list[_Segment]) -> None:
    kind = [segments[0].component(9, number) for number in (1, 2)]
    if kind != ["ORU", "R01"]:
        raise InvalidVerdict(f"it is {'^'.join(kind)}, not ORU^R01")
    if segments[0].component(11) != "P":
        raise InvalidVerdict(f"it is marked {segments[0].component(11)!r} (MSH-11): only what is in production counts")


def _statement(
    header: _Segment, person: _Segment, order: _Segment, observation: _Segment, config: TruthConfig
) -> Statement:
    status = observation.component(11)
    if status not in (_FINAL, _CORRECTED, *_WITHDRAWN):
        raise InvalidVerdict(f"its status is {status!r} (OBX-11): only what is final counts")
    code = observation.codes(3)
    if status in _WITHDRAWN:
        meaning, answer = meanings.any_of(code, config), RETRACTED
    else:
        if observation.component(2) not in ("CE", "CWE", "CNE"):
            raise InvalidVerdict(f"its answer is {observation.component(2)!r} (OBX-2), not a code")
        if len(observation.repetitions(5)) != 1:
            raise InvalidVerdict("it gives several answers (OBX-5)")
        meaning = meanings.of(code, observation.codes(5), config)
        answer = meaning.answer
    filler, accession = order.component(3), order.component(config.accession)
    if not filler:
        raise InvalidVerdict("it has no filler order number (OBR-3) to know it by")
    if not accession:
        raise InvalidVerdict(f"it has no accession number (OBR-{config.accession})")
    identifiers = [(one + [""] * 4)[:4] for one in person.repetitions(3)]
    patient, issuer = meanings.patient([(one[0], one[3]) for one in identifiers], config)
    names = (header.component(3), header.component(4), filler, order.component(3, 2), sorted(code)[0])
    return Statement(
        reference="|".join((*names, observation.component(4))),
        study="",
        accession=accession,
        patient=patient,
        issuer=issuer,
        answer=answer,
        tier=meaning.tier,
        date=_date(observation.component(14) or order.component(7)),
        finding=meaning.finding,
        corrects=status != _FINAL,
    )


def _date(stamp: str) -> str:
    try:
        return datetime.strptime(stamp[:8], "%Y%m%d").strftime("%Y-%m-%d")
    except ValueError:
        raise InvalidVerdict(f"{stamp!r} is no day (OBX-14, OBR-7)") from None
