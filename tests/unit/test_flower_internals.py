"""The names of Flower's inside that we stand on are still there, and still mean what they meant."""

import ast
import importlib
import inspect
import time
import types
from importlib.metadata import version
from pathlib import Path

import pytest

from client.federation import flower_internals as flower
from client.federation.supernode import COMMAND
from models import flower_pace


def test_the_installed_flower_is_the_pinned_one():
    assert version("flwr") == flower.VERSION


def test_the_supernode_starts_the_program_that_our_launcher_stands_for():
    from flwr.supernode import start_client_internal

    source = inspect.getsource(start_client_internal)

    assert source.count("subprocess.Popen") == 1
    assert f'command = ["{COMMAND}"]' in source


def test_the_supernodes_loop_only_sleeps():
    """`quicken` puts a stand-in for `time` there that can do nothing else."""
    from flwr.supernode import start_client_internal

    tree = ast.parse(inspect.getsource(start_client_internal))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "time"
    }

    assert used == {"sleep"}


def test_the_launcher_takes_every_kind_of_task_so_that_none_waits_for_ever():
    from flwr.supercore.constant import TaskType

    assert set(flower.ALL_TASKS) == {task.value for task in TaskType}
    assert flower.CLIENT_TASK == TaskType.CLIENT_APP


def test_tasks_are_pulled_and_pushed_as_before():
    assert list(inspect.signature(flower.pull_task_input).parameters) == ["client"]
    assert list(inspect.signature(flower.push_message).parameters) == ["client", "message", "context"]
    assert list(inspect.signature(flower.push_task_output).parameters) == ["client", "context", "sub_status", "details"]


def test_pulling_does_not_unpack_the_bundle():
    """The launcher compares the bundle's digest after this call; the call itself must not touch the bundle."""
    assert "install" not in inspect.getsource(flower.pull_task_input)


def test_heartbeats_come_often_enough():
    from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL

    assert flower.HEARTBEAT < HEARTBEAT_DEFAULT_INTERVAL


def test_quickening_changes_what_it_names_and_nothing_else(monkeypatch):
    from flwr.supercore.inflatable.inflatable_utils import pull_objects
    from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
    from flwr.supernode import start_client_internal
    from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

    before = dict(pull_objects.__kwdefaults__)
    monkeypatch.setattr(start_client_internal, "time", time)
    monkeypatch.setattr(start_client_internal, "_pull_and_store_message", lambda *, receive: receive())
    monkeypatch.setattr(InMemoryNodeState, "store_message_and_object_tree", lambda *_: (True, ["object"]))
    monkeypatch.setattr(InMemoryObjectStore, "put", lambda *_: None)
    fetched = []
    try:
        flower.quicken(lambda: fetched.append("rung"))

        assert start_client_internal.time is not time
        changed = {key for key, value in pull_objects.__kwdefaults__.items() if value != before[key]}
        assert changed == {"initial_backoff", "backoff_cap"}
        assert start_client_internal._pull_and_store_message(receive=lambda: None) is None
        assert fetched == []
        assert start_client_internal._pull_and_store_message(receive=lambda: 7) == 7
        assert fetched == ["rung"]
        arrived = start_client_internal.time.arrived
        for store, answer in (
            (InMemoryNodeState.store_message_and_object_tree, (True, ["object"])),
            (InMemoryObjectStore.put, None),
        ):
            assert not arrived.is_set()
            assert store(None, None, None) == answer
            assert arrived.is_set()
            arrived.clear()
    finally:
        pull_objects.__kwdefaults__.update(before)


def test_a_reply_is_gone_on_with_when_it_is_there_and_an_answer_that_was_held_back_is_asked_for_again_at_once(
    monkeypatch,
):
    slept, clock = [], [0.0]
    monkeypatch.setattr(flower.time, "sleep", slept.append)
    monkeypatch.setattr(flower.time, "monotonic", lambda: clock[0])
    pace = flower._Pace()

    pace.arrived.set()
    pace.sleep(0.5)

    assert not pace.arrived.is_set()
    pace.sleep(3)
    assert slept == [pace.QUICK]
    clock[0] += 10  # the SuperLink kept its answer back
    pace.sleep(3)
    assert len(slept) == 1
    pace.sleep(3)  # it does so no more
    assert slept[1:] == [1.0]
    clock[0] += pace.LONG + 1
    pace.sleep(3)
    pace.sleep(3)
    assert slept[2:] == [pace.IDLE]


def test_what_is_told_of_messages_and_replies_stands_where_the_supernode_and_the_superlink_keep_them():
    from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
    from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
    from flwr.supernode import start_client_internal
    from flwr.supernode.nodestate import nodestate_factory
    from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState
    from flwr.supernode.servicer.runtime import runtime_handlers

    assert "InMemoryNodeState(" in inspect.getsource(nodestate_factory)
    assert "store_message_and_object_tree(" in inspect.getsource(runtime_handlers)
    assert list(inspect.signature(InMemoryObjectStore.put).parameters) == ["self", "object_id", "object_content"]
    assert "_pull_and_store_message(\n" in inspect.getsource(start_client_internal.start_client_internal)
    stored = ["self", "message", "object_tree", "session_id"]
    for state in (SqlLinkState, InMemoryNodeState):
        assert list(inspect.signature(state.store_message_and_object_tree).parameters) == stored


def test_the_supernodes_web_server_is_made_where_its_bodies_are_made_whole(monkeypatch):
    from flwr.supernode import main

    program = importlib.import_module("flwr.supernode.cli.flower_supernode")  # its package has a function of that name
    source = inspect.getsource(program._start_supernode_http_api)
    assert "from flwr.supernode.main import" in source
    assert "app=create_app(\n                state_factory=state_factory," in source
    monkeypatch.setattr(main, "create_app", lambda **given: given["state_factory"])
    flower.take_bodies_whole()

    made = main.create_app(state_factory="app")

    assert isinstance(made, flower.Whole)
    assert made._app == "app"


def test_the_superlink_tells_of_its_end():
    import subprocess
    import sys

    script = """
import inspect, threading, uvicorn
from server.flower_internals import tell_of_the_end
assert list(inspect.signature(uvicorn.Server.handle_exit).parameters) == ["self", "sig", "frame"]
assert "self.handle_exit" in inspect.getsource(uvicorn.Server.capture_signals)
over = threading.Event()
tell_of_the_end(over.set)
server = uvicorn.Server(uvicorn.Config("none:none"))
server.handle_exit(15, None)
assert server.should_exit and over.wait(20)
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2], timeout=60)


def test_the_superlinks_web_server_ends_while_a_client_says_nothing():
    import subprocess
    import sys

    script = """
import os, signal, socket, threading, time, uvicorn
from models.children import free_port
from server.flower_internals import tell_of_the_end
tell_of_the_end(lambda: None)
port, asked = free_port(), threading.Event()
async def app(scope, receive, send):
    asked.set()
    while (await receive()).get("more_body"):
        pass
server = uvicorn.Server(uvicorn.Config(app, port=port, lifespan="off", log_level="error"))
def client():
    while not server.started:
        time.sleep(0.01)
    half = socket.create_connection(("127.0.0.1", port))
    half.sendall(b"POST / HTTP/1.1\\r\\nHost: a\\r\\nContent-Length: 9\\r\\n\\r\\nhalf")
    asked.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(3600)
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # which the server calls when it has ended
threading.Thread(target=client, daemon=True).start()
server.run()
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2], timeout=60)


def test_another_flower_is_noticed(monkeypatch):
    from flwr.supercore.inflatable import inflatable_utils

    monkeypatch.setattr(inflatable_utils, "pull_objects", types.FunctionType((lambda: None).__code__, {}))

    with pytest.raises(RuntimeError, match="pinned"):
        flower_pace.quicken_pulls()


def test_the_superlink_asks_its_extensions_for_middleware():
    from flwr.superlink import extensions, main

    assert callable(extensions.get_middleware)
    middleware = inspect.getsource(main._get_middleware)
    assert middleware.index("extensions.get_middleware()") < middleware.index("Middleware(")


def test_the_superlinks_doors_are_where_the_guard_looks_for_them():
    from flwr.superlink.routers.control import router as control
    from flwr.superlink.routers.fleet.router import router as fleet

    assert (control.prefix, fleet.prefix) == ("/v1/control", "/v1/fleet")


@pytest.mark.parametrize("module", ["client.federation.supernode", "models.exchange", "models.pki", "server.superlink"])
def test_what_a_resident_process_imports_is_light(module):
    """The hospital's node starts a SuperNode and must carry neither Flower nor torch for it."""
    import subprocess
    import sys

    script = f"import sys, {module}; sys.exit(any(name in sys.modules for name in ('flwr', 'torch', 'mlflow')))"

    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2], timeout=60)


def test_the_client_app_loads_no_torch():
    import subprocess
    import sys

    script = (
        "import sys, client.federation.launcher, client.federation.site; "
        "found = [name for name in ('torch', 'monai', 'onnxruntime', 'mlflow') if name in sys.modules]; "
        "sys.exit(str(found) if found else 0)"
    )

    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2], timeout=60)


def test_the_supernodes_loop_says_what_it_lost_and_a_run_that_ended_is_no_loss(monkeypatch):
    from flwr.supercore.run import RunNotRunningException
    from flwr.supernode import start_client_internal as loop

    given = inspect.signature(loop._pull_and_store_message).parameters
    assert {"receive", "get_run", "get_fab", "pull_object", "confirm_message_received"} <= set(given)
    assert list(inspect.signature(loop._push_messages).parameters) == ["state", "object_store", "send", "push_object"]
    lost, does = [], {}

    def pull(**given):
        try:
            given["receive"]()
            given["pull_object"](1, "x")
        except (OSError, RunNotRunningException):
            return None
        return does.get("run")

    monkeypatch.setattr(loop, "_pull_and_store_message", pull)
    monkeypatch.setattr(loop, "_push_messages", lambda state, object_store, send, push_object: send())
    flower.end_with(lost.append)

    def raises(error):
        raise error

    def nothing(*_):
        return None

    calls = dict.fromkeys(("get_run", "get_fab", "pull_object", "confirm_message_received"), nothing)
    loop._pull_and_store_message(**calls, receive=nothing)
    does["run"] = 7
    assert loop._pull_and_store_message(**calls, receive=lambda: "message") == 7
    ended = calls | {"pull_object": lambda *_: raises(RunNotRunningException())}
    loop._pull_and_store_message(**ended, receive=lambda: "message")
    assert lost == []
    broken = calls | {"pull_object": lambda *_: raises(OSError())}
    loop._pull_and_store_message(**broken, receive=lambda: "message")
    with pytest.raises(ConnectionResetError):
        loop._push_messages(None, None, lambda: raises(ConnectionResetError()), nothing)
    assert lost == ["a question", "an answer: ConnectionResetError"]


def test_a_node_that_was_killed_comes_back_at_once_with_a_new_time():
    """Flower refuses it while it believes the node online, for a minute."""
    import subprocess
    import sys

    script = """
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from server.flower_internals import let_back_in
import inspect, types
assert list(inspect.signature(SqlLinkState.activate_node).parameters) == ["self", "node_id", "heartbeat_interval"]
assert list(inspect.signature(SqlLinkState.deactivate_node).parameters) == ["self", "node_id"]
seen = []
node = types.SimpleNamespace(deactivate_node=lambda node_id: seen.append("off"))
SqlLinkState.activate_node = lambda self, node_id, heartbeat_interval: seen.append("on") or True
let_back_in()
assert SqlLinkState.activate_node(node, 1, 30) is True
assert seen == ["off", "on"]
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2], timeout=60)
