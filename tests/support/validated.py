"""Many exams with known truths at a hospital, without a worker: rows alone, as reading and verdicts leave them."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import insert, select

from client.store.site import Site
from client.store.tables import outcome, patient, reader, second_read, study, verdict

YEAR = 365 * 86400.0


@dataclass(frozen=True, slots=True)
class Exam:
    """One; `blind`: somebody has read it who did not see the AI's answer."""

    called: bool
    truth: bool
    stratum: str = "F|40-64|siemens"
    fold: str = "gate"
    blind: bool = True
    objects: bool = False
    patient: str = ""
    drawn: tuple[str, float] | None = None  # kind, probability


def fill(site: Site, digest: str, exams: Sequence[Exam], age: float = 1.2 * YEAR) -> list[str]:
    """Put them into the hospital, `age` seconds old; gives their patients' keys."""
    at, keys = time.time() - age, []
    with site.database.write() as connection:
        for name in ("ada", "grace"):
            if connection.execute(select(reader.c.name).where(reader.c.name == name)).first() is None:
                token = {"token_sha256": f"-{name}", "role": "clinician", "created_at": at}
                connection.execute(insert(reader).values(name=name, **token))
        for one in exams:
            tag = f"{random.getrandbits(60)}"
            key = one.patient or f"{tag:>064}"
            keys.append(key)
            if connection.execute(select(patient.c.key).where(patient.c.key == key)).first() is None:
                values = {"patient_id": f"DUPONT-{tag}", "fold": one.fold, "objects_to_reuse": one.objects}
                connection.execute(insert(patient).values(key=key, first_seen=at, **values))
            uid = f"2.25.{tag}"
            connection.execute(
                insert(study).values(uid=uid, patient_key=key, state="scored", received_at=at, touched_at=at)
            )
            facts = {"score": 0.9 if one.called else 0.1, "threshold": 0.5, "positive": one.called}
            made = connection.execute(
                insert(outcome).values(
                    study_uid=uid, revision=1, kind="scored", reasons=[], version_digest=digest, sop_uid=f"{uid}.1",
                    input_digest=f"{tag:>064}", stratum=one.stratum, created_at=at, **facts,
                )
            ).inserted_primary_key  # fmt: skip
            assert made is not None
            said = [("ada", "ai_visible", "ai_first")] + ([("grace", "single_reader", "second_reader")] * one.blind)
            for who, tier, mode in said:
                answer = "positive" if one.truth else "negative"
                connection.execute(
                    insert(verdict).values(
                        study_uid=uid, outcome_id=made[0], reader=who, answer=answer, tier=tier, mode=mode,
                        decision="agree" if one.called is one.truth else "correct", created_at=at,
                    )
                )  # fmt: skip
            if one.drawn:
                kind, chance = one.drawn
                connection.execute(
                    insert(second_read).values(outcome_id=made[0], kind=kind, probability=chance, drawn=True, at=at)
                )
    return keys


def several(count: int, wrong: int, truth: bool, **facts: object) -> list[Exam]:
    """So many exams of one truth, so many of them answered wrongly."""
    return [Exam(called=truth is not (n < wrong), truth=truth, **facts) for n in range(count)]  # type: ignore[arg-type]
