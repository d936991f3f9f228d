"""`vigie site doctor`: whether a node can do its work, one line a check, each failure with what to do about it.

Nothing is changed, and nothing but C-ECHO and a TLS handshake leaves the node.
"""

import os
import shutil
import socket
import ssl
import stat
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from cryptography import x509
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made from a table at import
from sqlalchemy import Column, func, select

from client.cores import allowed
from client.delivery.carrier import OPTIONAL_CLASSES, RESULT_CLASSES
from client.delivery.ups import Away, Worklist
from client.dicom.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from client.dicom.listener import client_tls
from client.dicom.requestor import associate
from client.inference.example import headers
from client.inference.panel import Panel
from client.inference.preparation import Preparation
from client.inference.providers import CPU, CUDA
from client.inference.serving import Scoring
from client.inference.torchscript import NAME as TORCHSCRIPT
from client.inference.trial import try_folder
from client.results.attributes import put
from client.results.result import derive_uid
from client.store.site import Site
from client.store.tables import delivery, study, workitem
from models.errors import VigieError
from models.novelty import Novelty
from models.signing import load_trust

LEAST_FREE_BYTES: Final = 10 << 30
LEAST_CERTIFICATE_DAYS: Final = 30
_ANSWER_SECONDS: Final = 5.0


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
    """All checks, cheap ones first; one that breaks is a failed check, and the others go on."""
    panel = Panel(site)
    checks: tuple[tuple[str, Callable[[Site], Check]], ...] = (
        ("database", _database),
        ("ledger", _ledger),
        ("disk", _disk),
        ("clock", _clock),
        ("secrets", _secrets),
        ("trusted signers", _trust),
        ("certificate authority", _authority),
        ("coordinator", _coordinator),
        ("PACS", _pacs),
        ("worklist", _worklist),
        ("results", _deliveries),
        ("studies", _studies),
        ("GPU", _gpu),
        ("threads", _threads),
        ("model", lambda site: _model(site, panel)),
        ("preprocessing", lambda site: _preprocessing(site, panel)),
        ("engine", lambda site: _engine(site, panel)),
        ("test study", lambda site: _test_study(site, panel)),
    )
    for name, look in checks:
        try:
            yield look(site)
        except VigieError as error:
            yield Check(name, False, str(error), "see the message; `vigie site --help` lists what mends it")
        except Exception as error:  # noqa: BLE001  # the doctor is for when things are broken
            yield Check(name, False, type(error).__name__, f"look into {site.logs / 'node.log'}")


def _database(site: Site) -> Check:
    site.database.check()
    return Check("database", True, "of this release")


def _ledger(site: Site) -> Check:
    broken = site.ledger.first_break()
    if broken is None:
        return Check("ledger", True, f"{sum(1 for _ in site.ledger.entries())} entries, every link holds")
    advice = "keep a copy of site.db, tell your security officer: somebody or something changed it"
    return Check("ledger", False, f"entry {broken} does not hold", advice)


def _disk(site: Site) -> Check:
    usage = shutil.disk_usage(site.folder)
    found = f"{usage.free / 2**30:.0f} GiB of {usage.total / 2**30:.0f} GiB free"
    if usage.free < LEAST_FREE_BYTES:
        return Check("disk", False, found, f"make room under {site.folder}: a full disk refuses images to the modality")
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
    missing = [name for name in ("fold.key", "pseudonym.key") if not (site.secrets / name).exists()]
    if missing:
        advice = "restore them from the backup: new ones would draw patients into other folds"
        return Check("secrets", False, f"{', '.join(missing)} missing", advice)
    open_ = [
        path.name
        for path in (site.secrets, *site.secrets.iterdir())
        if path.suffix != ".pub" and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    if open_:
        return Check("secrets", False, f"{', '.join(open_)} can be read by others", f"chmod -R go= {site.secrets}")
    return Check("secrets", True, "there, and for their owner only")


def _trust(site: Site) -> Check:
    names = list(load_trust(site.trust))
    if not names:
        return Check("trusted signers", False, "none", f"put the vendor's and the coordinator's .pub into {site.trust}")
    return Check("trusted signers", True, ", ".join(names))


def _authority(site: Site) -> Check:
    path = site.trust / "ca.crt"
    if not path.exists():
        if not site.config.superlink:
            return Check("certificate authority", True, "none, and no coordinator is configured")
        return Check("certificate authority", False, "missing", f"copy the coordinator's ca.crt to {path}")
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    days = (certificate.not_valid_after_utc - datetime.now(UTC)).days
    if days < LEAST_CERTIFICATE_DAYS:
        return Check("certificate authority", False, f"ends in {days} days", "ask the coordinator for the next one")
    return Check("certificate authority", True, f"valid for {days} days")


def _coordinator(site: Site) -> Check:
    if not site.config.superlink:
        return Check("coordinator", True, "none configured: this node takes part in no retraining")
    host, _, port = site.config.superlink.rpartition(":")
    if not host or not port.isdigit():
        return Check("coordinator", False, f"superlink is {site.config.superlink!r}", "write HOST:PORT into site.yaml")
    if not (site.trust / "ca.crt").exists():
        return Check("coordinator", False, "cannot be told from another server", "put its ca.crt in place, see above")
    context = ssl.create_default_context(cafile=str(site.trust / "ca.crt"))
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
    entity = AE(site.config.ae_title)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = _ANSWER_SECONDS
    entity.add_requested_context(Verification)
    wanted = [
        *RESULT_CLASSES,
        *(sop_class for switch, sop_class in OPTIONAL_CLASSES.items() if getattr(site.config.results, switch)),
    ]
    for sop_class in wanted:
        entity.add_requested_context(sop_class)
    association = associate(entity, peer.host, peer.port, peer.ae_title, client_tls(site))
    if not association.is_established:
        if association.rejected_contexts:
            return Check(
                "PACS", False, f"{where} takes no report and no picture", "let the PACS accept SR and SC objects"
            )
        if association.is_rejected:
            advice = f"let AE title {site.config.ae_title} in at the PACS, and check the one it is called by here"
            return Check("PACS", False, f"{where} refuses the association", advice)
        return Check("PACS", False, f"{where} does not answer", "check host, port and firewall in site.yaml; is it up?")
    try:
        taken = {str(context.abstract_syntax) for context in association.accepted_contexts}
        refused = [sop_class.name for sop_class in wanted if str(sop_class) not in taken]
        echoes = str(Verification) in taken
        status = association.send_c_echo().get("Status") if echoes else 0x0000
    finally:
        association.release()
    if status != 0x0000:
        return Check("PACS", False, f"{where} answers C-ECHO with {status}", "ask whoever runs the PACS")
    if refused:
        return Check("PACS", False, f"{where} takes no {', '.join(refused)}", "let the PACS accept these SOP classes")
    return Check(
        "PACS", True, f"{where} {'answers C-ECHO' if echoes else 'has no C-ECHO'} and takes every kind of result"
    )


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
    if aside:
        advice = "vigie site deliveries lists them: mend what they say, then --resend, --remake or --override"
        return Check("results", False, found, advice)
    return Check("results", True, found)


def _studies(site: Site) -> Check:
    counts = _counts(site, study.c.state)
    found = ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "none yet"
    if counts.get("failed"):
        return Check("studies", False, found, "look at the failed ones in the worklist and retry them")
    return Check("studies", True, found)


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
    members = panel.members()
    if not members:
        return Check("model", False, "no version is adopted", "wait for a delivery; every study is refused until then")
    passed = ", ".join(f"{member.bundle.facts.label} on {member.engine.provider}" for member in members)
    return Check("model", True, f"reference cases passed: {passed}")


def _preprocessing(_site: Site, panel: Panel) -> Check:
    """Which program prepares the pixels, and why none of the others; nothing to mend, MONAI does it where none can."""
    found = [
        f"{member.bundle.facts.label} by {member.preprocessing.settle().described()}"
        for member in panel.members()
        if isinstance(member.preprocessing, Preparation)
    ]
    return Check("preprocessing", True, ". ".join(found) or "no version is adopted")


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
    if not members:
        return Check("engine", True, "nothing to compute: no version is adopted")
    idle = any(member.engine.selected.skipped and member.engine.provider in (CPU, TORCHSCRIPT) for member in members)
    if idle and shutil.which("nvidia-smi") is not None:
        advice = "there is a GPU and the processor computes: mend what is said of the skipped providers"
        return Check("engine", False, found, advice)
    return Check("engine", True, found)


def _test_study(site: Site, panel: Panel) -> Check:
    """A made-up study through scope, decoding, preprocessing, engine, and the objects that would be sent."""
    version = next((member for member in panel.members() if isinstance(member, Scoring)), None)
    if version is None:
        return Check("test study", True, "none made up: no version that scores single images is adopted")
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, image in enumerate(_made_up(version)):
            image.save_as(Path(name) / f"test{number}.dcm", enforce_file_format=True)
        try_folder(site, lambda: [version], Path(name))  # the first one pays for loading what preprocesses
        began = time.perf_counter()
        (tried,) = try_folder(site, lambda: [version], Path(name)).studies
        seconds = time.perf_counter() - began
    if tried.outcome != "scored":
        reasons = "; ".join(reason.text for reason in tried.reasons)
        return Check("test study", False, f"{tried.outcome}: {reasons}", f"look into {site.logs / 'node.log'}")
    if held := [f"{one.kind}: {'; '.join(one.problems)}" for one in tried.objects if one.problems]:
        advice = "tell the vendor of this release: results would be kept back (vigie site deliveries)"
        return Check("test study", False, f"scored, not to be sent: {', '.join(held)}", advice)
    return Check("test study", True, f"scored {tried.score:.3f} in {seconds * 1000:.0f} ms on {tried.engine}")


def _made_up(version: Scoring) -> list[Dataset]:
    """A study that the version's intended use admits, of nobody: its images are the mean of the training cohort where
    the version knows it, else noise.
    """
    study_uid = derive_uid("doctor", os.urandom(16).hex())
    return [_image(version, study_uid, attributes) for attributes in headers(version.bundle.facts.intended_use)]


def _image(version: Scoring, study_uid: str, attributes: dict[str, Any]) -> Dataset:
    shape = (attributes["Rows"], attributes["Columns"])
    image = Dataset()
    for keyword, value in {
        **attributes,
        "SOPInstanceUID": derive_uid("doctor", os.urandom(16).hex()),
        "StudyInstanceUID": study_uid,
        "SeriesInstanceUID": derive_uid("doctor", study_uid, attributes.get("SeriesNumber", 0)),
        "PatientID": "VIGIE-DOCTOR",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelRepresentation": 0,
        "PixelData": _pixels(version.novelty, shape).tobytes(),
    }.items():
        put(image, keyword, value)
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    return image


def _pixels(novelty: Novelty | None, shape: tuple[int, int]) -> NDArray[np.uint8]:
    if novelty is None:
        return np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    mean = novelty.typical
    rows, columns = (np.arange(side) * len(mean) // side for side in shape)
    grey = (mean - mean.min()) / max(float(np.ptp(mean)), 1e-6) * 255
    return grey.astype(np.uint8)[np.ix_(rows, columns)]
