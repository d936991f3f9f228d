"""Seconds of a federated round in which there is nothing to compute: Vigie, NVFLARE's POC mode, Flower as it comes.

Four sites on this machine, random weights of 0.05 and of 32 MB. Contenders take turns; in each turn a contender's
deployment is started, runs one job of each size and is stopped. The first round of a job is shown apart: it loads
what stays. Of the others the median counts, and of the turns' medians the median.

- Vigie: `vigie coordinator run`, four times `vigie site supernode` with both channels, `vigie retrain launch`, with
  FedAvg's weighting by root of cases, no privacy, no compression. A round is from one round's durable line in the
  journal to the next one's. In it are: guard, TLS and signed requests, border, consent looked at twice, ledger,
  outbox, the forks of the ClientApp and of the trainer, journal. The network is a residual network of that size for
  pictures of 32 x 32. What is launched is a rehearsal (`hyper.steps=0`): the trainer puts the weights into a network,
  judges the hospital's two dozen training cases, and checks and hands back the weights it was given, as the other two
  contenders do. With `--steps 1` it also learns from eleven of the cases (fewer are not trained on; of one step no mean
  over steps is kept), which the others do not.
  Candidate, offer and release, which follow the last round, are not.
- NVFLARE 2.9.0 in its POC mode: server and four clients with its default polling, the FedAvg of its NumPy recipe, the
  client's script in the client's process, which moves the weights by one number and returns them. A round is from its
  start in the server's log to the next one's.
- Flower 1.41 as it comes: SuperLink with TLS, registered keys and a database, four SuperNodes, `flwr run`, FedAvg with
  its evaluation by the clients after the training, which says nothing in place of a figure. Vigie's one message judges
  and trains; the claim is made of the training alone, which is the harder one.

The weights of the other two are one array, which is the fastest way for both. NVFLARE is looked for with `--contender
PYTHON`, else in `runs/bench/nvflare`, which is made with pip where it is not there; where that fails the bench runs
without it, and its claims are left out. All have the same processors.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console
from rich.table import Table

from models import networks
from models.bundle import Bundle, Facts
from models.coding import Coding
from models.intended_use import IntendedUse
from models.packing import pack
from models.preprocessing import Preprocessing
from models.stats.disclosure import LEAST
from scripts.benchmarks import flare_poc
from scripts.benchmarks.deployment import SIGNER, Deployment
from scripts.benchmarks.flare_poc import FlarePoc
from scripts.benchmarks.options import positive
from scripts.benchmarks.pictures import DX
from scripts.benchmarks.report import Claim, Report, at_most
from scripts.benchmarks.stock_flower import StockFlower

SITES: Final = ("alpha", "beta", "gamma", "delta")
_SIDE: Final = 32
_PATIENTS: Final = 48
_PREPROCESSING: Final = Preprocessing(
    [
        {"_target_": "Resize", "spatial_size": [_SIDE, _SIDE], "mode": "area"},
        {"_target_": "ScaleIntensityRange", "a_min": 0.0, "a_max": 4095.0, "b_min": 0.0, "b_max": 1.0, "clip": True},
    ]
)
_TRAINING: Final = {"hyper.batch_size": LEAST, "hyper.learning_rate": 1e-4, "hyper.averaging": 0}
_CHANNELS: Final = {"0.05 MB": (8, 8, 16, 16), "32 MB": (64, 128, 256, 736)}
# a finding each, so that no case of the one is a case of the other
_FINDINGS: Final = {"0.05 MB": "R-42061", "32 MB": "R-42062"}
VIGIE, NVFLARE, FLOWER = "Vigie", "NVFLARE POC", "Flower"
_SHARE: Final = 0.25

Row = dict[str, Any]


def run(arguments: Sequence[str]) -> Report:
    """Measure, print the table."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench rounds", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=positive, default=5)
    parser.add_argument("--rounds", type=positive, default=5, help="of a job, after its first one")
    parser.add_argument("--steps", type=int, default=0, help="of training at each hospital of Vigie; 0: a rehearsal")
    parser.add_argument("--sizes", nargs="+", choices=tuple(_CHANNELS), default=tuple(_CHANNELS))
    parser.add_argument("--only", nargs="+", choices=(VIGIE, NVFLARE, FLOWER), default=(VIGIE, NVFLARE, FLOWER))
    parser.add_argument("--contender", type=Path, help="the Python of an environment with NVFLARE")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"), help="on the disk that is to be measured")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rounds-", dir=options.folder) as name:
        found = _turns(Path(name).resolve(), options)
    return _report(found, options.sizes)


def _turns(folder: Path, options: argparse.Namespace) -> dict[str, list[Row]]:
    print("packing the versions", flush=True)
    key = Ed25519PrivateKey.generate()
    bases = {size: base(folder / "versions" / size, key, size) for size in options.sizes}
    arrays = {size: _array(folder, bundle) for size, bundle in bases.items()}
    python = flare_poc.python(options.contender, options.folder / "nvflare") if NVFLARE in options.only else None
    deployment = Deployment(folder / "vigie", key, list(bases.values()), SITES, _PATIENTS, _SIDE)
    flower = StockFlower(folder / "flower", len(SITES))
    poc = FlarePoc(python, folder / "nvflare", len(SITES)) if python is not None else None
    rounds = options.rounds + 1

    settings = _TRAINING | {"hyper.steps": options.steps}

    def vigie(turn: int, size: str) -> list[Row]:
        found = deployment.rounds(f"turn-{turn}-{list(bases).index(size)}", bases[size], rounds, **settings)
        return [{"seconds": seconds} for seconds in found]

    def nvflare(_: int, size: str) -> list[Row]:
        assert poc is not None
        return [{"seconds": seconds} for seconds in poc.rounds(arrays[size], rounds)]

    contenders: dict[str, tuple[Any, Callable[[int, str], list[Row]]]] = {VIGIE: (deployment, vigie)}
    if poc is not None:
        contenders[NVFLARE] = (poc, nvflare)
    contenders[FLOWER] = (flower, lambda _, size: flower.rounds(arrays[size], rounds))
    contenders = {name: found for name, found in contenders.items() if name in options.only}
    rows: dict[str, list[Row]] = {f"{name}, {size}": [] for size in options.sizes for name in contenders}
    try:
        for turn in range(options.turns):
            for name, (contender, job) in contenders.items():
                try:
                    contender.start()
                    for size in options.sizes:
                        row = _row(job(turn, size))
                        rows[f"{name}, {size}"].append(row)
                        print(
                            f"{name + ', ' + size:<20} {row['seconds']:6.2f} s, first {row['first']:.2f} s", flush=True
                        )
                finally:
                    contender.stop()
    finally:
        deployment.close()
    return rows


def _row(rounds: list[Row]) -> Row:
    """One job: what its first round took, and the median of the others."""
    first, *others = rounds
    row: Row = {"first": first["seconds"], "seconds": statistics.median(one["seconds"] for one in others)}
    if "training" in first:
        row["training"] = statistics.median(one["training"] for one in others)
    return row | {"rounds": rounds}


def _report(found: dict[str, list[Row]], sizes: Sequence[str]) -> Report:
    table = Table("a round of four sites", "median s", "of it training", "shortest", "longest", "first round")
    for name, rows in found.items():
        training = f"{_median(rows, 'training'):.2f}" if "training" in rows[0] else ""
        ends = [function(row["seconds"] for row in rows) for function in (min, max)]
        cells = (f"{_median(rows, 'seconds'):.2f}", training, *(f"{end:.2f}" for end in ends))
        table.add_row(name, *cells, f"{_median(rows, 'first'):.2f}")
    Console().print(table)
    claims: list[Claim] = []
    for size in sizes:
        for other, part, share in ((NVFLARE, "seconds", 1.0), (FLOWER, "training", _SHARE)):
            if f"{VIGIE}, {size}" in found and f"{other}, {size}" in found:
                ratio = _median(found[f"{VIGIE}, {size}"], "seconds") / _median(found[f"{other}, {size}"], part)
                claims.append(at_most(f"{size}, a round, Vigie / {other}", ratio, share))
    return Report(found, claims)


def _median(rows: Sequence[Row], key: str) -> float:
    return statistics.median(row[key] for row in rows)


def base(folder: Path, key: Ed25519PrivateKey, size: str) -> Bundle:
    """A version to retrain: a residual network of random weights of a size, for pictures that are next to nothing."""
    shape = {"channels": _CHANNELS[size], "kernel": 3, "stride": 8}
    torch.manual_seed(0)
    facts = Facts(
        name=f"residual-{list(_CHANNELS).index(size)}",
        number=1,
        title=f"Random weights of {size}",
        vendor="Bench",
        intended_use=IntendedUse(
            statement="Frontal chest radiographs of adults.",
            modalities=("DX",),
            sop_classes=(DX,),
            body_parts=("CHEST",),
            views=("PA", "AP"),
            min_age_years=18,
        ),
        finding=Coding(value=_FINDINGS[size], scheme="SRT", meaning="Opacity"),
        threshold=0.5,
        threshold_rule="balanced",
        input_shape=(1, _SIDE, _SIDE),
        network="residual",
        network_facts=shape,
    )
    network = networks.build("residual", **shape).eval()
    return pack(folder, facts, network, _PREPROCESSING, "# Random weights\n", key, SIGNER)


def _array(folder: Path, bundle: Bundle) -> Path:
    """All its weights as one array, for contenders that know no network."""
    path = folder / f"{bundle.facts.name}.npy"
    np.save(path, np.concatenate([value.reshape(-1) for value in bundle.read_weights().values()]))
    return path
