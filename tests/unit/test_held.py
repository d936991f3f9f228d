"""Whoever asks for messages waits for them, hears of them at once, and loses none by having gone."""

import asyncio

import pytest
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse
from flwr.proto.message_pb2 import Message
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse

from models.bodies import Whole
from server import held
from server.held import Held, News

FLEET, RUNTIME = "/v1/fleet/pull-messages", "/v1/runtime/pull-messages"
NODE = 2**63 + 5
ASKED = {FLEET: PullMessagesRequest(node=Node(node_id=NODE)), RUNTIME: PullAppMessagesRequest()}
EMPTY = {FLEET: PullMessagesResponse(), RUNTIME: PullAppMessagesResponse()}
FULL = {
    FLEET: PullMessagesResponse(messages_list=[Message()]),
    RUNTIME: PullAppMessagesResponse(messages_list=[Message()]),
}


class Peer:
    """A client and the application, with what was said between them."""

    def __init__(self, path, asked=None, pieces=1):
        self.scope = {"type": "http", "method": "POST", "path": path, "state": {}}
        body = ASKED[path].SerializeToString() if asked is None else asked
        size = max(1, -(-len(body) // pieces))
        parts = [body[start : start + size] for start in range(0, len(body), size)] or [b""]
        self.left = [
            {"type": "http.request", "body": part, "more_body": number + 1 < len(parts)}
            for number, part in enumerate(parts)
        ]
        self.gone, self.answered, self.read = asyncio.Event(), [], []

    async def receive(self):
        if self.left:
            return self.left.pop(0)
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.answered.append(message)

    def app(self, *answers, status=200):
        answers = list(answers)

        async def answer(scope, receive, send):
            self.read.append(await receive())
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": answers.pop(0).SerializeToString()})

        return answer


async def until(condition):
    while not condition():
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def for_ever(monkeypatch):
    """Who is not answered by a message is never answered: a test that waits for the time would hang."""
    monkeypatch.setattr(held, "SECONDS", dict.fromkeys(held.SECONDS, 1e6))


@pytest.mark.parametrize("path", [FLEET, RUNTIME])
def test_an_answer_without_a_message_waits_for_the_next_message_for_that_node(path):
    async def play():
        news, peer = News(), Peer(path)
        asking = asyncio.create_task(Held(peer.app(EMPTY[path], FULL[path]), news)(peer.scope, peer.receive, peer.send))
        await until(lambda: peer.read and news._waiting)
        news.tell(1 if path == FLEET else NODE)  # somebody else's
        await asyncio.sleep(0)
        assert not peer.answered
        await asyncio.to_thread(news.tell, NODE if path == FLEET else SUPERLINK_NODE_ID)
        await asking
        return peer

    peer = asyncio.run(play())

    assert peer.answered[1]["body"] == FULL[path].SerializeToString()
    assert [read["body"] for read in peer.read] == [ASKED[path].SerializeToString()] * 2
    assert len(peer.answered) == 2  # the first answer was never sent


def test_a_message_that_came_while_the_question_was_answered_is_not_waited_for():
    async def play():
        news, peer = News(), Peer(FLEET)
        app = peer.app(EMPTY[FLEET], FULL[FLEET])

        async def and_meanwhile(scope, receive, send):
            await app(scope, receive, send)
            if len(peer.read) == 1:
                news.tell(NODE)

        await Held(and_meanwhile, news)(peer.scope, peer.receive, peer.send)
        return peer

    assert asyncio.run(play()).answered[1]["body"] == FULL[FLEET].SerializeToString()


@pytest.mark.parametrize(("answer", "status"), [(FULL[FLEET], 200), (EMPTY[FLEET], 401)])
def test_a_message_and_a_refusal_are_answered_at_once(answer, status):
    async def play():
        peer = Peer(FLEET)
        await Held(peer.app(answer, status=status), News())(peer.scope, peer.receive, peer.send)
        return peer

    peer = asyncio.run(play())

    assert [peer.answered[0]["status"], peer.answered[1]["body"]] == [status, answer.SerializeToString()]
    assert len(peer.read) == 1


def test_who_has_gone_is_given_no_message():
    async def play():
        news, peer = News(), Peer(FLEET)
        asking = asyncio.create_task(Held(peer.app(EMPTY[FLEET]), news)(peer.scope, peer.receive, peer.send))
        await until(lambda: news._waiting)
        peer.gone.set()
        await asking
        await until(lambda: not news._waiting)
        news.tell(NODE)
        return peer

    peer = asyncio.run(play())

    assert len(peer.read) == 1  # the application was not asked for it a second time
    assert not peer.answered


def test_time_and_the_end_of_the_process_let_everybody_go(monkeypatch):
    async def play(seconds, end):
        monkeypatch.setattr(held, "SECONDS", {FLEET: seconds})
        news, peer = News(), Peer(FLEET)
        asking = asyncio.create_task(Held(peer.app(EMPTY[FLEET]), news)(peer.scope, peer.receive, peer.send))
        if end:
            await until(lambda: news._waiting)
            await asyncio.to_thread(news.end)
        await asking
        later = Peer(FLEET)
        if end:
            await Held(later.app(EMPTY[FLEET]), news)(later.scope, later.receive, later.send)
        return peer, news

    for seconds, end in ((0.01, False), (1e6, True)):
        peer, news = asyncio.run(play(seconds, end))
        assert [peer.answered[0]["status"], peer.answered[1]["body"]] == [200, b""]
        assert not news._waiting


def test_a_question_that_cannot_be_read_is_the_applications():
    async def play():
        peer = Peer(FLEET, asked=b"\xff")
        await Held(peer.app(EMPTY[FLEET], status=400), News())(peer.scope, peer.receive, peer.send)
        return peer

    assert asyncio.run(play()).answered[0]["status"] == 400


def test_a_body_comes_in_one_piece_and_half_of_one_not_at_all():
    async def play(body, cut):
        peer = Peer("/v1/fleet/push-object", asked=body, pieces=7)
        if cut:
            del peer.left[3:]
            peer.gone.set()
        await Whole(peer.app(EMPTY[FLEET]))(peer.scope, peer.receive, peer.send)
        return peer

    body = bytes(range(256)) * 9
    assert asyncio.run(play(body, cut=False)).read == [{"type": "http.request", "body": body, "more_body": False}]
    assert asyncio.run(play(body, cut=True)).read == []
