"""Writes down every exchange of a test's SuperLink, outside everything it serves: where TLS has just ended.

Python imports this at start in every process that has this folder on its PYTHONPATH; only a SuperLink of a test that
also names a file in VIGIE_TEST_CAPTURE is listened to. Vigie itself knows nothing of it.
"""

import os
import sys
from pathlib import Path

CAPTURE = "VIGIE_TEST_CAPTURE"


def _listen(path):
    import json

    import uvicorn

    class Listener:
        def __init__(self, app):
            self._app = app

        async def __call__(self, scope, receive, send):
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
                return
            asked, answered, head = bytearray(), bytearray(), {"status": 0, "answer_headers": []}

            async def heard():
                message = await receive()
                asked.extend(message.get("body", b"") or message.get("bytes") or b"")
                return message

            async def said(message):
                if message["type"] == "http.response.start":
                    head["status"] = message["status"]
                    head["answer_headers"] = _text(message.get("headers", ()))
                answered.extend(message.get("body", b"") or message.get("bytes") or b"")
                await send(message)

            try:
                await self._app(scope, heard, said)
            finally:
                # one write, so that what a killed SuperLink leaves is whole exchanges
                head |= {
                    "type": scope["type"],
                    "method": scope.get("method", ""),
                    "path": scope["path"],
                    "query": scope["query_string"].decode("latin-1"),
                    "headers": _text(scope["headers"]),
                    "asked": len(asked),
                    "answered": len(answered),
                }
                with path.open("ab") as file:
                    file.write(json.dumps(head).encode() + b"\n" + bytes(asked) + bytes(answered))

    made = uvicorn.Config.__init__

    def make(self, app, *arguments, **options):
        made(self, Listener(app), *arguments, **options)

    uvicorn.Config.__init__ = make


def _text(headers):
    return [[name.decode("latin-1"), value.decode("latin-1")] for name, value in headers]


if CAPTURE in os.environ and "server.superlink" in sys.orig_argv:
    _listen(Path(os.environ[CAPTURE]))
