"""Of whom a stored study is."""

import warnings

from pydicom import dcmread
from sqlalchemy import select

from client.dicom.malformed import MALFORMED
from client.dicom.person import TAGS, Person
from client.store.archive import Archive
from client.store.excluded import excluded
from client.store.site import Site
from client.store.tables import instance


def person_of(site: Site, study_uid: str) -> Person:
    """As its first image says; nobody, whom nothing contradicts, where there is none that can be read."""
    query = (
        select(instance.c.sha256)
        .where(instance.c.study_uid == study_uid, ~instance.c.conflicting, ~excluded(), instance.c.rows.is_not(None))
        .order_by(instance.c.id)
        .limit(1)
    )
    with site.database.read() as connection:
        digest = connection.execute(query).scalar()
    if digest is None:
        return Person()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote values
            header = dcmread(Archive(site.archive).path(digest), stop_before_pixels=True, specific_tags=list(TAGS))
            return Person.from_dataset(header)
    except MALFORMED:
        return Person()
