"""What was measured in earlier studies of a patient, by whichever version of the same model, and stands."""

from collections.abc import Sequence
from datetime import date
from typing import Any, Final

from sqlalchemy import select

from client.dicom.person import differ
from client.inference.outlining import Prior
from client.inference.structure import Structure, heard, structure
from client.inference.study import NOT_READ
from client.review.verdict import Answer, Decision, Reason, Verdict, read, standing
from client.store import versions
from client.store.persons import person_of
from client.store.site import Site
from client.store.tables import outcome, recall, study, verdict, version

_IN_PART: Final = "it was read in part"
_UNTOLD: Final = "the version that read it is gone, and with it what its labels stand for"


def earlier(site: Site, study_uid: str, name: str) -> list[Prior]:
    """The present results of the patient's other studies that a model of this name measured, and that stand.

    A study of somebody else who has the same identifier is none of them.

    What was measured is told by its codes, for the next version of a model may give a number and a name to something
    else. Results of earlier releases did not keep them: the version's own declaration says them, where it still lies
    here.

    Nothing is measured against a study that was read in part: what is missing may be the half of a structure, so that
    the other half would seem to have doubled. That another version was not asked takes nothing from what this one read.

    A label that was read and not found is no volume: growth from nothing has no number. Nor is there growth from what
    has been taken back since:

    - a result that a reader rejects, whatever others say of it: the worklist calls it withdrawn;
    - a result of a recalled version, signed or not: a signature answers for the finding, not for the millilitres;
    - a result whose finding is absent by the word that counts (highest truth tier, in it the newest): what the version
      outlined there is something else;
    - a study that a reader called the wrong patient's, also in its later revisions, until they say otherwise.

    Args:
        name: of the model, without its version.

    Returns:
        What may be measured against, and what is unfit for it, with the reason.
    """
    patient = select(study.c.patient_key).where(study.c.uid == study_uid).scalar_subquery()
    query = (
        select(study.c.uid, outcome.c.id, outcome.c.measurements, outcome.c.reasons, outcome.c.version_digest)
        .join(outcome, (outcome.c.study_uid == study.c.uid) & (outcome.c.revision == study.c.revision))
        .join(version, version.c.digest == outcome.c.version_digest)
        .outerjoin(recall, recall.c.outcome_id == outcome.c.id)
        .where(study.c.patient_key == patient, study.c.uid != study_uid, version.c.name == name)
        .where(outcome.c.kind == "scored", outcome.c.measurements.is_not(None))
        # a recall that was interrupted has not come to all results, but to the version
        .where(recall.c.outcome_id.is_(None), version.c.state != "withdrawn")
    )
    whose = person_of(site, study_uid)
    found: list[Prior] = []
    with site.database.read() as connection:
        rows = connection.execute(query).all()
        said: dict[str, list[Verdict]] = {}
        for row in connection.execute(select(verdict).where(verdict.c.study_uid.in_([row.uid for row in rows]))):
            said.setdefault(row.study_uid, []).append(read(row, 0))
    for row in rows:
        measured = row.measurements
        if not measured or not measured["day"] or _taken_back(row.id, said.get(row.uid, [])):
            continue
        if differ(whose, person_of(site, row.uid)):
            continue
        made = date.fromisoformat(measured["day"])
        if any(reason["code"] != NOT_READ for reason in row.reasons):
            found.append(Prior(row.uid, made, {}, _IN_PART))
            continue
        volumes = _volumes(site, row.version_digest, measured)
        found.append(Prior(row.uid, made, {}, _UNTOLD) if volumes is None else Prior(row.uid, made, volumes))
    return found


def _volumes(site: Site, digest: str, measured: dict[str, Any]) -> dict[Structure, float] | None:
    """What a study's structures measured; None where it cannot be told of one what it is."""
    volumes: dict[Structure, float] = {}
    for series in measured["series"]:
        for label in series["labels"]:
            same = heard(label.get("structure")) or _declared(site, digest, label["value"])
            if same is None:
                return None
            # of several series the largest: a second reconstruction of the same scan adds nothing
            volumes[same] = max(volumes.get(same, 0.0), label["volume_ml"])
    return volumes


def _declared(site: Site, digest: str, value: int) -> Structure | None:
    facts = versions.facts(site, digest)
    return structure(facts.segmentation, value) if facts and facts.segmentation else None


def _taken_back(outcome_id: int, said: Sequence[Verdict]) -> bool:
    """Whether clinicians leave nothing of a result that a later one could be measured against.

    Args:
        said: all verdicts on its study, of every revision.
    """
    if any(one.decision is Decision.REJECT and one.reason is Reason.WRONG_PATIENT for one in standing([*said])):
        return True
    last = standing([one for one in said if one.outcome_id == outcome_id])
    return any(one.decision is Decision.REJECT for one in last) or bool(last and last[0].answer is Answer.NEGATIVE)
