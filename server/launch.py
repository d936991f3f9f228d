"""Starting a retraining and watching it: what an ML engineer's command does."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from configs.schema import RetrainingConfig
from models.errors import ConfigurationError, Conflict, NotFound, VigieError
from models.hyperparameters import Hyperparameters
from models.validation import told
from server import journal
from server.consent import within_change_plan
from server.coordinator import Coordinator
from server.plan import Plan, load, save
from server.privacy import protection_of, require_mean
from server.superlink import FINISHED, RunState, SuperLink, registered_sites

Line = dict[str, Any]
_RUNS = "runs"  # in a retraining's folder: the numbers of its Flower runs, the newest last


class RetrainingFailed(VigieError):
    """The run ended without its last step; the journal and the SuperLink's log say where."""

    code = "retraining-failed"


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
        require_mean(str(config.privacy.get("mechanism", "none")), str(config.strategy.get("name", "")))
        hyper = Hyperparameters.model_validate(config.hyper)
        return Plan.model_validate(
            {
                "name": config.name,
                "base": config.base,
                "sites": tuple(sorted(sites)),
                "quorum": config.quorum or len(sites),
                "rounds": config.rounds,
                "strategy": config.strategy,
                "compression": config.compression,
                "seed": config.seed,
                "hyper": hyper,
                "privacy": protection_of(config.privacy, hyper.steps, config.rounds),
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
    """Start, or resume, a plan as one Flower run, and follow its journal to the end.

    Args:
        on_line: told each line of the journal as it comes, those of an earlier attempt too.
        poll: seconds between two questions to the SuperLink, each a TLS connection of its own.

    Returns:
        The journal.

    Raises:
        ConfigurationError: the base's change plan does not allow it.
        RetrainingFailed: the run ended before the last step.
    """
    link = _link(coordinator)
    if plan.rounds:
        link.online()  # asked first: where no coordinator runs, the registry would be waited for for minutes
        registry = coordinator.registry
        base = registry.fetch(registry.find(plan.base), coordinator.versions, coordinator.trusted)
        within_change_plan(plan, base.facts)
    folder = save(plan, coordinator.folder)
    run_id = link.run(plan.name)
    with (folder / _RUNS).open("a") as file:
        file.write(f"{run_id}\n")
    seen = 0
    while True:
        state = link.state(run_id)
        lines = list(journal.read(folder))
        for line in lines[seen:]:
            if on_line is not None:
                on_line(line)
        seen = len(lines)
        if state.progress in FINISHED:
            break
        time.sleep(poll)
    if state.progress != "completed" or not lines or lines[-1]["step"] != "finished":
        raise RetrainingFailed(
            f"{plan.name} ended as {state.progress} after {_steps(lines)}: {state.details or 'see logs/superlink.log'}"
        )
    return lines


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
