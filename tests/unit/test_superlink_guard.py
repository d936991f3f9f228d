"""Who gets past the guard in front of the SuperLink."""

import asyncio

import pytest

from server.superlink import Guard

TOKEN = "a" * 64


def ask(path: str, client: str = "192.0.2.7", token: str | None = None) -> int:
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        sent.append(message)

    headers = [(b"x-vigie-control", token.encode())] if token is not None else []
    scope = {"type": "http", "path": path, "client": (client, 1), "server": ("192.0.2.1", 443), "headers": headers}
    asyncio.run(Guard(app, TOKEN)(scope, None, send))
    return sent[0]["status"]


@pytest.mark.parametrize(
    ("path", "client", "token", "status"),
    [
        ("/v1/fleet/pull-messages", "192.0.2.7", None, 200),  # Flower checks the hospital's signature itself
        ("/v1/control/start-run", "192.0.2.7", TOKEN, 200),
        ("/v1/control/start-run", "127.0.0.1", None, 403),
        ("/v1/control/start-run", "127.0.0.1", "b" * 64, 403),
        ("/v1/control/start-run", "127.0.0.1", "", 403),
        ("/v1/runtime/acquire-task", "127.0.0.1", None, 200),
        ("/v1/runtime/acquire-task", "192.0.2.1", None, 200),  # from this machine, over its own address
        ("/v1/runtime/acquire-task", "192.0.2.7", None, 403),
        ("/v1/runtime/acquire-task", "192.0.2.7", TOKEN, 403),
        ("/docs", "127.0.0.1", None, 403),
        ("/v1/fleet/../control/start-run", "192.0.2.7", None, 403),
        ("//v1/control/start-run", "192.0.2.7", None, 403),
    ],
)
def test_the_guard(path, client, token, status):
    assert ask(path, client, token) == status
