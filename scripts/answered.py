"""A study that was read and answered, as a node leaves it in a hospital's tables: for made-up hospitals."""

import time

from pydicom.dataset import Dataset
from sqlalchemy import Connection, insert

from client.review.verdict import Answer, Decision, Mode, Reason, TruthTier
from client.store.site import Site
from client.store.tables import outcome, patient, study, verdict


def enter(
    connection: Connection,
    site: Site,
    image: Dataset,
    stored: str,
    version: str,
    reader: str,
    *,
    score: float,
    threshold: float,
    positive: bool,
) -> None:
    """Enter a patient's only study, of one image, and what a reader said of it before seeing the result.

    Args:
        stored: digest of the image's file in the archive.
        version: digest of the version that read it.
        positive: what the reader said.
    """
    who, issuer, uid = str(image.PatientID), str(image.get("IssuerOfPatientID", "")), str(image.StudyInstanceUID)
    key, called, now = site.patient_key(who, issuer), score >= threshold, time.time()
    connection.execute(
        insert(patient).values(key=key, patient_id=who, issuer=issuer, fold=site.fold(who, issuer), first_seen=now)
    )
    connection.execute(
        insert(study).values(uid=uid, patient_key=key, accession="", state="scored", received_at=now, touched_at=now)
    )
    written = connection.execute(
        insert(outcome).values(
            study_uid=uid,
            revision=1,
            kind="scored",
            reasons=[],
            version_digest=version,
            sop_uid=str(image.SOPInstanceUID),
            input_digest=stored,
            score=score,
            threshold=threshold,
            positive=called,
            created_at=now,
        )
    )
    assert written.inserted_primary_key is not None
    right = called == positive
    connection.execute(
        insert(verdict).values(
            study_uid=uid,
            outcome_id=written.inserted_primary_key[0],
            reader=reader,
            decision=str(Decision.AGREE if right else Decision.CORRECT),
            answer=str(Answer.POSITIVE if positive else Answer.NEGATIVE),
            tier=str(TruthTier.SINGLE_READER),
            mode=str(Mode.DOCTOR_FIRST),
            reason="" if right else str(Reason.SUBTLE),
            created_at=now,
        )
    )
