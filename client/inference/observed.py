"""Keeps what was seen of each study that was read, or refused as unlike anything (`traits.py`), under its outcome.

It is written after the outcome, in a transaction of its own: no result waits for it, and a study whose traits a crash
has lost is one that later comparisons do without.
"""

import numpy as np
from sqlalchemy import Row, insert, select

from client.inference.pipeline import Outcome, Refused, Scored, ScoredVolumes
from client.inference.study import Study
from client.inference.traits import SIZE, Traits, traits_of
from client.store.site import Site
from client.store.tables import outcome, trait


def keep(site: Site, study: Study, result: Outcome) -> None:
    """Write down the traits of a study that was concluded; nothing where there is no picture to speak of."""
    traits = _of(result)
    if traits is None:
        return
    look = None if traits.look is None else traits.look.astype("<f2").tobytes()
    with site.database.write() as connection:
        query = select(outcome.c.id).where(outcome.c.study_uid == study.uid, outcome.c.revision == study.revision)
        if (number := connection.execute(query).scalar()) is not None:
            values = {"outcome_id": number, "words": traits.words, "numbers": traits.numbers, "look": look}
            connection.execute(insert(trait).prefix_with("OR IGNORE").values(**values))


def of_row(row: Row[tuple[object, ...]]) -> Traits:
    """The traits of a row of the table."""
    look = None if row.look is None else np.frombuffer(row.look, "<f2").astype(np.float32)
    return Traits(dict(row.words), dict(row.numbers), look if look is not None and look.shape == (SIZE,) else None)


def _of(result: Outcome) -> Traits | None:
    if isinstance(result, Scored):
        return traits_of(result.finding.source, result.finding.pixels, result.finding.score)
    if isinstance(result, ScoredVolumes):
        best = result.best
        return traits_of(best.source, best.key_pixels, best.score)
    return result.traits if isinstance(result, Refused) else None
