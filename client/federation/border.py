"""The hospital's border: every message in and out is checked, counted and written in the ledger here.

One message in, one message out, and nothing else: what a handler answers is packed, read back under the same rules as
if it came from a stranger, and recorded before it is returned. Whatever goes wrong leaves as one code from a closed
list; its text stays in the hospital.
"""

import logging
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol, cast

from models import exchange
from models.errors import BorderRefused, NotAllowed, VigieError
from models.exchange import (
    ANSWERS,
    Answer,
    Audit,
    Consent,
    Crossing,
    Decision,
    Evidence,
    Figures,
    GroupOrder,
    Holdings,
    Inquiry,
    Layout,
    Masked,
    MaskOrder,
    Offer,
    Order,
    Proposal,
    Refusal,
    RefusalCode,
    Release,
    Sealed,
    Survey,
    Tally,
    TrainOrder,
    Unmasked,
    UnmaskOrder,
    Update,
    Withdrawal,
    Withdrawn,
    asked,
)

if TYPE_CHECKING:
    from flwr.app import RecordDict

log = logging.getLogger(__name__)

Fact = str | int | float | bool | None


class Ledger(Protocol):
    """What the border needs of the hospital's ledger."""

    def append(self, event: str, facts: Mapping[str, Fact]) -> str:
        """Write one entry and return its hash."""
        ...


def _nothing(_: Survey) -> Tally:
    raise NotAllowed("nothing is counted here")


def _nobody(_: Withdrawal) -> Withdrawn:
    raise NotAllowed("nobody withdraws anything here")


def _untold(_: Inquiry) -> Holdings:
    raise NotAllowed("nobody is told what serves here")


def _unaudited(_: Audit) -> Figures:
    raise NotAllowed("nobody is told how versions do here")


def _unsummed(_: Order) -> NoReturn:
    raise NotAllowed("nothing is summed here")


@dataclass(frozen=True, slots=True)
class Handlers:
    """What a hospital does with each order.

    A handler that cannot answer raises; a `VigieError` whose code is among `exchange.CODES` leaves as that code,
    everything else as `failed`.

    Attributes:
        propose: take in the terms of a retraining and say whether the hospital agrees.
        allows: raises for an order that the hospital has not agreed to; asked when it comes, and again before the
            reply leaves.
        train: judge and train from the received weights.
        offer: judge an offered version on local cases.
        release: decide on a version.
        layout: names, shapes and number types of a version's weights, by its digest, or None if the hospital does
            not hold it; an order to train from it is then refused.
        survey: count what could be learned from.
        withdraw: let a version that the coordinator withdraws read no further study, or ask a person.
        inquire: say what became of versions.
        audit: say how a version does.
        seal, mask, unmask: the steps of a round whose updates are summed; the first one trains.
    """

    propose: Callable[[Proposal], Consent]
    allows: Callable[[Order], object]
    train: Callable[[TrainOrder], Update]
    offer: Callable[[Offer], Evidence]
    release: Callable[[Release], Decision]
    layout: Callable[[str], Layout | None]
    survey: Callable[[Survey], Tally] = _nothing
    withdraw: Callable[[Withdrawal], Withdrawn] = _nobody
    inquire: Callable[[Inquiry], Holdings] = _untold
    audit: Callable[[Audit], Figures] = _unaudited
    seal: Callable[[GroupOrder], Sealed] = _unsummed
    mask: Callable[[MaskOrder], Masked] = _unsummed
    unmask: Callable[[UnmaskOrder], Unmasked] = _unsummed


class _Refused(Exception):
    """The order will not be answered; inside this module only."""

    def __init__(self, code: RefusalCode) -> None:
        super().__init__(code)
        self.code: RefusalCode = code


class Border:
    """Answers orders on behalf of one hospital.

    Args:
        channel: the connection that they come by. By `control` comes nothing that takes long, or a coordinator could
            keep withdrawals waiting, and have two trainings at a time.
    """

    def __init__(
        self, ledger: Ledger, handlers: Callable[[], Handlers], channel: exchange.Channel = "training"
    ) -> None:
        self._ledger = ledger
        self._handlers = handlers
        self._channel: exchange.Channel = channel

    def answer(self, record: "RecordDict") -> "RecordDict":
        """Answer one message.

        Args:
            record: what the coordinator sent; anything.

        Returns:
            A declared reply, recorded in the ledger.
        """
        came = exchange.fingerprint(record)
        try:
            order = self._admit(record, came)
            handlers = self._open()
            self._agreed(order, handlers)
            layout = self._fits(order, handlers)
            reply = self._handle(order, handlers)
            self._agreed(order, handlers)  # it may have been withdrawn meanwhile
            packed = self._release(reply, order, layout)
        except _Refused as refused:
            return self._leave(self._refusal(came, refused.code), came, refused.code)
        return self._leave(packed, came, None)

    def refuse(self, record: "RecordDict", code: RefusalCode) -> "RecordDict":
        """Refuse a message unread, and record both."""
        came = exchange.fingerprint(record)
        self._record("border.refused", "in", came, code)
        return self._leave(self._refusal(came, code), came, code)

    # In

    def _admit(self, record: "RecordDict", came: Crossing) -> Order:
        try:
            message = exchange.parse(record)
        except BorderRefused as error:
            log.warning("message refused at the border: %s", error)
            self._record("border.refused", "in", came, "border-refused")
            raise _Refused("border-refused") from None
        if not isinstance(message, Order):
            self._record("border.refused", "in", came, "border-refused")
            raise _Refused("border-refused")
        if self._channel == "control" and exchange.channel_of(message) != "control":
            self._record("border.refused", "in", came, "not-allowed")
            raise _Refused("not-allowed")
        self._record("border.crossed", "in", came, None)
        return message

    def _open(self) -> Handlers:
        try:
            return self._handlers()
        except Exception as error:  # noqa: BLE001 - the border of the hospital: nothing may pass but a code
            raise _Refused(_code(error, "unavailable")) from None

    def _agreed(self, order: Order, handlers: Handlers) -> None:
        try:
            handlers.allows(order)
        except Exception as error:  # noqa: BLE001
            raise _Refused(_code(error, "consent-missing")) from None

    def _fits(self, order: Order, handlers: Handlers) -> Layout | None:
        """An order to train starts from a version that the hospital holds, tensor by tensor."""
        if not isinstance(order, TrainOrder):
            return None
        try:
            layout = handlers.layout(order.base)
        except Exception as error:  # noqa: BLE001
            raise _Refused(_code(error, "failed")) from None
        if layout is None:
            raise _Refused("base-unknown")
        try:
            layout = order.moving(layout)
            exchange.check_weights(order.weights, layout)
        except BorderRefused as error:
            log.warning("order refused at the border: %s", error)
            raise _Refused("border-refused") from None
        return layout

    # Out

    def _handle(self, order: Order, handlers: Handlers) -> Answer:
        try:
            match order:
                case Proposal():
                    return handlers.propose(order)
                case GroupOrder():
                    return handlers.seal(order)
                case TrainOrder():
                    return handlers.train(order)
                case MaskOrder():
                    return handlers.mask(order)
                case UnmaskOrder():
                    return handlers.unmask(order)
                case Offer():
                    return handlers.offer(order)
                case Release():
                    return handlers.release(order)
                case Survey():
                    return handlers.survey(order)
                case Withdrawal():
                    return handlers.withdraw(order)
                case Inquiry():
                    return handlers.inquire(order)
                case Audit():
                    return handlers.audit(order)
        except Exception as error:  # noqa: BLE001
            raise _Refused(_code(error, "failed")) from None

    def _release(self, reply: Answer, order: Order, layout: Layout | None) -> "RecordDict":
        """Pack a reply and read it back as a stranger would; it must belong to its order and keep to its bounds."""
        try:
            packed = exchange.disclosed(reply).to_record()
            read = ANSWERS[type(order)].from_record(packed, layout)
            exchange.check_answer(read, order)
        except Exception as error:  # noqa: BLE001
            log.error("the hospital's own reply was refused: %s", type(error).__name__)
            raise _Refused("reply-refused") from None
        if not exchange.belongs(read, order):
            log.error("the hospital's own reply belongs to another order")
            raise _Refused("reply-refused")
        return packed

    def _refusal(self, came: Crossing, code: RefusalCode) -> "RecordDict":
        return Refusal(to=asked(came.kind), code=code).to_record()

    def _leave(self, packed: "RecordDict", came: Crossing, code: RefusalCode | None) -> "RecordDict":
        """Recorded before it is returned; what cannot be recorded does not leave."""
        goes = exchange.fingerprint(packed)
        facts = Crossing(goes.kind, came.retraining, came.round, goes.sha256, goes.size)
        self._record("border.crossed", "out", facts, code)
        return packed

    def _record(self, event: str, direction: str, crossing: Crossing, code: str | None) -> None:
        self._ledger.append(
            event,
            {
                "direction": direction,
                "kind": crossing.kind,
                "retraining": crossing.retraining,
                "round": crossing.round,
                "sha256": crossing.sha256,
                "bytes": crossing.size,
                "code": code,
            },
        )


def _code(error: Exception, otherwise: RefusalCode) -> RefusalCode:
    """The one code under which an exception leaves; where it was raised stays in the log, what it said does not."""
    frame = traceback.extract_tb(error.__traceback__)[-1:]
    where = f"{Path(frame[0].filename).name}:{frame[0].lineno}" if frame else "?"
    log.error("an order was not answered: %s at %s", type(error).__name__, where)
    if isinstance(error, VigieError) and error.code in exchange.CODES:
        return cast(RefusalCode, error.code)
    return otherwise
