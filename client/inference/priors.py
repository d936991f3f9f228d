"""What was measured in earlier studies of a patient, by whichever version of the same model."""

from datetime import date

from sqlalchemy import select

from client.dicom.person import differ
from client.inference.outlining import Prior
from client.store.persons import person_of
from client.store.site import Site
from client.store.tables import outcome, study, version


def earlier(site: Site, study_uid: str, name: str) -> list[Prior]:
    """The present results of the patient's other studies that a model of this name measured.

    A study of somebody else who has the same identifier is none of them.

    A label that was read and not found is no volume: growth from nothing has no number.

    Args:
        name: of the model, without its version.
    """
    patient = select(study.c.patient_key).where(study.c.uid == study_uid).scalar_subquery()
    query = (
        select(study.c.uid, outcome.c.measurements)
        .join(outcome, (outcome.c.study_uid == study.c.uid) & (outcome.c.revision == study.c.revision))
        .join(version, version.c.digest == outcome.c.version_digest)
        .where(study.c.patient_key == patient, study.c.uid != study_uid, version.c.name == name)
        .where(outcome.c.kind == "scored", outcome.c.measurements.is_not(None))
    )
    whose = person_of(site, study_uid)
    found: list[Prior] = []
    with site.database.read() as connection:
        for row in connection.execute(query):
            measured = row.measurements
            if not measured or not measured["day"] or differ(whose, person_of(site, row.uid)):
                continue
            volumes: dict[int, float] = {}
            for series in measured["series"]:
                for label in series["labels"]:
                    # of several series the largest: a second reconstruction of the same scan adds nothing
                    volumes[label["value"]] = max(volumes.get(label["value"], 0.0), label["volume_ml"])
            found.append(Prior(row.uid, date.fromisoformat(measured["day"]), volumes))
    return found
