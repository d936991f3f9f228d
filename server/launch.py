"""Starting a retraining and watching it: what an ML engineer's command does."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from configs.schema import RetrainingConfig, compose
from models.errors import ConfigurationError, Conflict, NotFound, VigieError
from models.hyperparameters import Hyperparameters
from models.validation import told
from server import journal
from server.consent import within_change_plan
from server.coordinator import Coordinator
from server.plan import Plan, load, save
from server.privacy import protection_of, require_mean, require_sum
from server.superlink import FINISHED, RunState, SuperLink, SuperLinkRefused, registered_sites

log = logging.getLogger(__name__)

Line = dict[str, Any]
T = TypeVar("T")
_RUNS = "runs"  # in a retraining's folder: the numbers of its Flower runs, the newest last
ATTEMPTS = 5  # runs, one after another, that were cut off without a step between them
PATIENCE = 300.0  # seconds for a SuperLink that does not answer to come back
_FREE = 5  # looks at a lock that nobody holds, before its run counts as cut off
_AGAIN = ("started", "proposed", "consent", "consents", "ended")  # steps that every attempt writes


class RetrainingFailed(VigieError):
    """The run ended without its last step; the journal and the SuperLink's log say where."""

    code = "retraining-failed"


def plan_named(name: str, overrides: Sequence[str], coordinator: Coordinator) -> Plan:
    """The plan of a retraining of this name, with these settings of configs/retraining.yaml, KEY=VALUE.

    Raises:
        ConfigurationError: see `plan_of`; or the settings, or how Hydra reads a number, give it another name.
    """
    config = compose("retraining", RetrainingConfig, [f"name={name}", *overrides])
    if config.name != name:  # it would be looked for, and resumed, under a name that nobody has given
        raise ConfigurationError(f"it is called {name!r}, and the settings would call it {config.name!r}")
    return plan_of(config, coordinator)


def plan_of(config: RetrainingConfig, coordinator: Coordinator) -> Plan:
    """The plan that a configuration asks for; no sites named means every registered hospital.

    Raises:
        ConfigurationError: a hospital is not registered, or values that cannot work.
    """
    known = list(registered_sites(coordinator.folder))
    sites = config.sites or known
    if not sites:
        raise ConfigurationError(
            "no hospital is registered: run `vigie coordinator register --folder DIR NAME KEY.pub`"
        )
    if unknown := sorted(set(sites) - set(known)):
        raise ConfigurationError(f"{unknown[0]!r} is not a registered hospital; there are {', '.join(known)}")
    try:
        mechanism, strategy = str(config.privacy.get("mechanism", "none")), str(config.strategy.get("name", ""))
        require_mean(mechanism, strategy)
        if mechanism == "secure_aggregation":
            require_sum(strategy)
        weighting = str(config.strategy.get("weighting", "root"))
        hyper = Hyperparameters.model_validate(config.hyper)
        return Plan.model_validate(
            {
                "name": config.name,
                "base": config.base,
                "sites": tuple(sorted(sites)),
                "quorum": config.quorum or len(sites),
                "quorum_cases": config.quorum_cases,
                "quorum_sites": tuple(config.quorum_sites),
                "late": config.late,
                "rounds": config.rounds,
                "strategy": config.strategy,
                "compression": config.compression,
                "seed": config.seed,
                "hyper": hyper,
                "privacy": protection_of(config.privacy, hyper.steps, config.rounds, weighting),
                "deadline_seconds": config.deadline_seconds,
                "connect_seconds": config.connect_seconds,
                "consent_seconds": config.consent_seconds,
                "valid_days": config.valid_days,
                "norm": config.norm,
                "layers": tuple(config.layers),
            }
        )
    except ValueError as error:
        raise ConfigurationError(told(error)) from error


def launch(
    coordinator: Coordinator, plan: Plan, on_line: Callable[[Line], None] | None = None, poll: float = 1.0
) -> list[Line]:
    """Start, or resume, a plan and follow its journal to the end; one that runs already is followed.

    A run that was cut off (its process, the SuperLink or MLflow was killed, and is back) is followed by another one,
    which goes on after the last journalled step.

    Args:
        on_line: told each line of the journal as it comes, those of an earlier attempt too.
        poll: seconds between two questions to the SuperLink, each a TLS connection of its own.

    Returns:
        The journal.

    Raises:
        ConfigurationError: the base's change plan does not allow it.
        RetrainingFailed: it ended before the last step: stopped by a person, for a reason that the journal names, or
            cut off again and again without a step between.
        SuperLinkRefused: it does not answer.
    """
    link = _link(coordinator)
    if plan.rounds:
        link.online()  # asked first: where no coordinator runs, the registry would be waited for for minutes
        registry = coordinator.registry
        base = registry.fetch(registry.find(plan.base), coordinator.versions, coordinator.trusted)
        within_change_plan(plan, base.facts)
    folder = save(plan, coordinator.folder)
    told, cut_off = 0, 0
    seen, before = len(list(journal.read(folder))), _steps_done(folder)
    run_id = _running(folder) or _begin(link, folder, plan.name)
    while True:

        def tell() -> list[Line]:
            nonlocal told
            lines = list(journal.read(folder))
            for line in lines[told:]:
                if on_line is not None:
                    on_line(line)
            told = len(lines)
            return lines

        state = _follow(link, folder, run_id, seen, tell, poll)
        lines = tell()
        if state.progress == "completed" and lines and lines[-1]["step"] == "finished":
            return lines
        ended = lines[-1] if lines and lines[-1]["step"] == "ended" else None
        cut_off = 1 if _steps_done(folder) > before else cut_off + 1
        if ended is not None or state.progress == "stopped" or cut_off > ATTEMPTS:
            why = ended["why"] if ended else state.details or "see logs/superlink.log"
            raise RetrainingFailed(f"{plan.name} ended as {state.progress} after {_steps(lines)}: {why}")
        log.warning("the run of %s was cut off after %s: another one goes on", plan.name, _steps(lines))
        time.sleep(min(poll * 2**cut_off, 30.0))
        seen, before = len(lines), _steps_done(folder)
        run_id = _patiently(lambda: _begin(link, folder, plan.name))


def _begin(link: SuperLink, folder: Path, name: str) -> int:
    run_id = link.run(name)
    with (folder / _RUNS).open("a") as file:
        file.write(f"{run_id}\n")
        file.flush()
        os.fsync(file.fileno())
    return run_id


def _running(folder: Path) -> int | None:
    """The run that works on it now, launched from elsewhere or before this process was killed."""
    path = folder / _RUNS
    numbers = path.read_text().split() if path.exists() else []
    return int(numbers[-1]) if numbers and journal.held(folder) else None


def _follow(
    link: SuperLink, folder: Path, run_id: int, seen: int, tell: Callable[[], list[Line]], poll: float
) -> RunState:
    """Watch a run until it has ended, or nothing works on it any more.

    Flower gives a run up a minute after its process was killed; the journal's lock is free at once. A run that had
    held it, and does not any more, without having said that it has ended, was cut off.

    Args:
        seen: lines that the journal had before this run.
    """
    begun, free = journal.held(folder), 0
    while True:
        state = _patiently(lambda: link.state(run_id))
        lines = tell()
        if state.progress in FINISHED:
            return state
        begun = begun or any(line["step"] == "started" for line in lines[seen:])
        works = journal.held(folder) or not begun or lines[-1]["step"] in ("finished", "ended")
        free = 0 if works else free + 1
        if free >= _FREE:
            try:
                link.stop_run(run_id)
            except SuperLinkRefused as error:  # it was given up meanwhile
                log.info("run %d: %s", run_id, error)
            return RunState(run_id, "failed", "its process was killed")
        time.sleep(poll)


def _patiently(ask: Callable[[], T]) -> T:
    """What the SuperLink answers, once it is back should it be away.

    Raises:
        SuperLinkRefused: it was away for too long.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return ask()
        except SuperLinkRefused:
            if time.monotonic() > deadline:
                raise
            time.sleep(1.0)


def _steps_done(folder: Path) -> int:
    return sum(line["step"] not in _AGAIN for line in journal.read(folder))


def stop(coordinator: Coordinator, name: str) -> None:
    """Stop a retraining; the rounds that it has done stay, and launching it again goes on from there.

    Raises:
        NotFound: there is no such retraining, or it was never launched.
        Conflict: it has ended already.
    """
    link, states = _link(coordinator), runs(coordinator, name)
    alive = [state for state in states if state.progress not in FINISHED]
    if not alive:
        raise Conflict(f"{name!r} does not run: it is {states[-1].progress}")
    for state in alive:
        link.stop_run(state.run_id)


def runs(coordinator: Coordinator, name: str) -> list[RunState]:
    """How far the Flower runs of a retraining are, oldest first; all but one at most have ended.

    Raises:
        NotFound: there is no such retraining, or it was never launched.
    """
    load(coordinator.folder, name)
    path = coordinator.folder / "retrainings" / name / _RUNS
    if not path.exists():
        raise NotFound(f"{name!r} was never launched")
    link = _link(coordinator)
    return [link.state(int(number)) for number in path.read_text().split()]


def _link(coordinator: Coordinator) -> SuperLink:
    return SuperLink(coordinator.folder, coordinator.config.superlink_port, coordinator.config.host)


def _steps(lines: Sequence[Line]) -> str:
    return f"the step {lines[-1]['step']!r}" if lines else "no step"
