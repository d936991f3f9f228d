"""`vigie site doctor`: whether a node can do its work, one line a check, each failure with what to do about it.

Nothing is changed, and nothing but C-ECHO, a TLS handshake and, where they are configured, a question to the worklist
server and to the PACS's web service leaves the node.
"""

import contextlib
import json
import os
import shutil
import socket
import ssl
import stat
import subprocess
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx
from cryptography import x509
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,  # type: ignore[attr-defined]  # made from a table at import
    StudyRootQueryRetrieveInformationModelFind,  # type: ignore[attr-defined]
    Verification,  # type: ignore[attr-defined]
)
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelGet as StudyRootGet,  # type: ignore[attr-defined]
)
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelMove as StudyRootMove,  # type: ignore[attr-defined]
)
from sqlalchemy import Column, func, select
from sqlalchemy.exc import DatabaseError

from client.arrival.exclusions import waiting
from client.arrival.index import unsettled
from client.cores import allowed
from client.delivery.absence import absence
from client.delivery.carrier import OPTIONAL_CLASSES, RESULT_CLASSES
from client.delivery.commitment import MOST_ASKS
from client.delivery.ups import Away, Worklist
from client.dicom.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from client.dicom.listener import client_tls, networks, server_tls
from client.dicom.requestor import associate
from client.federation import statistics, withdrawal
from client.inference import evidence, specimen
from client.inference.panel import Panel
from client.inference.preparation import Preparation
from client.inference.providers import CPU, CUDA
from client.inference.serving import Outlining, Scoring, Serving
from client.inference.torchscript import NAME as TORCHSCRIPT
from client.inference.trial import TriedStudy, try_folder
from client.store import suspensions, versions
from client.store.site import KEY_BYTES, KEYS, Site
from client.store.tables import delivery, instance, study, workitem
from client.vigilance import drift, harm, incidents
from configs.schema import PeerConfig
from models.errors import BundleRefused, ConfigurationError, InvalidPreprocessing, VigieError
from models.signing import load_trust

LEAST_FREE_BYTES: Final = 10 << 30
LEAST_CERTIFICATE_DAYS: Final = 30
_ANSWER_SECONDS: Final = 5.0
_MONTH = 31 * 86400.0  # seconds
_BLIND: Final = 20  # exams
_RECENT_SECONDS: Final = 7 * 86400.0
_RESTORE: Final = (
    "stop the node and restore site.db from the backup; `vigie site init` brings an older one to this release, and"
    " makes an empty one where there is none"
)


@dataclass(frozen=True, slots=True)
class Check:
    """What one look found.

    Attributes:
        name: what was looked at.
        ok: False where somebody has to do something.
        found: what there is.
        advice: what to do; empty where all is well.
    """

    name: str
    ok: bool
    found: str
    advice: str = ""


def examine(site: Site) -> Iterator[Check]:
    """All checks, cheap ones first; one that breaks is a failed check, and the others go on.

    What rests on something that failed is left out: it would say the same again.
    """
    try:
        site.config  # noqa: B018  # read at the first look, and everything below asks it
    except VigieError as error:
        yield Check("settings", False, str(error), "correct site.yaml, then look again: all else rests on it")
        return
    panel = Panel(site)
    data, version = ("database",), ("database", "trusted signers", "model")
    checks: tuple[tuple[str, Callable[[Site], Check], tuple[str, ...]], ...] = (
        ("database", _database, ()),
        ("ledger", _ledger, data),
        ("disk", _disk, ()),
        ("clock", _clock, data),
        ("secrets", _secrets, ()),
        ("ports", _ports, ()),
        ("AE titles", _titles, ()),
        ("trusted signers", _trust, ()),
        ("certificate authority", _authority, ()),
        ("coordinator", _coordinator, ()),
        ("DICOM TLS", _tls, ()),
        ("DICOM certificates", _certificates, ("DICOM TLS",)),
        ("PACS", _pacs, ("DICOM TLS",)),
        ("STOW-RS", _stow, ("DICOM TLS",)),
        ("worklist", _worklist, data),
        ("results", _deliveries, data),
        ("studies", _studies, data),
        ("images left out", _conflicting, data),
        ("rejections", _rejections, data),
        ("withdrawals", _withdrawals, data),
        ("watch", _watch, data),
        ("incidents", _incidents, data),
        ("statistics", _statistics, data),
        ("GPU", _gpu, ()),
        ("threads", _threads, ()),
        ("model", lambda site: _model(site, panel), version[:2]),
        ("panel", _panel, version),
        ("preprocessing", lambda site: _preprocessing(site, panel), version),
        ("engine", lambda site: _engine(site, panel), version),
        ("test study", lambda site: _test_study(site, panel), version),
    )
    failed: set[str] = set()
    for name, look, rests_on in checks:
        if not failed.isdisjoint(rests_on):
            continue
        try:
            check = look(site)
        except DatabaseError as error:
            failed.add("database")
            check = Check(name, False, f"{site.database.path} cannot be read: {error.orig}", _RESTORE)
        except VigieError as error:
            check = Check(name, False, str(error), "mend what it names, then look again")
        except subprocess.TimeoutExpired as error:
            check = Check(name, False, f"{error.cmd[0]} does not answer", "see why it hangs on this machine")
        except OSError as error:
            found = ": ".join(filter(None, (str(error.filename or ""), error.strerror or type(error).__name__)))
            check = Check(name, False, found, "it has to be there, for the account that runs the node")
        except Exception as error:  # noqa: BLE001  # the doctor is for when things are broken
            at = traceback.extract_tb(error.__traceback__)[-1]
            found = f"{type(error).__name__} at {Path(at.filename).name}:{at.lineno}"  # its text may name a patient
            check = Check(name, False, found, "a fault of this program: tell whoever supports it this line")
        if not check.ok:
            failed.add(name)
        yield check


def _database(site: Site) -> Check:
    try:
        site.database.check()
    except ConfigurationError as error:
        return Check("database", False, str(error), _RESTORE)
    return Check("database", True, "of this release")


def _ledger(site: Site) -> Check:
    broken = site.ledger.first_break()
    if broken is None:
        return Check("ledger", True, f"{sum(1 for _ in site.ledger.entries())} entries, every link holds")
    advice = "keep a copy of site.db, tell your security officer: somebody or something changed it"
    return Check("ledger", False, f"entry {broken} does not hold", advice)


def _disk(site: Site) -> Check:
    usage = shutil.disk_usage(site.archive)
    found = f"{usage.free / 2**30:.0f} GiB of {usage.total / 2**30:.0f} GiB free"
    if usage.free < site.config.reserve_mib << 20:
        advice = f"make room under {site.folder}, or lower reserve_mib in site.yaml"
        return Check("disk", False, f"{found}, reserve_mib keeps {site.config.reserve_mib}: images are refused", advice)
    if usage.free < LEAST_FREE_BYTES:
        return Check("disk", False, found, f"make room under {site.folder}: full, it refuses images, and studies wait")
    if not os.access(site.archive, os.W_OK):
        advice = "let the account that runs the node write there: images are refused"
        return Check("disk", False, f"{site.archive} cannot be written", advice)
    return Check("disk", True, found)


def _clock(site: Site) -> Check:
    newest = max((entry.at for entry in site.ledger.entries()), default=0.0)
    if newest > time.time() + 60:
        return Check("clock", False, "earlier than the newest ledger entry", "set the clock, and keep it by NTP")
    program = shutil.which("timedatectl")
    if program:
        command = [program, "show", "--property=NTPSynchronized", "--value"]
        told = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_SECONDS, check=False)
        if told.stdout.strip() == "no":
            return Check("clock", False, "not synchronised", "turn NTP on: timedatectl set-ntp true")
        if told.stdout.strip() == "yes":
            return Check("clock", True, "synchronised by NTP")
    return Check("clock", True, "not behind the ledger; whether NTP keeps it cannot be told from here")


def _secrets(site: Site) -> Check:
    sizes = {name: path.stat().st_size for name in KEYS if (path := site.secrets / name).exists()}
    wanting = [f"{name} missing" for name in KEYS if name not in sizes]
    wanting += [f"{name} is no whole key, {size} bytes" for name, size in sizes.items() if size < KEY_BYTES]
    if wanting:
        advice = (
            "restore them from the backup: new ones would draw patients into other folds, give them other pseudonyms;"
            " where no study has come yet, take away what there is of them and let `vigie site init` make them"
        )
        return Check("secrets", False, ", ".join(wanting), advice)
    if site.config.superlink and not (site.secrets / "supernode.key").exists():
        advice = "restore it, or let `vigie site init` make one and give the coordinator the new supernode.key.pub"
        return Check("secrets", False, "supernode.key missing: the coordinator cannot be called", advice)
    if site.config.superlink and not (site.secrets / "control.key").exists():
        advice = "let `vigie site init` make it, and give the coordinator supernode.key.pub anew"
        return Check("secrets", False, "control.key missing: withdrawals wait for the end of a training", advice)
    open_ = [
        path.name
        for path in (site.secrets, *site.secrets.iterdir())
        if path.suffix != ".pub" and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    if open_:
        return Check("secrets", False, f"{', '.join(open_)} can be read by others", f"chmod -R go= {site.secrets}")
    return Check("secrets", True, "there, and for their owner only")


def _ports(site: Site) -> Check:
    """Whether the doors can be opened, or are open already: this node's own."""
    config = site.config
    own = _running(site)
    for name, port in (("dicom_port", config.dicom_port), ("api_port", config.api_port)):
        try:
            with socket.socket() as door:  # bound as the node binds it, and not listened at: nobody gets in here
                door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                door.bind((config.host, port))
        except OSError as error:
            if own is not None and own.get(name, port) == port:
                continue
            found = f"{name} {port} of {config.host} cannot be opened: {error.strerror or type(error).__name__}"
            advice = f"stop what has it, or set another {name} or host in site.yaml"
            if isinstance(error, PermissionError):
                advice = f"let the node's account open ports below 1024, or set another {name} in site.yaml"
            return Check("ports", False, found, advice)
    if own is not None:
        return Check("ports", True, "the node runs and has them")
    return Check("ports", True, f"{config.dicom_port} and {config.api_port} can be opened; the node does not run")


def _titles(site: Site) -> Check:
    """Who is let in by name; neither is a fault, as addresses and certificates are the better lock."""
    config = site.config
    networks(config.calling_addresses)
    called = "only" if config.require_called_ae else "or any other title (require_called_ae is false)"
    calling = ", ".join(config.calling_ae_titles) or "any (calling_ae_titles is empty)"
    addresses = ", ".join(config.calling_addresses) or "any address"
    return Check("AE titles", True, f"called {config.ae_title} {called}; calling: {calling}; from {addresses}")


def _running(site: Site) -> dict[str, Any] | None:
    """What this folder's node says of itself, empty while it starts; None where none runs."""
    if not site.served:
        return None
    with contextlib.suppress(FileNotFoundError):
        return json.loads((site.folder / "node.json").read_bytes())
    return {}


def _trust(site: Site) -> Check:
    try:
        names = list(load_trust(site.trust))
    except ConfigurationError as error:
        return Check("trusted signers", False, str(error), "put the signer's own .pub there again, or take it away")
    if not names:
        return Check("trusted signers", False, "none", f"put the vendor's and the coordinator's .pub into {site.trust}")
    return Check("trusted signers", True, ", ".join(names))


def _authority(site: Site) -> Check:
    path = site.trust / "ca.crt"
    if not path.exists():
        if not site.config.superlink:
            return Check("certificate authority", True, "none, and no coordinator is configured")
        return Check("certificate authority", False, "missing", f"copy the coordinator's ca.crt to {path}")
    lasts, found = _dates(path)
    return Check("certificate authority", lasts, found, "" if lasts else "ask the coordinator for the next one")


def _tls(site: Site) -> Check:
    files = site.config.tls
    if not files.certificate:
        return Check("DICOM TLS", True, "none in site.yaml")
    for name in ("certificate", "key", "ca"):
        path = site.folder / getattr(files, name)
        if not path.is_file():
            advice = "put the PEM file there, or correct tls in site.yaml: the node does not start without it"
            return Check("DICOM TLS", False, f"tls.{name}: {path} is missing", advice)
    try:
        server_tls(site)
    except ConfigurationError as error:
        advice = "put key and certificate of one pair there, and the certificate of whoever signs those of the peers"
        return Check("DICOM TLS", False, str(error), advice)
    return Check("DICOM TLS", True, "key and certificate belong together")


def _certificates(site: Site) -> Check:
    files = site.config.tls
    if not files.certificate:
        return Check("DICOM certificates", True, "none in site.yaml")
    said: list[str] = []
    for name in ("certificate", "ca"):
        lasts, found = _dates(site.folder / getattr(files, name), chain=name == "certificate")
        said.append(f"tls.{name} {found}")
        if not lasts:
            advice = "put the next one in its place and start the node again: no peer takes one that has ended"
            return Check("DICOM certificates", False, said[-1], advice)
    return Check("DICOM certificates", True, ", ".join(said))


def _dates(path: Path, *, chain: bool = False) -> tuple[bool, str]:
    """Whether the certificates of a PEM file are valid for some weeks yet, and for how long.

    Args:
        chain: all of them are needed, as with our own and those between it and its authority; else one of them is
            enough, as where the next authority stands beside the one before.
    """
    try:
        certificates = x509.load_pem_x509_certificates(path.read_bytes())
    except ValueError:
        return False, "is no certificate"
    certificate = (min if chain else max)(certificates, key=lambda one: one.not_valid_after_utc)
    now, begin, end = datetime.now(UTC), certificate.not_valid_before_utc, certificate.not_valid_after_utc
    days = (end - now).days
    if end < now:
        return False, f"ended on {end:%Y-%m-%d}"
    if now < begin:
        return False, f"begins on {begin:%Y-%m-%d}, and the clock says {now:%Y-%m-%d}"
    if days < LEAST_CERTIFICATE_DAYS:
        return False, f"ends in {days} days"
    return True, f"valid for {days} days"


def _coordinator(site: Site) -> Check:
    if not site.config.superlink:
        return Check("coordinator", True, "none configured: this node takes part in no retraining")
    host, _, port = site.config.superlink.rpartition(":")
    if not host or not port.isdigit():
        return Check("coordinator", False, f"superlink is {site.config.superlink!r}", "write HOST:PORT into site.yaml")
    try:
        context = ssl.create_default_context(cafile=str(site.trust / "ca.crt"))
    except (FileNotFoundError, ssl.SSLError):
        return Check("coordinator", False, "cannot be told from another server", "put its ca.crt in place, see above")
    try:
        with (
            socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host) as wrapped,
        ):
            return Check("coordinator", True, f"{site.config.superlink} answers, {wrapped.version()}")
    except ssl.SSLError as error:
        advice = "it is not the server that the ca.crt here was given for: ask the coordinator"
        return Check("coordinator", False, f"{site.config.superlink}: {error.reason or 'TLS failed'}", advice)
    except OSError as error:
        advice = "open the firewall outward to this one address, or ask whether the coordinator runs"
        return Check("coordinator", False, f"{site.config.superlink}: {error.strerror or type(error).__name__}", advice)


def _pacs(site: Site) -> Check:
    peer = site.config.pacs
    where = f"{peer.ae_title} at {peer.host}:{peer.port}"
    if peer.stow_url and not (peer.query or peer.commitment or peer.fetch != "none"):
        return Check("PACS", True, "results go by STOW-RS, and nothing else is asked of it by DIMSE")
    entity = AE(site.config.ae_title)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = _ANSWER_SECONDS
    entity.add_requested_context(Verification)
    optional = [sop_class for switch, sop_class in OPTIONAL_CLASSES.items() if getattr(site.config.results, switch)]
    wanted = [] if peer.stow_url else [*RESULT_CLASSES, *optional]
    services = _services(peer)
    for sop_class in (*wanted, *services):
        entity.add_requested_context(sop_class)
    association = associate(entity, peer.host, peer.port, peer.ae_title, client_tls(site))
    if not association.is_established:
        if association.rejected_contexts:
            if not wanted:
                return Check("PACS", True, f"{where} answers and has no C-ECHO; results go by STOW-RS")
            return Check(
                "PACS", False, f"{where} takes no report and no picture", "let the PACS accept SR and SC objects"
            )
        if association.is_rejected:
            advice = f"let AE title {site.config.ae_title} in at the PACS, and check the one it is called by here"
            return Check("PACS", False, f"{where} refuses the association", advice)
        return Check("PACS", False, *absence(site, _ANSWER_SECONDS))
    try:
        taken = {str(context.abstract_syntax) for context in association.accepted_contexts}
        lacking = {switch: sop_class.name for sop_class, switch in services.items() if str(sop_class) not in taken}
        refused = [sop_class.name for sop_class in wanted if str(sop_class) not in taken]
        echoes = str(Verification) in taken
        status = association.send_c_echo().get("Status") if echoes else 0x0000
    finally:
        association.release()
    if status != 0x0000:
        return Check("PACS", False, f"{where} answers C-ECHO with {status}", "ask whoever runs the PACS")
    if refused:
        return Check("PACS", False, f"{where} takes no {', '.join(refused)}", "let the PACS accept these SOP classes")
    if lacking:
        advice = f"let the PACS offer it to {site.config.ae_title}, or turn {', '.join(lacking)} off in site.yaml"
        return Check("PACS", False, f"{where} does not offer {', '.join(lacking.values())}", advice)
    takes = "takes every kind of result" if wanted else "results go by STOW-RS"
    return Check("PACS", True, f"{where} {'answers C-ECHO' if echoes else 'has no C-ECHO'} and {takes}")


def _services(peer: PeerConfig) -> dict[Any, str]:
    """What `pacs` in site.yaml asks of the PACS beside storing: SOP class → the setting that asks for it."""
    services: dict[Any, str] = {}
    if peer.fetch != "none":
        services[StudyRootQueryRetrieveInformationModelFind] = "pacs.fetch"
        services[StudyRootGet if peer.fetch == "get" else StudyRootMove] = "pacs.fetch"
    if peer.query:
        services[StudyRootQueryRetrieveInformationModelFind] = "pacs.query"
    if peer.commitment:
        services[StorageCommitmentPushModel] = "pacs.commitment"
    return services


def _stow(site: Site) -> Check:
    """Ask for one study: nothing is stored, and whoever answers that also has the address to store to."""
    if not site.config.pacs.stow_url:
        return Check("STOW-RS", True, "none in site.yaml: results go by C-STORE")
    address = "check pacs.stow_url in site.yaml: the DICOMweb root, what stands before /studies"
    try:
        url = httpx.URL(f"{site.config.pacs.stow_url.rstrip('/')}/studies")
    except httpx.InvalidURL as error:
        return Check("STOW-RS", False, f"no address: {error}", address)
    where = f"{url.netloc.decode('ascii')}{url.path}"  # without a password that may stand in it
    try:
        with httpx.Client(timeout=_ANSWER_SECONDS, verify=client_tls(site) or True, trust_env=False) as client:
            status = client.get(url, params={"limit": "1"}, headers={"Accept": "application/dicom+json"}).status_code
    except httpx.HTTPError as error:
        advice = f"{address}; and the firewall; is the PACS's web service up? No result can be sent"
        return Check("STOW-RS", False, f"{where}: {error or type(error).__name__}", advice)
    if status in (401, 403, 407):
        return Check("STOW-RS", False, f"{where} refuses us ({status})", "let this node in at the PACS's web service")
    if 300 <= status < 400 or status == 404:
        return Check("STOW-RS", False, f"{where} is another address or none ({status})", address)
    if status >= 500 and status != 501:  # 501: it stores and cannot be asked
        return Check("STOW-RS", False, f"{where} answers with {status}", "ask whoever runs the PACS")
    return Check("STOW-RS", True, f"{where} answers")


def _worklist(site: Site) -> Check:
    where = site.config.ups.url
    if not where:
        return Check("worklist", True, "none in site.yaml: none is told")
    server = Worklist(site, _ANSWER_SECONDS)
    try:
        waiting = sum(1 for _ in server.search(site.config.ups.station or site.config.ae_title))
    except Away as why:
        advice = "check ups.url in site.yaml and secrets/ups.token; is the server up?"
        return Check("worklist", False, f"{where}: {why}", advice)
    finally:
        server.close()
    failed = _counts(site, workitem.c.state).get("failed", 0)
    found = f"{where} answers, {waiting} scheduled for us, {failed} that it took no word of"
    return Check("worklist", not failed, found, "see logs/node.log for what it refused" if failed else "")


def _deliveries(site: Site) -> Check:
    counts = _counts(site, delivery.c.state)
    arrived = counts.get("sent", 0) + counts.get("committed", 0)
    aside = counts.get("failed", 0) + counts.get("quarantined", 0)
    found = f"{arrived} sent, {counts.get('pending', 0)} waiting, {aside} put aside"
    if site.config.pacs.commitment and (unconfirmed := _unconfirmed(site)):
        advice = "ask whoever runs the PACS whether it keeps them, and why it does not say so"
        return Check("results", False, f"{found}, {unconfirmed} that the PACS never confirmed to keep", advice)
    if aside:
        advice = "vigie site deliveries lists them: mend what they say, then --resend, --remake or --override"
        return Check("results", False, found, advice)
    return Check("results", True, found)


def _unconfirmed(site: Site) -> int:
    """How many objects the PACS was asked about as often as it is asked, without an answer."""
    query = select(func.count()).where(
        delivery.c.state == "sent", delivery.c.transaction_uid.is_(None), delivery.c.asked >= MOST_ASKS
    )
    with site.database.read() as connection:
        return int(connection.execute(query).scalar_one())


def _studies(site: Site) -> Check:
    counts = _counts(site, study.c.state)
    found = ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "none yet"
    if counts.get("failed"):
        return Check("studies", False, found, "look at the failed ones in the worklist and retry them")
    return Check("studies", True, found)


def _conflicting(site: Site) -> Check:
    """Images with the UID of another one that differs, the one that came first being read until a person chooses."""
    query = select(
        func.count().label("images"),
        func.count(instance.c.study_uid.distinct()).label("studies"),
        func.max(instance.c.received_at).label("newest"),
    ).where(unsettled())
    with site.database.read() as connection:
        row = connection.execute(query).one()
    if not row.images:
        return Check("images left out", True, "none")
    of = "1 study" if row.studies == 1 else f"{row.studies} studies"
    day = datetime.fromtimestamp(row.newest).astimezone()
    found = f"{row.images} of {of}, the last on {day:%Y-%m-%d}: each has the UID of another one that differs"
    if time.time() - row.newest > _RECENT_SECONDS:
        return Check("images left out", True, found)
    advice = (
        "vigie site conflicts lists them: say which copies stand; and find the device that gives two images one UID, or"
        " sends changed ones"
    )
    return Check("images left out", False, found, advice)


def _withdrawals(site: Site) -> Check:
    """What the coordinator withdrew, and a person has not looked at."""
    found = [one for one in withdrawal.listed(site) if one.pressing]
    waiting = [one.notice.label for one in found if one.state == "waiting"]
    if waiting:
        advice = "vigie site withdrawals list says why; then obey, or keep"
        return Check("withdrawals", False, f"the coordinator withdrew {', '.join(waiting)}, and it goes on", advice)
    if found:
        labels = ", ".join(one.notice.label for one in found)
        advice = "see vigie site withdrawals list: go back to a version before, recall its results, then take note"
        return Check("withdrawals", False, f"{labels} served, and reads no more: the coordinator withdrew it", advice)
    return Check("withdrawals", True, "none that nobody has looked at")


def _watch(site: Site) -> Check:
    """Whether an alarm or a warning waits for a person, a version is suspended, or nobody says what exams show."""
    if unseen := harm.alarms(site, unseen=True):
        advice = "see page Watch, or `vigie site watch show`; then `vigie site watch note`"
        return Check("watch", False, "; ".join(one.text for one in unseen), advice)
    watched, suspended = harm.look(site), suspensions.standing(site)
    if stopped := [one.version.label for one in watched if one.version.digest in suspended]:
        advice = "`vigie site watch resume` lets it read again, `vigie site rollback` goes back to the one before"
        return Check("watch", False, f"{', '.join(stopped)} suspended: what it would read is refused", advice)
    blind = [one for one in watched if one.missing >= _BLIND and 2 * one.missing > one.exams]
    if blind:
        found = ", ".join(f"{one.version.label} {one.missing} of {one.exams} exams" for one in blind)
        advice = "let somebody read the random sample without the AI's answer (README, The watch): no alarm can ring"
        return Check("watch", False, f"nobody has said for 90 days what these show: {found}", advice)
    if warned := drift.warnings(site, unseen=True):
        advice = "see page Watch, or `vigie site watch drift`; then `vigie site watch drift --note NUMBER`"
        return Check("watch", False, "; ".join(one.text for one in warned), advice)
    return Check("watch", True, ", ".join(f"{one.version.label} {one.exams} exams" for one in watched) or "nothing yet")


def _incidents(site: Site) -> Check:
    """Whether somebody has to be told of an incident."""
    waiting = incidents.pressing(site)
    if not waiting:
        return Check("incidents", True, "nobody has to be told of any")
    advice = "vigie site incident list says who, and by when; `tell` that it was done"
    return Check("incidents", False, "; ".join(one.text for one in waiting), advice)


def _statistics(site: Site) -> Check:
    """Counts for vendors that wait for a person, and questions for them that were refused."""
    if waiting_ := [one for one in statistics.listed(site) if one.state == "waiting"]:
        advice = "vigie site statistics releases --lines shows them; then consent, or consent --decline"
        return Check("statistics", False, f"{len(waiting_)} releases for vendors wait for a person", advice)
    refused = statistics.refusals(site, since=time.time() - _MONTH)
    if refused:
        why, times = refused.most_common(1)[0]
        advice = "ask the coordinator; nothing has left. vigie site statistics releases lists all refusals"
        return Check("statistics", False, f"questions were refused, {times} x: {why}", advice)
    return Check("statistics", True, f"consent.statistics is {site.config.consent.statistics}")


def _rejections(site: Site) -> Check:
    """Words that images are not to be used, of somebody who may not say so or in the name of another patient."""
    images, studies = waiting(site)
    if not images:
        return Check("rejections", True, "none waits for a person")
    found = f"of {images} images in {studies} studies: not believed, they wait for a person"
    advice = (
        "vigie site images list says whose and why: accept one with leave-out, dismiss it with take-back; name in"
        " rejections_from of site.yaml who may reject images here"
    )
    return Check("rejections", False, found, advice)


def _counts(site: Site, column: Column[str]) -> dict[str, int]:
    with site.database.read() as connection:
        rows = connection.execute(select(column, func.count()).group_by(column)).all()
    return {str(state): int(count) for state, count in rows}


def _gpu(_site: Site) -> Check:
    import onnxruntime

    providers = onnxruntime.get_available_providers()
    program = shutil.which("nvidia-smi")
    if program is None:
        return Check("GPU", True, f"none; inference on the processor ({', '.join(providers)})")
    command = [program, "--query-gpu=name,driver_version,memory.free", "--format=csv,noheader"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=30.0, check=False)
    if told.returncode:
        return Check("GPU", False, "nvidia-smi fails", "mend the NVIDIA driver; until then the processor is used")
    if CUDA not in providers:
        advice = "install the gpu extra instead of cpu: onnxruntime-gpu"
        return Check("GPU", False, f"{told.stdout.strip()}, not used", advice)
    return Check("GPU", True, told.stdout.strip().replace("\n", "; "))


def _model(_site: Site, panel: Panel) -> Check:
    try:
        members = panel.members()
    except BundleRefused as error:
        advice = (
            "every study fails once the node loads it, at its next start at the latest, and is not lost: restore its"
            " folder under versions/ from the backup, or take it out of service with `vigie site retire` or `rollback`;"
            " an unknown signer: put their .pub into trust/; then `vigie site missed --again all` reads what failed"
        )
        return Check("model", False, str(error), advice)
    if not members:
        return Check("model", False, "no version is adopted", "wait for a delivery; every study is refused until then")
    passed = ", ".join(f"{member.bundle.facts.label} on {member.engine.provider}" for member in members)
    return Check("model", True, f"reference cases passed: {passed}")


def _panel(site: Site) -> Check:
    """What each version's record rests on; nothing to mend while it still gathers one."""
    found, advice = evidence.told(evidence.gathered(site))
    aside = [one.label for one in versions.listed(site) if one.state == "shadow"]
    if aside:
        found += f"; in shadow, read along and shown to nobody: {', '.join(aside)}"
    return Check("panel", not advice, found, advice)


def _preprocessing(_site: Site, panel: Panel) -> Check:
    """Which program prepares the pixels, and why none of the others; each does it once here, with made-up pixels."""
    found: list[str] = []
    for member in panel.members():
        facts, steps = member.bundle.facts, member.preprocessing
        by = steps.settle().described() if isinstance(steps, Preparation) else steps.by
        try:
            steps.prove(facts.input_shape, volumes=facts.segmentation is not None)
        except InvalidPreprocessing as error:
            advice = (
                f"every study of {facts.label} fails: see that this release's packages are whole (`pip check`), or take"
                " it out of service with `vigie site retire` or `rollback`"
            )
            return Check("preprocessing", False, f"{facts.label} by {by}: {error}", advice)
        found.append(f"{facts.label} by {by}")
    return Check("preprocessing", True, ". ".join(found))


def _threads(site: Site) -> Check:
    cores, asked = allowed(), site.config.inference_threads
    found = f"{site.threads} for a computation, {f'{asked} set' if asked else 'by the cores'}; cores: {cores.why}"
    if asked > cores.count:
        advice = f"inference_threads in site.yaml: {cores.count} at most, or 0; more would only wait for each other"
        return Check("threads", False, found, advice)
    return Check("threads", True, found)


def _engine(_site: Site, panel: Panel) -> Check:
    """What really computes each version: what a runtime lists as available says little."""
    members = panel.members()
    found = " | ".join(f"{member.bundle.facts.label}: {member.engine.selected.text}" for member in members)
    idle = any(member.engine.selected.skipped and member.engine.provider in (CPU, TORCHSCRIPT) for member in members)
    if idle and shutil.which("nvidia-smi") is not None:
        advice = "there is a GPU and the processor computes: mend what is said of the skipped providers"
        return Check("engine", False, found, advice)
    return Check("engine", True, found)


def _test_study(site: Site, panel: Panel) -> Check:
    """A made-up study for each version, through scope, decoding, preprocessing, engine, and the objects to be sent."""
    said: list[str] = []
    for member in panel.members():
        label = member.bundle.facts.label
        # a drawn volume is nobody's: that it is unlike a training cohort is no fault of the node
        version = replace(member, novelty=None) if isinstance(member, Outlining) else member
        images = specimen.study(version)
        if not images:
            said.append(f"{label}: none made up, it reads multi-frame volumes only")
            continue
        tried, seconds = _try(site, version, images)
        if tried.outcome != "scored":
            reasons = "; ".join(reason.text for reason in tried.reasons)
            advice = (
                f"look into {site.logs / 'node.log'}; where every study of it fails, `vigie site retire` or `rollback`"
                f" takes {label} out of service"
            )
            return Check("test study", False, f"{label}: {tried.outcome}: {reasons}", advice)
        if held := [f"{one.kind}: {'; '.join(one.problems)}" for one in tried.objects if one.problems]:
            advice = "tell the vendor of this release: results would be kept back (vigie site deliveries)"
            return Check("test study", False, f"{label}: scored, not to be sent: {', '.join(held)}", advice)
        said.append(f"{label} scored {tried.score:.3f} in {seconds * 1000:.0f} ms on {tried.engine}")
    return Check("test study", True, "; ".join(said))


def _try(site: Site, version: Serving, images: Sequence[Dataset]) -> tuple[TriedStudy, float]:
    """What would become of a study, and how many seconds that takes."""
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, image in enumerate(images):
            image.save_as(Path(name) / f"test{number}.dcm", enforce_file_format=True)
        if isinstance(version, Scoring):
            try_folder(site, lambda: [version], Path(name))  # the first one pays for loading what preprocesses
        began = time.perf_counter()
        (tried,) = try_folder(site, lambda: [version], Path(name)).studies
        return tried, time.perf_counter() - began
