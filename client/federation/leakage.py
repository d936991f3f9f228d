"""Whether a case of the random sample may have been trained on: then the sample says nothing.

Folds are of patients, drawn by a key. That fails where the fold in the database is no longer the drawn one, where the
same picture is here under two patients, and where a case moved from one patient to another after a retraining had
learned from it. Each of these is looked for; what is found crosses the border as one word.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from sqlalchemy import select

from client.federation.cases import ReusableCases, tensors
from client.store import versions
from client.store.site import Site
from client.store.tables import patient
from client.vigilance.register import Case
from models.bundle import Bundle
from models.durable import replacing
from models.exchange import Leakage

_AT_ONCE = 64


def remember(site: Site, retraining: str, cases: Sequence[Case]) -> None:
    """Keep which images a retraining learned from here; the same ones of a further round are there already."""
    site.trained.mkdir(exist_ok=True)
    path = site.trained / f"{retraining}.sha256"
    known = _lines(path) if path.exists() else set[str]()
    wanted = known | {case.input_digest for case in cases}
    if wanted != known:
        # on the disk before the training begins: were it emptied by a power cut, the gate would judge on these cases
        with replacing(path) as file:
            file.write("".join(f"{digest}\n" for digest in sorted(wanted)).encode())


def new_errors(site: Site, model: str) -> int:
    """How many errors of training patients no retraining has learned from; none of a model that does not serve here."""
    serving = versions.serving(site, model)
    facts = versions.facts(site, serving.digest) if serving else None
    if facts is None:
        return 0
    trained = _trained(site)
    cases = ReusableCases.of(site, facts).fold("train")
    return sum(not case.correct and case.input_digest not in trained for case in cases)


def look(site: Site, bundle: Bundle, cases: ReusableCases) -> Leakage:
    """The first leak that is found, or `none`.

    Args:
        bundle: by whose preprocessing pictures are compared.
        cases: of all folds.
    """
    with site.database.read() as connection:
        rows = connection.execute(select(patient.c.patient_id, patient.c.issuer, patient.c.fold)).all()
    if any(site.fold(row.patient_id, row.issuer) != row.fold for row in rows):
        return "folds-altered"
    held_out = [*cases.fold("gate"), *cases.fold("test")]
    trained = _trained(site)
    if any(case.input_digest in trained for case in held_out):
        return "trained-on"
    # by what the network sees: a header that was mended makes another file, and the same picture
    if set(_pictures(site, bundle, cases.fold("train"))) & set(_pictures(site, bundle, held_out)):
        return "same-image"
    return "none"


def _pictures(site: Site, bundle: Bundle, cases: Sequence[Case]) -> Iterable[bytes]:
    for start in range(0, len(cases), _AT_ONCE):
        for image in tensors(site, bundle, cases[start : start + _AT_ONCE]):
            yield hashlib.sha256(image.tobytes()).digest()


def _trained(site: Site) -> set[str]:
    return {digest for path in site.trained.glob("*.sha256") for digest in _lines(path)}


def _lines(path: Path) -> set[str]:
    return set(path.read_text().split())
