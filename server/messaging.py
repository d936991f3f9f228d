"""How a retraining speaks with the hospitals: declared messages out, declared messages or a code back.

A hospital is known by its keys: the SuperLink binds a node number to the public key that was registered, and only
nodes whose number and key are in the coordinator's own list are hospitals. A hospital has two of them; which one a
message goes by follows from what it is, and where the one for what is quick is not connected the other takes it.
Results come in the order of hospitals' names.
"""

import hashlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flwr.app import Array, MessageType, RecordDict
from flwr.app import Message as FlowerMessage
from flwr.serverapp import Grid

from models import exchange, parcels
from models.errors import BorderRefused, NotFound
from models.exchange import CODES, Answer, Channel, Order, Packer, Refusal, TrainOrder
from server.parcels import Shelf
from server.superlink import CHANNELS, RegisteredNode, RegisteredSite, registered_sites

log = logging.getLogger(__name__)

POLL = (0.05, 1.0)  # seconds, from the first look on; Flower's own send_and_receive looks every 3
LOOK = 2.0  # seconds between two looks at who is connected, and since when
GRACE = 20.0  # seconds for a hospital to come back that is not connected: as long as its SuperNode takes to start
AGAIN = 2  # how often a hospital is asked again

ABSENT = "absent"  # the hospital was not connected
SILENT = "silent"  # it did not answer in time
LOST = "lost"  # its answer, or the process that made it, was lost on the way
_AGAIN = (LOST, "interrupted")
LATER = frozenset({ABSENT, SILENT, *_AGAIN})  # why a hospital may have an answer that did not come
MALFORMED = "malformed"  # what it sent is no declared message, not the one asked for, or says more than may leave


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
        shelf: for what is large in messages; None: they go whole.
    """

    def __init__(self, grid: Grid, folder: Path, shelf: Shelf | None = None) -> None:
        self._grid = grid
        self._folder = folder
        self._shelf = shelf

    def registered(self) -> list[str]:
        """Names of all hospitals let in, connected or not."""
        return list(registered_sites(self._folder))

    def sites(self) -> dict[str, int]:
        """Node numbers of the connected hospitals, by name, in order."""
        return {name: nodes["training"].number for name, nodes in self._connected().items() if "training" in nodes}

    def reached(self) -> list[str]:
        """Names of the hospitals that are connected by either channel, in order."""
        return list(self._connected())

    def _connected(self) -> "dict[str, _Nodes]":
        known: dict[int, tuple[RegisteredSite, Channel]] = {}
        for site in registered_sites(self._folder).values():
            for channel in CHANNELS:
                known.setdefault(site.node(channel).node_id, (site, channel))
        found: dict[str, _Nodes] = {}
        for node in self._grid.get_nodes():
            site, channel = known.get(node.node_id, (None, "training"))
            if site is None or not _is(site.node(channel), node.public_key):
                log.warning("a connected node is not a registered site and is left out")
                continue
            found.setdefault(site.name, {})[channel] = _Node(node.node_id, node.last_activated_at)
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

        A hospital whose connection was made anew since it was asked has lost the question, and one whose answering
        process was killed has no answer: both are asked again. What they had answered by then, they repeat.

        Args:
            orders: by site name; the same object for several sites is packed once.
            timeout: seconds to wait for the slowest.
        """
        laid = set[str]()
        try:
            return self._exchanged(orders, timeout, laid)
        finally:
            if self._shelf is not None:
                for digest in laid:
                    self._shelf.drop(digest)

    def _exchanged(self, orders: Mapping[str, Order], timeout: float, laid: set[str]) -> Answered:
        started = time.monotonic()
        results: dict[str, Answer | Failure] = {}
        open_: dict[str, _Asked] = {name: _Asked() for name in sorted(orders)}
        waiting: dict[str, tuple[str, int]] = {}
        packed: dict[int, RecordDict] = {}
        pack, slips = Packer(), dict[int, tuple[parcels.Buffer, Array]]()

        def ask(nodes: Mapping[str, _Nodes]) -> None:
            for name, asked in list(open_.items()):
                node, left = _by(orders[name], nodes.get(name, {})), timeout - (time.monotonic() - started)
                if asked.by is not None and node is not None and node != asked.by:
                    asked.lose(LOST)
                if asked.lost and (asked.times > AGAIN or (node is None and asked.gone())):
                    results[name] = Failure(asked.lost)
                    del open_[name]
                elif asked.lost and node is not None and left > 0:
                    if id(orders[name]) not in packed:
                        packed[id(orders[name])] = self._slim(orders[name].to_record(pack), laid, slips)
                    record = packed[id(orders[name])]
                    message = FlowerMessage(
                        record,
                        dst_node_id=node.number,
                        message_type=MessageType.QUERY,
                        ttl=left,
                        group_id=_group(orders[name]),
                    )
                    # One by one: pushed together, the messages would be held in memory as often as there are hospitals.
                    (identifier,) = self._grid.push_messages([message])
                    if identifier:
                        waiting[identifier] = (name, node.number)
                        asked.sent(node)
                    else:
                        asked.lose(LOST)
                        asked.times += 1

        ask(self._connected())
        looked = time.monotonic()
        while open_ and time.monotonic() - started < timeout:
            asked_at = time.monotonic()
            replies = list(self._grid.pull_messages(list(waiting))) if waiting else []
            for reply in replies:
                name, number = waiting.pop(reply.metadata.reply_to_message_id, ("", 0))
                if name not in open_:
                    continue  # answered already, to the question asked again
                found = self._read(reply, orders[name], number)
                if isinstance(found, Failure) and found.code in _AGAIN:
                    open_[name].lose(found.code)
                else:
                    results[name] = found
                    del open_[name]
            if any(asked.lost for asked in open_.values()) or time.monotonic() - looked > LOOK:
                ask(self._connected())
                looked = time.monotonic()
            if open_ and not replies:
                # The longer the hospitals train, the less a moment more matters; our SuperLink keeps an answer without
                # a message back for so long, so that there is nothing to wait for here.
                pause = min(max((time.monotonic() - started) / 20, POLL[0]), POLL[1])
                time.sleep(max(0.0, pause - (time.monotonic() - asked_at)))
        results.update({name: Failure(asked.lost or SILENT) for name, asked in open_.items()})
        return Answered(dict(sorted(results.items())), time.monotonic() - started)

    def _slim(self, record: RecordDict, laid: set[str], slips: dict[int, tuple[parcels.Buffer, Array]]) -> RecordDict:
        """The message with what is large in it on the shelf; `laid` is told what."""
        if self._shelf is None:
            return record
        shelf = self._shelf

        def put(digest: str, content: parcels.Buffer) -> None:
            laid.add(digest)
            shelf.put(digest, content)

        return parcels.detached(record, put, slips)

    def _read(self, reply: FlowerMessage, order: Order, node: int) -> Answer | Failure:
        """What a node answered, with what it brought beside it."""
        if self._shelf is None or reply.has_error():
            return _read(reply, order)
        shelf = self._shelf

        def fetch(digest: str, size: int) -> memoryview:
            if (found := shelf.take(node, digest, size)) is None:
                raise NotFound("what belongs to an answer is not there")
            return found

        try:
            reply.content = parcels.attached(reply.content, fetch)
        except NotFound as error:
            log.warning("%s", error)
            return Failure(LOST)
        return _read(reply, order)


@dataclass(frozen=True, slots=True)
class _Node:
    """A connected hospital: its number, and since when this connection is, as the SuperLink says it."""

    number: int
    activated: str


_Nodes = dict[Channel, _Node]


def _by(order: Order, nodes: _Nodes) -> _Node | None:
    """The connection that an order goes by; what is quick goes by training's where there is no other."""
    return nodes.get(exchange.channel_of(order)) or nodes.get("training")


@dataclass(slots=True)
class _Asked:
    """How one hospital's question is doing; `lost` says why it has to be asked (again), empty while it is awaited."""

    lost: str = ABSENT
    by: _Node | None = None
    times: int = 0
    since: float = field(default_factory=time.monotonic)

    def sent(self, node: _Node) -> None:
        self.lost, self.by, self.times = "", node, self.times + 1

    def lose(self, code: str) -> None:
        self.lost, self.by, self.since = code, None, time.monotonic()

    def gone(self) -> bool:
        return time.monotonic() - self.since > GRACE


def _is(node: RegisteredNode, public_key: bytes) -> bool:
    return hashlib.sha256(public_key).hexdigest() == node.key_sha256


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
    if not isinstance(message, tuple(exchange.ANSWERS.values())) or not exchange.belongs(message, order):
        return Failure(MALFORMED)
    try:
        exchange.check_answer(message, order)
    except BorderRefused as error:
        log.warning("a hospital's answer says more than may leave: %s", error)
        return Failure(MALFORMED)
    return message
