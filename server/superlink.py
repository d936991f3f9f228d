"""The coordinator's SuperLink: the one address that hospitals call.

`SuperLink` starts it as a child, registers hospitals, starts a retraining's run and follows it. The child is
`python -m server.superlink`: Flower's SuperLink behind a guard. Flower serves three things on one port: to hospitals
(every request signed with the hospital's key), to whoever administers it, and to the process that runs the
retraining; the second takes anyone who trusts the certificate, the third hands its tokens to anyone who asks first.
The guard lets the second through only with the coordinator's own secret, and the third only from this machine.
"""

import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from models import flower_app, pki
from models.children import Child, follow_parent
from models.errors import ConfigurationError, Conflict, NotFound, VigieError
from models.exchange.words import Channel

log = logging.getLogger(__name__)

COORDINATOR = "VIGIE_COORDINATOR"
"""Environment variable that holds the coordinator's folder, for the process that runs a retraining."""

CHANNELS: tuple[Channel, ...] = get_args(Channel)
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
ERRAND = "errand/"
"""Before the name that a run carries which is no retraining's, see server/errands.py; theirs have no slash."""
CONTROL_HEADER = "x-vigie-control"
Progress = Literal["pending", "starting", "running", "completed", "failed", "stopped"]
FINISHED: frozenset[Progress] = frozenset({"completed", "failed", "stopped"})
_POLL = "0.5"  # seconds between two looks of Flower's SuperExec for a run to start; each costs 15 ms


class SuperLinkRefused(VigieError):
    """The SuperLink did not take a request."""

    code = "superlink-refused"


@dataclass(frozen=True, slots=True)
class RegisteredNode:
    """A hospital's second SuperNode, for the control channel; see RegisteredSite."""

    node_id: int
    key_sha256: str


@dataclass(frozen=True, slots=True)
class RegisteredSite:
    """A hospital as the coordinator knows it: a node number is bound to its key by the SuperLink.

    Attributes:
        node_id, key_sha256: of the SuperNode for training, by which everything may go.
        control: the one for what is answered in seconds; None: the hospital has given one key only, and withdrawals
            wait for the end of a training.
        point: training's key, as terms name it; empty where it was registered before keys were kept.
    """

    name: str
    node_id: int
    key_sha256: str
    control: RegisteredNode | None = None
    point: str = ""

    def node(self, channel: Channel) -> RegisteredNode:
        """The SuperNode of a channel; training's where there is no other."""
        if channel == "control" and self.control is not None:
            return self.control
        return RegisteredNode(self.node_id, self.key_sha256)

    @property
    def nodes(self) -> tuple[RegisteredNode, ...]:
        """All that there are."""
        return tuple(dict.fromkeys((self.node("training"), self.node("control"))))


@dataclass(frozen=True, slots=True)
class RunState:
    """How far a run is; `details` is Flower's word on a failure."""

    run_id: int
    progress: Progress
    details: str = ""


class SuperLink:
    """The coordinator's SuperLink.

    Args:
        folder: the coordinator's folder; needs `pki/` with `ca.crt`, `server.crt`, `server.key` (models.pki).
        host: address to listen on.
        port: free port, picked by the caller.
    """

    def __init__(self, folder: Path, port: int, host: str = "127.0.0.1") -> None:
        self.folder = folder.resolve()
        self.host, self.port = host, port
        self._child: Child | None = None

    @property
    def address(self) -> str:
        """Where it is reached from this machine."""
        return f"{'127.0.0.1' if self.host in ('0.0.0.0', '::') else self.host}:{self.port}"

    @property
    def child(self) -> Child | None:
        """The process, while it runs."""
        return self._child

    @property
    def _ca(self) -> Path:
        return self.folder / "pki" / "ca.crt"

    def start(self, timeout: float = 60.0) -> Child:
        """Start it and return its process when it answers.

        Raises:
            ChildFailed: it ended or was not ready in time.
        """
        control_token(self.folder)
        home = self.folder / "flower"
        home.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
            "FLWR_HOME": str(home),
            COORDINATOR: str(self.folder),
            "FORWARDED_ALLOW_IPS": "127.0.0.1",  # who may say on whose behalf it calls; the guard goes by it
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": _POLL,
        }
        files = self.folder / "pki"
        command = [
            *(sys.executable, "-m", "server.superlink"),
            *("--host", self.host, "--port", str(self.port)),
            *("--ssl-ca-certfile", str(files / "ca.crt")),
            *("--ssl-certfile", str(files / "server.crt")),
            *("--ssl-keyfile", str(files / "server.key")),
            *("--database", str(self.folder / "superlink.db")),
            "--enable-supernode-auth",
            "--disable-runtime-dependency-installation",
        ]
        self._child = Child("superlink", command, environment, self.folder / "logs" / "superlink.log")
        self._child.wait_ready(self._answers, timeout)
        return self._child

    def stop(self, grace: float = 10.0) -> None:
        """Stop it and everything it started.

        Args:
            grace: seconds for it to end by itself.
        """
        if self._child is not None:
            self._child.stop(grace)
            self._child = None

    def __enter__(self) -> "SuperLink":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # Hospitals

    def register(self, name: str, public_key: Path) -> RegisteredSite:
        """Let a hospital in; given again with a second key, that is added.

        Args:
            name: the site's name, one per hospital.
            public_key: its file with one or two ECDSA P-384 public keys in OpenSSH form, see `models.pki`.

        Raises:
            ConfigurationError: a name that no plan could carry, or no such keys.
            Conflict: the name is taken by another key, or a key by another name.
            SuperLinkRefused: the SuperLink does not take a key.
        """
        if not _NAME.fullmatch(name):
            raise ConfigurationError(f"{name!r} is no name for a hospital: lower case letters, digits and - only")
        pems = pki.supernode_public_pems(public_key)
        if "training" not in pems or not set(pems) <= set(CHANNELS):
            raise ConfigurationError(
                f"{public_key.name} is not what `vigie site init` writes: {' and '.join(CHANNELS)}"
            )
        digests = {channel: hashlib.sha256(pem).hexdigest() for channel, pem in pems.items()}
        sites = registered_sites(self.folder)
        site = sites.get(name)
        others = {node.key_sha256 for one in sites.values() if one.name != name for node in one.nodes}
        known = {} if site is None else {"training": site.key_sha256}
        if site is not None and site.control is not None:
            known["control"] = site.control.key_sha256
        if others & set(digests.values()) or any(known.get(key, it) != it for key, it in digests.items()):
            raise Conflict(f"site {name} or a key of its is registered already")
        if site is None:
            site = RegisteredSite(name, self._node(name, pems["training"]), digests["training"])
            write_sites(self.folder, {**sites, name: site})
        if site.control is None and "control" in pems:
            node = RegisteredNode(self._node(f"{name}-control", pems["control"]), digests["control"])
            site = replace(site, control=node)
            write_sites(self.folder, {**sites, name: site})
        if site.point != (point := pki.supernode_point(public_key)):
            site = replace(site, point=point)
            write_sites(self.folder, {**sites, name: site})
        return site

    def _node(self, name: str, pem: bytes) -> int:
        """The number of the node with this key, made where there is none: a registration may have been cut off."""
        from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest

        with self._control() as control:
            for node in control.ListNodes(ListNodesRequest()).nodes_info:
                if node.public_key == pem and node.status != "unregistered":
                    return node.node_id
            return control.RegisterNode(RegisterNodeRequest(public_key=pem, name=name)).node_id

    def unregister(self, name: str) -> None:
        """Shut a hospital out; its key is never accepted again.

        Raises:
            NotFound: no such site.
        """
        from flwr.proto.control_pb2 import ListNodesRequest, UnregisterNodeRequest

        sites = registered_sites(self.folder)
        if name not in sites:
            raise NotFound(f"no site {name}")
        with self._control() as control:
            for node in reversed(sites[name].nodes):  # cut off between the two, it can be given again
                if any(one.node_id == node.node_id for one in control.ListNodes(ListNodesRequest()).nodes_info):
                    control.UnregisterNode(UnregisterNodeRequest(node_id=node.node_id))
        write_sites(self.folder, {key: site for key, site in sites.items() if key != name})

    def online(self, channel: Channel = "training") -> list[str]:
        """Names of the registered sites that are connected by this channel, in order."""
        from flwr.proto.control_pb2 import ListNodesRequest

        known = {site.node(channel).node_id: site for site in registered_sites(self.folder).values()}
        with self._control() as control:
            nodes = control.ListNodes(ListNodesRequest()).nodes_info
        return sorted(known[node.node_id].name for node in nodes if node.status == "online" and node.node_id in known)

    # Runs

    def run(self, retraining: str, app: bytes | None = None) -> int:
        """Start the run of a retraining, a survey or an errand.

        Args:
            retraining: its name.
            app: the bundle; ours unless a test plays an attacker.

        Returns:
            The run's number.

        Raises:
            SuperLinkRefused: the SuperLink does not start it.
        """
        from flwr.common.serde import fab_to_proto, user_config_to_proto
        from flwr.proto.control_pb2 import StartRunRequest
        from flwr.supercore.fab import Fab

        content = app if app is not None else flower_app.bundle()
        request = StartRunRequest(
            fab=fab_to_proto(Fab(hashlib.sha256(content).hexdigest(), content, {})),
            override_config=user_config_to_proto({"retraining": retraining}),
        )
        with self._control() as control:
            response = control.StartRun(request)
        if not response.HasField("run_id"):
            raise SuperLinkRefused("the run was not started")
        return response.run_id

    def state(self, run_id: int) -> RunState:
        """How far a run is.

        Raises:
            NotFound: no such run.
        """
        from flwr.proto.control_pb2 import ListRunsRequest

        with self._control() as control:
            runs = control.ListRuns(ListRunsRequest(run_id=run_id)).run_dict
        if run_id not in runs:
            raise NotFound(f"no run {run_id}")
        status = runs[run_id].status
        progress = status.sub_status if status.status == "finished" else status.status
        return RunState(run_id, progress, status.details)

    def wait(self, run_id: int, timeout: float) -> RunState:
        """Wait for a run's end.

        Raises:
            SuperLinkRefused: it is not finished in time.
        """
        deadline = time.monotonic() + timeout
        while (state := self.state(run_id)).progress not in FINISHED:
            if time.monotonic() > deadline:
                raise SuperLinkRefused(f"run {run_id} is still {state.progress} after {timeout:.0f} s")
            time.sleep(0.2)
        return state

    def stop_run(self, run_id: int) -> None:
        """Stop a run."""
        from flwr.proto.control_pb2 import StopRunRequest

        with self._control() as control:
            control.StopRun(StopRunRequest(run_id=run_id))

    # Inside

    @contextmanager
    def _control(self) -> Generator[Any]:
        import httpx
        from flwr.supercore.control import ControlHttpClient
        from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

        client = ControlHttpClient.from_server_address(
            self.address,
            insecure=False,
            root_certificates=self._ca.read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI"), _Credential(self.folder)],
        )
        try:
            yield client
        except httpx.HTTPStatusError as error:
            raise SuperLinkRefused(f"HTTP {error.response.status_code}: {error.response.text[:300]}") from None
        except httpx.ConnectError as error:
            raise SuperLinkRefused(
                f"nothing answers at {self.address}: start it with `vigie coordinator run --folder {self.folder}`; "
                f"should it be running, see {self.folder / 'logs' / 'superlink.log'}"
            ) from error
        except httpx.TimeoutException as error:
            raise SuperLinkRefused(
                f"{self.address} does not answer in time: see {self.folder / 'logs' / 'superlink.log'}, then try again"
            ) from error
        except httpx.HTTPError as error:
            raise SuperLinkRefused(
                f"the connection to {self.address} broke ({type(error).__name__}): try again"
            ) from error
        finally:
            client.close()

    def _answers(self) -> bool:
        try:
            self.online()
        except SuperLinkRefused:
            return False
        return True


class _Credential:
    """Adds the coordinator's secret to each request of the administration."""

    def __init__(self, folder: Path) -> None:
        self._token = control_token(folder)

    def intercept(self, context: Any, call_next: Callable[[Any], Any]) -> Any:
        context.request.headers[CONTROL_HEADER] = self._token
        return call_next(context)


def control_token(folder: Path) -> str:
    """The secret of the coordinator's administration, made at first use, readable by its owner only."""
    path = folder / "secrets" / "control.token"
    if not path.exists():
        pki.write_private(path, secrets.token_hex(32).encode())
    return path.read_text().strip()


def registered_sites(folder: Path) -> dict[str, RegisteredSite]:
    """The hospitals that the coordinator let in, by name, in order."""
    path = folder / "sites.json"
    if not path.exists():
        return {}
    rows: dict[str, dict[str, Any]] = json.loads(path.read_text())
    return {name: _registered(name, row) for name, row in sorted(rows.items())}


def _registered(name: str, row: dict[str, Any]) -> RegisteredSite:
    second = row.get("control")
    control = None if second is None else RegisteredNode(int(second["node_id"]), second["key_sha256"])
    return RegisteredSite(name, int(row["node_id"]), row["key_sha256"], control, row.get("point", ""))


def write_sites(folder: Path, sites: Mapping[str, RegisteredSite]) -> None:
    """Write the list of hospitals let in, in place of the one there is."""
    rows: dict[str, dict[str, Any]] = {}
    for site in sites.values():
        rows[site.name] = {"node_id": site.node_id, "key_sha256": site.key_sha256, "point": site.point}
        if site.control is not None:
            rows[site.name]["control"] = {"node_id": site.control.node_id, "key_sha256": site.control.key_sha256}
    draft = folder / "sites.json.new"
    draft.write_text(json.dumps(rows, indent=2, sort_keys=True) + "\n")
    draft.replace(folder / "sites.json")


class Guard:
    """ASGI middleware in front of everything that the SuperLink serves."""

    def __init__(self, app: Any, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and not self._lets(scope):
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        await self._app(scope, receive, send)

    def _lets(self, scope: Any) -> bool:
        path = str(scope["path"])
        if ".." not in path and path.startswith("/v1/fleet/"):
            return True
        if ".." not in path and path.startswith("/v1/runtime/"):
            caller, own = ((scope.get(end) or ("", 0))[0] for end in ("client", "server"))
            return caller in ("127.0.0.1", "::1") or (caller != "" and caller == own)
        given = dict(scope["headers"]).get(CONTROL_HEADER.encode(), b"")
        return hmac.compare_digest(given, self._token)


def main() -> None:
    """Be the SuperLink: Flower's, behind the guard, and gone with its parent."""
    from flwr.superlink import extensions
    from flwr.superlink.cli.flower_superlink import flower_superlink
    from starlette.middleware import Middleware

    from models.bodies import Whole
    from server import flower_internals
    from server.held import Held, News
    from server.parcels import PARCELS, Counter, Shelf

    os.umask(0o077)
    follow_parent()
    coordinator = Path(os.environ[COORDINATOR])
    token = control_token(coordinator)
    shelf = Shelf(coordinator / "parcels")
    shelf.clear()  # of a process before this one, whose messages nobody waits for any more
    os.environ[PARCELS] = str(shelf.folder)
    news = News()
    flower_internals.let_back_in()
    flower_internals.spare_layers()
    flower_internals.tell_of_messages(news.tell)
    flower_internals.tell_of_the_end(news.end)
    extensions.get_middleware = lambda: (
        Middleware(Guard, token=token),
        Middleware(Counter, shelf=shelf, coordinator=coordinator),
        Middleware(Whole),
        Middleware(Held, news=news),
    )
    flower_superlink()


if __name__ == "__main__":
    main()
