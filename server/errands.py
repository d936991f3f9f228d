"""What the coordinator does with hospitals beside retrainings: it tells withdrawals, and asks what became of versions.

An errand is a Flower run of some seconds, by the control channel, so that it passes a training. One is made when a
withdrawal waits for a hospital that is connected, and every so many minutes to ask (`inquiry_minutes`): hospitals
adopt, go back and take off by themselves, and cannot speak first. Once a day (`statistics_hours`) they are asked how
the vendors' versions do. All that an errand goes by lies in the coordinator's
folder, and it may be killed anywhere and done again.
"""

import logging
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from models.errors import Conflict, VigieError
from models.exchange import MAX_ASKED, Holdings, Inquiry, Order, Withdrawn
from server import pooled, statistics, vendors, withdrawal
from server.coordinator import Coordinator
from server.journal import alone
from server.lineage import ADOPTED_AT
from server.messaging import ABSENT, LOST, SILENT
from server.registry import Registered, Registry
from server.superlink import ERRAND, FINISHED, RunState, SuperLink, SuperLinkRefused

log = logging.getLogger(__name__)

ANSWER_SECONDS: Final = 60.0
RUN_SECONDS: Final = 180.0
COLLECT_SECONDS: Final = 900.0
LOOK: Final = 5.0
"""Seconds between two looks whether a withdrawal waits; it looks in a folder, and asks the SuperLink only then."""
LATER: Final = 60.0
"""Seconds before an errand that failed is tried again, and a hospital that was asked and said nothing."""
What = Literal["withdrawals", "inquiry", "statistics"]
STANDING: Final = "standing-at-"
"""Begins the tags of a version that say how it stands at a hospital."""

_ASKED: Final = "asked"  # in the errands' folder: its time is that of the last inquiry
_COLLECTED: Final = "collected"  # the same, of when hospitals were asked how versions do


class Hospitals(Protocol):
    """How hospitals are reached: server.messaging.Exchange, or a test's."""

    def reached(self) -> list[str]:
        """Those that are connected, by either channel."""
        ...

    def send_and_receive(self, orders: Mapping[str, Order], timeout: float) -> Any:
        """Answers and failures by hospital, in the order of their names."""
        ...


def conduct(hospitals: Hospitals, folder: Path, name: str) -> None:
    """Do an errand; withdrawals are told in any case, and first.

    Args:
        name: `errand/withdrawals`, `errand/inquiry`, or `errand/statistics`.

    Raises:
        Conflict: another one is under way, and does not end.
    """
    coordinator, place = Coordinator(folder), _place(folder)
    with _in_turn(place):
        tell(hospitals, coordinator)
        if name == f"{ERRAND}inquiry":
            inquire(hospitals, coordinator.registry)
            (place / _ASKED).touch()
        if name == f"{ERRAND}statistics":
            statistics.collect(hospitals, coordinator)
            models = {model for vendor in vendors.listed(folder) for model in vendor.models}
            for version, one in pooled.advance(folder, statistics.versions(folder, models)):
                log.error("alarm: %s %s", version.label, one.text)
            (place / _COLLECTED).touch()


def tell(hospitals: Hospitals, coordinator: Coordinator) -> None:
    """Tell the hospitals that are connected of each withdrawal on which they have not said their last word."""
    for order in withdrawal.orders(coordinator):
        reached = hospitals.reached()
        asked = [site for site in withdrawal.untold(coordinator.folder, order.digest) if site in reached]
        if not asked:
            continue
        answered = hospitals.send_and_receive(dict.fromkeys(asked, order), ANSWER_SECONDS)
        for site, found in answered.results.items():
            state = found.state if isinstance(found, Withdrawn) else found.code
            if state not in (ABSENT, SILENT, LOST):  # it is asked again, and has said nothing
                withdrawal.say(coordinator.folder, order.digest, site, state)


def inquire(hospitals: Hospitals, registry: Registry) -> None:
    """Ask the connected hospitals what became of the versions, and let the registry say it."""
    versions = {one.digest: one for name in registry.names() for one in registry.versions(name)}
    newest = sorted(versions.values(), key=lambda one: one.created_at, reverse=True)[:MAX_ASKED]
    reached = hospitals.reached()
    if not newest or not reached:
        return
    question = Inquiry(digests=tuple(sorted(one.digest for one in newest)))
    answered = hospitals.send_and_receive(dict.fromkeys(reached, question), ANSWER_SECONDS)
    for site, found in answered.results.items():
        if isinstance(found, Holdings):
            keep(registry, site, found, versions)


def keep(registry: Registry, site: str, found: Holdings, versions: Mapping[str, Registered]) -> None:
    """Let the registry say what a hospital has said: which version of each model is adopted there, how others stand.

    Args:
        versions: those that were asked for, by digest.
    """
    alias = f"{ADOPTED_AT}{site}"
    stands = dict(zip(found.digests, zip(found.states, found.changed, strict=True), strict=True))
    for digest, (state, changed) in stands.items():
        text = state if changed == "gate" else f"{state} ({changed})"
        if versions[digest].tags.get(STANDING + site) != text:
            registry.tag(versions[digest], {STANDING + site: text})
    for name in sorted({one.name for one in versions.values()}):
        adopted = next((one for one in stands if stands[one][0] == "adopted" and versions[one].name == name), None)
        pointed = registry.aliases(name).get(alias)
        if adopted is not None and versions[adopted].number != pointed:
            registry.alias(versions[adopted], alias)
        elif adopted is None and pointed is not None:
            registry.unalias(name, alias)


# ── Who makes errands ────────────────────────────────────────────────────────────────────────────────────────────────


def run(link: SuperLink, what: What, timeout: float = RUN_SECONDS) -> RunState:
    """Make an errand and wait for its end.

    Raises:
        SuperLinkRefused: the SuperLink does not answer, or the errand took too long, and is stopped.
    """
    run_id = link.run(ERRAND + what)
    try:
        return link.wait(run_id, timeout)
    except SuperLinkRefused:
        if link.state(run_id).progress not in FINISHED:
            link.stop_run(run_id)
        raise


class Errands:
    """Makes the coordinator's errands while it runs, in a thread of its own.

    Args:
        coordinator: whose; its folder is looked at anew each time.
        link: its SuperLink.
    """

    def __init__(self, coordinator: Coordinator, link: SuperLink) -> None:
        self._folder, self._link = coordinator.folder, link
        self._between = coordinator.config.inquiry_minutes * 60
        self._days = coordinator.config.statistics_hours * 3600
        self._begun = time.time()
        self._silent: dict[str, float] = {}  # hospitals that were asked and said nothing, and until when they are left
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="errands", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more; an errand that is under way ends with the SuperLink."""
        self._stop.set()

    def step(self) -> str:
        """Make the errand that is due, if any; returns which.

        Raises:
            SuperLinkRefused: the SuperLink does not answer, or the errand has failed.
        """
        inquiry = time.time() - self._last(_ASKED) >= self._between
        waiting = self._waiting()
        collecting = time.time() - self._last(_COLLECTED) >= self._days and bool(vendors.listed(self._folder))
        if not waiting and not inquiry and not collecting:
            return ""
        online = {*self._link.online("control"), *self._link.online()}
        if inquiry and online:
            what: What = "inquiry"
        elif waiting & online:
            what = "withdrawals"
        elif collecting and online:
            what = "statistics"
        else:
            return ""
        state = run(self._link, what, COLLECT_SECONDS if what == "statistics" else RUN_SECONDS)
        if state.progress != "completed":
            raise SuperLinkRefused(f"an errand ended as {state.progress}: {state.details or 'see superlink.log'}")
        # one connection alone, and a training on it: it answers when that has ended
        self._silent = dict.fromkeys(self._waiting() & online, time.monotonic() + LATER)
        return what

    def _waiting(self) -> set[str]:
        """The hospitals that have said nothing of a withdrawal yet, but those that were asked a moment ago.

        Who waits for a person, or refuses, is asked again with the next inquiry.
        """
        now = time.monotonic()
        found = {
            site for sites in withdrawal.pending(self._folder).values() for site, word in sites.items() if not word
        }
        return {site for site in found if self._silent.get(site, 0.0) < now}

    def _last(self, kind: str) -> float:
        """When the last one was, or this process began."""
        try:
            return (_place(self._folder) / kind).stat().st_mtime
        except FileNotFoundError:
            return self._begun

    def _serve(self) -> None:
        while not self._stop.wait(LOOK):
            try:
                self.step()
            except VigieError as error:
                log.warning("an errand is made later: %s", error)
                self._stop.wait(LATER)
            except Exception:
                log.exception("an errand was not made")
                self._stop.wait(LATER)


@contextmanager
def _in_turn(place: Path) -> Generator[None]:
    """Alone, once the errand that is under way has ended."""
    deadline = time.monotonic() + RUN_SECONDS
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(alone(place))
                break
            except Conflict:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        yield


def _place(folder: Path) -> Path:
    place = folder / "errands"
    place.mkdir(exist_ok=True)
    return place
