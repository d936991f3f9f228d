"""Flower's simulation engine under the two apps: all in which a simulated retraining differs from a real one.

The ServerApp is `server.app`, the ClientApp `client.federation.app`: plan, terms, journal, aggregation and registry,
and border, consent, ledger, training and gate are the installed ones, on folders as hospitals have them. What is not
there:

- the way between them: no SuperLink, no guard, no TLS, no SuperNode and no keys. Messages stay in memory, and the
  engine gives each run new node numbers and made-up keys, entered here as `vigie coordinator register` would do it;
- the launcher: no bundle is compared, since none is sent, and messages of several hospitals are answered one after the
  other by one process (a Ray actor), not each by a fork of its own;
- the trainer: orders are worked on by that process, at its priority and without a bound on its memory.
"""

import gc
import hashlib
import importlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from client.federation.app import app as hospital_app
from client.federation.supernode import SITE
from client.lean import without_unused
from models.children import QUIET
from models.errors import ConfigurationError, VigieError
from server.app import app as coordinator_app
from server.superlink import COORDINATOR, RegisteredSite, registered_sites, write_sites

HOSPITALS: Final = "VIGIE_SIMULATED"
"""Environment variable with the folder in which the hospitals' folders are, for the engine's processes."""

_LOG: Final = Path("logs/simulation.log")
_STORE: Final = 100 << 20  # bytes of Ray's shared memory: an order and its answer at a time for each process


class SimulationFailed(VigieError):
    """The engine ended before the retraining did; `logs/simulation.log` of the coordinator says why."""

    code = "simulation"


def run(coordinator: Path, hospitals: Path, retraining: str, at_once: int) -> None:
    """Carry out a saved plan on the engine, from wherever its journal ends.

    Args:
        coordinator: the coordinator's folder; its list of hospitals has the names of all that are to be there.
        hospitals: has a folder of each name.
        at_once: how many hospitals are answered for at the same time, each by a process.

    Raises:
        ConfigurationError: Ray is not installed.
        VigieError: as `server.retraining.conduct` raises it.
        SimulationFailed: something else ended it.
    """
    try:
        import ray
    except ImportError:
        raise ConfigurationError("Flower's simulation engine needs Ray: pip install 'vigie[simulation]'") from None
    from flwr.simulation import run_simulation

    names = list(registered_sites(coordinator))
    conducting = ServerApp()

    @conducting.main()
    def _conduct(grid: Grid, context: Context) -> None:
        enter(grid, coordinator, names)
        context.run_config = {"retraining": retraining}
        coordinator_app(grid, context)

    with _surroundings(coordinator, hospitals) as scratch:
        ray_settings: dict[str, Any] = {
            "num_cpus": at_once,
            "num_gpus": 0,
            "object_store_memory": _STORE,
            "_temp_dir": str(scratch),
            "log_to_driver": False,
        }
        each: dict[str, Any] = {"num_cpus": 1, "num_gpus": 0.0}
        try:
            run_simulation(
                conducting,
                answering,
                len(names),
                backend_config={"init_args": ray_settings, "client_resources": each},
            )
        except VigieError:
            raise
        except Exception as error:
            raise SimulationFailed(f"{type(error).__name__}: see {coordinator / _LOG}") from error
        finally:
            ray.shutdown()


def enter(grid: Grid, coordinator: Path, names: list[str], timeout: float = 60.0) -> None:
    """Let the engine's nodes in as the hospitals of these names: by number and key, as the coordinator knows any."""
    deadline = time.monotonic() + timeout
    while len(nodes := sorted(grid.get_nodes(), key=lambda node: node.node_id)) < len(names):
        if time.monotonic() > deadline:
            raise SimulationFailed(f"{len(nodes)} of {len(names)} simulated nodes are there after {timeout:.0f} s")
        time.sleep(0.05)
    write_sites(
        coordinator,
        {
            name: RegisteredSite(name, node.node_id, hashlib.sha256(node.public_key).hexdigest())
            for name, node in zip(names, nodes, strict=True)
        },
    )


answering = ClientApp()


@answering.query()
def _answer(message: Message, context: Context) -> Message:
    """Be the hospital that the message goes to, and answer it."""
    _prepare()
    numbers = {site.node_id: name for name, site in registered_sites(Path(os.environ[COORDINATOR])).items()}
    os.environ[SITE] = str(Path(os.environ[HOSPITALS]) / numbers[context.node_id])
    try:
        return hospital_app(message, context)
    finally:
        gc.collect()  # a hospital's files are closed when nothing holds them any more; a fork's go with the fork


@cache
def _prepare() -> None:
    """Load what answers, as a hospital's trainer does, once in each process."""
    logging.basicConfig(filename=Path(os.environ[COORDINATOR]) / _LOG, level=logging.INFO)  # Ray's own go with the run
    without_unused()
    for module in ("client.federation.adoption", "client.federation.trainer"):
        importlib.import_module(module)
    gc.freeze()  # or each collection would look through all of torch


@contextmanager
def _surroundings(coordinator: Path, hospitals: Path) -> Generator[Path]:
    """What the engine's processes inherit, where Flower's own lines go, and a folder for Ray, gone afterwards."""
    values = {COORDINATOR: str(coordinator), HOSPITALS: str(hospitals), **QUIET}
    values["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # Ray leaves alone which accelerators are seen
    before = {name: os.environ.get(name) for name in (*values, "PYTHONPATH")}
    os.environ.update(values)
    file = logging.FileHandler(coordinator / _LOG)
    flower = logging.getLogger("flwr")
    handlers, propagates = list(flower.handlers), flower.propagate
    flower.handlers, flower.propagate = [file], False
    # its sockets lie there: their whole path may have 107 characters
    scratch = Path(tempfile.mkdtemp(prefix="vigie-"))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        flower.handlers, flower.propagate = handlers, propagates
        file.close()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
