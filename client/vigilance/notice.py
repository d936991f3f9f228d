"""The notice of an incident: a draft for a person to look through, complete and send. Nothing is sent from here.

It holds, as far as it is known, what the forms ask for: of the European manufacturer incident report (MIR, MDCG) the
device and the event, of the user's notification who became aware of what and when. No patient is named in it.
"""

import time

from client.store import suspensions, versions
from client.store.site import Site
from client.vigilance import harm
from client.vigilance.deadlines import MEANINGS
from client.vigilance.incidents import KINDS, Incident


def draft(site: Site, one: Incident) -> str:
    """The notice, in Markdown."""
    return "\n".join(
        [
            f"# Incident notice (draft): {one.version.label}",
            "",
            "Made from the hospital's records. Look it through, complete it and send it; nothing was sent.",
            "",
            "## Deadlines",
            "",
            *_deadlines(one),
            "",
            "## Device",
            "",
            *_device(site, one),
            "",
            "## Event",
            "",
            *_event(site, one),
            "",
            "## Described by the user",
            "",
            *(happened.text or "-" for happened in one.history if happened.event == "opened"),
            "",
            "## Done at once",
            "",
            _done(site, one),
            "",
            "## Told",
            "",
            *_told(one),
            "",
            "## To be completed",
            "",
            "- what became of the patient",
            "- contact person",
            "- numbers given by authority and manufacturer",
            "",
        ]
    )


def _deadlines(one: Incident) -> list[str]:
    found: list[str] = []
    for deadline, state in one.due(time.time()):
        if deadline.who == "user":
            found.append(f"- this hospital tells the authority without delay ({state.replace('_', ' ')})")
            continue
        since = "counted from this hospital's awareness, since they have not been told" if deadline.assumed else "told"
        found.append(f"- the manufacturer tells the authority by the end of {_day(deadline.at)} ({since})")
    return found


def _device(site: Site, one: Incident) -> list[str]:
    facts = versions.facts(site, one.version.digest)
    return [
        f"- name and version: {facts.title if facts else one.version.name}, {one.version.label}",
        f"- manufacturer: {facts.vendor if facts else 'not known'}",
        f"- identifier (SHA-256 of the signed manifest): {one.version.digest}",
        f"- certified: {'yes' if facts and facts.certified else 'no'}",
        f"- intended use: {facts.intended_use.statement if facts else 'not known'}",
    ]


def _event(site: Site, one: Incident) -> list[str]:
    found = [
        f"- classification: {MEANINGS[one.severity]}",
        f"- what: {KINDS[one.kind]}",
        f"- this hospital became aware on: {_day(one.aware)}",
        f"- hospital: {site.config.institution}",
    ]
    if one.study_uid:
        found.append(f"- case: {site.study_key(one.study_uid)[:16]} (this hospital's reference)")
    if one.alarm is not None:
        alarm = next((alarm for alarm in harm.alarms(site) if alarm.id == one.alarm), None)
        found.append(f"- alarm {one.alarm}: {alarm.text if alarm else ''}")
    return found


def _done(site: Site, one: Incident) -> str:
    stop = suspensions.standing(site).get(one.version.digest)
    return f"- the version was suspended on {_day(stop.at)}: it reads nothing" if stop else "- the version reads on"


def _told(one: Incident) -> list[str]:
    told = [happened for happened in one.history if happened.event == "told"]
    return [f"- {one.to}, {_day(one.at)}, {one.reference or 'no reference'}" for one in told] or ["- nobody yet"]


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(at))
