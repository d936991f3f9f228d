"""A hospital whose handlers do what its file `behaviour` says; border, launcher and ledger are the real ones."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

import client.federation.app as app
from client.federation import launcher
from client.federation.border import Border, Handlers
from client.store.database import Database
from client.store.ledger import Ledger
from models.exchange import Consent, Decision, Evidence, Measure, Update, layout_of

CANARY = "DUPONT^Marie 1 52 03 75 116 042"
BASE = "b" * 64


def open_border():
    site = Path(os.environ["VIGIE_SITE"])
    # several words: one for each message
    behaviour, *rest = (site / "behaviour").read_text().split()
    if rest:
        (site / "behaviour").write_text(" ".join(rest))
    return Border(Ledger(Database(site / "site.db")), lambda: handlers(site, behaviour))


def propose(order):
    return Consent(retraining=order.retraining, digest=order.digest, state="granted", reasons=("person",))


def agrees(order):
    """To everything: what a hospital agrees to is seen in tests/hostile/test_consent.py."""


def handlers(site, behaviour):
    if behaviour == "cannot-open":
        raise OSError(CANARY)

    def train(order):
        step = np.float32(0.001 if behaviour == "big" else 1)  # within the usual bound of an update
        weights = {name: array + step if array.dtype.kind == "f" else array for name, array in order.weights.items()}
        update = {
            "retraining": order.retraining,
            "round": order.round,
            "base": order.base,
            "n_cases": 20,
            "n_errors": None,
            "train_loss": 0.25,
            "auc_received": 0.875,
            "weights": weights,
        }
        match behaviour:
            case "raises":
                raise ValueError(f"cannot read study of {CANARY}")
            case "exits":
                sys.exit(CANARY)
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "slow":
                # until it is told otherwise: nobody waits for more than the test needs
                deadline = time.monotonic() + 60
                while (site / "behaviour").read_text() == "slow" and time.monotonic() < deadline:
                    time.sleep(0.05)
            case "extra":
                update["weights"]["images"] = np.zeros(4, np.float32)
            case "not-finite":
                update["weights"]["classifier.bias"] = np.array([np.nan], np.float32)
            case "other-round":
                update["round"] = order.round + 1
            case "smuggles":
                return Update.model_construct(**update, retraining_note=CANARY)
        return Update(**update)

    def offer(order):
        measure = Measure(
            n=40,
            n_positive=10,
            threshold=0.5,
            tp=8,
            fp=3,
            tn=27,
            fn=2,
            vendor_tp=7,
            vendor_fp=2,
            vendor_tn=28,
            vendor_fn=3,
            auc=0.9,
            auc_low=0.8,
            auc_high=0.95,
        )
        return Evidence(
            retraining=order.retraining,
            digest=order.digest,
            served=BASE,
            verdict="adopt",
            reasons=("non-inferior",),
            mended=4,
            new_errors=1,
            served_gate=measure,
            candidate_gate=measure,
        )

    def release(order):
        return Decision(retraining=order.retraining, digest=order.digest, outcome="adopted")

    def layout(digest):
        sys.path.insert(0, str(Path(__file__).parent / "coordinator"))
        import fake_coordinator

        if behaviour == "big":
            return {f"layer.{number:03}": ((11_600,), "float32") for number in range(600)}
        return layout_of(fake_coordinator.WEIGHTS) if digest == BASE else None

    return Handlers(propose, agrees, train, offer, release, layout)


if __name__ == "__main__":
    app.open_border = open_border
    sys.exit(launcher.main(resident=False))
