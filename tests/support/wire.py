"""What went over a test's SuperLink, as tests/support/capture wrote it down, and the declared messages in it."""

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse, PushMessagesRequest
from flwr.proto.message_pb2 import PullObjectResponse, PushObjectRequest
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from models import parcels
from models.exchange import fingerprint

FLEET = "/v1/fleet/"
CAPTURE = Path(__file__).parent / "capture"


@dataclass(frozen=True)
class Exchange:
    """One request and its answer."""

    head: dict
    asked: bytes
    answered: bytes

    @property
    def path(self):
        return self.head["path"]

    @property
    def heading(self):
        """All that stands around the bodies."""
        return json.dumps(self.head).encode()


@dataclass(frozen=True)
class Crossed:
    """A message as it crossed a border; `record` is what it carried."""

    site: str
    direction: str
    kind: str
    sha256: str
    size: int
    record: object


def read(path):
    """Every exchange, in the order in which they ended."""
    found = []
    with path.open("rb") as file:
        while line := file.readline():
            head = json.loads(line)
            found.append(Exchange(head, file.read(head["asked"]), file.read(head["answered"])))
            assert len(found[-1].asked) == head["asked"]
            assert len(found[-1].answered) == head["answered"]
    return found


class Wire:
    """The hospitals' side of the exchanges.

    Attributes:
        crossed: the messages.
        objects: content of every object that went over, by its id.
        parcels: content of what went beside messages, by its digest.
        undeclared: ids of objects and digests of parcels that belong to no message.
    """

    def __init__(self, exchanges, names):
        self.objects, self.parcels, messages = {}, {}, {}
        for exchange in exchanges:
            if exchange.path.startswith(parcels.PATH) and exchange.head["status"] in (200, 204):
                content = exchange.asked if exchange.head["method"] == "PUT" else exchange.answered
                self.parcels[hashlib.sha256(content).hexdigest()] = content
            elif exchange.head["status"] == 200 and exchange.path.startswith(FLEET):
                self._note(exchange, messages)
        self.crossed, declared = [], set()
        for node, direction, root, nodes in messages.values():
            message = inflate_object_from_contents(root, self.objects, keep_object_contents=True)
            declared |= nodes
            brought = set()
            record = parcels.attached(message.content, partial(self._parcel, brought))
            declared |= brought
            print_of = fingerprint(record)
            self.crossed.append(Crossed(names[node], direction, print_of.kind, print_of.sha256, print_of.size, record))
        self.undeclared = (set(self.objects) | set(self.parcels)) - declared

    def _note(self, exchange, messages):
        match exchange.path.removeprefix(FLEET):
            case "push-object":
                pushed = PushObjectRequest.FromString(exchange.asked)
                self.objects[pushed.object_id] = pushed.object_content
                self._same(pushed.object_id)
            case "pull-object":
                pulled = PullObjectResponse.FromString(exchange.answered)
                if pulled.object_available:
                    # the answer does not repeat the id; it is the digest of the content
                    self.objects[_id(pulled.object_content)] = pulled.object_content
            case "push-messages":
                request = PushMessagesRequest.FromString(exchange.asked)
                self._list(messages, request.node.node_id, "out", request)
            case "pull-messages":
                node = PullMessagesRequest.FromString(exchange.asked).node.node_id
                self._list(messages, node, "in", PullMessagesResponse.FromString(exchange.answered))

    def _parcel(self, brought, digest, _):
        brought.add(digest)
        return memoryview(self.parcels[digest])

    def _same(self, identifier):
        assert _id(self.objects[identifier]) == identifier, "an object is not what its id says"

    @staticmethod
    def _list(messages, node, direction, body):
        for message, tree in zip(body.messages_list, body.message_object_trees, strict=True):
            assert not message.HasField("error"), "an error instead of a message"
            nodes = {part.object_id for part in iterate_object_tree(tree)}
            messages[message.metadata.message_id, direction] = (node, direction, tree.object_id, nodes)


def _id(content):
    from flwr.supercore.inflatable.inflatable_object import get_object_id

    return get_object_id(content)
