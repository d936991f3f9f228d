"""`vigie site …`: what hospital IT does with one node."""

import logging
import shutil
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from scripts import (
    border_commands,
    governance_commands,
    images_commands,
    incident_commands,
    objection_commands,
    site_retraining_commands,
    site_statistics_commands,
    site_withdrawal_commands,
    truth_commands,
    watch_commands,
)
from scripts.hospital_folder import one_version, why
from scripts.hospital_folder import opened as _opened
from scripts.signals import wait_for_signal

if TYPE_CHECKING:
    from client.store.site import Site
    from client.store.versions import HeldVersion, Why

app = typer.Typer(no_args_is_help=True, help="One hospital's node. Example: vigie site init --folder /var/lib/vigie")
app.add_typer(site_retraining_commands.app, name="retraining")
app.add_typer(border_commands.app, name="border")
app.add_typer(images_commands.app, name="images")
app.add_typer(incident_commands.app, name="incident")
app.add_typer(objection_commands.app, name="objection")
app.add_typer(governance_commands.app, name="inventory")
app.command()(governance_commands.evidence)
app.command()(governance_commands.report)
app.add_typer(site_withdrawal_commands.app, name="withdrawals")
app.add_typer(watch_commands.app, name="watch")
app.add_typer(truth_commands.app, name="truth")
app.add_typer(site_statistics_commands.app, name="statistics")
Folder = Annotated[Path, typer.Option("--folder", envvar="VIGIE_SITE", help="the hospital's folder")]
Reason = Annotated[str, typer.Option(help="trial, quality, safety, mistake or other; the ledger keeps it")]


def _person(reason: str) -> "tuple[str, Why]":
    """Who types this, and why."""
    import getpass

    return getpass.getuser(), why(reason)


@app.command()
def init(
    folder: Folder,
    name: Annotated[str, typer.Option(help="lower case, e.g. nih")],
    pacs: Annotated[str, typer.Option(help="where results go: AE@HOST:PORT")],
    trust: Annotated[list[Path], typer.Option(help="public key whose versions are trusted, NAME.pub; repeatable")],
    institution: str = "",
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    ae_title: str = "VIGIE",
    dicom_port: int = 11112,
    api_port: int = 8080,
    superlink: Annotated[str, typer.Option(help="the coordinator, HOST:PORT")] = "",
    ca: Annotated[Path | None, typer.Option(help="the coordinator's ca.crt")] = None,
    quiet_seconds: float = 2.0,
) -> None:
    """Make a hospital's folder with its keys; what is there already is kept.

    Example: vigie site init --folder node --name nih --pacs PACS@10.0.0.5:104 --trust vendor.pub
    """
    from client.federation.supernode import make_keys
    from client.store.site import create
    from configs.schema import PeerConfig, SiteConfig
    from models.errors import ConfigurationError
    from models.signing import load_public, load_trust

    title, at, address = pacs.partition("@")
    peer, colon, port = address.rpartition(":")
    if not (at and colon and port.isdigit()):
        raise ConfigurationError(f"--pacs {pacs!r}: write AE@HOST:PORT, e.g. PACS@10.0.0.5:104")
    config = SiteConfig(
        name=name,
        institution=institution or name,
        host=host,
        ae_title=ae_title,
        dicom_port=dicom_port,
        api_port=api_port,
        pacs=PeerConfig(host=peer, port=int(port), ae_title=title),
        superlink=superlink,
        quiet_seconds=quiet_seconds,
    )
    for file in (*trust, *([ca] if ca else [])):
        if not file.is_file():
            raise ConfigurationError(f"{file} is missing: nothing was made")
    for key in trust:
        if key.suffix != ".pub":
            raise ConfigurationError(f"--trust {key}: a signer's public key is a file NAME.pub; nothing was made")
        load_public(key)
    if (folder / "site.yaml").exists():
        print(f"{folder / 'site.yaml'} is there already and stays as it is: edit it to change settings")
    site = create(folder, config)
    for key in trust:
        shutil.copyfile(key, site.trust / key.name)
    load_trust(site.trust)
    if ca is not None:
        shutil.copyfile(ca, site.trust / "ca.crt")
    public = make_keys(site.secrets)
    print(f"made {site.folder}")
    print(f"give the coordinator {public}, then: vigie site run --folder {folder}")


@app.command()
def run(folder: Folder) -> None:
    """Run the node: DICOM receiver, inference, worklist and API; stops on Ctrl-C.

    Example: vigie site run --folder node
    """
    from client.node import run as run_node
    from models.children import follow_parent

    follow_parent()
    run_node(folder)


@app.command()
def supernode(folder: Folder, runtime_port: int = 0) -> None:
    """Run the hospital's only outward connections, both to the coordinator; stops on Ctrl-C.

    By the one go trainings, by the other what is answered in seconds, so that a withdrawal does not wait for them.

    Example: vigie site supernode --folder node
    """
    from client.federation.supernode import SuperNodes
    from models.children import follow_parent
    from models.errors import ConfigurationError

    follow_parent()
    logging.basicConfig(level=logging.INFO)
    site = _opened(folder)
    if not site.config.superlink:
        raise ConfigurationError(f"{folder / 'site.yaml'}: superlink is empty; write the coordinator's HOST:PORT")
    address = site.config.superlink
    running = SuperNodes(site.folder, address, runtime_port)
    print(f"calling {address}", flush=True)
    said = ""

    def ended() -> bool:
        nonlocal said
        works = running.look()
        if (why := running.hindered) != said:
            print(f"beware: {why}" if why else "the control channel is open", flush=True)
            said = why
        return not works

    stopped = wait_for_signal(ended)
    running.stop()
    if not stopped:
        print(f"the SuperNode ended by itself again and again; see {site.logs / 'supernode.log'}", file=sys.stderr)
        sys.exit(1)


@app.command("try")
def try_(
    studies: Annotated[Path, typer.Argument(help="folder of DICOM files")],
    folder: Folder,
    json_file: Annotated[Path | None, typer.Option("--json", help="write it all here, too")] = None,
) -> None:
    """Say what the node would do with each study of a folder; nothing is sent or stored.

    Example: vigie site try --folder node /mnt/new-scanner --json tried.json
    """
    from client.inference.panel import Panel
    from client.inference.trial import TriedStudy, try_folder
    from client.inference.workshop import borrowed
    from client.lean import without_unused

    without_unused()
    site = _opened(folder)

    def tell(study: TriedStudy) -> None:
        score = [] if study.score is None else [f"{study.score:.3f}"]
        what = ", ".join((*score, *(reason.code for reason in study.reasons)))
        first = study.files[0] if study.files else f"study {study.study}"
        print(f"{study.outcome:<8} {what:<40} {len(study.files):>4} files  {first}", flush=True)
        for one in study.objects:
            if one.problems:
                print(f"         {one.kind} would be kept back: {'; '.join(one.problems)}", flush=True)

    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)  # before the work, not after it
    with borrowed(site) as workshop:
        tried = try_folder(site, Panel(site, workshop).members, studies.resolve(), tell)
    if not tried.studies and not tried.unread:
        print(f"no file under {studies}")
    for unread in tried.unread:
        print(f"not read {unread.reason:<40} {unread.file}")
    if json_file is not None:
        json_file.write_text(tried.model_dump_json(indent=2) + "\n")


@app.command()
def doctor(folder: Folder) -> None:
    """Look whether the node can do its work, and say what to do where it cannot; ends with 1 then.

    Example: vigie site doctor --folder node
    """
    from client.doctor import examine
    from client.lean import without_unused

    without_unused()
    console = Console(highlight=False, soft_wrap=True)
    well = True
    for check in examine(_opened(folder, check=False)):
        mark = "[green]well[/green]" if check.ok else "[red]mend[/red]"
        console.print(f"{mark}  {check.name:<22} {escape(check.found)}")
        if check.advice:
            console.print(f"      {'':<22} [bold]{escape(check.advice)}[/bold]")
        well = well and check.ok
    if not well:
        raise typer.Exit(1)


@app.command()
def versions(
    folder: Folder,
    look: Annotated[bool, typer.Option(help="let the gate look again at what is in shadow for want of cases")] = False,
) -> None:
    """List the model versions that this hospital holds, and what its gate said.

    With --look, a released version for which there were too few patients is judged on those that there are now, and
    serves where it is shown not to be worse.

    Example: vigie site versions --folder node --look
    """
    from client.store.versions import listed

    site = _opened(folder)
    if look:
        from client.federation.adoption import look_again
        from client.lean import without_unused

        without_unused()
        for digest, evidence in look_again(site).items():
            print(f"{digest[:12]}  {evidence.verdict} ({', '.join(evidence.reasons)})")
    table = Table("version", "digest", "state", "threshold", "gate")
    for held in listed(site):
        decision = held.decision or {}
        gate = f"{decision.get('verdict', '')} ({', '.join(decision.get('reasons', []))})" if decision else ""
        threshold = "vendor's" if held.threshold is None else f"{held.threshold:.4f}"
        table.add_row(held.label, held.digest[:12], held.state, threshold, gate)
    Console().print(table)


@app.command()
def adopt(
    folder: Folder,
    digest: Annotated[str, typer.Argument(help="a version held here: name@number, or its digest's beginning")],
    reason: Reason = "other",
) -> None:
    """Let a version that is held here read studies, by a person's word; the one of the same model before it retires.

    A model of another name sits beside those that serve: for each study that several fit, the node takes the one with
    the best record here, and says why.

    Example: vigie site adopt --folder node 3f9a1c
    """
    from client.inference.panel import load
    from client.store import versions

    site = _opened(folder)
    held = _one(site, digest, "adopted")
    load(site, held.digest)  # verified and tested before it may read anything
    versions.adopt(site, held.digest, *_person(reason))
    serving = ", ".join(one.label for one in versions.panel(site))
    print(f"adopted; on the panel: {serving}")
    _beware_of_suspension(site, held)
    for other in versions.listed(site):
        if other.label == held.label and other.digest != held.digest:
            print(
                f"beware: {other.digest[:12]} ({other.state}) calls itself {held.label} too, and is"
                " another version: ask the vendor which one is meant; results tell them apart by the digest alone"
            )


def _beware_of_suspension(site: "Site", held: "HeldVersion") -> None:
    from client.store import suspensions

    if held.digest in suspensions.standing(site):
        print(f"beware: {held.label} is suspended and reads nothing until `vigie site watch resume {held.label}`")


def _one(site: "Site", digest: str, become: str) -> "HeldVersion":
    from models.errors import Conflict

    found = one_version(site, digest)
    if found.state in ("refused", "withdrawn"):
        raise Conflict(f"{found.label} is {found.state} here: it cannot be {become}")
    return found


@app.command()
def shadow(
    folder: Folder,
    digest: Annotated[str, typer.Argument(help="a version held here: name@number, or its digest's beginning")],
) -> None:
    """Let a version that is held here look on at what others read, shown to nobody: how it gets a record here.

    An adopted one reads nothing itself from then on. `vigie site doctor` says what is known of the adopted ones, who
    look on by themselves.

    Example: vigie site shadow --folder node 3f9a1c
    """
    from client.inference.panel import load
    from client.store import versions

    site = _opened(folder)
    held = _one(site, digest, "put into shadow")
    load(site, held.digest)  # as for adopting: what cannot be loaded would fail on every study
    versions.put(site, held.digest, "shadow", "by-hand")
    serving = ", ".join(one.label for one in versions.panel(site))
    print(f"{held.label} looks on; on the panel: {serving or 'none'}")


@app.command()
def retire(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="of the model, e.g. chest-radiograph")],
    reason: Reason = "other",
) -> None:
    """Take a model off the panel: its version reads no further study. `vigie site adopt` puts it back.

    Example: vigie site retire --folder node chest-radiograph
    """
    from client.store.versions import retire as take_off

    found = take_off(_opened(folder), name, *_person(reason))
    print(f"{found.label} reads no further study")


@app.command()
def rollback(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="of the model, e.g. chest-radiograph")],
    reason: Reason = "other",
) -> None:
    """Serve the version that served before the present one; done again, the one before that.

    The running node goes over with the next study that it begins; nothing that waits is lost. The version that was
    left comes back by `vigie site adopt` alone, not from the coordinator.

    Example: vigie site rollback --folder node chest-radiograph --reason safety
    """
    from client.store.versions import roll_back

    site = _opened(folder)
    found = roll_back(site, name, *_person(reason))
    print(f"serving {found.label} ({found.digest[:12]}…)")
    _beware_of_suspension(site, found)


@app.command()
def deliveries(
    folder: Folder,
    failed: Annotated[bool, typer.Option(help="only what the PACS did not take or the check held back")] = False,
    resend: Annotated[str, typer.Option(help="UID of a failed object, or all")] = "",
    anyway: Annotated[
        bool, typer.Option(help="with --resend or --override UID: also one that another took the place of")
    ] = False,
    remake: Annotated[str, typer.Option(help="UID of an object to make anew, after the node was mended")] = "",
    override: Annotated[str, typer.Option(help="UID of a quarantined object to send as it is")] = "",
    reason: Annotated[str, typer.Option(help="with --override")] = "",
) -> None:
    """List the results on their way to the PACS, and send again what did not get there.

    Example: vigie site deliveries --folder node --failed
    """
    import getpass

    from client.review import deadletters
    from models.errors import ConfigurationError

    site = _opened(folder)
    if resend == "all":
        told = deadletters.resend_all(site)
        print(f"{told.number} objects are sent again")
        for letter in told.left:
            print(f"left: {letter.sop_uid} ({letter.kind}): {letter.fallen}")
    elif resend:
        deadletters.resend(site, resend, anyway=anyway)
    if remake:
        deadletters.remake(site, remake)
    if override:
        if reason not in list(deadletters.Override):
            raise ConfigurationError(f"--override needs --reason, one of {', '.join(deadletters.Override)}")
        deadletters.override(site, override, deadletters.Override(reason), getpass.getuser(), anyway=anyway)
    # lines and no table: a table cuts the identifiers that the options above ask for
    for letter in deadletters.listed(site, deadletters.DEAD if failed else (*deadletters.DEAD, "pending")):
        said = "; ".join(filter(None, (letter.problem, letter.fallen)))
        print(f"{letter.sop_uid}  {letter.kind:<8}  {letter.state:<11}  {letter.attempts} attempts  {said}".rstrip())
    print(", ".join(f"{number} {state}" for state, number in sorted(deadletters.counts(site).items())) or "none yet")


@app.command()
def missed(
    folder: Folder,
    again: Annotated[str, typer.Option(help="UID of a study to read again, or all")] = "",
    since: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="ask the PACS, too, what it has from this day on")
    ] = None,
) -> None:
    """List the studies that a version could have read and did not, with the reason, and read them again.

    With --since, studies that the PACS has and the node was never sent are listed, too: what an outage has cost. Send
    them again from there.

    Example: vigie site missed --folder node --again all
    """
    import time

    from client.arrival.absent import absent
    from client.inference.outcomes import retry
    from client.review.missed import counts, listed, read_again
    from client.review.worklist import readable_modalities

    site = _opened(folder)
    if again == "all":
        print(f"{read_again(site)} studies are read again")
    elif again:
        retry(site, again)
    found = listed(site)
    for one in found:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.since))
        reasons = "; ".join(f"{code}: {text}" for code, text in one.reasons)
        print(f"{one.uid}  {one.accession or '-'}  {one.why}  since {when}  {reasons}")
    print(", ".join(f"{number} {why}" for why, number in counts(found).items() if number) or "nothing was missed")
    if since is not None:
        unsent = absent(site, since.date(), datetime.now().date(), readable_modalities(site))
        for study in unsent:
            print(f"never sent  {study.uid}  {study.accession or '-'}  {study.day}  {'/'.join(study.modalities)}")
        print(f"{len(unsent)} studies of the PACS since {since:%Y-%m-%d} were never sent here")


@app.command()
def priors(
    folder: Folder,
    study: Annotated[str, typer.Argument(help="study instance UID")],
    wait: Annotated[float, typer.Option(help="seconds to wait for the node")] = 60.0,
) -> None:
    """Look for a study's earlier studies at the PACS, by the node that runs here.

    Example: vigie site priors --folder node 2.25.1234
    """
    import time

    from client.arrival.priors import ask
    from client.review.worklist import one
    from models.errors import ConfigurationError

    site = _opened(folder)
    if site.config.pacs.fetch == "none":
        raise ConfigurationError(f"{folder / 'site.yaml'}: pacs.fetch is none; write move or get")
    ask(site, study)
    deadline = time.monotonic() + wait
    while (said := one(site, study).line.priors) == "asking the PACS" and time.monotonic() < deadline:
        time.sleep(0.2)
    print(said)


@app.command()
def recall(
    folder: Folder,
    version: Annotated[str, typer.Option(help="name@number, or the beginning of its digest")],
    by: Annotated[str, typer.Option(help="who recalls it; named in the withdrawals")] = "",
    quality: Annotated[bool, typer.Option(help="for quality reasons, not for patient safety")] = False,
) -> None:
    """Suspend a version and take back every result of it; run again, it goes on where it was interrupted.

    Example: vigie site recall --folder node --version chest-radiograph@2
    """
    import getpass

    from client.review.recall import named, take_back
    from client.store.versions import form_of, panel

    def tell(done: int, found: int) -> None:
        print(f"{done} of {found} results", flush=True)

    site = _opened(folder)
    # a version takes this hospital's own form of it with it; a form that is recalled leaves the version as it is
    held = named(site, version)
    own = form_of(site, held.digest)
    reports = [
        take_back(site, one.digest, by or getpass.getuser(), safety=not quality, tell=tell)
        for one in (held, own)
        if one is not None
    ]
    for told in reports:
        print(f"{told.label} is suspended: {told.found} results found")
        print(f"{told.withdrawn:>8} withdrawn, {told.without_document} of them with nothing in the PACS to withdraw")
        print(f"{told.to_signer:>8} put before their signer")
        print(f"{told.already_withdrawn:>8} had been withdrawn before")
        for one in told.problems:
            print(
                f"to look for in the PACS: study {one.study_uid}, revision {one.revision}: {one.why}", file=sys.stderr
            )
    if not panel(site):
        print(f"nothing serves now: vigie site rollback {held.name} brings back the version before")
    if not all(told.exact for told in reports):
        print("THE FIGURES DO NOT AGREE: run it again", file=sys.stderr)
        sys.exit(1)


conflicts_app = typer.Typer(
    invoke_without_command=True,
    help="Images that came with the UID of another one that differs, and which of the copies stands. "
    "Example: vigie site conflicts --folder node",
)
app.add_typer(conflicts_app, name="conflicts")


@conflicts_app.callback()
def conflicts(
    context: typer.Context,
    folder: Annotated[Path, typer.Option("--folder", envvar="VIGIE_SITE", help="the hospital's folder")] = Path(),
    of: Annotated[str, typer.Option(help="only of this study or image: its UID, or the accession number")] = "",
    every: Annotated[bool, typer.Option("--all", help="those too that somebody has settled")] = False,
    most: Annotated[int, typer.Option(help="list so many, the newest")] = 50,
) -> None:
    """List the images that came with the UID of another one that differs: who sent each copy, when, which can be
    decoded, and in what they differ. `vigie site conflicts keep` says which stands.

    Example: vigie site conflicts --folder node --of A1234
    """
    import time

    from client.arrival.conflicts import listed, look_at
    from client.review.worklist import one as study_of

    if context.invoked_subcommand is not None:
        return
    site = _opened(folder)
    found = listed(site, of, settled=every)
    last = ""
    for clash in look_at(site, found[:most]):
        for uid, accession in clash.studies.items():
            if uid != last:
                print(f"study {uid}  accession {accession or '-'}  {study_of(site, uid).line.status}")
            last = uid
        print(f"  image {clash.sop_uid}  {'settled' if clash.settled else 'nobody has said which copy stands'}")
        if len(clash.studies) > 1:
            print(
                f"    its copies are of {len(clash.studies)} studies: only that of the copy that stands is read with"
                " it, until a device sends another one anew, with a UID of its own"
            )
        for copy in clash.copies:
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(copy.at))
            size = "no file" if copy.size is None else f"{copy.size:,} bytes"
            decodes = (copy.looked.problem if copy.looked else "") or "decodes"
            print(
                f"    {copy.digest[:12]}  {'stands' if copy.stands else 'apart':<6}  {when}  {copy.calling_ae:<16}"
                f"  {size:>16}  {decodes}"
            )
            if copy.looked and copy.looked.differs:
                print(f"{'':18}differs from the first in {', '.join(copy.looked.differs)}")
    if len(found) > most:
        print(f"and {len(found) - most} more: --most {len(found)} lists them all, --of those of one study")
    if not found:
        print("none" if every else "none that nobody has settled; --all lists those too")
    elif not every:
        print("say which stands: vigie site conflicts keep --folder … IMAGE-OR-STUDY-UID first|last|readable|DIGEST")


@conflicts_app.command()
def keep(
    folder: Folder,
    of: Annotated[str, typer.Argument(help="UID of an image, or of a study: of each of its images that has copies")],
    which: Annotated[
        str,
        typer.Argument(help="the copy to stand: first, last (that came), readable (the only one), or its digest"),
    ],
) -> None:
    """Say which copy of an image stands; the other stays, kept apart, and another choice can be made later.

    A study that has a result is read again with what stands now: its new result names the one before.

    Example: vigie site conflicts keep --folder node 1.2.840.113619.2.55 readable
    """
    from client.arrival.conflicts import keep as let_stand

    done = let_stand(_opened(folder), of, which)
    if not done.chosen:
        print(f"{done.before} images stand so already: nothing is changed")
    for again in done.studies:
        means = {
            "read-again": f"is read again, as revision {again.revision}",
            "still-coming": "is read when all of it is here",
            "prior": "is an earlier study, and not read",
            "no-image": "is not read again: what was chosen is no image",
        }
        print(f"study {again.study_uid} {means[again.done]}")
        if again.disowned:
            print(f"  it was another patient's until now: what was said of it {again.disowned} times is taken back")
