"""A simulated retraining from nothing to its decisions: hospitals made, a version registered, the plan carried out."""

import logging
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from configs.schema import CoordinatorConfig, save
from models.bundle import Bundle, verify
from models.children import free_port
from models.errors import ConfigurationError
from scripts.memory import Memory
from scripts.simulation import engine, hospitals
from server import journal, tracking
from server import plan as plans
from server.coordinator import Coordinator, create
from server.launch import plan_named
from server.superlink import RegisteredSite, registered_sites, write_sites

Line = dict[str, Any]
_MOST = 999
_MARK = ".vigie-simulation"


@dataclass(frozen=True, slots=True)
class Settings:
    """What to simulate.

    Attributes:
        folder: of the simulation; hospitals that are there already are used again.
        name: of the retraining.
        overrides: of configs/retraining.yaml.
        hospitals, patients: how many, and of each; for hospitals that are made.
        seed: of all that is drawn for them.
        at_once: how many hospitals are answered for at the same time.
    """

    folder: Path
    name: str
    overrides: Sequence[str] = ()
    hospitals: int = 50
    patients: int = 60
    seed: int = 0
    at_once: int = 2


@dataclass(frozen=True, slots=True)
class Simulated:
    """What came of it.

    Attributes:
        lines: of the journal.
        making, retraining: seconds; the first is next to nothing where the hospitals were there already.
        peak_mib: memory of this process and all that it started, each shared page counted once.
    """

    lines: Sequence[Line]
    making: float
    retraining: float
    peak_mib: float


def simulate(settings: Settings, say: Callable[[str], None]) -> Simulated:
    """Make the hospitals, or use those that are there, and carry the retraining out; one of this name goes on.

    Raises:
        ConfigurationError: settings that cannot work, or other hospitals in the folder than were asked for.
        VigieError: as the retraining raises it.
    """
    folder = settings.folder.resolve()
    began = time.monotonic()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, which nothing here needs
    with Memory() as memory:
        coordinator = prepare(settings, say)
        made = time.monotonic()
        kept = tracking.start(coordinator.folder, coordinator.config.mlflow_port, kept=coordinator.storage)
        try:
            base = verify(folder / "vendor" / "bundle", coordinator.trusted)
            coordinator.registry.register(base, {"origin": "vendor"})
            plan = plan_named(settings.name, [f"base={base.facts.label}", *settings.overrides], coordinator)
            path = plans.save(plan, coordinator.folder)
            with _followed(path, say):
                engine.run(coordinator.folder, folder / "hospitals", plan.name, settings.at_once)
        finally:
            kept.stop()
    ended = time.monotonic()
    return Simulated(list(journal.read(path)), made - began, ended - made, memory.peak_mib)


def prepare(settings: Settings, say: Callable[[str], None]) -> Coordinator:
    """The coordinator of a simulation; its hospitals are made where they are not there.

    Raises:
        ConfigurationError: as `simulate` says.
    """
    folder = settings.folder.resolve()
    if not 1 <= settings.hospitals <= _MOST:
        raise ConfigurationError(f"{settings.hospitals} hospitals: 1 to {_MOST}")
    coordinator = folder / "coordinator"
    known = registered_sites(coordinator)
    if known and len(known) != settings.hospitals:
        raise ConfigurationError(
            f"{folder} has {len(known)} hospitals, not {settings.hospitals}: choose another folder"
        )
    if not known:
        if folder.exists() and any(folder.iterdir()) and not (folder / _MARK).exists():
            raise ConfigurationError(f"{folder} holds something that is not a simulation: choose another --folder")
        shutil.rmtree(folder, ignore_errors=True)  # one whose making was cut off
        folder.mkdir(parents=True)
        (folder / _MARK).touch()
        _make(folder, settings, say)
    # where MLflow listens is of this run; nobody else is told
    save(CoordinatorConfig(mlflow_port=free_port()), coordinator / "coordinator.yaml")
    return Coordinator(coordinator)


def _make(folder: Path, settings: Settings, say: Callable[[str], None]) -> None:
    coordinator = create(folder / "coordinator", CoordinatorConfig())
    (folder / "vendor").mkdir()
    served = hospitals.first_version(folder / "vendor", settings.seed)
    trusted = coordinator.folder / "trust"
    shutil.copy(folder / "vendor" / "vendor.pub", trusted)
    (folder / "hospitals" / "measured").mkdir(parents=True)
    names = hospitals.names(settings.hospitals)
    one = partial(_hospital, folder / "hospitals", settings, served, sorted(trusted.glob("*.pub")))
    with ProcessPoolExecutor(settings.at_once, mp_context=get_context("spawn")) as pool:
        for _ in pool.map(one, range(len(names)), names):
            pass
    # let in by name; which node each is, and with which key, is known when the engine has made them
    write_sites(coordinator.folder, {name: RegisteredSite(name, 0, "") for name in names})
    say(f"{len(names)} hospitals of {settings.patients} patients each, made up, in {folder / 'hospitals'}")


def _hospital(folder: Path, settings: Settings, served: Bundle, keys: Sequence[Path], number: int, name: str) -> None:
    hospitals.make(folder / name, name, number, settings.seed, settings.patients, served, keys)


@contextmanager
def _followed(path: Path, say: Callable[[str], None]) -> Generator[None]:
    """Tell each line of a journal as it comes, those of an earlier attempt too."""
    ended = threading.Event()

    def follow() -> None:
        told = 0
        while True:
            last = ended.wait(0.5)
            lines = list(journal.read(path))
            for line in lines[told:]:
                if text := told_briefly(line):
                    say(text)
            told = len(lines)
            if last:
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def told_briefly(line: Line) -> str:
    """One line of a journal for a person who follows fifty hospitals; empty where each one's would be told."""
    match line["step"]:
        case "started":
            return f"started from {line['base']}, {line['rounds']} rounds, {len(line['sites'])} hospitals"
        case "consents":
            return "consents: " + _counted({state: len(line[state]) for state in ("granted", "declined", "waiting")})
        case "round":
            found = sorted(site["auc_received"] for site in line["sites"].values() if site["auc_received"] is not None)
            seen = (
                f", AUC received {found[0]:.3f} to {found[-1]:.3f}, in the middle {_middle(found):.3f}" if found else ""
            )
            missing = Counter(line["failures"].values())
            return f"round {line['round']} in {line['seconds']:.1f} s: {len(line['sites'])} hospitals{seen}" + (
                f"; missing: {_counted(missing)}" if missing else ""
            )
        case "quorum-missed":
            return (
                f"round {line['round']}: quorum missed, {line['why']}: {_counted(Counter(line['failures'].values()))}"
            )
        case "candidate":
            return f"candidate {line['label']} is packed, signed and registered"
        case "evidence":
            missing = Counter(line["failures"].values())
            return f"evidence from {len(line['evidence'])} hospitals" + (f"; {_counted(missing)}" if missing else "")
        case "release-gate":
            return "release gate: " + ("released" if line["released"] else f"blocked ({'; '.join(line['reasons'])})")
        case "decisions":
            outcomes = Counter(found["outcome"] for found in line["decisions"].values())
            return "decisions: " + _counted({**outcomes, **Counter(line["failures"].values())})
        case "ended":
            return f"ended before its last step: {line['why']}"
        case _:
            return ""


def _middle(values: Sequence[float]) -> float:
    return values[len(values) // 2]


def _counted(counts: dict[str, int] | Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()) if count) or "none"
