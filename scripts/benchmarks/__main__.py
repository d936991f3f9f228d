"""`scripts/bench NAME`: finds the benchmark, runs it, and ends with 1 where a claim does not hold."""

import signal
import sys

from models.errors import VigieError
from scripts.benchmarks import (
    accuracy,
    bytes,
    completeness,
    corrections,
    demo,
    gate,
    inference,
    ingest,
    latency,
    load,
    lookback,
    poisoned,
    privacy,
    rollback,
    rounds,
    simulated,
    vigilance,
    volume,
    yielding,
)
from scripts.benchmarks.report import show, write

BENCHMARKS = {
    "accuracy": accuracy.run,
    "bytes": bytes.run,
    "completeness": completeness.run,
    "corrections": corrections.run,
    "demo": demo.run,
    "gate": gate.run,
    "inference": inference.run,
    "ingest": ingest.run,
    "latency": latency.run,
    "load": load.run,
    "lookback": lookback.run,
    "poisoned": poisoned.run,
    "privacy": privacy.run,
    "rollback": rollback.run,
    "rounds": rounds.run,
    "simulated": simulated.run,
    "vigilance": vigilance.run,
    "volume": volume.run,
    "yielding": yielding.run,
}


def main() -> int:
    """Run the benchmark that the first argument names."""
    name, *arguments = sys.argv[1:] or [""]
    if name not in BENCHMARKS:
        asked = name in ("", "-h", "--help")
        usage = f"usage: scripts/bench NAME [options]; there are: {', '.join(BENCHMARKS)}"
        print(usage, file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    # told to end, a bench still stops what it started and removes what it wrote
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    try:
        report = BENCHMARKS[name](arguments)
    except VigieError as error:
        print(f"scripts/bench {name}: {error}", file=sys.stderr)
        return 2
    path = write(name, report, options=arguments)
    show(report)
    print(f"written to {path}")
    return 0 if all(claim.holds for claim in report.claims) else 1


if __name__ == "__main__":
    sys.exit(main())
