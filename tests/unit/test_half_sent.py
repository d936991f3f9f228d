"""A reply is given to the retraining once it is whole: a hospital killed half-way holds up nobody's reply.

On Flower's own state and store, over one database as the SuperLink has it.
"""

import inspect
import types

import pytest
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from flwr.app import Message as FlowerMessage
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.constant import TaskType
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from flwr.supercore.task_identity import TaskIdentity

from server import flower_internals

pytestmark = pytest.mark.filterwarnings("ignore:No path_separator:DeprecationWarning")  # Flower's migrations


class Link:
    """The SuperLink's state with a run and connected hospitals."""

    def __init__(self, path):
        self.told = []
        store = SqlObjectStore(str(path))
        store.initialize()
        anybody = types.SimpleNamespace(has_node=lambda *_: True, filter_nodes=lambda nodes, _: nodes)
        self.state = SqlLinkState(str(path), anybody, store)
        self.state.initialize()
        self.run = self.state.create_run("f/a", "1", "h", {}, "federation", None, "", TaskType.SERVER_APP)

    def connect(self, name):
        node = self.state.create_node(name, name, name.encode(), 30)
        assert self.state.activate_node(node, 30)
        return node

    def ask(self, node):
        message = FlowerMessage(RecordDict({"asks": ConfigRecord({"node": str(node)})}), node, "query", ttl=600)
        self.push(message, None)
        return message

    def push(self, message, most):
        """Send a message with no more than `most` of its parts, and return the rest."""
        message.metadata.__dict__["_message_id"] = message.object_id
        session = self.state.start_session(self.run)
        stored, missing = self.state.store_message_and_object_tree(message, get_object_tree(message), session)
        assert stored
        parts = {key: part.deflate() for key, part in get_all_nested_objects(message).items() if key in missing}
        here = list(parts)[:most]
        self.bring(session, {key: parts.pop(key) for key in here})
        return session, parts

    def bring(self, session, parts):
        for key, content in parts.items():
            assert self.state.store_object(self.run, session, key, content)

    def answer(self, question, most=None):
        found = FlowerMessage(RecordDict({"weights": ArrayRecord()}), reply_to=question)
        found.content["by"] = ConfigRecord({"node": str(question.metadata.dst_node_id)})
        return found, self.push(found, most)

    def pulled(self, *questions):
        """Of which hospitals a reply is given, by number; negative where it is an error."""
        asked = {question.metadata.message_id for question in questions}
        found = self.state.get_message_res(asked, self.run)
        by = {question.metadata.message_id: question.metadata.dst_node_id for question in questions}
        return {by[reply.metadata.reply_to_message_id]: reply.has_error() for reply in found}


@pytest.fixture
def link(tmp_path, monkeypatch):
    assert list(inspect.signature(SqlLinkState.store_object).parameters) == [
        *("self", "run_id", "session_id", "object_id", "object_content")
    ]
    for name in ("store_message_and_object_tree", "store_object"):
        monkeypatch.setattr(SqlLinkState, name, getattr(SqlLinkState, name))  # put back afterwards
    link = Link(tmp_path / "superlink.db")
    for name, number in (("_run_id", link.run), ("_node_id", SUPERLINK_NODE_ID), ("_task_id", 1)):
        monkeypatch.setattr(TaskIdentity, name, number)
    flower_internals.tell_of_messages(link.told.append)
    return link


def test_half_a_reply_is_not_given_and_holds_up_no_other_and_is_told_of_once_it_is_whole(link):
    alpha, beta = link.connect("alpha"), link.connect("beta")
    questions = link.ask(alpha), link.ask(beta)
    assert link.told == [alpha, beta]
    link.told.clear()

    _, (session, rest) = link.answer(questions[0], most=1)
    assert rest
    assert link.told == []
    assert link.pulled(*questions) == {}
    link.answer(questions[1])
    assert link.told == [SUPERLINK_NODE_ID]
    assert link.pulled(*questions) == {beta: False}

    link.bring(session, rest)
    assert link.told == [SUPERLINK_NODE_ID] * 2
    assert link.pulled(questions[0]) == {alpha: False}
    assert link.told == [SUPERLINK_NODE_ID] * 2


def test_half_a_reply_of_a_hospital_that_is_away_is_an_error_as_ever(link):
    alpha = link.connect("alpha")
    question = link.ask(alpha)
    link.answer(question, most=1)

    link.state.deactivate_node(alpha)

    assert link.pulled(question) == {alpha: True}


def test_a_reply_that_is_sent_again_is_given_once_it_is_whole(link):
    alpha = link.connect("alpha")
    question = link.ask(alpha)
    reply, (_, rest) = link.answer(question, most=1)

    _, still = link.push(reply, 0)
    assert still == rest
    assert link.pulled(question) == {}
    _, none = link.push(reply, None)
    assert none == {}
    assert link.pulled(question) == {alpha: False}
    link.push(reply, None)
    assert link.pulled(question) == {}  # it was given


def test_a_part_that_is_not_what_it_says_leaves_the_reply_unfinished(link):
    alpha = link.connect("alpha")
    question = link.ask(alpha)
    _, (session, rest) = link.answer(question, most=0)
    key = next(iter(rest))

    assert not link.state.store_object(link.run, session, key, b"something else")
    assert link.pulled(question) == {}
    link.bring(session, rest)
    assert link.pulled(question) == {alpha: False}
