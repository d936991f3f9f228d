"""Retraining by itself: on a calendar, when enough errors have come together, on an alarm.

What to do next is decided from what is seen (`decide`, pure); `Schedule.step` looks, decides and does it. All that it
goes by lies in the coordinator's folder, so that a schedule that is killed and started again neither forgets nor
repeats anything; what it has begun, and was cut off, it resumes.
"""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from mlflow.exceptions import MlflowException

from configs.schema import WEEKDAYS, ScheduleConfig
from models.errors import NotFound, VigieError
from server import journal, plan, survey
from server.coordinator import Coordinator
from server.launch import Line, launch, plan_named
from server.superlink import SuperLink

log = logging.getLogger(__name__)

DAY, HOUR = 86400.0, 3600.0


@dataclass(frozen=True, slots=True)
class Begun:
    """The newest retraining of a policy.

    Attributes:
        at: when it was begun, and `touched` when its last step was done; seconds since the epoch.
        finished: it has done its last step; `running`: something works on it now.
    """

    name: str
    at: float
    touched: float
    finished: bool
    running: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """What is decided from.

    Attributes:
        now: with its zone.
        errors: by hospital, as last counted; `counted_at` when, in seconds since the epoch; None: never.
        alarms: those that no retraining has answered, oldest first: why each was raised.
    """

    now: datetime
    last: Begun | None = None
    errors: Mapping[str, int] = field(default_factory=dict[str, int])
    counted_at: float | None = None
    alarms: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Launch:
    """Begin a retraining, for these reasons."""

    why: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Resume:
    """Go on with the one that was begun."""

    name: str


@dataclass(frozen=True, slots=True)
class Count:
    """Ask hospitals how many errors there are."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do now, because."""

    why: str


def decide(policy: ScheduleConfig, seen: Seen) -> Launch | Resume | Count | Wait:
    """What to do now. Pure.

    A count that came before the last retraining was begun is answered by it. What was written while a clock ran ahead,
    and says that it was after now, was long ago.
    """
    now, last = seen.now.timestamp(), seen.last

    def since(at: float) -> float:
        return now - at if at <= now + HOUR else math.inf

    if last is not None and not last.finished:
        if last.running or since(last.touched) >= policy.retry_hours * HOUR:
            return Resume(last.name)
        return Wait(f"{last.name} ended before its last step and is resumed later")
    rested = since(last.at) if last is not None else math.inf
    if last is not None and rested < policy.least_days * DAY:
        return Wait(f"{last.name} was begun less than {policy.least_days:g} days ago")
    if not _open(policy, seen.now):
        return Wait("not at this time of the week")
    why: list[str] = []
    if policy.every_days and rested >= policy.every_days * DAY:
        why.append(f"calendar: every {policy.every_days:g} days")
    if policy.alarms:
        why += [f"alarm: {text}" for text in seen.alarms]
    counted = since(seen.counted_at) if seen.counted_at is not None else math.inf
    fresh = counted < rested
    if policy.errors and fresh:
        some = {site: count for site, count in seen.errors.items() if count}
        if sum(some.values()) >= policy.errors and len(some) >= policy.hospitals:
            why.append(f"errors: {sum(some.values())} new ones at {', '.join(sorted(some))}")
    if why:
        return Launch(tuple(why))
    if policy.errors and (not fresh or counted >= policy.survey_hours * HOUR):
        return Count()
    return Wait("no reason")


def _open(policy: ScheduleConfig, now: datetime) -> bool:
    begin, end = policy.hours
    hour = now.hour + now.minute / 60
    open_ = begin <= hour < end if begin < end else hour >= begin or hour < end
    return open_ and (not policy.weekdays or WEEKDAYS[now.weekday()] in policy.weekdays)


class Schedule:
    """A policy at work on a coordinator's folder.

    Args:
        clock: seconds since the epoch; tests give another.
    """

    def __init__(
        self, coordinator: Coordinator, policy: ScheduleConfig, clock: Callable[[], float] = time.time
    ) -> None:
        self._coordinator, self._policy, self._clock = coordinator, policy, clock
        self._count_after = 0.0

    def look(self) -> Seen:
        """What is decided from, as it lies in the folder."""
        counted = survey.last(self._coordinator.folder, self._policy.name)
        return Seen(
            datetime.fromtimestamp(self._clock()).astimezone(),
            _newest(self._coordinator.folder, self._policy.name),
            counted.errors if counted else {},
            counted.at if counted else None,
            alarms(self._coordinator.folder, self._policy.model, self._policy.name),
        )

    def step(self, on_line: Callable[[Line], None] | None = None) -> Launch | Resume | Count | Wait:
        """Look, decide, do it; returns what was done. A retraining is followed to its end.

        Raises:
            VigieError: it could not be done; the next step tries again.
        """
        read = len(_lines(self._coordinator.folder))  # before it looks: what comes meanwhile is not answered
        decision = decide(self._policy, self.look())
        match decision:
            case Launch():
                begun = self._plan()
                answer = {"model": self._policy.model, "answered": begun.name, "lines": read}
                _note(self._coordinator.folder, answer)
                launch(self._coordinator, begun, on_line)
            case Resume():
                launch(self._coordinator, plan.load(self._coordinator.folder, decision.name), on_line)
            case Count():
                if self._clock() < self._count_after:
                    return Wait("hospitals could not be asked, and are asked later")
                self._count_after = self._clock() + HOUR
                config = self._coordinator.config
                link = SuperLink(self._coordinator.folder, config.superlink_port, config.host)
                survey.ask(link, self._coordinator.folder, self._policy.name, self._policy.model)
            case Wait():
                pass
        return decision

    def _plan(self) -> plan.Plan:
        model, registry = self._policy.model, self._coordinator.registry
        released = registry.aliases(model).get("released")
        if released is None:
            raise NotFound(f"no version of {model} is released: there is nothing to retrain")
        number = 1 + max((_number(one) for one in _names(self._coordinator.folder, self._policy.name)), default=0)
        overrides = [f"base={model}@{released}", *self._policy.retraining]
        return plan_named(f"{self._policy.name}-{number}", overrides, self._coordinator)


def run(
    schedule: Schedule,
    sleep: Callable[[float], object],
    told: Callable[[str], None],
    on_line: Callable[[Line], None],
    pause: float = 60.0,
) -> None:
    """Step after step, until this process is told to stop.

    Args:
        told: told what was done, or why nothing was, when it is another thing than before.
    """
    said = ""
    while True:
        try:
            text = _words(schedule.step(on_line))
        except VigieError as error:
            text = f"{error.code}: {error}"
        except MlflowException as error:  # the registry is away, or starts
            text = f"the registry does not answer: {str(error).splitlines()[0]}"
        except OSError as error:  # a full disk, a file system that is away for a while
            text = f"{type(error).__name__}: {error}"
        if text != said:
            told(text)
            said = text
        sleep(pause)


def is_known(coordinator: Coordinator, model: str) -> bool:
    """Whether the registry has said that there is such a model; False where it does not answer.

    Raises:
        NotFound: it has said that there is none.
    """
    try:
        coordinator.registry.aliases(model)
    except MlflowException:
        return False
    return True


def raise_alarm(folder: Path, model: str, why: str, at: float) -> None:
    """Write down that a model is to be retrained; the schedule of the model answers it, once.

    Args:
        folder: the coordinator's.
        why: for people; no patient, no hospital's data.
    """
    _note(folder, {"at": at, "model": model, "why": why})


def alarms(folder: Path, model: str, policy: str) -> list[str]:
    """Why a model is to be retrained: the alarms that no retraining of this policy has answered, oldest first.

    What comes after what is told by the order of lines: a clock may have been wrong.
    """
    begun, found = set(_names(folder, policy)), dict[int, str]()
    for number, line in enumerate(_lines(folder), 1):
        try:
            one = json.loads(line)
            if one["model"] != model:
                continue
            if "answered" not in one:
                found[number] = str(one["why"])
            elif one["answered"] in begun:  # else it was killed before it began
                found = {at: why for at, why in found.items() if at > int(one["lines"])}
        except (ValueError, TypeError, KeyError):  # half an alarm was not noted: whoever raised it was told so
            log.warning("%s, line %d is no alarm and is passed over", _alarms(folder), number)
    return list(found.values())


def _lines(folder: Path) -> list[str]:
    path = _alarms(folder)
    return path.read_text().split("\n")[:-1] if path.exists() else []


def _note(folder: Path, line: Mapping[str, str | float]) -> None:
    with _alarms(folder).open("a+b") as file:
        if (end := file.seek(0, os.SEEK_END)) and os.pread(file.fileno(), 1, end - 1) != b"\n":
            file.write(b"\n")  # after half an alarm, left by a crash or a full disk, this one stands by itself
        file.write(json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _alarms(folder: Path) -> Path:
    return folder / "alarms.jsonl"


def _newest(folder: Path, policy: str) -> Begun | None:
    names = _names(folder, policy)
    if not names:
        return None
    name = max(names, key=_number)
    lines = list(journal.read(folder / "retrainings" / name))
    begun = (folder / "retrainings" / name / plan.PLAN).stat().st_mtime
    if lines:  # a folder that was copied or restored has files with later times
        begun = min(begun, float(lines[0]["at"]))
    touched = float(lines[-1]["at"]) if lines else begun
    finished = bool(lines) and lines[-1]["step"] == "finished"
    return Begun(name, begun, touched, finished, journal.held(folder / "retrainings" / name))


def _names(folder: Path, policy: str) -> list[str]:
    found = (path.parent.name for path in (folder / "retrainings").glob(f"{policy}-*/{plan.PLAN}"))
    return [name for name in found if name.removeprefix(f"{policy}-").isdigit()]


def _number(name: str) -> int:
    return int(name.rpartition("-")[2])


def _words(decision: Launch | Resume | Count | Wait) -> str:
    match decision:
        case Launch():
            return f"retrained: {'; '.join(decision.why)}"
        case Resume():
            return f"{decision.name} was resumed"
        case Count():
            return "errors were counted"
        case Wait():
            return f"waiting: {decision.why}"
