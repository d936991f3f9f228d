"""A retraining whose normalisation and head stay at the hospitals: each serves its own form, and signs it.

Coordinator, borders, consents, trainers and gates are the real ones, without processes and messages' transport between.
"""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import crashing
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from registry_in_memory import Kept
from sqlalchemy import delete

from client.federation import adoption, personal, resident
from client.federation.border import Border
from client.federation.cases import ReusableCases, labels, tensors
from client.federation.kept import Memory
from client.federation.site import handlers
from client.inference.engine import Engine
from client.inference.panel import Panel
from client.results.header import author
from client.review.recall import named, take_back
from client.store import versions
from client.store.archive import Archive
from client.store.countersigned import SIGNER, countersigning_key, verified
from client.store.site import Site, create
from client.store.tables import version
from configs.schema import ConsentConfig, CoordinatorConfig, GateConfig, SiteConfig
from models.bundle import Bundle, from_archive, seal, to_archive
from models.errors import BundleRefused, Conflict
from models.exchange import Decision, Evidence, Offer, Release, Update, belongs, check_answer, parse
from models.hyperparameters import Hyperparameters
from models.packing import pack
from models.personal import Personal, part_digest
from models.preprocessing import Preprocessing
from models.signing import load_trust
from models.stats.threshold import balanced
from models.training import scores
from server import coordinator as coordinators
from server import plan as plans
from server import retraining
from server.journal import read
from server.messaging import Failure

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

TRAINED = ("alpha", "beta")
PATIENTS = 150
HYPER = Hyperparameters(
    steps=25, batch_size=16, learning_rate=1e-2, augmentation=0.0, averaging=0.0, label_smoothing=0.0
)


@dataclass
class Hospitals:
    """Reached through their borders; everything that left one is kept."""

    sites: dict[str, Site]
    left: list = field(default_factory=list)

    def wait_for(self, names, timeout):
        return dict.fromkeys(names, 1)

    def send_and_receive(self, orders, timeout):
        return SimpleNamespace(results={site: self.ask(site, order) for site, order in orders.items()}, seconds=0.1)

    def ask(self, name, order):
        site = self.sites[name]
        record = Border(site.ledger, lambda: handlers(site.folder)).answer(order.to_record())
        self.left.append((name, record))
        found = parse(record)
        if found.kind == "refusal":
            return Failure(found.code)
        assert belongs(found, order)
        check_answer(found, order)
        return found


@dataclass
class Played:
    """What a retraining left."""

    coordinator: coordinators.Coordinator
    registry: Kept
    hospitals: Hospitals
    base: Bundle
    offered: Bundle
    journal: list[dict]

    def site(self, name="alpha"):
        return self.hospitals.sites[name]

    def form(self, name="alpha"):
        held = versions.form_of(self.site(name), self.offered.digest)
        assert held is not None
        return held

    def step(self, name):
        return next(line for line in self.journal if line["step"] == name)

    def offer(self):
        return Offer(retraining="spring", digest=self.offered.digest, parent=self.base.digest,
                     bundle=to_archive(self.offered))  # fmt: skip


@pytest.fixture(scope="module")
def squared(radiograph):
    """A film with a bright square where there is something to find, as `crashing` asks for one."""

    def make(brightness, **keywords):
        draw = np.random.default_rng()
        pixels = draw.normal(1200, 150, (64, 64))
        if brightness > 0.5:
            pixels[16:40, 16:40] += 1500
        content = np.clip(pixels, 0, 4095).astype(np.uint16).tobytes()
        return radiograph(brightness, rows=64, columns=64, PixelData=content, **keywords)

    return make


@pytest.fixture(scope="module")
def base(tmp_path_factory, bundles, vendor_key, squared):
    """A vendor's version that takes what is there for what is not."""
    import torch

    from models.networks import build

    said = {"channels": [8, 8, 16, 16], "groups": 4}
    torch.manual_seed(0)
    network = build("residual", **said)
    films = np.stack([squared(0.7 * (n % 2)).pixel_array[None].astype(np.float32) / 4095 for n in range(24)])
    found = scores(network, films)
    if found[1::2].mean() > found[::2].mean():
        with torch.no_grad():
            network.fc.weight.neg_()
    facts = bundles.facts(name="residual", network="residual", network_facts=said, input_shape=(1, 64, 64))
    steps = Preprocessing(
        [
            {"_target_": "Resize", "spatial_size": [64, 64], "mode": "area"},
            {
                "_target_": "ScaleIntensityRange",
                "a_min": 0.0,
                "a_max": 4095.0,
                "b_min": 0.0,
                "b_max": 1.0,
                "clip": True,
            },
        ]
    )
    folder = tmp_path_factory.mktemp("base") / "version"
    return pack(folder, facts, network, steps, "# The card", vendor_key, bundles.SIGNER)


@pytest.fixture(scope="module")
def played(tmp_path_factory, bundles, vendor_key, base, squared, _measured):
    """Two hospitals train, are offered what came of it and told that it is released; a third one did not train."""
    folder = tmp_path_factory.mktemp("personal")
    coordinator = coordinators.create(folder / "coordinator", CoordinatorConfig())
    coordinator.__dict__["registry"] = registry = Kept(base)
    sites = {
        name: _hospital(folder / name, number, base, coordinator, bundles, vendor_key, squared, _measured)
        for number, name in enumerate((*TRAINED, "gamma"))
    }
    hospitals = Hospitals(sites)
    plan = plans.Plan.model_validate(
        {
            "name": "spring", "base": "residual@1", "sites": TRAINED, "quorum": 2, "rounds": 2, "norm": 100.0,
            "hyper": HYPER, "strategy": {"name": "fedbn", "head": True},
        }
    )  # fmt: skip
    kept = plans.save(plan, coordinator.folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retraining, "Coordinator", lambda _: coordinator)
        retraining.conduct(hospitals, coordinator.folder, "spring")
    offered = next(one for digest, one in registry.bundles.items() if digest != base.digest)
    yield Played(coordinator, registry, hospitals, base, offered, list(read(kept)))
    for site in sites.values():
        site.database.close()


def _hospital(folder, number, base, coordinator, bundles, vendor_key, squared, measured):
    site = create(
        folder,
        SiteConfig(
            name=folder.name, inference_threads=1, training_priority="normal",
            consent=ConsentConfig(standing="retrainings", fewest_others=0, largest_norm=100.0),
            gate=GateConfig(min_positives=8, min_negatives=8),
        ),
        fold_key=bytes([number + 1]) * 32,
    )  # fmt: skip
    site.measured.symlink_to(measured, target_is_directory=True)
    shutil.copy(coordinator.folder / "trust" / "coordinator.pub", site.trust / "coordinator.pub")
    bundles.trust(site.trust, vendor_key)
    shutil.copytree(base.folder, site.versions / base.digest)
    versions.receive(site, base)
    versions.adopt(site, base.digest)
    crashing.readers.add(site, "Dr Truth", "clinician")
    archive, draw = Archive(site.archive), np.random.default_rng(number)
    with site.database.write() as connection:
        for case in range(PATIENTS):
            crashing._add(connection, site, archive, squared, base.digest, f"P{case}", bool(case % 2), draw.random())
    return site


@pytest.fixture
def apart(played, tmp_path):
    """A copy of alpha with its form, to be spoilt."""
    site = Site(Path(shutil.copytree(played.site().folder, tmp_path / "alpha", symlinks=True)))
    yield site
    site.database.close()


def test_each_hospital_that_trained_serves_its_own_form(played):
    assert played.step("release-gate")["released"], played.step("release-gate")["reasons"]
    for name in TRAINED:
        site, form = played.site(name), played.form(name)
        assert (form.state, form.label, form.form_of) == ("adopted", "residual@2+local", played.offered.digest)
        assert versions.find(site, played.offered.digest).state == "offered"
        (served,) = Panel(site).members()
        assert served.bundle.digest == form.digest
        own = Memory(site.retrainings, "spring").last().local
        assert {key.rpartition(".")[0] for key in own} >= {"bn1", "fc"}
        expected = {**played.offered.read_weights(), **own}
        found = served.bundle.read_weights()
        assert all(np.array_equal(found[key], expected[key]) for key in expected)
        assert served.bundle.facts.personal == Personal(
            of=played.offered.digest, layers=tuple(sorted(own)), part=part_digest(own)
        )
        # another version in every respect that a result states
        said = author(SimpleNamespace(bundle=served.bundle))
        assert (said.number, said.serial) == ("2+local", form.digest)
        assert said.device_uid != played.offered.device_uid
        assert site.ledger.first_break() is None
    assert played.form("alpha").digest != played.form("beta").digest


def test_its_threshold_is_set_on_the_hospitals_own_training_patients(played):
    site, form = played.site(), played.form()
    (served,) = Panel(site).members()
    cases = ReusableCases.of(site, served.bundle.facts).fold("train")
    engine = Engine(served.bundle, 1)
    expected = balanced(engine.scores(tensors(site, served.bundle, cases)).astype(np.float64), labels(cases))
    assert served.threshold == form.threshold == pytest.approx(expected, abs=1e-6)


def test_the_coordinator_is_told_which_one_was_judged_and_how_good_that_is(played):
    evidence = {site: Evidence.model_validate_json(text) for site, text in played.step("evidence")["evidence"].items()}
    for name in TRAINED:
        assert evidence[name].digest == played.offered.digest
        assert evidence[name].personal == played.form(name).digest
        assert evidence[name].candidate_gate.auc > evidence[name].served_gate.auc
        assert played.registry.tags_of[f"personal.{name}"] == played.form(name).digest
    assert played.registry.tags_of["release.judged"] == "in a form of their own: alpha, beta; as it is: nobody"
    assert played.step("decisions")["decisions"]["alpha"]["outcome"] == "adopted"


def test_a_hospitals_own_layers_never_leave_it(played):
    """Not in a message, and not with the coordinator, in whatever round they were trained."""
    secret = {
        (name, key, array.tobytes())
        for name in TRAINED
        for key, array in Memory(played.site(name).retrainings, "spring").last().local.items()
        if array.size >= 8  # fewer numbers are found anywhere
    }
    assert {name for name, _, _ in secret} == set(TRAINED)
    local = {key for _, key, _ in secret}
    kinds = set()
    for _, record in played.hospitals.left:
        message = parse(record)
        kinds.add(type(message))
        if isinstance(message, Update):
            assert not local & set(message.weights)
        else:
            assert not record.array_records
        for arrays in record.array_records.values():
            for array in arrays.values():
                assert not [key for _, key, content in secret if content in array.data]
    assert kinds >= {Update, Evidence, Decision}
    for path in played.coordinator.folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [key for _, key, bytes_ in secret if bytes_ in content], path.name


def test_a_hospital_that_did_not_train_judges_and_serves_the_version_as_it_is(played):
    site = played.site("gamma")
    told = adoption.judge(site, played.offer())
    assert (told.digest, told.personal) == (played.offered.digest, None)
    assert versions.form_of(site, played.offered.digest) is None
    adoption.settle(site, Release(retraining="spring", digest=played.offered.digest, released=False))
    assert versions.find(site, played.offered.digest).state == "refused"
    assert not (site.secrets / "countersign.key").exists()


def test_offered_again_it_is_the_same_form_and_the_same_answer(played, apart):
    before = sorted(path.name for path in apart.versions.iterdir())
    first = adoption.judge(apart, played.offer())
    assert first == adoption.judge(apart, played.offer())
    assert first.personal == played.form().digest
    release = Release(retraining="spring", digest=played.offered.digest, released=True)
    assert adoption.settle(apart, release).outcome == "adopted"
    assert sorted(path.name for path in apart.versions.iterdir()) == before


@pytest.fixture
def late(played, tmp_path):
    """A hospital that has layers of its own, and was not offered the version yet."""
    site = Site(Path(shutil.copytree(played.site("gamma").folder, tmp_path / "gamma", symlinks=True)))
    Memory(site.retrainings, "spring").keep(2, Memory(played.site().retrainings, "spring").last())
    with site.database.write() as connection:
        connection.execute(delete(version).where(version.c.digest == played.offered.digest))
    yield site
    site.database.close()


def test_the_resident_trainer_makes_it_within_its_memory(played, late):
    """The process that judges at a hospital: bounded, without the packages that it does not need."""
    trainer = resident.Resident(late.folder)
    trainer.start()
    try:
        told = resident.judge(late, played.offer())
    finally:
        trainer.stop()
    form = versions.form_of(late, played.offered.digest)
    assert form is not None
    assert told.personal == form.digest
    assert verified(late, form.digest).facts.label == "residual@2+local"


def test_a_crash_while_it_is_made_costs_nothing(played, late, monkeypatch):
    site = late
    offered = from_archive(to_archive(played.offered), site.versions, load_trust(site.trust))
    versions.receive(site, offered)
    (site.versions / f".form-{offered.digest[:16]}").mkdir()
    (site.versions / f"..form-{offered.digest[:16]}-x1").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(versions, "receive", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            personal.form_of(site, offered)
    made = personal.form_of(site, offered)
    assert made is not None
    assert personal.form_of(site, offered).digest == made.digest
    assert not [path for path in site.versions.iterdir() if "form-" in path.name]


# ── Refused at load ──────────────────────────────────────────────────────────────────────────────────────────────────


def _resigned(site, form, key=None, *, signer=SIGNER, weights=None, of=None, layers=None, fresh=True):
    """Change the form's weights or what it says it is, name the part that is there, and sign it anew."""
    folder = site.versions / "spoilt"
    shutil.copytree(site.versions / form.digest, folder)
    said = verified(site, form.digest).facts
    found = {**verified(site, form.digest).read_weights(), **(weights or {})}
    np.savez(folder / "models" / "weights.npz", **found)
    names = layers or said.personal.layers
    part = part_digest({name: found[name] for name in names}) if fresh else said.personal.part
    changed = said.model_copy(update={"personal": Personal(of=of or said.personal.of, layers=names, part=part)})
    path = folder / "configs" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vigie": changed.model_dump(mode="json")}))
    key = key or countersigning_key(site)
    digest = seal(folder, key, signer).digest
    folder.rename(site.versions / digest)
    return digest


def test_what_nobody_here_signed_is_not_loaded(played, apart):
    form = played.form()
    assert verified(apart, form.digest).digest == form.digest
    (apart.versions / form.digest / "signature.json").unlink()
    with pytest.raises(BundleRefused, match="signature"):
        Panel(apart).members()


def test_an_altered_local_part_is_not_loaded(played, apart):
    folder = apart.versions / played.form().digest
    weights = dict(np.load(folder / "models" / "weights.npz"))
    weights["bn1.weight"] = weights["bn1.weight"] + np.float32(0.1)
    np.savez(folder / "models" / "weights.npz", **weights)
    with pytest.raises(BundleRefused, match="altered"):
        Panel(apart).members()


def test_a_swapped_local_part_is_not_loaded_even_with_the_hospitals_signature(played, apart):
    """Another hospital's layers under this one's digest; then its whole form, which it signed itself."""
    theirs = dict(Memory(played.site("beta").retrainings, "spring").last().local)
    digest = _resigned(apart, played.form(), weights=theirs, fresh=False)
    with pytest.raises(BundleRefused, match="another local part"):
        verified(apart, digest)
    other = played.form("beta").digest
    shutil.copytree(played.site("beta").versions / other, apart.versions / other)
    with pytest.raises(BundleRefused, match="not hospital's"):
        verified(apart, other)


def test_a_local_part_of_another_base_is_not_loaded(played, apart):
    for of, why in ((played.base.digest, "says something else"), ("e" * 64, "no readable manifest")):
        digest = _resigned(apart, played.form(), of=of)
        with pytest.raises(BundleRefused, match=why):
            verified(apart, digest)
        shutil.rmtree(apart.versions / digest)


def test_a_form_changes_nothing_but_its_own_layers(played, apart):
    form = played.form()
    moved = {"conv1.weight": played.offered.read_weights()["conv1.weight"] + np.float32(0.01)}
    digest = _resigned(apart, form, weights=moved)
    with pytest.raises(BundleRefused, match=r"conv1\.weight is not the version's"):
        verified(apart, digest)


def test_keys_and_trust_are_asked_for_each_time(played, apart):
    form, stranger = played.form(), Ed25519PrivateKey.generate()
    folder = apart.versions / "strangers"
    shutil.copytree(apart.versions / form.digest, folder)
    strangers = seal(folder, stranger, SIGNER).digest
    folder.rename(apart.versions / "kept")
    with pytest.raises(BundleRefused, match="not hospital's"):
        verified(apart, "kept")
    assert strangers == form.digest  # the digest says what is in it, the signature who answers for it
    # a coordinator that is trusted for versions cannot make up a form, nor sign one as a version
    trusted = played.coordinator.signing_key
    shutil.rmtree(apart.versions / "kept")
    digest = _resigned(apart, form, key=trusted, signer="coordinator", layers=form_layers(apart, form)[:3])
    with pytest.raises(BundleRefused, match="not trusted here"):
        verified(apart, digest)
    # who is trusted no more takes the forms of their versions with them
    (apart.trust / "coordinator.pub").unlink()
    with pytest.raises(BundleRefused, match="coordinator"):
        verified(apart, form.digest)


def form_layers(site, form):
    return verified(site, form.digest).facts.personal.layers


def test_a_form_that_comes_from_outside_is_refused(played, apart, tmp_path):
    folder = tmp_path / "made-up"
    shutil.copytree(apart.versions / played.form().digest, folder)
    path = folder / "configs" / "metadata.json"
    content = json.loads(path.read_text())
    content["vigie"]["number"] = 3
    path.write_text(json.dumps(content))
    forged = seal(folder, played.coordinator.signing_key, "coordinator")
    from client.federation import candidate, consent

    agreed = consent.find(apart, "spring").terms
    with pytest.raises(BundleRefused, match="comes from nowhere else"):
        candidate.check(apart, Offer(retraining="spring", digest=forged.digest, bundle=to_archive(forged)), agreed)
    assert not (apart.versions / forged.digest).exists()


# ── People's words ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_is_gone_back_from_taken_off_and_recalled_like_any_version(played, apart):
    form = played.form()
    assert versions.roll_back(apart, "residual").digest == played.base.digest
    assert named(apart, "residual@2+local").digest == form.digest
    assert named(apart, "residual@2").digest == played.offered.digest
    versions.adopt(apart, form.digest, "Dr Curie")
    assert versions.retire(apart, "residual").label == "residual@2+local"
    versions.adopt(apart, form.digest, "Dr Curie")
    told = take_back(apart, "residual@2", "Dr Curie")
    assert told.exact
    assert versions.find(apart, form.digest).state == "withdrawn"  # with the version that it is a form of
    assert versions.panel(apart) == []
    with pytest.raises(Conflict, match="recalled"):
        versions.adopt(apart, form.digest, "Dr Curie")
    assert apart.ledger.first_break() is None
