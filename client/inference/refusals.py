"""Which studies that were not read leave a mark in the PACS, and that mark.

A PACS sends everything, and most of it is none of a version's business: a report that a chest radiograph version has
refused every CT of the abdomen would help nobody. A study leaves a mark where somebody may expect a result: an image of
it is of the kind of examination that an adopted version reads (modality, SOP class, no other body part, no phantom), or
an earlier result of it stands in the PACS.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from pydicom.dataset import Dataset

from client.dicom import decode
from client.dicom.person import TWO_PEOPLE, Person, differ, several
from client.inference.acquisition import Acquisition
from client.inference.pipeline import Failed, Files, Refused
from client.inference.scope import Code, OutOfScope, Reason, check
from client.inference.serving import Serving
from client.inference.study import Image, Study
from client.inference.whose import pictures
from client.results import unread
from client.results.result import Predecessor, ResultObject
from client.results.unread import Unread
from client.store import versions
from client.store.site import Site
from models.bundle import Bundle
from models.errors import BundleRefused, InvalidStudy
from models.intended_use import IntendedUse

log = logging.getLogger(__name__)

ANOTHER_EXAMINATION: Final = frozenset(
    map(str, (Code.MODALITY, Code.SOP_CLASS, Code.BODY_PART, Code.QUALITY_CONTROL, Code.SPECIES))
)


class Refusals:
    """Makes the marks of a site's unread studies, as `results.refusals` of its configuration wants them.

    Args:
        files: where the images lie.
        members: gives the versions that may read.
    """

    def __init__(self, site: Site, files: Files, members: Callable[[], Sequence[Serving]]) -> None:
        self._site = site
        self._files = files
        self._members = members
        self._wanted = site.config.results.refusals

    def mark(self, study: Study, result: Refused | Failed, earlier: Sequence[Predecessor]) -> list[ResultObject]:
        """The report that a study was not read, or nothing.

        It never raises: a mark that cannot be made is no reason for a study to have no outcome. Where reading the
        study has ended the process, and making the mark has done so too, there is none.

        Args:
            earlier: the reports of earlier revisions that are at the PACS.
        """
        if self._wanted == "none" or study.attempts > self._site.config.max_attempts + 1:
            return []
        try:
            found = self._unread(study, result, earlier)
            return [unread.report(found)] if found else []
        except Exception as error:  # noqa: BLE001  # as said; its text may hold what a header held
            log.error("study %s: no mark in the PACS: %s", self._site.study_key(study.uid), type(error).__name__)
            return []

    def _unread(self, study: Study, result: Refused | Failed, earlier: Sequence[Predecessor]) -> Unread | None:
        reasons = result.reasons
        bundles, uses = self._panel()
        images: Sequence[Image] = study.images
        if any(reason.code == TWO_PEOPLE for reason in reasons):
            images = self._of_one(earlier, images)
        headers, meant = self._headers(images, uses)
        if not headers or not (meant or earlier or self._wanted == "all"):
            return None
        digests = "\n".join(sorted(image.sha256 for image in study.images))
        version = result.version if isinstance(result, Refused) else None
        return Unread(
            source=headers[0],
            images=tuple(images),
            reasons=_telling(reasons),
            failed=isinstance(result, Failed),
            input_digest=hashlib.sha256(digests.encode()).hexdigest(),
            revision=study.revision,
            bundle=next((one for one in bundles if one.digest == version), None),
            institution=self._site.config.institution,
            created_at=time.time(),
            earlier=tuple(earlier),
        )

    def _panel(self) -> tuple[Sequence[Bundle], Sequence[IntendedUse]]:
        """The versions that may read, and their intended uses; of one that cannot be loaded the use alone, as it says
        itself: what is not verified is not named in a report.
        """
        try:
            bundles = [member.bundle for member in self._members()]
            return bundles, [one.facts.intended_use for one in bundles]
        except BundleRefused:
            known = [versions.facts(self._site, held.digest) for held in versions.panel(self._site)]
            return (), [facts.intended_use for facts in known if facts]

    def _of_one(self, earlier: Sequence[Predecessor], images: Sequence[Image]) -> list[Image]:
        """Of a study of two people, the images of the one whom an earlier report is of: that report is no longer sure,
        and who has it must hear of it, in their own name alone. Without it a report would have to name one of the two.
        """
        if not earlier:
            return []
        person = earlier[0].person
        found = list(pictures(self._files, images))
        own = [(image, header) for image, header in found if not differ(person, Person.from_dataset(header))]
        if several(header for _, header in own):  # of whom the report says too little: who says no more is meant
            own = [(image, header) for image, header in own if Person.from_dataset(header) == person]
        return [] if several(header for _, header in own) else [image for image, _ in own]

    def _headers(self, images: Sequence[Image], uses: Sequence[IntendedUse]) -> tuple[list[Dataset], bool]:
        """A header of each series, first one that a version was meant for; and whether there is such a series."""
        meant: list[Dataset] = []
        others: list[Dataset] = []
        unreadable = False
        seen: set[str] = set()
        for image in images:
            if image.series_uid in seen:
                continue  # what tells one examination from another is the same in all of a series
            try:
                header = decode.read_header(self._files.path(image.sha256))
            except InvalidStudy:
                unreadable = unreadable or any(image.sop_class in use.sop_classes for use in uses)
                continue
            seen.add(image.series_uid)
            found = Acquisition.from_dataset(header)
            (meant if any(_is_meant_for(use, found) for use in uses) else others).append(header)
        return [*meant, *others], bool(meant) or unreadable


def _is_meant_for(use: IntendedUse, found: Acquisition) -> bool:
    scope = check(use, found)
    return not isinstance(scope, OutOfScope) or ANOTHER_EXAMINATION.isdisjoint(str(one.code) for one in scope.reasons)


def _telling(reasons: tuple[Reason, ...]) -> tuple[Reason, ...]:
    """Those of the images that a version was meant for; a dose report beside them explains nothing."""
    telling = tuple(reason for reason in reasons if str(reason.code) not in ANOTHER_EXAMINATION)
    return telling or reasons
