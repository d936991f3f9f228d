"""`vigie site retraining …`: what this hospital is asked to agree to, and a person's word on it."""

import getpass
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from scripts.hospital_folder import opened

if TYPE_CHECKING:
    from client.federation.consent import Agreement
    from client.store.site import Site
    from models.protection import Protection
    from models.terms import Terms

app = typer.Typer(
    no_args_is_help=True,
    help="Agree to retrainings and deliveries, or not. Example: vigie site retraining list --folder node",
)
Folder = Annotated[Path, typer.Option("--folder", envvar="VIGIE_SITE", help="the hospital's folder")]
Name = Annotated[str, typer.Argument(help="of the retraining, as `list` shows it")]
By = Annotated[str, typer.Option("--by", help="who decides; stands in the ledger (default: the account)")]


@app.command("list")
def list_all(folder: Folder) -> None:
    """List what was proposed, how it stands, and what was refused because nobody had agreed to it.

    Example: vigie site retraining list --folder node
    """
    from client.federation.consent import listed, refusals, stands

    site = opened(folder)
    table = Table("retraining", "base", "rounds", "asked", "stands", "why", "decided by", "until")
    for found in listed(site):
        standing = stands(site, found)
        table.add_row(
            found.retraining,
            found.terms.label,
            str(found.terms.rounds) if found.terms.rounds else "delivery",
            _day(found.proposed_at),
            standing.state,
            ", ".join(standing.reasons),
            escape(found.by),
            _day(found.terms.expires_at),
        )
    Console().print(table)
    for (retraining, why), times in sorted(refusals(site).items()):
        print(f"refused {times} times  {retraining}  {why}")


@app.command()
def show(folder: Folder, name: Name) -> None:
    """Show the terms of a retraining: all that it may do here, and what would leave.

    Example: vigie site retraining show --folder node spring
    """
    _show(opened(folder), name)


@app.command()
def approve(folder: Folder, name: Name, by: By = "") -> None:
    """Agree to a retraining or a delivery; what was agreed to is printed.

    Example: vigie site retraining approve --folder node spring --by "Dr Curie"
    """
    from client.federation import consent

    site = opened(folder)
    consent.approve(site, name, by or getpass.getuser())
    _show(site, name)


@app.command()
def decline(folder: Folder, name: Name, by: By = "") -> None:
    """Do not agree; it may be approved later.

    Example: vigie site retraining decline --folder node spring
    """
    from client.federation import consent

    consent.decline(opened(folder), name, by or getpass.getuser())
    print(f"{name} is declined: nothing of it runs here")


@app.command()
def withdraw(folder: Folder, name: Name, by: By = "") -> None:
    """Take an agreement back, for good: nothing more of it runs here, and what is being computed does not leave.

    What has left by then is part of the mean already.

    Example: vigie site retraining withdraw --folder node spring
    """
    from client.federation import consent

    consent.withdraw(opened(folder), name, by or getpass.getuser())
    print(f"{name} is withdrawn: nothing more of it runs here or leaves")


def _show(site: "Site", name: str) -> None:
    from client.federation.budget import account, after
    from client.federation.consent import find, stands
    from client.store import versions
    from models.errors import NotFound

    found = find(site, name)
    if found is None:
        raise NotFound(f"nobody has proposed a retraining called {name!r}: `vigie site retraining list`")
    standing = stands(site, found)
    base = versions.facts(site, found.terms.base)
    print(f"{name}: {standing.state} ({', '.join(standing.reasons)})" + (f", by {found.by}" if found.by else ""))
    for what, value in _lines(found):
        print(f"  {what:<18} {value}")
    if base is not None and base.change_plan is not None:
        print(f"  {'change plan':<18} {base.change_plan.statement or base.change_plan.model_dump_json()}")
    if (whole := found.terms.privacy.spends(found.terms.hyper.steps, found.terms.rounds)) is not None:
        now = account(site)
        then = after(site, name, whole)
        print(
            f"  {'budget':<18} epsilon {now.spent:.2f} of {now.cap:g} is spent here, at delta {now.delta:g};"
            f" {then:.2f} with the whole of this"
        )
    for other, key in found.terms.identities.items():
        print(f"  {'key of ' + other:<18} {_told_of(site, found.terms, other, key.hex())}")
    if site.config.consent.clip_norm:
        print(f"  {'kept here to':<18} a norm of {site.config.consent.clip_norm:g} (site.yaml)")


def _lines(found: "Agreement") -> list[tuple[str, str]]:
    terms = found.terms
    lines = [
        ("signed by", f"{found.signer}; terms {found.digest[:12]}…"),
        ("base", f"{terms.label} ({terms.base[:12]}…)"),
        ("hospitals", f"{', '.join(terms.hospitals)}; {terms.quorum} have to answer"),
        ("leaves", ", ".join(terms.leaves)),
        ("until", _day(terms.expires_at)),
    ]
    if terms.rounds:
        hyper = ", ".join(f"{key} {value:g}" for key, value in terms.hyper.model_dump().items())
        trained = ", ".join(f"round {round_}: {times}" for round_, times in sorted(found.trained.items()))
        lines += [
            ("rounds", f"{terms.rounds}, aggregated by {terms.strategy}"),
            (
                "learns nothing from" if terms.rehearses else "trains on",
                "validated cases of training patients who do not object to reuse",
            ),
            ("hyper-parameters", hyper),
            ("layers", ", ".join(terms.layers)),
            ("norm bound", f"{terms.norm:g} a round"),
            ("privacy", _protection(terms.privacy)),
            ("trained so far", trained or "nothing"),
        ]
    return lines


def _protection(found: "Protection") -> str:
    from models.protection import PatientLevel, SecureAggregation, SiteLevel

    match found:
        case PatientLevel():
            return (
                f"{found.mechanism}: epsilon {found.epsilon:g} at delta {found.delta:g} for each patient; what one"
                f" contributes to a step is kept to {found.clip:g}, noise {found.noise:g} times that, drawn by this"
                f" hospital; a patient is in a step with probability {found.share:g}"
            )
        case SiteLevel():
            return (
                f"{found.mechanism}: epsilon {found.epsilon:g} at delta {found.delta:g} for each hospital, but not"
                f" from the coordinator, which adds noise of {found.noise:g} times the norm bound"
            )
        case SecureAggregation():
            return (
                f"{found.mechanism}: this hospital's update leaves masked, and the coordinator learns the sum over at"
                " least three hospitals alone, as long as no third of them helps it; the keys below have to be theirs"
            )
        case _:
            return "none: updates leave as they are, within the norm bound"


def _told_of(site: "Site", terms: "Terms", name: str, key: str) -> str:
    from client.federation.hospitals import changed, fingerprint, strangers

    if name in changed(site, terms):
        what = "NOT the one that is trusted here"
    elif name == site.config.name:
        what = "this hospital's own"
    elif name in strangers(site, terms):
        what = "not known here: compare it with them; to approve is to trust it"
    else:
        what = "trusted here"
    return f"{fingerprint(key)}  ({what})"


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
