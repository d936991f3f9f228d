"""What the coordinator changes inside of Flower's SuperLink, in one place, for the pinned version.

Flower documents none of it; `tests/unit/test_flower_internals.py` holds the names against the installed Flower.
"""

import threading
from collections.abc import Callable
from typing import Any

import uvicorn
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.state.schema.corestate_models import ObjectPushSessionRoot
from flwr.supercore.state.schema.linkstate_models import MessageRes
from sqlalchemy import select, update
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
LEAVE = 2  # seconds for answers that are on their way, once the web server was told to end
_ARRIVING = "arriving"  # Flower has a time there, or nothing


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
    """Have this process' SuperLink say for which node there is a message, and give a reply once all its parts are here.

    A reply is for the SuperLink itself (`SUPERLINK_NODE_ID`). Flower would give it at once, to a retraining that then
    waits for its parts and for nothing else: a hospital whose SuperNode is killed half-way would hold up all others'
    replies, past the round's deadline, for a thousand seconds. Until a reply is whole it stands as given to somebody
    (`_ARRIVING`) in Flower's table; that its hospital is away is found as ever.
    """
    store, put = SqlLinkState.store_message_and_object_tree, SqlLinkState.store_object

    def told(self: Any, message: Any, object_tree: Any, session_id: str) -> Any:
        with self.session() as session:  # one transaction: nobody sees it in between
            stored, missing = store(self, message, object_tree, session_id)
            arriving = stored and bool(missing) and bool(message.metadata.reply_to_message_id)
            if stored:  # it may come again
                marks = ("", _ARRIVING) if arriving else (_ARRIVING, "")
                _mark(session, MessageRes.message_id == message.metadata.message_id, *marks)
        if not arriving:
            tell(message.metadata.dst_node_id)
        return stored, missing

    def kept(self: Any, run_id: int, session_id: str, object_id: str, object_content: bytes) -> bool:
        # a transaction of its own, which it undoes where the part is refused
        if not put(self, run_id, session_id, object_id, object_content):
            return False
        with self.session() as session:
            awaited = select(ObjectPushSessionRoot.root_object_id)
            whole = _mark(session, MessageRes.message_id.not_in(awaited), _ARRIVING, "")
        if whole:
            tell(SUPERLINK_NODE_ID)
        return True

    SqlLinkState.store_message_and_object_tree = told
    SqlLinkState.store_object = kept


def _mark(session: Any, which: Any, before: str, after: str) -> bool:
    """Say of replies to whom they were given; whether there was one."""
    chosen = update(MessageRes).where(which, MessageRes.delivered_at == before)
    return session.execute(chosen.values(delivered_at=after)).rowcount > 0


def tell_of_the_end(tell: Callable[[], None]) -> None:
    """Have this process' web server say that it was told to end, and not wait for long.

    It waits for every answer that is on its way, and for every connection: one whose other end says nothing, as a
    hospital's does while it trains, would keep it for up to half a minute.
    """
    handle = uvicorn.Server.handle_exit

    def told(self: Any, sig: int, frame: Any) -> None:
        # this interrupts whatever the main thread does, which may hold what `tell` waits for
        threading.Thread(target=tell, name="tell-of-the-end", daemon=True).start()
        self.config.timeout_graceful_shutdown = LEAVE
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
