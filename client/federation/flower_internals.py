"""Every name that the hospital uses of Flower's inside, in one place, for the pinned version.

Flower documents none of these; `tests/unit/test_flower_internals.py` holds them against the installed Flower, so
that an upgrade which moves one fails there and not in a hospital.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.run import RunNotRunningException
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.cli.flower_supernode import flower_supernode
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from models.bodies import Whole
from models.flower_pace import quicken_pulls

VERSION = "1.41.0"
CLIENT_TASK = "flwr-clientapp"
ALL_TASKS = (
    "flwr-clientapp",
    "flwr-agentapp",
    "flwr-serverapp",
    "flwr-simulation",
    "flwr-model",
    "flwr-connector",
)
HEARTBEAT = 10.0
"""Seconds; Flower gives a task up after twice 30."""

__all__ = [
    "ALL_TASKS",
    "CLIENT_TASK",
    "HEARTBEAT",
    "VERSION",
    "AcquireTaskRequest",
    "RuntimeHttpClient",
    "SendTaskHeartbeatRequest",
    "flower_supernode",
    "pull_task_input",
    "push_message",
    "push_task_output",
    "quicken",
    "runtime_client",
]


def runtime_client(address: str, token: str | None) -> RuntimeHttpClient:
    """A client of the SuperNode's own loopback API, on behalf of a task or of none."""
    retries = make_simple_http_retry_invoker()
    # A SuperNode that does not answer on loopback is gone; Flower would ask for ever.
    retries.max_tries = 3 if token else 1
    interceptors: list[Any] = [RuntimeVersionHttpInterceptor(component_name="flwr-clientapp")]
    if token is not None:
        interceptors.append(RuntimeTokenHttpInterceptor(token))
    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=interceptors,
        retry_invoker=retries,
    )


class _Pace:
    """Stands for the module `time` in the SuperNode's loop, which only ever sleeps.

    The loop sleeps 3 s when there was nothing to fetch and 0.5 s while a reply, or a part of one, is awaited; during a
    retraining both are the larger part of a round. Here a reply is gone on with as soon as it is there. Our SuperLink
    keeps an answer back until there is a message, and is asked again at once; one that does not is asked soon after a
    message and ever less often as time passes, so that hospitals that wait for a slower one do not keep it busy.
    """

    QUICK, WATCHFUL, IDLE, LONG = 0.1, 1.0, 3.0, 600.0
    HELD = 0.9  # seconds; an answer that took longer was kept back

    def __init__(self) -> None:
        self.arrived = threading.Event()
        self._last = self._slept = time.monotonic()

    def sleep(self, seconds: float) -> None:
        now = time.monotonic()
        if seconds < 1.0:
            self._last = now
            self.arrived.wait(seconds)
            self.arrived.clear()
        elif now - self._slept < self.HELD:
            since = now - self._last
            time.sleep(self.IDLE if since > self.LONG else min(max(since / 10, self.QUICK), self.WATCHFUL))
        self._slept = time.monotonic()


def quicken(fetched: Callable[[], None]) -> None:
    """Let the SuperNode's loop in this process follow a retraining closely.

    Args:
        fetched: told that a message is there, whole, for the launcher to answer.
    """
    from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
    from flwr.supernode import start_client_internal
    from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

    quicken_pulls()
    loop: Any = start_client_internal
    pace = _Pace()
    loop.time = pace

    def then(method: Callable[..., Any], tell: Callable[[], None]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            found = method(*arguments, **named)
            tell()
            return found

        return call

    for owner, name in ((InMemoryNodeState, "store_message_and_object_tree"), (InMemoryObjectStore, "put")):
        setattr(owner, name, then(getattr(owner, name), pace.arrived.set))
    pull = loop._pull_and_store_message

    def pulling(**given: Any) -> int | None:
        run = pull(**given)
        if run is not None:
            fetched()
        return run

    loop._pull_and_store_message = pulling


def take_bodies_whole() -> None:
    """Have the SuperNode's own web server in this process give what the launcher sends to Flower in one piece."""
    from flwr.supernode import main

    create = main.create_app

    def whole(**given: Any) -> Any:
        return Whole(create(**given))

    main.create_app = whole


def end_with(broken: Callable[[str], None]) -> None:
    """Have the SuperNode's loop in this process say where a message was lost on the way, in or out.

    The loop writes such a failure in its log and goes on: the coordinator would wait for the answer in vain. A
    SuperNode that ends and is started again connects anew, by which the coordinator sees that it has to ask again.
    That a run has ended is no failure.

    Args:
        broken: told what was lost; does not have to return.
    """
    from flwr.supernode import start_client_internal

    loop: Any = start_client_internal
    push, pull = loop._push_messages, loop._pull_and_store_message

    def told(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            try:
                return function(*arguments)
            except Exception as error:
                broken(f"an answer: {type(error).__name__}")
                raise

        return call

    def pushing(state: Any, object_store: Any, send: Any, push_object: Any) -> None:
        push(state, object_store, told(send), told(push_object))

    def pulling(**given: Any) -> int | None:
        came, ended = False, False

        def noted(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any) -> Any:
                nonlocal came, ended
                try:
                    found = function(*arguments)
                except RunNotRunningException:
                    ended = True
                    raise
                came = came or found is not None
                return found

            return call

        # a part that is not there yet is asked for again inside: only what comes of it all says that a question is lost
        for name in ("receive", "get_run", "get_fab", "pull_object", "confirm_message_received"):
            given[name] = noted(given[name])
        run = pull(**given)
        if came and run is None and not ended:
            broken("a question")
        return run

    loop._push_messages, loop._pull_and_store_message = pushing, pulling
