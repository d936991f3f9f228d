"""What was measured earlier is compared only where it was measured in the same person."""

import io
from collections.abc import Callable

from pydicom.dataset import Dataset
from sqlalchemy import insert, select, update

from client.inference.priors import earlier
from client.store.archive import Archive
from client.store.site import Site
from client.store.tables import instance, outcome, version


def test_somebody_else_with_the_same_number_has_not_grown(
    site: Site, scored: Callable[..., str], radiograph: Callable[..., Dataset]
) -> None:
    archive = Archive(site.archive)

    def measured(day: str, **whose: str) -> str:
        image = radiograph(PatientID="P1", **whose)
        file = io.BytesIO()
        image.save_as(file, enforce_file_format=True)
        digest = archive.store(file.getvalue())
        uid = scored(str(image.StudyInstanceUID), patient_id="P1", input_digest=digest)
        structure = {"category": ["SCT", "49755003"], "finding": ["SCT", "27925004"], "name": ""}
        label = {"value": 1, "volume_ml": 2.0, "structure": structure}
        measurements = {"day": day, "series": [{"labels": [label]}]}
        with site.database.write() as connection:
            connection.execute(update(outcome).where(outcome.c.study_uid == uid).values(measurements=measurements))
            connection.execute(
                insert(instance).values(
                    sop_uid=image.SOPInstanceUID,
                    sha256=digest,
                    study_uid=uid,
                    series_uid=image.SeriesInstanceUID,
                    sop_class=image.SOPClassUID,
                    transfer_syntax=image.file_meta.TransferSyntaxUID,
                    revision=1,
                    conflicting=False,
                    received_at=0.0,
                    calling_ae="CT1",
                    rows=64,
                    columns=48,
                )
            )
        return uid

    before = measured("2022-01-01", PatientName="TEST^P")
    measured("2023-01-01", PatientName="Other^Person", PatientBirthDate="19990101")
    today = measured("2024-01-01")
    with site.database.read() as connection:
        name = connection.execute(select(version.c.name)).scalar_one()

    assert [one.study_uid for one in earlier(site, today, name)] == [before]
