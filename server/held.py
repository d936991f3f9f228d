"""Whoever asks the SuperLink for messages where there are none waits here for the next one.

Flower's nodes ask again and again, and each question is a request over TLS, a signature and a transaction: four
hospitals that ask ten times a second keep a third of a core busy and still hear of a message a twentieth of a second
late. An answer without a message is kept back instead, until there is a message for whoever asked, or some seconds
have passed. The question was let through before, so that only who may ask is let wait.
"""

import asyncio
import threading
from collections.abc import Mapping
from typing import Any, Final

from models.bodies import body_of, given

SECONDS: Final[Mapping[str, float]] = {"/v1/fleet/pull-messages": 10.0, "/v1/runtime/pull-messages": 1.0}
"""How long an answer is kept back, by path: well below the 30 s after which Flower's clients give a request up, and
for the process that runs a retraining, which has other things to look at, shorter."""
_LARGEST: Final = 1 << 20  # bytes of a question that may wait


class News:
    """Which node has been sent how many messages since this process began; told by threads, waited for by the loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[int, int] = {}
        self._waiting: dict[int, set[asyncio.Future[None]]] = {}
        self._ended = False

    def count(self, node: int) -> int:
        """How many messages were sent to a node."""
        return self._counts.get(node, 0)

    def tell(self, node: int) -> None:
        """There is a message for this node, and it can be fetched."""
        with self._lock:
            self._counts[node] = self._counts.get(node, 0) + 1
            found = self._waiting.pop(node, set())
        _wake(found)

    def end(self) -> None:
        """Nobody waits any more: this process ends."""
        with self._lock:
            self._ended = True
            found = [future for waiting in self._waiting.values() for future in waiting]
            self._waiting.clear()
        _wake(found)

    async def wait(self, node: int, known: int, seconds: float) -> bool:
        """Wait until a node has been sent more than it had been; False where it was not in time."""
        future = asyncio.get_running_loop().create_future()
        with self._lock:
            if self._ended or self.count(node) != known:
                return not self._ended
            self._waiting.setdefault(node, set()).add(future)
        try:
            await asyncio.wait_for(future, seconds)
        except TimeoutError:
            return False
        finally:
            with self._lock:
                if (waiting := self._waiting.get(node)) is not None:
                    waiting.discard(future)
                    if not waiting:
                        del self._waiting[node]
        return not self._ended


def _wake(futures: Any) -> None:
    for future in futures:
        future.get_loop().call_soon_threadsafe(_settle, future)


def _settle(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


class Held:
    """ASGI middleware, behind the guard: keeps an answer without a message back until there is one."""

    def __init__(self, app: Any, news: News) -> None:
        self._app, self._news = app, news

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        seconds = SECONDS.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if seconds is None:
            await self._app(scope, receive, send)
            return
        asked = await body_of(receive)
        if asked is None:
            return
        if len(asked) > _LARGEST:
            await self._app(scope, given(asked, receive), send)
            return
        node = _asks(scope["path"], asked)
        known = self._news.count(node)
        answer = await self._answer(scope, asked, receive)
        if _is_empty(scope["path"], answer):
            news = asyncio.ensure_future(self._news.wait(node, known, seconds))
            gone = asyncio.ensure_future(receive())  # nothing but the end of the connection can still come
            try:
                await asyncio.wait((news, gone), return_when=asyncio.FIRST_COMPLETED)
            finally:
                gone.cancel()
            if not news.done():
                news.cancel()
                return  # a message that nobody would get has to stay where it is
            if news.result():
                answer = await self._answer(scope, asked, receive)
        for message in answer:
            await send(message)

    async def _answer(self, scope: Any, asked: bytes, receive: Any) -> list[Any]:
        """What the application answers, whole."""
        answer = list[Any]()

        async def keep(message: Any) -> None:
            answer.append(message)

        state = dict(scope.get("state", {}))  # what the first answer left there is no matter of the second one's
        await self._app({**scope, "state": state}, given(asked, receive), keep)
        return answer


def _asks(path: str, asked: bytes) -> int:
    """For which node's messages; whatever cannot be read is answered by the application."""
    from flwr.common.constant import SUPERLINK_NODE_ID
    from flwr.proto.fleet_pb2 import PullMessagesRequest
    from google.protobuf.message import DecodeError

    if path.startswith("/v1/runtime/"):
        return SUPERLINK_NODE_ID
    try:
        return PullMessagesRequest.FromString(asked).node.node_id
    except DecodeError:
        return 0


def _is_empty(path: str, answer: list[Any]) -> bool:
    """Whether the application let the question through and had no message."""
    from flwr.proto.fleet_pb2 import PullMessagesResponse
    from flwr.proto.runtime_pb2 import PullAppMessagesResponse
    from google.protobuf.message import DecodeError

    if not answer or answer[0].get("status") != 200:
        return False
    form = PullAppMessagesResponse if path.startswith("/v1/runtime/") else PullMessagesResponse
    try:
        return not form.FromString(b"".join(message.get("body", b"") for message in answer[1:])).messages_list
    except DecodeError:
        return False
