"""What the coordinator changes inside of Flower's SuperLink, in one place, for the pinned version.

Flower documents none of it; `tests/unit/test_flower_internals.py` holds the names against the installed Flower.
"""

import threading
from collections.abc import Callable
from typing import Any

import uvicorn
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from starlette.middleware import Middleware

LAYERS = {
    "ControlSensitiveResponseMiddleware": "/v1/control/",
    "ControlAuthenticationMiddleware": "/v1/control/",
    "ControlLicenseMiddleware": "/v1/control/",
    "ControlEventLogMiddleware": "/v1/control/",
    "RuntimeTracingMiddleware": "/v1/runtime/",
    "NodeAuthMiddleware": "/v1/fleet/",
    "FleetEventLogMiddleware": "/v1/fleet/",
}
"""Where a layer of Flower's web server does something; every other request it hands on as it is."""


def let_back_in() -> None:
    """Let a hospital connect again at once, in this process.

    Flower refuses to activate a node that it believes online, which is what a node that was killed is for another
    minute. The request is signed with the hospital's own key, so that whoever asks is that hospital; the activation
    gets a new time, by which a retraining sees that the questions of the old connection are lost.
    """
    activate = SqlLinkState.activate_node

    def again(self: Any, node_id: int, heartbeat_interval: float) -> bool:
        self.deactivate_node(node_id)
        return activate(self, node_id, heartbeat_interval)

    SqlLinkState.activate_node = again


def tell_of_messages(tell: Callable[[int], None]) -> None:
    """Have this process' SuperLink say for which node it has stored a message, once it can be fetched.

    A reply is for the SuperLink itself (`SUPERLINK_NODE_ID`).
    """
    store = SqlLinkState.store_message_and_object_tree

    def told(self: Any, message: Any, object_tree: Any, session_id: str) -> Any:
        stored = store(self, message, object_tree, session_id)
        tell(message.metadata.dst_node_id)
        return stored

    SqlLinkState.store_message_and_object_tree = told


def tell_of_the_end(tell: Callable[[], None]) -> None:
    """Have this process' web server say that it was told to end: it waits for every answer that is on its way."""
    handle = uvicorn.Server.handle_exit

    def told(self: Any, sig: int, frame: Any) -> None:
        # this interrupts whatever the main thread does, which may hold what `tell` waits for
        threading.Thread(target=tell, name="tell-of-the-end", daemon=True).start()
        handle(self, sig, frame)

    uvicorn.Server.handle_exit = told


def spare_layers() -> None:
    """Have each request of this process' web server pass only those of Flower's layers that do something for it.

    Each starts a task and a stream for what it hands on, and a round has a hundred requests: to pass all nine costs
    several times as much as to answer.
    """
    from flwr.superlink import main

    layers: Callable[[], list[Middleware]] = main._get_middleware  # pyright: ignore[reportPrivateUsage]

    def spared() -> list[Middleware]:
        return [
            Middleware(_Where, prefix=LAYERS[name], layer=layer)
            if (name := getattr(layer.cls, "__name__", "")) in LAYERS
            else layer
            for layer in layers()
        ]

    main._get_middleware = spared  # pyright: ignore[reportPrivateUsage]


class _Where:
    """A layer for requests whose path begins so, which is what the routes are looked up by."""

    def __init__(self, app: Any, prefix: str, layer: Middleware) -> None:
        self._app, self._prefix = app, prefix
        self._layered: Any = layer.cls(app, *layer.args, **layer.kwargs)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        there = scope["type"] == "http" and str(scope["path"]).startswith(self._prefix)
        await (self._layered if there else self._app)(scope, receive, send)
