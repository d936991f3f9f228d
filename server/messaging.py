"""How a retraining speaks with the hospitals: declared messages out, declared messages or a code back.

A hospital is known by its key: the SuperLink binds a node number to the public key that was registered, and only
nodes whose number and key are in the coordinator's own list are hospitals. Results come in the order of their names.
"""

import hashlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flwr.app import Message as FlowerMessage
from flwr.app import MessageType, RecordDict
from flwr.serverapp import Grid

from models import exchange
from models.errors import BorderRefused
from models.exchange import ANSWERS, CODES, Decision, Evidence, Order, Refusal, TrainOrder, Update
from server.superlink import RegisteredSite, registered_sites

log = logging.getLogger(__name__)

POLL = (0.05, 1.0)  # seconds, from the first look on; Flower's own send_and_receive looks every 3
Answer = Update | Evidence | Decision

ABSENT = "absent"  # the hospital was not connected
SILENT = "silent"  # it did not answer in time
LOST = "lost"  # its answer, or the process that made it, was lost on the way
MALFORMED = "malformed"  # what it sent is not a declared message, or not the one asked for


@dataclass(frozen=True, slots=True)
class Failure:
    """No answer from a hospital: its own refusal code, or one of `absent`, `silent`, `lost`, `malformed`."""

    code: str


@dataclass(frozen=True, slots=True)
class Answered:
    """What one exchange brought: one entry per hospital asked, in the order of their names."""

    results: Mapping[str, Answer | Failure]
    seconds: float


class Exchange:
    """Sends messages to hospitals by name within one run.

    Args:
        grid: Flower's grid of this run.
        folder: the coordinator's folder.
    """

    def __init__(self, grid: Grid, folder: Path) -> None:
        self._grid = grid
        self._folder = folder

    def registered(self) -> list[str]:
        """Names of all hospitals let in, connected or not."""
        return list(registered_sites(self._folder))

    def sites(self) -> dict[str, int]:
        """Node numbers of the connected hospitals, by name, in order."""
        known = {site.node_id: site for site in registered_sites(self._folder).values()}
        found: dict[str, int] = {}
        for node in self._grid.get_nodes():
            site = known.get(node.node_id)
            if site is None or not _is(site, node.public_key):
                log.warning("a connected node is not a registered site and is left out")
                continue
            found[site.name] = node.node_id
        return dict(sorted(found.items()))

    def wait_for(self, names: list[str], timeout: float) -> dict[str, int]:
        """Wait until these hospitals are connected, or time is out; returns those of them that are."""
        deadline = time.monotonic() + timeout
        while True:
            sites = {name: node for name, node in self.sites().items() if name in names}
            if len(sites) == len(set(names)) or time.monotonic() > deadline:
                return sites
            time.sleep(0.2)

    def send_and_receive(self, orders: Mapping[str, Order], timeout: float) -> Answered:
        """Send one order to each hospital named and wait for their answers.

        Args:
            orders: by site name; the same object for several sites is packed once.
            timeout: seconds to wait for the slowest.
        """
        started = time.monotonic()
        sites = self.sites()
        results: dict[str, Answer | Failure] = {}
        waiting: dict[str, str] = {}
        packed: dict[int, RecordDict] = {}
        for name, order in sorted(orders.items()):
            if name not in sites:
                results[name] = Failure(ABSENT)
                continue
            record = packed.setdefault(id(order), order.to_record())
            message = FlowerMessage(
                record, dst_node_id=sites[name], message_type=MessageType.QUERY, ttl=timeout, group_id=_group(order)
            )
            # One by one: pushed together, the messages would be held in memory as often as there are hospitals.
            (identifier,) = self._grid.push_messages([message])
            if identifier:
                waiting[identifier] = name
            else:
                results[name] = Failure(LOST)
        while waiting and time.monotonic() - started < timeout:
            for reply in self._grid.pull_messages(list(waiting)):
                name = waiting.pop(reply.metadata.reply_to_message_id, None)
                if name is not None:
                    results[name] = _read(reply, orders[name])
            if waiting:
                # The longer the hospitals train, the less a moment more matters.
                time.sleep(min(max((time.monotonic() - started) / 20, POLL[0]), POLL[1]))
        results.update({name: Failure(SILENT) for name in waiting.values()})
        return Answered(dict(sorted(results.items())), time.monotonic() - started)


def _is(site: RegisteredSite, public_key: bytes) -> bool:
    return hashlib.sha256(public_key).hexdigest() == site.key_sha256


def _group(order: Order) -> str:
    return str(order.round) if isinstance(order, TrainOrder) else order.kind


def _read(reply: FlowerMessage, order: Order) -> Answer | Failure:
    """The answer to this order, or why there is none; hospitals are not trusted to send what they should."""
    if reply.has_error():
        reason = reply.error.reason
        return Failure(reason if reason in CODES else LOST)
    layout = exchange.layout_of(order.weights) if isinstance(order, TrainOrder) else None
    try:
        message = exchange.parse(reply.content, layout)
    except BorderRefused as error:
        log.warning("a hospital's answer is malformed: %s", error)
        return Failure(MALFORMED)
    if isinstance(message, Refusal):
        return Failure(message.code)
    if not isinstance(message, ANSWERS[type(order)]) or not _belongs(message, order):
        return Failure(MALFORMED)
    return message


def _belongs(answer: Answer, order: Order) -> bool:
    if answer.retraining != order.retraining:
        return False
    if isinstance(answer, Update) and isinstance(order, TrainOrder):
        return answer.answers(order)
    return not isinstance(answer, Update) and not isinstance(order, TrainOrder) and answer.digest == order.digest
