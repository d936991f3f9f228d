"""How a version does on a folder of labelled images: what the node would read, and what it would refuse by its pixels.

The way is the node's: the same preprocessing, novelty check and engine. The intended use is not asked, for it is about
headers, and pictures have none.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.dicom import decode
from client.inference.engine import Engine
from client.inference.scope import Reason, unfamiliar
from models.bundle import Bundle
from models.errors import InvalidStudy
from models.manifest import Row, picture
from models.novelty import Novelty
from models.preprocessing import Preprocessing
from models.stats.intervals import Estimate, auc, proportion

_BATCH = 32


@dataclass(frozen=True, slots=True)
class Problem:
    """An image of the manifest that could not be scored."""

    line: int
    file: str
    reason: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """A readable image; `reason` says why the node would not read it."""

    row: Row
    tensor: NDArray[np.float32]
    reason: Reason | None


def evaluate(
    bundle: Bundle,
    rows: Iterable[Row],
    threads: int = 1,
    threshold: float | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Score every image, and sum up per site those that the node would read.

    Args:
        threshold: the vendor's when None; `score >= threshold` is called abnormal.
        on_progress: told how many images are done.

    Returns:
        version, digest, threshold; under `sites`, by name: n, n_positive, sensitivity, specificity and auc (each
        value, low, high: 95 %, null where a class is missing), `scores` by file, and `refused`: how many the node would
        not read, by the code of the reason; they count in no figure. `refused`: each of these with its line in the
        manifest and the score that nobody would see; `problems`: what could not be scored. Every row is in exactly one
        of the three.
    """
    cut = bundle.facts.threshold if threshold is None else threshold
    engine, preprocessing = Engine(bundle, threads=threads), Preprocessing(bundle.preprocessing)
    problems: list[Problem] = []
    refused: list[dict[str, Any]] = []
    scored: dict[str, dict[str, tuple[float, bool]]] = {}
    counts: dict[str, Counter[str]] = {}
    done = 0
    for batch in _batches(prepared(rows, preprocessing, bundle.read_novelty(), problems)):
        values = engine.scores(np.stack([one.tensor for one in batch]))
        for one, value in zip(batch, values, strict=True):
            row, found = one.row, scored.setdefault(one.row.site, {})
            if one.reason is None:
                found[row.file] = (float(value), row.positive)
                continue
            code = str(one.reason.code)
            counts.setdefault(row.site, Counter())[code] += 1
            line = {"line": row.line, "site": row.site, "file": row.file, "code": code, "text": one.reason.text}
            refused.append(line | {"score": float(value)})
        done += len(batch)
        if on_progress is not None:
            on_progress(done)
    return {
        "version": bundle.facts.label,
        "digest": bundle.digest,
        "threshold": cut,
        "sites": {
            site: _summary(found, cut) | {"refused": dict(counts.get(site, {}))}
            for site, found in sorted(scored.items())
        },
        "refused": refused,
        "problems": [{"line": problem.line, "file": problem.file, "reason": problem.reason} for problem in problems],
    }


def prepared(
    rows: Iterable[Row], preprocessing: Preprocessing, novelty: Novelty | None, problems: list[Problem]
) -> Iterator[Prepared]:
    """The images of a manifest as the network takes them; what cannot be read is added to `problems`."""
    seen: set[tuple[str, str]] = set()
    for row in rows:
        if (row.site, row.file) in seen:
            problems.append(Problem(row.line, row.file, f"repeated: {row.file} stands twice for {row.site}"))
            continue
        seen.add((row.site, row.file))
        try:
            tensor = preprocessing(_pixels(row.path))
        except InvalidStudy as error:
            problems.append(Problem(row.line, row.file, str(error)))
            continue
        yield Prepared(row, tensor, unfamiliar(novelty, tensor))


def _pixels(path: Path) -> NDArray[np.float32]:
    if not path.is_file():
        raise InvalidStudy("missing-file")
    return decode.read(path).pixels if path.suffix.lower() in (".dcm", ".dicom") else picture(path)


def _batches(items: Iterator[Prepared]) -> Iterator[list[Prepared]]:
    batch: list[Prepared] = []
    for item in items:
        batch.append(item)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _summary(found: dict[str, tuple[float, bool]], cut: float) -> dict[str, Any]:
    scores = np.array([score for score, _ in found.values()], dtype=np.float64)
    positive = np.array([truth for _, truth in found.values()], dtype=bool)
    called = scores >= cut
    return {
        "n": len(found),
        "n_positive": int(positive.sum()),
        "sensitivity": _interval(proportion(int((called & positive).sum()), int(positive.sum()))),
        "specificity": _interval(proportion(int((~called & ~positive).sum()), int((~positive).sum()))),
        "auc": _interval(auc(scores, positive)),
        "scores": {file: score for file, (score, _) in found.items()},
    }


def _interval(estimate: Estimate) -> dict[str, float] | None:
    if np.isnan(estimate.value):
        return None
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}
