"""What the coordinator is told of the versions that it asks for: how each stands here, and by what it came to that.

A hospital adopts, goes back and takes off by itself; nobody outside would know, since a hospital cannot speak first.
"""

import json
from collections.abc import Iterable

from client.federation.withdrawal import BY_COORDINATOR
from client.store import versions
from client.store.ledger import Entry
from client.store.site import Site
from client.store.versions import RECALLED_FOR_QUALITY as QUALITY
from client.store.versions import RECALLED_FOR_SAFETY as SAFETY
from client.store.versions import Why
from models.exchange import Changed, Holding, Holdings, Inquiry

_WORDS: dict[str | None, Changed] = {
    Why.TRIAL: "trial",
    Why.QUALITY: "quality",
    Why.SAFETY: "safety",
    Why.MISTAKE: "mistake",
    Why.OTHER: "other",
}
_WITHDRAWN: dict[str, Changed] = {BY_COORDINATOR: "gate", SAFETY: "safety", QUALITY: "quality"}


def told(site: Site, inquiry: Inquiry) -> Holdings:
    """How each of these versions stands here; those that were never here are left out.

    A version of which this hospital's own form is adopted is adopted: that is how it serves here.
    """
    held = versions.listed(site)
    states: dict[str, Holding] = {one.digest: one.state for one in held}
    reasons = changes(site.ledger.entries("version."))
    for own in held:
        if own.form_of is not None and own.state == "adopted":
            states[own.form_of], reasons[own.form_of] = "adopted", reasons.get(own.digest, "gate")
    found = tuple(digest for digest in inquiry.digests if digest in states)
    return Holdings(
        digests=found,
        states=tuple(states[digest] for digest in found),
        changed=tuple(reasons.get(digest, "gate") for digest in found),
    )


def changes(entries: Iterable[Entry]) -> dict[str, Changed]:
    """By what each version came into the state that it has, from what the ledger says of versions. Pure.

    Args:
        entries: oldest first.
    """
    found: dict[str, Changed] = {}
    serving: dict[str, str] = {}
    for entry in entries:
        facts = json.loads(entry.facts)
        digest, model = facts.get("digest", ""), str(facts.get("version", "")).partition("@")[0]
        match entry.event:
            case "version.adopted" | "version.rolled-back":
                word = _WORDS.get(facts.get("reason"), "gate")
                # what had to go for it went for the same reason
                for other in (facts.get("left", ""), serving.get(model, "")):
                    if other:
                        found[other] = word
                found[digest], serving[model] = word, digest
            case "version.retired":
                found[digest] = _WORDS.get(facts.get("reason"), "other")
                serving.pop(model, None)
            case "version.withdrawn":
                found[digest] = _WITHDRAWN.get(str(facts.get("reasons")), "other")
            case "version.shadow" | "version.refused":
                found[digest] = "other" if facts.get("reasons") == "by-hand" else "gate"
            case _:
                pass
    return found
