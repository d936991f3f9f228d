"""Whether the series are here that an adopted version requires of a study: one more reason to wait for the rest of it.

It asks no more than one header of each series, and nothing where no adopted version requires any. What a version says
of itself is read as it lies in its folder: here it only decides how long is waited, `scope.py` decides what is read.
"""

import json
import logging
from collections import OrderedDict
from typing import Any, Final

from pydantic import ValidationError
from sqlalchemy import Connection, func, select

from client.dicom import decode
from client.inference.acquisition import Acquisition
from client.inference.scope import InScope, check, missing_series
from client.inference.spacing import unasked
from client.store.archive import Archive
from client.store.site import Site
from client.store.tables import instance, version
from models.bundle import Facts
from models.errors import InvalidStudy
from models.intended_use import IntendedUse

log = logging.getLogger(__name__)

_MOST_REMEMBERED: Final = 1024


class Required:
    """The required series of a site's adopted versions, held against what has come of a study."""

    def __init__(self, site: Site, archive: Archive) -> None:
        self._site = site
        self._archive = archive
        self._uses: dict[str, IntendedUse | None] = {}
        self._known: OrderedDict[str, Acquisition | None] = OrderedDict()

    def here(self, connection: Connection, study_uid: str) -> bool | None:
        """Whether all series are here that the versions require which could read some of the study.

        Returns:
            None where no version that could read any of it requires any.
        """
        uses = [use for use in self._adopted(connection) if use.required_series]
        if not uses:
            return None
        series = self._series(connection, study_uid)
        images = [image for image, count in series for _ in range(count)]
        found = [
            not missing_series(use, images)
            for use in uses
            if any(isinstance(check(use, image), InScope) for image, _ in series)
        ]
        return all(found) if found else None

    def _adopted(self, connection: Connection) -> list[IntendedUse]:
        digests = connection.execute(select(version.c.digest).where(version.c.state == "adopted")).scalars().all()
        self._uses = {digest: self._uses[digest] if digest in self._uses else self._use(digest) for digest in digests}
        return [use for use in self._uses.values() if use]

    def _use(self, digest: str) -> IntendedUse | None:
        try:
            said: Any = json.loads((self._site.versions / digest / "configs" / "metadata.json").read_text())
            return unasked(Facts.model_validate(said["vigie"]).intended_use)
        except (KeyError, OSError, TypeError, ValidationError, ValueError) as error:
            log.warning("version %s: its intended use cannot be read (%s)", digest[:12], type(error).__name__)
            return None

    def _series(self, connection: Connection, study_uid: str) -> list[tuple[Acquisition, int]]:
        """Of each series that can be read its first image, which stands for the others in all but how far apart they
        lie, and how many there are.
        """
        grouped = (
            select(func.min(instance.c.id).label("first"), func.count().label("images"))
            .where(instance.c.study_uid == study_uid, ~instance.c.conflicting)
            .group_by(instance.c.series_uid)
        ).subquery()
        query = select(instance.c.sha256, grouped.c.images).join(grouped, grouped.c.first == instance.c.id)
        found = ((self._acquisition(row.sha256), int(row.images)) for row in connection.execute(query))
        return [(image, count) for image, count in found if image is not None]

    def _acquisition(self, digest: str) -> Acquisition | None:
        if digest not in self._known:
            try:
                self._known[digest] = Acquisition.from_dataset(decode.read_header(self._archive.path(digest)))
            except (InvalidStudy, OSError):
                self._known[digest] = None
            if len(self._known) > _MOST_REMEMBERED:
                self._known.popitem(last=False)
        return self._known[digest]
