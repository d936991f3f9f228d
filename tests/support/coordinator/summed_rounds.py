"""The real rounds of a plan whose updates are summed, which stop after each exchange until the test has looked."""

import time

from models import terms as signed
from models.bundle import verify
from server import consent, plan, summing
from server.aggregation import Aggregation
from server.coordinator import Coordinator
from server.journal import Journal


class Watched:
    """Hospitals, all of whose answers are in this process's memory when the test looks at it."""

    def __init__(self, exchange, folder):
        self._exchange, self._folder, self._count = exchange, folder, 0

    def send_and_receive(self, orders, timeout):
        answered = self._exchange.send_and_receive(orders, timeout)
        self.pause(next(iter(orders.values())).kind)
        return answered

    def pause(self, what):
        self._count += 1
        name = f"{self._count}-{what}"
        (self._folder / f"{name}.paused").touch()
        deadline = time.monotonic() + 120
        while not (self._folder / f"{name}.go").exists() and time.monotonic() < deadline:
            time.sleep(0.02)


def conduct(exchange, folder, name, report):
    coordinator, planned = Coordinator(folder), plan.load(folder, name)
    base = verify(folder / "base", coordinator.trusted)
    journal = Journal(folder / "retrainings" / name)
    proposal = consent.proposal_of(coordinator, planned, base.digest, base.facts)
    agreed = consent.agreed(exchange, proposal, planned, journal)
    planned = planned.model_copy(update={"sites": agreed})
    members = summing.members(journal, planned, proposal.digest, signed.read(proposal.terms).identities)
    aggregation = Aggregation(planned, base.digest, base.facts, base.read_weights())
    watched = Watched(exchange, folder / "retrainings" / name)
    for number in range(1, planned.rounds + 1):
        found = summing.conduct(watched, journal, planned, aggregation, members, number)
        journal.save_weights(number, aggregation.weights)
        report["exchanges"].append({"cases": found.cases, "failures": found.failures, "seconds": found.seconds})
        watched.pause("end")
