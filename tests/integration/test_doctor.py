"""`vigie site doctor`: what is broken is named, with what to do; what is well is not complained about."""

import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pynetdicom import AE, AllStoragePresentationContexts
from pynetdicom.sop_class import CTImageStorage, SecondaryCaptureImageStorage, Verification
from sqlalchemy import text, update
from typer.testing import CliRunner

from client import doctor
from client.cores import allowed
from client.doctor import Check, examine
from client.inference import selection
from client.inference.selection import Installed
from client.store.site import Site
from client.store.tables import delivery
from configs.schema import PeerConfig
from models.children import free_port
from models.pki import make_server

Scored = Callable[..., str]


def looked(site: Site) -> dict[str, Check]:
    found = {check.name: check for check in examine(site)}
    assert all(bool(check.advice) != check.ok for check in found.values()), found
    return found


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
    assert found["test study"].found.startswith("scored")
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

    assert wrong >= {"secrets", "results", "ledger", "model", "trusted signers", "disk"}
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
