"""QIDO-RS: search for studies, series and instances.

A list is made as far as it is asked for: what is behind its end is not read. An attribute that the search does not know
is refused rather than left out of account, since an answer about other patients than were asked for is worse than none.

Source: PS3.18 10.6, tables 10.6.1-5 (matching), 10.6.3-3 to 10.6.3-5 (what is returned).
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from client.dicomweb.holdings import OUTLINE, TAGS, Held, Holdings, Series, Study
from client.dicomweb.json_model import join, write
from client.dicomweb.matching import BadQuery, Element, Query, matches
from models.errors import NotFound

Elements = dict[str, str]
"""From tag to the JSON of the element: a long list is put together without being read."""

_STUDY: Final = (
    "00080005",
    "00080020",
    "00080030",
    "00080050",
    "00080056",
    "00080061",
    "00080090",
    "00080201",
    "00081030",
    "00081190",
    "00100010",
    "00100020",
    "00100021",
    "00100030",
    "00100040",
    "0020000D",
    "00200010",
    "00201206",
    "00201208",
)
_SERIES: Final = (
    "00080005",
    "00080021",
    "00080031",
    "00080060",
    "00080201",
    "0008103E",
    "00081190",
    "0020000E",
    "00200011",
    "00201209",
    "00400244",
    "00400245",
    "00400275",
)
_INSTANCE: Final = (
    "00080005",
    "00080016",
    "00080018",
    "00080056",
    "00080201",
    "00081190",
    "00200013",
    "00280008",
    "00280010",
    "00280011",
    "00280100",
)
_STUDY_MORE: Final = ("00080080", "00101010")
_SERIES_MORE: Final = ("00080070", "00081090", "00180015", "00200052", "00200060")
_COMPUTED: Final = ("00080056", "00080061", "00081190", "00201206", "00201208", "00201209")
_EARLY: Final = frozenset(OUTLINE) - {"00080060"} | {"0020000D"}
_KNOWN: Final = {f"{tag:08X}" for tag in TAGS} | set(_COMPUTED)
_UTF8: Final = write({"vr": "CS", "Value": ["ISO_IR 192"]})
_ONLINE: Final = write({"vr": "CS", "Value": ["ONLINE"]})
MOST: Final = 5000
"""Results of one search, whatever limit it names; the rest is had by offset."""
FUZZY: Final = '299 vigie "The fuzzymatching parameter is not supported. Only literal matching has been performed."'


@dataclass(frozen=True, slots=True)
class Found:
    """What a search has found.

    Attributes:
        datasets: each as its JSON.
        more: whether there are more than the limit let through.
    """

    datasets: list[str]
    more: bool


def studies(holdings: Holdings, query: Query, root: str) -> Found:
    """Search for studies, the newest first.

    Args:
        root: URL of the service.

    Raises:
        BadQuery: an attribute that studies have not.
    """
    _check(query, (*_STUDY, *_STUDY_MORE))
    chosen = _chosen(holdings, query)
    if _EARLY.issuperset(query.wanted):  # all that is asked for was looked at: what is skipped need not be read
        chosen, query = islice(chosen, query.offset, None), replace(query, offset=0)
    return _cut(holdings, (_study(holdings, study, root) for study in chosen), query, _STUDY, _STUDY_MORE)


def series(holdings: Holdings, query: Query, root: str, study: str | None = None) -> Found:
    """Search for series, of all studies or of one.

    Raises:
        BadQuery: an attribute that neither studies nor series have.
    """
    _check(query, (*_STUDY, *_STUDY_MORE, *_SERIES, *_SERIES_MORE))

    def walk() -> Iterator[Elements]:
        for one in _chosen(holdings, query, study):
            above = _study(holdings, one, root)
            for item in list(holdings.whole(one).series.values()):
                yield above | _series(holdings, one, item, root)

    # of one study, its own attributes are known; across studies they say which study a series is of
    returned = _SERIES if study is not None else [*_STUDY, *_SERIES]
    return _cut(holdings, walk(), query, returned, (*_STUDY, *_STUDY_MORE, *_SERIES_MORE))


def instances(
    holdings: Holdings, query: Query, root: str, study: str | None = None, series: str | None = None
) -> Found:
    """Search for instances, of all studies, of one, or of one series.

    Raises:
        BadQuery: an attribute that is not searched.
    """
    _check(query, _KNOWN)

    def walk() -> Iterator[Elements]:
        for one in _chosen(holdings, query, study):
            above = _study(holdings, one, root)
            beside: dict[str, Elements] = {}
            try:
                held = holdings.instances(one.uid, series)
            except NotFound:
                continue
            for item in held:
                if item.series not in beside:
                    entry = one.series.get(item.series) or Series(item.series, item.sha256, 1)
                    beside[item.series] = above | _series(holdings, one, entry, root)
                yield beside[item.series] | _instance(holdings, item, root)

    returned = [*_INSTANCE, *(_SERIES if series is None else ()), *(_STUDY if study is None else ())]
    return _cut(holdings, walk(), query, returned, sorted(_KNOWN))


def _chosen(holdings: Holdings, query: Query, study: str | None = None) -> Iterator[Study]:
    """The studies that can be meant: the others' headers need not be read, or no more than once.

    Whatever of `_EARLY` is wanted, they have.
    """
    early = {tag: value for tag, value in query.wanted.items() if tag in OUTLINE and tag != "00080060"}
    uids = set(query.wanted.get("0020000D", "").replace("\\", ",").split(",")) - {""}
    if study is not None:
        uids = uids & {study} if uids else {study}
    for one in holdings.studies():
        if uids and one.uid not in uids:
            continue
        if not one.series and not holdings.whole(one).series:
            continue  # its results cannot be read, and nothing else of it is here
        if not early or matches(holdings.outline(next(iter(one.series.values())).digest), early):
            yield one


def _cut(
    holdings: Holdings, found: Iterator[Elements], query: Query, returned: Iterable[str], more: Iterable[str]
) -> Found:
    try:
        return _page(found, query, returned, more)
    finally:
        holdings.remember()


def _page(found: Iterator[Elements], query: Query, returned: Iterable[str], more: Iterable[str]) -> Found:
    shown = {*returned, *(set(more) if query.all_fields else query.fields)}
    ordered = sorted(shown)
    limit = MOST if query.limit is None else min(query.limit, MOST)
    datasets: list[str] = []
    skipped = 0
    for elements in found:
        if not _matches(elements, query.wanted):
            continue
        if skipped < query.offset:
            skipped += 1
            continue
        if len(datasets) >= limit:
            return Found(datasets, True)
        datasets.append(join({tag: elements[tag] for tag in ordered if tag in elements}))
    return Found(datasets, False)


def _matches(elements: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    heads = {place.partition(".")[0] for place in wanted}
    return matches({tag: json.loads(elements[tag]) for tag in heads if tag in elements}, wanted)


def _check(query: Query, known: Collection[str]) -> None:
    for at in query.wanted:
        if at.partition(".")[0] not in known:
            raise BadQuery(f"{at} cannot be searched for at this level")


def _study(holdings: Holdings, study: Study, root: str) -> Elements:
    present = list(holdings.whole(study).series.values())
    modalities = {_modality(holdings.outline(item.digest)) for item in present} - {""}
    return _only(holdings.header(present[0].digest), _STUDY, _STUDY_MORE) | {
        "00080005": _UTF8,
        "00080056": _ONLINE,
        "00080061": _element("CS", *sorted(modalities)),
        "00081190": _element("UR", f"{root}/studies/{study.uid}"),
        "0020000D": _element("UI", study.uid),
        "00201206": _element("IS", len(present)),
        "00201208": _element("IS", study.instances),
    }


def _series(holdings: Holdings, study: Study, series: Series, root: str) -> Elements:
    return _only(holdings.header(series.digest), _SERIES, _SERIES_MORE) | {
        "00080005": _UTF8,
        "00081190": _element("UR", f"{root}/studies/{study.uid}/series/{series.uid}"),
        "0020000E": _element("UI", series.uid),
        "00201209": _element("IS", series.instances),
    }


def _instance(holdings: Holdings, held: Held, root: str) -> Elements:
    return dict(holdings.header(held.sha256)) | {
        "00080005": _UTF8,
        "00080016": _element("UI", held.sop_class),
        "00080018": _element("UI", held.sop_uid),
        "00080056": _ONLINE,
        "00081190": _element("UR", f"{root}/studies/{held.study}/series/{held.series}/instances/{held.sop_uid}"),
    }


def _modality(outline: Mapping[str, Element]) -> str:
    return str((outline.get("00080060", {}).get("Value") or [""])[0] or "")


def _only(header: Mapping[str, str], *tags: Collection[str]) -> Elements:
    return {tag: header[tag] for group in tags for tag in group if tag in header}


def _element(vr: str, *values: str | int) -> str:
    return write({"vr": vr, "Value": list(values)} if values else {"vr": vr})
