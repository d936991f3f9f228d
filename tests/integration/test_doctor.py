"""`vigie site doctor`: what is broken is named, with what to do; what is well is not complained about."""

import shutil
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from pydicom.dataset import Dataset
from pynetdicom import AE, AllStoragePresentationContexts
from pynetdicom.sop_class import CTImageStorage, SecondaryCaptureImageStorage, StorageCommitmentPushModel, Verification
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as StudyRootFind
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove as StudyRootMove
from sqlalchemy import text, update
from typer.testing import CliRunner

from client import doctor
from client.cores import allowed
from client.delivery.commitment import MOST_ASKS
from client.doctor import Check, examine
from client.federation.supernode import make_keys
from client.inference import selection
from client.inference.panel import Panel
from client.inference.selection import Installed
from client.inference.trial import try_folder
from client.store import versions
from client.store.site import Site
from client.store.tables import delivery
from configs.schema import PeerConfig, TlsConfig, save
from models.children import free_port
from models.pki import ServerFiles, make_server, make_supernode
from models.preprocessing import Preprocessing

Scored = Callable[..., str]


def looked(site: Site) -> dict[str, Check]:
    found = {check.name: check for check in examine(site)}
    assert all(bool(check.advice) != check.ok for check in found.values()), found
    return found


def one(site: Site, name: str) -> Check:
    """What one look finds, without those after it."""
    return next(check for check in examine(site) if check.name == name)


@pytest.fixture
def answering(site: Site) -> Iterator[Callable[..., None]]:
    servers: list[Any] = []

    def start(*classes: Any, calling: list[str] | None = None, echo: bool = True) -> None:
        entity = AE("PACS")
        for sop_class in classes or (context.abstract_syntax for context in AllStoragePresentationContexts):
            entity.add_supported_context(sop_class)
        if echo:
            entity.add_supported_context(Verification)
        entity.require_calling_aet = calling or []
        server = entity.start_server(("127.0.0.1", 0), block=False)
        assert server is not None
        servers.append(server)
        site.config.pacs = PeerConfig("127.0.0.1", server.server_address[1], "PACS")

    yield start
    for server in servers:
        server.shutdown()


def test_a_node_that_is_well(site: Site, answering: Callable[..., None], scored: Scored) -> None:
    answering()
    scored()

    found = looked(site)

    assert [check for check in found.values() if not check.ok] == []
    assert "takes every kind" in found["PACS"].found
    assert found["test study"].found.startswith("brightness@1 scored")
    assert "dali: no-equal (Resize area)" in found["preprocessing"].found
    assert "CPUExecutionProvider (CPUExecutionProvider" in found["engine"].found
    assert "ms for 8" in found["engine"].found
    assert found["threads"].found.startswith(f"{site.threads} for a computation, by the cores")


def test_a_pacs_that_does_not_answer_refuses_us_or_our_results(site: Site, answering: Callable[..., None]) -> None:
    site.config.pacs = PeerConfig("127.0.0.1", free_port(), "PACS")
    assert "does not answer" in looked(site)["PACS"].found

    answering(calling=["SOMEBODY"])
    assert "AE title" in looked(site)["PACS"].advice

    answering(echo=False)
    assert looked(site)["PACS"].ok

    answering(CTImageStorage, echo=False)
    assert "report" in looked(site)["PACS"].found

    answering(SecondaryCaptureImageStorage)
    assert "Comprehensive 3D SR" in looked(site)["PACS"].found


def test_a_service_that_is_set_and_the_pacs_does_not_offer(site: Site, answering: Callable[..., None]) -> None:
    answering()
    assert one(site, "PACS").ok
    for switch, value, name in (
        ("commitment", True, "Storage Commitment Push Model"),
        ("query", True, "Study Root Query/Retrieve Information Model - FIND"),
        ("fetch", "get", "Study Root Query/Retrieve Information Model - GET"),
        ("fetch", "move", "Study Root Query/Retrieve Information Model - MOVE"),
    ):
        answering()
        setattr(site.config.pacs, switch, value)
        found = one(site, "PACS")
        assert name in found.found
        assert f"pacs.{switch}" in found.advice
    classes = (context.abstract_syntax for context in AllStoragePresentationContexts)
    answering(*classes, StudyRootFind, StudyRootMove, StorageCommitmentPushModel)
    site.config.pacs.commitment, site.config.pacs.query, site.config.pacs.fetch = True, True, "move"
    assert one(site, "PACS").ok


def test_objects_that_the_pacs_never_confirmed(site: Site, scored: Scored) -> None:
    scored(objects=True)
    with site.database.write() as connection:
        connection.execute(update(delivery).values(state="sent", asked=MOST_ASKS))
    assert one(site, "results").ok  # it was not asked to
    site.config.pacs.commitment = True
    found = one(site, "results")
    assert "2 that the PACS never confirmed" in found.found
    with site.database.write() as connection:
        connection.execute(update(delivery).values(state="committed"))
    assert one(site, "results").ok


def test_addresses_with_which_no_node_would_start(site: Site) -> None:
    site.config.calling_addresses = ["10.0.0.0/8"]
    assert "from 10.0.0.0/8" in one(site, "AE titles").found
    site.config.calling_addresses = ["10.0.0.300"]
    assert "10.0.0.300" in one(site, "AE titles").found
    assert not one(site, "AE titles").ok


def test_a_clock_that_was_set_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert one(site, "clock").ok
    monkeypatch.setattr(doctor.time, "time", lambda: 1e9)
    found = one(site, "clock")
    assert "earlier than the newest ledger entry" in found.found
    assert "NTP" in found.advice


def test_a_gpu_that_does_not_compute_and_threads_that_wait_for_each_other(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Boasting(Installed):
        def available(self) -> list[str]:
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    monkeypatch.setattr(selection, "Installed", Boasting)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/bin/false" if name == "nvidia-smi" else None)
    site.config.inference_threads = 10_000  # no more are made than there are cores

    with pytest.warns(UserWarning, match="not in available"):
        found = looked(site)

    assert "CUDAExecutionProvider skipped: onnxruntime left it out" in found["engine"].found
    assert not found["engine"].ok
    assert not found["threads"].ok
    assert site.threads == allowed().count


def test_what_lies_wrong_in_the_folder(site: Site, scored: Scored, monkeypatch: pytest.MonkeyPatch) -> None:
    scored(objects=True)
    (site.secrets / "fold.key").chmod(0o644)
    with site.database.write() as connection:
        connection.execute(update(delivery).values(state="failed"))
        connection.execute(text("UPDATE ledger SET facts = '{}' WHERE seq = 1"))
    shutil.rmtree(site.versions)
    (site.trust / "noise.pub").write_text("no key")
    monkeypatch.setattr(doctor, "LEAST_FREE_BYTES", 1 << 62)

    wrong = {name for name, check in looked(site).items() if not check.ok}

    assert wrong >= {"secrets", "results", "ledger", "trusted signers", "disk"}
    (site.trust / "noise.pub").unlink()
    assert "rollback" in looked(site)["model"].advice
    (site.secrets / "fold.key").unlink()
    assert "backup" in looked(site)["secrets"].advice


def test_a_coordinator_that_is_away_or_another(site: Site, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    site.config.superlink = f"127.0.0.1:{free_port()}"
    assert "ca.crt" in looked(site)["certificate authority"].advice

    shutil.copy(make_server(tmp_path / "pki").ca, site.trust / "ca.crt")
    found = looked(site)
    assert found["certificate authority"].ok, found
    assert "firewall" in found["coordinator"].advice

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(UTC) + timedelta(days=100_000)

    monkeypatch.setattr(doctor, "datetime", Later)
    assert not looked(site)["certificate authority"].ok


def test_the_command_ends_with_1_where_something_is_to_be_mended(site: Site) -> None:
    from scripts.vigie import app

    done = CliRunner().invoke(app, ["site", "doctor", "--folder", str(site.folder)])

    assert done.exit_code == 1
    assert "mend  PACS" in done.output
    assert "firewall" in done.output


def test_settings_that_cannot_be_read_are_the_only_thing_said(site: Site) -> None:
    for text_, said in (("name: [", "line 1"), ("foo: 1", "foo"), ("reserve_mib: -1", "reserve_mib"), ("- a", "yaml")):
        (site.folder / "site.yaml").write_text(text_)

        (check,) = examine(Site(site.folder))

        assert said in check.found, check
        assert "site.yaml" in check.advice


def test_a_database_that_cannot_be_read_is_said_once_and_not_made_anew(site: Site) -> None:
    site.database.close()
    for path in site.folder.glob("site.db*"):
        path.unlink()

    missing = [check for check in examine(Site(site.folder)) if "site.db" in check.found + check.advice]
    assert not (site.folder / "site.db").exists()
    (site.folder / "site.db").write_bytes(bytes(range(256)) * 32)
    noise = [check for check in examine(Site(site.folder)) if "site.db" in check.found + check.advice]

    assert [check.name for check in missing + noise] == ["database", "database"]
    assert "missing" in missing[0].found
    assert "not a database" in noise[0].found
    assert "backup" in noise[0].advice


def test_a_database_that_breaks_in_the_middle_is_said_once(site: Site) -> None:
    with site.database.write() as connection:
        connection.execute(text("DROP TABLE ledger"))

    wrong = [check for check in examine(site) if "ledger" in check.found or check.name in ("clock", "results", "model")]

    assert [check.name for check in wrong] == ["ledger"]
    assert "backup" in wrong[0].advice


def test_an_altered_version_is_said_once_with_what_mends_it(
    site: Site, radiograph: Callable[..., Dataset], tmp_path: Path
) -> None:
    (altered,) = site.versions.glob("*/models/model.onnx")
    altered.chmod(0o644)
    altered.write_bytes(altered.read_bytes() + b"0")

    wrong = [check for check in looked(site).values() if not check.ok and check.name != "PACS"]

    assert [(check.name, "altered" in check.found) for check in wrong] == [("model", True)]
    assert "vigie site retire" in wrong[0].advice
    # what it says of the studies is what becomes of them
    folder = tmp_path / "scanner"
    folder.mkdir()
    radiograph().save_as(folder / "one.dcm", enforce_file_format=True)
    (tried,) = try_folder(site, Panel(site).members, folder).studies
    assert tried.outcome == "failed"
    assert wrong[0].advice.startswith("every study fails once the node loads it")
    assert "refused" not in wrong[0].advice
    assert "vigie site missed --again all" in wrong[0].advice


def test_a_web_service_where_results_go_that_is_away(site: Site) -> None:
    site.config.pacs = PeerConfig("127.0.0.1", free_port(), "PACS", stow_url=f"http://127.0.0.1:{free_port()}/dicom")

    found = looked(site)

    assert "refused" in found["STOW-RS"].found
    assert "stow_url" in found["STOW-RS"].advice
    assert found["PACS"].ok  # nobody asks it anything
    site.config.pacs.commitment = True
    assert not one(site, "PACS").ok
    site.config.pacs.stow_url = "http://[::1"
    assert "stow_url" in one(site, "STOW-RS").advice


def test_certificates_for_dicom_that_are_missing_of_others_or_have_ended(site: Site, tmp_path: Path) -> None:
    def use(certificate: Path, key: Path, ca: Path) -> None:
        site.config.tls = TlsConfig(str(certificate), str(key), str(ca))

    good = make_server(tmp_path / "good")
    old = make_server(tmp_path / "old", now=datetime(2018, 1, 1, tzinfo=UTC))
    soon = make_server(tmp_path / "soon", now=datetime.now(UTC) - timedelta(days=825 - 20))

    use(good.certificate, good.key, good.ca)
    assert (one(site, "DICOM TLS").ok, one(site, "DICOM certificates").ok) == (True, True)
    use(tmp_path / "nowhere.pem", good.key, good.ca)
    assert "nowhere.pem is missing" in one(site, "DICOM TLS").found
    use(good.certificate, old.key, good.ca)
    assert "belong together" in one(site, "DICOM TLS").found
    use(old.certificate, old.key, good.ca)
    assert "tls.certificate ended on 2020-04-0" in one(site, "DICOM certificates").found
    use(soon.certificate, soon.key, soon.ca)
    assert "ends in 19 days" in one(site, "DICOM certificates").found
    use(good.certificate, good.key, old.ca)
    assert "tls.ca ended" in one(site, "DICOM certificates").found

    both, chain = tmp_path / "both.pem", tmp_path / "chain.pem"
    both.write_bytes(old.ca.read_bytes() + good.ca.read_bytes())  # the next authority beside the one before
    use(good.certificate, good.key, both)
    assert one(site, "DICOM certificates").ok
    chain.write_bytes(good.certificate.read_bytes() + old.ca.read_bytes())  # what signed ours has ended
    use(chain, good.key, good.ca)
    assert "tls.certificate ended" in one(site, "DICOM certificates").found


@pytest.fixture
def secured(site: Site) -> Iterator[Callable[[Path, ServerFiles | None], None]]:
    """The PACS, with this certificate by TLS, or without TLS; who calls it has to show one signed by its `ca`."""
    servers: list[Any] = []

    def start(ca: Path, files: ServerFiles | None) -> None:
        context = None
        if files is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(files.certificate, files.key)
            context.load_verify_locations(ca)
            context.verify_mode = ssl.CERT_REQUIRED
        entity = AE("PACS")
        entity.supported_contexts = AllStoragePresentationContexts
        server = entity.start_server(("127.0.0.1", 0), block=False, ssl_context=context)
        assert server is not None
        servers.append(server)
        site.config.pacs = PeerConfig("127.0.0.1", server.server_address[1], "PACS", tls=True)

    yield start
    for server in servers:
        server.shutdown()


def test_a_pacs_with_which_there_is_no_tls(
    site: Site, secured: Callable[[Path, ServerFiles | None], None], tmp_path: Path
) -> None:
    # both sides of one authority: the server's certificate of this machine's addresses serves as ours, too
    good, other = make_server(tmp_path / "good"), make_server(tmp_path / "other")
    old = make_server(tmp_path / "old", now=datetime(2018, 1, 1, tzinfo=UTC))

    def ours(files: ServerFiles, ca: Path) -> None:
        site.config.tls = TlsConfig(str(files.certificate), str(files.key), str(ca))

    ours(good, other.ca)
    secured(good.ca, good)
    found = one(site, "PACS")
    assert "its certificate is not taken" in found.found
    assert "tls.ca" in found.advice

    ours(good, old.ca)
    secured(good.ca, old)
    assert "expired" in one(site, "PACS").found

    ours(good, good.ca)
    secured(other.ca, good)  # it trusts others
    found = one(site, "PACS")
    assert "TLS" in found.found
    assert "let the PACS trust" in found.advice

    secured(good.ca, None)
    found = one(site, "PACS")
    assert "no TLS with it" in found.found
    assert "pacs.tls" in found.advice

    secured(good.ca, good)
    site.config.pacs.tls = False
    assert "does it want TLS" in one(site, "PACS").advice


def test_a_key_with_a_passphrase_is_said_and_nobody_is_asked_for_it(site: Site, tmp_path: Path) -> None:
    files = make_server(tmp_path)
    key = load_pem_private_key(files.key.read_bytes(), None)
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    site.config.tls = TlsConfig(str(files.certificate), str(files.key), str(files.ca))
    assert "passphrase" in one(site, "DICOM TLS").found


def test_a_disk_with_less_than_images_have_to_leave_and_an_archive_that_is_gone(site: Site) -> None:
    site.config.reserve_mib = 1 << 40
    assert "images are refused" in one(site, "disk").found
    assert "reserve_mib" in one(site, "disk").advice

    shutil.rmtree(site.archive)
    assert "archive" in one(site, "disk").found


def test_the_key_for_the_coordinator_is_looked_for_where_there_is_one(site: Site) -> None:
    assert one(site, "secrets").ok
    site.config.superlink = "127.0.0.1:1"
    assert "supernode.key" in one(site, "secrets").found
    make_supernode(site.secrets / "supernode.key")
    assert "control.key" in one(site, "secrets").found  # of an earlier release: it has one key
    before = (site.secrets / "supernode.key").read_bytes()
    make_keys(site.secrets)
    assert one(site, "secrets").ok
    assert (site.secrets / "supernode.key").read_bytes() == before


def test_a_port_that_another_program_has_and_those_of_the_running_node(
    site: Site, run_node: Callable[[Site], Any]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        for name in ("dicom_port", "api_port"):
            setattr(site.config, name, other.getsockname()[1])
            assert name in one(site, "ports").advice
            setattr(site.config, name, free_port())
            assert one(site, "ports").ok
    assert "does not run" in one(site, "ports").found

    save(site.config, site.folder / "site.yaml")
    node = run_node(site)
    assert "the node runs" in one(site, "ports").found
    (site.folder / "node.json").unlink()  # as while it starts
    assert one(site, "ports").ok
    with socket.create_server(("127.0.0.1", 0)) as other:
        (site.folder / "node.json").write_text(f'{{"dicom_port": {node.dicom_port}}}')
        site.config.dicom_port = other.getsockname()[1]
        assert not one(site, "ports").ok


@pytest.mark.parametrize("finer", [None, (2.0, 0.9, 0.8)])
def test_a_volume_is_drawn_for_each_version_that_outlines(
    site: Site,
    volumes: ModuleType,
    vendor_key: Ed25519PrivateKey,
    tmp_path: Path,
    finer: tuple[float, float, float] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle = volumes.build(tmp_path / "volume", vendor_key, segmentation=volumes.declared(spacing_mm=finer))
    shutil.copytree(bundle.folder, site.versions / bundle.digest)
    versions.receive(site, bundle)
    versions.adopt(site, bundle.digest)

    found = looked(site)

    assert "shadow" not in found["panel"].found
    assert found["test study"].ok, found["test study"]
    assert {"nodule@1", "brightness@1"} <= set(found["test study"].found.split())
    if finer is not None:
        versions.put(site, bundle.digest, "shadow", "test")
        assert "in shadow, read along and shown to nobody: nodule@1" in one(site, "panel").found
        return
    # a program that prepared its pixels when it was loaded and does no more
    members = Panel(site).members()
    failing = Preprocessing([{"_target_": "ScaleIntensityRange", "a_min": "x", "a_max": 1}])
    broken = [replace(one, preprocessing=failing) if one.bundle == members[0].bundle else one for one in members]
    monkeypatch.setattr(Panel, "members", lambda _self: broken)
    found = looked(site)
    assert found["model"].ok
    assert "nodule@1" in found["preprocessing"].found
    assert "ScaleIntensityRange" in found["preprocessing"].found
    assert "nodule@1" in found["test study"].found
    assert "retire" in found["test study"].advice


def test_two_versions_of_one_name_and_number_are_told_when_one_is_adopted(
    site: Site, bundles: ModuleType, vendor_key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    from scripts.vigie import app

    first = versions.panel(site)[0].digest
    again = bundles.build(tmp_path / "again", vendor_key, gain=4.0)
    shutil.copytree(again.folder, site.versions / again.digest)
    versions.receive(site, again)

    named = CliRunner().invoke(app, ["site", "adopt", "--folder", str(site.folder), "brightness@1"])
    assert named.exit_code != 0, "which of the two nobody can know"

    done = CliRunner().invoke(app, ["site", "adopt", "--folder", str(site.folder), again.digest])

    assert done.exit_code == 0, done.output
    assert f"beware: {first[:12]} (retired) calls itself brightness@1 too" in done.output


def test_a_version_is_adopted_by_its_name_and_number(
    site: Site, bundles: ModuleType, vendor_key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    from scripts.vigie import app

    second = bundles.build(tmp_path / "second", vendor_key, gain=4.0, number=2)
    shutil.copytree(second.folder, site.versions / second.digest)
    versions.receive(site, second)
    done = CliRunner().invoke(app, ["site", "adopt", "--folder", str(site.folder), "brightness@2"])
    assert done.exit_code == 0, done.output
    assert [one.digest for one in versions.panel(site)] == [second.digest]
