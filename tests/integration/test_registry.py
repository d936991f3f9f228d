"""Versions in a real MLflow: compared over hospitals, whole or not there, and where the settings put them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from evidence import evidence
from mlflow import MlflowClient
from postgres import PASSWORD, Postgres
from sqlalchemy import select
from typer.testing import CliRunner

from client.store import versions
from client.store.archive import Archive
from client.store.site import Site
from client.store.tables import delivery
from configs.schema import CoordinatorConfig
from models.bundle import Bundle, device_uid, verify
from models.children import Child, free_port
from models.errors import ConfigurationError, Conflict, NotFound
from models.exchange import Consent, Decision, Evidence, Offer, Order, Proposal, Release, TrainOrder, Update
from models.signing import load_trust
from models.withdrawal import read
from models.withdrawal import verify as verify_notice
from scripts.vigie import app
from server import plan as plans
from server import retraining, tracking, withdrawal
from server.coordinator import Coordinator, create
from server.evaluation import evaluations
from server.journal import Journal
from server.registry import Registered, Registry

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
SITES = ("nih", "shenzhen")


@dataclass(frozen=True)
class Running:
    """A coordinator whose MLflow runs."""

    coordinator: Coordinator
    mlflow: Child

    @property
    def registry(self) -> Registry:
        return self.coordinator.registry

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.coordinator.mlflow_uri, self.coordinator.mlflow_uri)

    def restart(self) -> "Running":
        self.mlflow.stop()
        return _run(Coordinator(self.coordinator.folder))

    def kill(self) -> None:
        """`kill -9` of all that belongs to MLflow."""
        port = str(self.coordinator.config.mlflow_port)
        [watcher] = [one for one in psutil.Process().children() if port in one.cmdline()]
        for process in [watcher, *watcher.children(recursive=True)]:
            process.kill()
        watcher.wait()


def _run(coordinator: Coordinator) -> Running:
    config = coordinator.config
    return Running(coordinator, tracking.start(coordinator.folder, config.mlflow_port, kept=coordinator.storage))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("registry") / "coordinator"
    found = _run(create(folder, CoordinatorConfig(mlflow_port=free_port())))
    yield found
    found.mlflow.stop()


@pytest.fixture
def version(bundles: ModuleType, vendor_key: Ed25519PrivateKey, tmp_path: Path) -> Callable[..., Bundle]:
    def build(name: str, number: int = 1, parent: str | None = None) -> Bundle:
        folder = tmp_path / f"{name}-{number}"
        return bundles.build(folder, vendor_key, gain=number + 5.0, name=name, number=number, parent=parent)

    return build


# ── Figures, aliases, lineage ────────────────────────────────────────────────────────────────────────────────────────


def _told(version: Registered, served: str) -> Evidence:
    return evidence("spring", version.digest, served, 0.8, 0.9)


def test_mlflow_itself_compares_versions_over_hospitals(running: Running, version: Callable[..., Bundle]) -> None:
    registry, client = running.registry, running.client
    first = registry.register(one := version("compared"), {"origin": "vendor"})
    second = registry.register(version("compared", 2, one.digest), {"retraining": "spring"})
    for _ in range(2):  # asked again after a crash
        told_by = {site: _told(second, first.digest) for site in SITES}
        registry.evaluate(second, [one for site, found in told_by.items() for one in evaluations(site, found)])

    experiment = client.get_experiment_by_name("compared")
    assert experiment is not None
    ids = [experiment.experiment_id]
    [of_fold] = {one.dataset_digest for one in evaluations("nih", _told(second, first.digest)) if one.fold == "test"}
    fold = {"dataset_name": "nih/test", "dataset_digest": of_fold}
    for ascending, order in ((True, ["compared@1", "compared@2"]), (False, ["compared@2", "compared@1"])):
        by = [{"field_name": "metrics.auc", "ascending": ascending, **fold}]
        assert [model.name for model in client.search_logged_models(ids, order_by=by)] == order
    good = client.search_logged_models(ids, "metrics.auc > 0.85", datasets=[fold])
    assert [(model.name, str(model.status)) for model in good] == [("compared@2", "READY")]
    told = {(one.key, one.dataset_name): one.value for one in good[0].metrics or []}
    assert told["auc_low", "nih/test"] == pytest.approx(0.85)
    assert told["before_auc", "shenzhen/gate"] == pytest.approx(0.8)
    assert len(told) == len(good[0].metrics or []), "a figure stands there twice"
    # of a hospital's cases the name of the fold and how many they are, nothing else
    runs = client.search_runs(ids, "tags.site = 'nih'")
    assert len(runs) == 2
    for run in runs:
        for used in run.inputs.dataset_inputs:
            assert used.dataset.name in ("nih/gate", "nih/test")
            assert used.dataset.profile == '{"n": 200, "n_positive": 100}'
            assert used.dataset.schema is None

    known = {one.version.label: one for one in registry.known("compared")}
    assert known["compared@2"].figures["nih/test"]["before_auc"] == pytest.approx(0.8)
    assert not known["compared@1"].figures


def test_an_alarm_for_a_model_that_nobody_has_is_refused(running: Running, version: Callable[..., Bundle]) -> None:
    running.registry.register(version("chest-radiograph"), {})
    folder = str(running.coordinator.folder)
    found = CliRunner().invoke(app, ["retrain", "alarm", "--folder", folder, "chest-radiogram", "drift"])
    assert isinstance(found.exception, NotFound)
    assert "it has " in str(found.exception)
    assert not (running.coordinator.folder / "alarms.jsonl").exists()


def test_a_withdrawn_version_is_released_and_trained_from_no_more(
    running: Running, version: Callable[..., Bundle]
) -> None:
    registry = running.registry
    made = [registry.register(version("taken-back", number), {}) for number in (1, 2)]
    for one in made:
        registry.alias(one, "candidate")
        registry.tag(one, {"release": "released"})
        registry.alias(one, "released")
    registry.alias(made[1], "adopted-at-nih")
    assert registry.aliases("taken-back") == {"released": 2, "adopted-at-nih": 2}

    command = ["version", "withdraw", "taken-back@2", "--folder", str(running.coordinator.folder)]
    said = CliRunner().invoke(app, [*command, "--reason", "saturates on bright films"])
    assert said.exit_code == 0, said.output
    assert "released is taken-back@1" in said.output
    (order,) = withdrawal.orders(running.coordinator)  # what hospitals are told, signed
    notice = read(order.notice)
    assert (notice.version, notice.label, notice.reason) == (
        made[1].digest,
        "taken-back@2",
        "saturates on bright films",
    )
    verify_notice(order.notice, order.signature, order.signer, running.coordinator.trusted)
    assert registry.aliases("taken-back") == {"released": 1, "withdrawn": 2, "adopted-at-nih": 2}
    assert CliRunner().invoke(app, [*command, "--reason", "saturates on bright films"]).exit_code == 0
    assert withdrawal.orders(running.coordinator) == [order]  # the very same, however often it is said
    with pytest.raises(Conflict, match="before"):
        registry.withdraw(registry.find("taken-back@2"), "another reason")
    with pytest.raises(Conflict, match="bright films"):
        registry.find_standing("taken-back@2")
    assert registry.find_standing("taken-back@1") == made[0]
    # blocked in a later delivery: no alias says both
    registry.alias(made[0], "blocked")
    assert registry.aliases("taken-back") == {"blocked": 1, "withdrawn": 2, "adopted-at-nih": 2}


def test_a_report_in_a_pacs_leads_to_rounds_and_sites(
    running: Running, site: Site, scored: Callable[..., str], tmp_path: Path
) -> None:
    """A report made by the node's own code; the version that made it stands for a retrained one."""
    scored(objects=True)
    held = versions.listed(site)[0]
    with site.database.read() as connection:
        row = connection.execute(select(delivery).where(delivery.c.kind == "sr")).one()
    report = tmp_path / "report.dcm"
    report.write_bytes(Archive(site.archive).read(row.sha256))
    registry = running.registry
    lineage = {"retraining": "spring", "rounds": "1", "strategy": "fedavg-root", "cases.nih": "120"}
    made = registry.register(verify(site.versions / held.digest, load_trust(site.trust)), lineage)
    registry.keep_rounds(
        made,
        [{"round": 1, "seconds": 1.0, "failures": {"shenzhen": "too-few-cases"}, "sites": {"nih": {"cases": 120}}}],
    )
    registry.tag(made, {"decision.nih": "adopted", "decision.nih.reasons": "non-inferior"})

    folder = ["--folder", str(running.coordinator.folder)]
    said = [
        CliRunner().invoke(app, ["version", "trace", what, *folder])
        for what in (str(report), made.digest, registry.fetch(made, tmp_path, load_trust(site.trust)).device_uid)
    ]
    assert [one.exit_code for one in said] == [0, 0, 0], said[0].output
    assert len({one.output for one in said}) == 1
    for told in (f"made by {held.name}@{held.number}", "spring: 1 round", "120", "adopted (non-inferior)"):
        assert told in said[0].output
    assert "round 1: nih 120 cases; shenzhen: too-few-cases" in said[0].output
    drawn = tmp_path / "lineage.svg"
    done = CliRunner().invoke(app, ["version", "lineage", held.name, *folder, "--output", str(drawn)])
    assert done.exit_code == 0, done.output
    assert made.label in drawn.read_text()
    with pytest.raises(NotFound):
        registry.find_device("2.25.1")

    # of a hospital's own form of it the registry has what the hospital told, and nothing to load
    form = "c" * 64
    unknown = CliRunner().invoke(app, ["version", "trace", form, *folder])
    assert unknown.exit_code != 0
    registry.tag(made, {"personal.nih": form})
    own = [CliRunner().invoke(app, ["version", "trace", what, *folder]).output for what in (form, device_uid(form))]
    assert own[0] == own[1]
    for told in (
        f"{made.label}+local, nih's own form",
        f"digest {form}",
        f"form of {made.digest}",
        "own form cccccccc",
    ):
        assert told in own[0]
    with pytest.raises(NotFound):
        registry.find_digest(form)


# ── Cut off anywhere ─────────────────────────────────────────────────────────────────────────────────────────────────


class _CutOff(Exception):
    pass


@pytest.mark.parametrize(
    "step", ["create_run", "create_logged_model", "log_model_artifacts", "set_terminated", "create_model_version"]
)
def test_a_registration_that_was_cut_off_is_finished_by_the_next(
    running: Running, version: Callable[..., Bundle], step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each step: MLflow has carried it out, and nobody has heard the answer."""
    name = f"cut-{step.replace('_', '-')}"
    registry, bundle = Registry(running.coordinator.mlflow_uri), version(name)
    carry_out = getattr(registry._client, step)

    def cut(*arguments: Any, **named: Any) -> None:
        carry_out(*arguments, **named)
        raise _CutOff

    monkeypatch.setattr(registry._client, step, cut)
    with pytest.raises(_CutOff):
        registry.register(bundle, {})
    whole = step == "create_model_version"
    assert [one.label for one in running.registry.versions(name)] == ([f"{name}@1"] if whole else [])
    _one_of_all(running, bundle)


def test_a_request_that_mlflow_gets_twice_makes_no_second_version(
    running: Running, version: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(running.coordinator.mlflow_uri)
    carry_out = registry._client.create_model_version

    def twice(*arguments: Any, **named: Any) -> Any:
        carry_out(*arguments, **named)
        return carry_out(*arguments, **named)

    monkeypatch.setattr(registry._client, "create_model_version", twice)
    first = registry.register(version("twice"), {})
    assert (first.number, registry.find_digest(first.digest).number) == (1, 1)
    assert [one.number for one in registry.versions("twice")] == [1]
    # the number that was lost to it is nobody's
    monkeypatch.undo()
    assert registry.next_number("twice") == 3
    assert registry.register(version("twice", 3, first.digest), {}).number == 3


def test_mlflow_killed_in_a_registration_leaves_no_half_version(
    tmp_path: Path, version: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    found = _run(create(tmp_path / "coordinator", CoordinatorConfig(mlflow_port=free_port())))
    bundle = version("killed")
    try:
        registry = found.registry
        carry_out = registry._client.finalize_logged_model

        def kill(*arguments: Any) -> Any:
            found.kill()
            return carry_out(*arguments)

        monkeypatch.setattr(registry._client, "finalize_logged_model", kill)
        with pytest.raises(Exception, match=r"refused|aborted|retries|Connection"):
            registry.register(bundle, {})
        found = found.restart()
        assert found.registry.versions("killed") == []
        _one_of_all(found, bundle)
    finally:
        found.mlflow.stop()


def _one_of_all(running: Running, bundle: Bundle) -> None:
    """Registered again, there is one version, whole: one run, one logged model, its bundle."""
    registry, client, name = running.registry, running.client, bundle.facts.name
    again = registry.register(bundle, {})
    assert again == registry.register(bundle, {})
    assert [one.label for one in registry.versions(name)] == [f"{name}@1"]
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    ids = [experiment.experiment_id]
    assert [str(model.status) for model in client.search_logged_models(ids)] == ["READY"]
    assert [run.info.status for run in client.search_runs(ids)] == ["FINISHED"]
    signed = {bundle.signer: _keys[bundle.signer].public_key()}
    assert registry.fetch(again, running.coordinator.folder / "fetched", signed).digest == bundle.digest


_keys: dict[str, Ed25519PrivateKey] = {}


@pytest.fixture(autouse=True)
def _known_key(vendor_key: Ed25519PrivateKey) -> None:
    _keys["vendor"] = vendor_key


# ── PostgreSQL and S3 ────────────────────────────────────────────────────────────────────────────────────────────────


class _Hospitals:
    """Two hospitals that learn a little and like what they get."""

    @dataclass
    class Answers:
        results: Mapping[str, Any]
        seconds: float = 0.1

    def __init__(self, served: str) -> None:
        self.served = served

    def wait_for(self, names: list[str], _timeout: float) -> Mapping[str, int]:
        return dict.fromkeys(names, 1)

    def send_and_receive(self, orders: Mapping[str, Order], _timeout: float) -> Any:
        return self.Answers({site: self._answer(order) for site, order in orders.items()})

    def _answer(self, order: Order) -> Any:
        match order:
            case Proposal():
                return Consent(retraining=order.retraining, digest=order.digest, state="granted", reasons=("person",))
            case TrainOrder():
                moved = {
                    name: array + np.asarray(0.01, array.dtype) if array.dtype.kind == "f" else array
                    for name, array in order.weights.items()
                }
                return Update(
                    retraining=order.retraining,
                    round=order.round,
                    base=order.base,
                    n_cases=120,
                    n_errors=8,
                    train_loss=0.3,
                    auc_received=0.8,
                    threshold_received=0.4,
                    weights=moved,
                )
            case Offer():
                return evidence(order.retraining, order.digest, self.served, 0.8, 0.9)
            case Release():
                outcome = "adopted" if order.released else "refused"
                return Decision(
                    retraining=order.retraining, digest=order.digest, outcome=outcome, reasons=("non-inferior",)
                )


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    found = Postgres()
    yield found
    found.stop()


@pytest.fixture
def bucket() -> Iterator[Any]:
    """An S3 store (moto's: it speaks the protocol and keeps everything in memory); its address and its bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    store = boto3.resource(
        "s3",
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id="vigie",
        aws_secret_access_key="not so secret",
    )
    made = store.Bucket("versions")
    made.create()
    yield address, made
    server.stop()


@pytest.mark.peers("initdb", "pg_ctl")
def test_a_retraining_is_kept_in_postgresql_and_s3(
    postgres: Postgres, bucket: Any, residual: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundles: Any
) -> None:
    """Cut off between registration and journal; then the database and MLflow start anew, and it goes on."""
    address, kept = bucket
    config = CoordinatorConfig(
        mlflow_port=free_port(),
        mlflow_store=postgres.uri,
        mlflow_artifacts="s3://versions/vigie",
        s3_endpoint=address,
    )
    coordinator = create(tmp_path / "coordinator", config)
    secrets = coordinator.folder / "secrets"
    (secrets / tracking.PASSWORD).write_text(PASSWORD + "\n")
    (secrets / tracking.CREDENTIALS).write_text(
        "[default]\naws_access_key_id = vigie\naws_secret_access_key = not so secret\n"
    )
    with pytest.raises(ConfigurationError, match="chmod 600"):
        _ = coordinator.storage
    for path in secrets.iterdir():
        path.chmod(0o600)
    bundles.trust(coordinator.folder / "trust", _keys["vendor"])
    found = _run(coordinator)
    try:
        base = found.registry.register(residual, {"origin": "vendor"})
        plan = plans.Plan(name="spring", base=base.label, sites=SITES, quorum=2, rounds=1)
        plans.save(plan, coordinator.folder)
        write = Journal.write

        def cut(journal: Journal, step: str, facts: Mapping[str, Any]) -> None:
            if step == "candidate":
                raise _CutOff
            write(journal, step, facts)

        with monkeypatch.context() as patch:
            patch.setattr(Journal, "write", cut)
            with pytest.raises(_CutOff):
                retraining.conduct(_Hospitals(base.digest), coordinator.folder, "spring")
        postgres.restart()
        found = found.restart()

        retraining.conduct(_Hospitals(base.digest), coordinator.folder, "spring")

        registry = found.registry
        assert [one.label for one in registry.versions("residual")] == ["residual@1", "residual@2"]
        second = registry.known("residual")[1]
        assert second.aliases == ("adopted-at-nih", "adopted-at-shenzhen", "released")
        assert second.version.tags["parent"] == base.digest
        assert second.figures["nih/test"]["auc"] == pytest.approx(0.9)
        assert registry.rounds(second.version)[0]["sites"]["nih"]["cases"] == 120
        assert registry.metrics(second.version)["nih/test/candidate/auc"] == pytest.approx(0.9)
        (coordinator.folder / "fetched").mkdir()
        fetched = registry.fetch(second.version, coordinator.folder / "fetched", coordinator.trusted)
        assert fetched.facts.retraining == "spring"
        assert found.client.get_model_version("residual", "2").description == fetched.card
        assert any(stored.key.endswith("manifest.json") for stored in kept.objects.all())
        assert not (coordinator.folder / "mlflow.db").exists()
        assert not (coordinator.folder / "mlartifacts").exists()
        # the password is in no process list and no log
        words = [" ".join(one.cmdline()) for one in psutil.Process().children(recursive=True)]
        assert not any(PASSWORD in line for line in words)
        assert PASSWORD not in (coordinator.folder / "logs" / "mlflow.log").read_text()
    finally:
        found.mlflow.stop()


@pytest.mark.parametrize(
    "settings",
    [
        {"mlflow_store": "postgresql://vigie:secret@db/vigie"},
        {"mlflow_store": "postgresql://vigie@db/vigie?password=secret"},
        {"mlflow_store": "mysql://vigie@db/vigie"},
        {"mlflow_artifacts": "https://bucket/vigie"},
        {"s3_endpoint": "https://key:secret@s3.example.org"},
    ],
)
def test_a_password_in_the_settings_is_refused_and_not_repeated(settings: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        CoordinatorConfig(**settings)
    assert "secret@" not in str(refused.value)
    assert "=secret" not in str(refused.value)
