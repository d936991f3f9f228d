"""Bodies of requests in one piece, for the web servers of both sides' Flower.

Flower reads all of a body before it does anything; on the way there each piece of 64 KiB passes several layers that
start a task for it, which for weights costs more than TLS.
"""

from typing import Any


class Whole:
    """ASGI middleware: gives the application each request's body in one piece."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = await body_of(receive)
        if asked is not None:
            await self._app(scope, given(asked, receive), send)


async def body_of(receive: Any) -> bytes | None:
    """The whole body; None where the connection ended before."""
    parts = list[bytes]()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def given(body: bytes, receive: Any) -> Any:
    """An ASGI `receive` that gives this body, and then what comes."""
    left = [body]

    async def again() -> Any:
        return {"type": "http.request", "body": left.pop(), "more_body": False} if left else await receive()

    return again
