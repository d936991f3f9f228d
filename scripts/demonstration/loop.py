"""The loop, step by step; reads from top to bottom as the story that it tells."""

import csv
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, TypeVar

import psutil
from rich.console import Console
from rich.table import Table

from client.federation.adoption import evidence_held
from client.store import suspensions, versions
from client.vigilance import harm, register
from configs.schema import ConsentConfig, CoordinatorConfig, RetrainingConfig, compose
from models.children import Child, free_port
from models.exchange import Evidence, Measure
from models.manifest import Row, read
from models.pki import make_server
from models.signing import make_key
from scripts.demonstration import phantoms, picture
from scripts.demonstration.hospital import DemonstrationFailed, Hospital, connect, start
from scripts.demonstration.studies import study_uid
from scripts.demonstration.summary import Figure, HospitalSummary, Performance, Summary
from scripts.memory import Memory
from scripts.retrain_commands import told
from scripts.signals import wait_for_signal
from server.coordinator import Coordinator, create
from server.launch import launch, plan_of
from server.release import figures
from server.superlink import SuperLink

T = TypeVar("T")
MODEL = "chest-radiograph"
SITES = ("guangzhou", "nih", "shenzhen")
VENDOR_SITE = "guangzhou"


@dataclass(frozen=True, slots=True)
class Settings:
    """As `vigie demo` was called."""

    out: Path
    data: Path
    phantoms: bool
    seed: int
    rounds: int
    steps: int
    limit: int
    keep: bool


@dataclass
class _Story:
    """What has come out so far."""

    settings: Settings
    console: Console
    rows: dict[str, list[Row]]
    real: bool
    seconds: dict[str, float] = field(default_factory=lambda: dict[str, float]())

    @contextmanager
    def chapter(self, name: str, title: str) -> Generator[None]:
        self.console.print(f"\n[bold]{title}[/bold]")
        began = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began, 1)
        self.console.print(f"  [dim]{self.seconds[name]:.1f} s[/dim]")


def run(settings: Settings) -> Summary:
    """Run it all; every process that was started is stopped at the end, whatever happens.

    Raises:
        DemonstrationFailed: something that is to be shown did not hold.
    """
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 150)
    out = settings.out.resolve()
    began = time.monotonic()
    _clear(out)
    story = _data(settings, console, out)
    signal.signal(signal.SIGTERM, _end)
    with ExitStack() as stack:
        memory = stack.enter_context(Memory())
        with story.chapter("start", "1. A coordinator and three hospitals start, each in its own folder and processes"):
            coordinator, hospitals = _start(story, out, stack)
        with story.chapter("version 1", f"2. A vendor trains version 1 on {VENDOR_SITE}'s training patients only"):
            _first_version(story, out, hospitals[VENDOR_SITE])
            _run(story, coordinator, "delivery-1", base=f"{MODEL}@1", rounds=0)
        with story.chapter("reading", "3. Radiographs and other studies arrive by C-STORE and are read, or refused"):
            _read_all(story, hospitals)
        with story.chapter(
            "verdicts", "4. Clinicians give their verdicts; the errors go into each hospital's register"
        ):
            _verdicts(story, hospitals)
            objecting = _object(story, hospitals)
        with story.chapter("retraining", "5. A retraining: local errors weighted up, no image leaves"):
            journal = _run(story, coordinator, "retraining-1", base=f"{MODEL}@1", rounds=settings.rounds)
        with story.chapter("second reading", "6. The test patients' studies go through the nodes again"):
            _read_again(story, hospitals)
        with story.chapter("evaluate", "7. `vigie evaluate` gives the nodes' own scores"):
            difference = _evaluate(story, out, hospitals)
        story.seconds["total"] = round(time.monotonic() - began, 1)
        summary = _summary(story, coordinator, hospitals, journal, objecting, difference, memory)
        (out / "summary.json").write_text(summary.model_dump_json(indent=2))
        picture.draw(summary, out / "summary.png")
        _show(story, summary, out)
        if settings.keep:
            _keep(console, summary)
    return summary


def _end(_number: int, _frame: object) -> None:
    # through the exit stack, so that every child is stopped, and not again while that goes on
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(143)


# 0. Where the radiographs come from


def _data(settings: Settings, console: Console, out: Path) -> _Story:
    manifest = settings.data / "cxr" / "manifest.csv"
    real = not settings.phantoms and manifest.exists()
    if not real:
        why = "as asked" if settings.phantoms else f"there is no {manifest}"
        console.print(
            f"[yellow]Thorax phantoms instead of real radiographs ({why}): the figures mean nothing.[/yellow]"
        )
        manifest = phantoms.make(out / "phantoms", settings.seed, settings.limit)
    else:
        console.print(f"Real radiographs of three hospitals from {manifest.parent} (not for clinical use)")
    rows: dict[str, list[Row]] = {site: [] for site in SITES}
    for row in read(manifest):
        if row.site in rows:
            rows[row.site].append(row)
    if settings.limit:
        rows = {site: _both_labels(found, settings.limit) for site, found in rows.items()}
    return _Story(settings, console, rows, real)


def _both_labels(rows: Sequence[Row], limit: int) -> list[Row]:
    abnormal = [row for row in rows if row.positive][: limit // 2]
    return abnormal + [row for row in rows if not row.positive][: limit - len(abnormal)]


def _clear(out: Path) -> None:
    """Remove an earlier demonstration, and nothing else."""
    if out.exists() and any(out.iterdir()) and not (out / ".vigie-demo").exists():
        raise DemonstrationFailed(f"{out} holds something that is not a demonstration: choose another --out")
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / ".vigie-demo").touch()


# 1. Processes


def _start(story: _Story, out: Path, stack: ExitStack) -> tuple[Coordinator, dict[str, Hospital]]:
    folder = out / "coordinator"
    coordinator = create(folder, CoordinatorConfig(superlink_port=free_port(), mlflow_port=free_port()))
    files = make_server(folder / "pki")
    (out / "vendor").mkdir()
    make_key(out / "vendor" / "vendor.key")
    shutil.copy(out / "vendor" / "vendor.pub", folder / "trust")
    command = [sys.executable, "-m", "scripts.vigie", "coordinator", "run", "--folder", str(folder)]
    child = Child("coordinator", command, os.environ, folder / "logs" / "coordinator.log")
    stack.callback(child.stop)
    superlink = f"127.0.0.1:{coordinator.config.superlink_port}"
    keys = sorted((folder / "trust").glob("*.pub"))
    hospitals: dict[str, Hospital] = {}

    def open_hospital(site: str) -> None:
        hospitals[site] = start(
            site, out / "hospitals" / site, story.rows[site], superlink, files.ca, keys, story.settings.seed
        )

    stack.callback(_stop, hospitals)
    _together(open_hospital, SITES)
    log = folder / "logs" / "coordinator.log"
    child.wait_ready(lambda: log.exists() and "ready:" in log.read_text(), timeout=120.0)
    link = SuperLink(folder, coordinator.config.superlink_port)
    for site in SITES:
        link.register(site, hospitals[site].site.secrets / "supernode.key.pub")
        connect(hospitals[site])
        count = len(story.rows[site])
        story.console.print(
            f"  {site:<10} node :{hospitals[site].site.config.dicom_port}  worklist {hospitals[site].api}  "
            f"PACS {hospitals[site].pacs.name}  {count} radiographs"
        )
    story.console.print(
        "  each hospital agrees to retrainings and deliveries that fit the standing policy in its site.yaml:"
    )
    story.console.print(f"  {_policy(hospitals[SITES[0]].site.config.consent)}")
    story.console.print(f"  coordinator {superlink} (TLS, registered keys only), MLflow {coordinator.mlflow_uri}")
    return coordinator, {site: hospitals[site] for site in SITES}


def _policy(policy: ConsentConfig) -> str:
    return (
        f"{policy.standing} signed by {', '.join(policy.signers)}, {policy.most_retrainings} a year at most, of "
        f"{policy.most_rounds} rounds at most, with {policy.fewest_others} other hospitals at least, updates within a "
        f"norm of {policy.largest_norm:g}"
    )


def _stop(hospitals: dict[str, Hospital]) -> None:
    """All at the same time: each takes its seconds."""
    if hospitals:
        _together(lambda hospital: hospital.stop(), list(hospitals.values()))


# 2. Version 1


def _first_version(story: _Story, out: Path, hospital: Hospital) -> None:
    """The vendor had a copy of this hospital's training patients; of nobody else's, and of no gate or test patient."""
    manifest = out / "vendor" / "training.csv"
    training = [row for row in hospital.rows if hospital.fold(row) == "train"]
    with manifest.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "site", "label", "patient"))
        for row in training:
            label = "abnormal" if row.positive else "normal"
            writer.writerow((row.path.resolve(), row.site, label, row.patient))
    story.console.print(f"  {len(training)} images of {len({row.patient for row in training})} patients")
    overrides = [f"seed={story.settings.seed}"]
    if story.settings.steps:
        overrides.append(f"hyper.steps={story.settings.steps}")
    vendor = ["--manifest", str(manifest), "--out", str(out / "vendor" / "bundle")]
    _vigie(story, "version", "train", *vendor, "--key", str(out / "vendor" / "vendor.key"), *overrides)
    _vigie(story, "version", "register", "--folder", str(out / "coordinator"), str(out / "vendor" / "bundle"))


def _vigie(story: _Story, *arguments: str) -> None:
    """Run a command as a person would; its last line is shown."""
    done = subprocess.run(
        [sys.executable, "-m", "scripts.vigie", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise DemonstrationFailed(f"vigie {' '.join(arguments[:2])} ended with {done.returncode}: {done.stderr[-800:]}")
    lines = done.stdout.strip().splitlines()
    story.console.print(f"  vigie {' '.join(arguments[:2])}: {lines[-1] if lines else 'done'}")


def _run(story: _Story, coordinator: Coordinator, name: str, *, base: str, rounds: int) -> list[dict[str, Any]]:
    config = compose(
        "retraining",
        RetrainingConfig,
        [f"name={name}", f"base={base}", f"rounds={rounds}", f"seed={story.settings.seed}"],
    )
    lines = launch(coordinator, plan_of(config, coordinator), lambda line: story.console.print(f"  {told(line)}"))
    decided = next(line for line in lines if line["step"] == "decisions")
    if decided["failures"]:
        raise DemonstrationFailed(f"{name}: no decision from {decided['failures']}")
    return lines


# 3. Reading


def _read_all(story: _Story, hospitals: dict[str, Hospital]) -> None:
    _send(story, hospitals, lambda hospital: hospital.rows, sending=1)
    for site, hospital in hospitals.items():
        states = hospital.states()
        sent = hospital.sent["sending 1"]
        if sum(states.values()) != sent or set(states) - {"scored", "refused"}:
            raise DemonstrationFailed(f"{site}: {sent} studies were sent, the worklist says {dict(states)}")
        story.console.print(f"  {site:<10} {sent} studies acknowledged: " + _counts(states))
        for reason, count in _refusals(hospital).items():
            story.console.print(f"  {'':<10} refused: {reason} ({count})")


def _send(
    story: _Story, hospitals: dict[str, Hospital], rows: Callable[[Hospital], Sequence[Row]], sending: int
) -> None:
    """All hospitals at the same time, each until its results are in its PACS."""

    def work(hospital: Hospital) -> None:
        before = hospital.done()
        hospital.send(rows(hospital), story.settings.seed, sending, with_off_scope=sending == 1)
        hospital.wait_for(before + hospital.sent[f"sending {sending}"])

    def progress() -> None:
        done = ", ".join(f"{site} {hospital.done()}" for site, hospital in hospitals.items())
        story.console.print(f"  [dim]studies done: {done}[/dim]")

    _together(work, list(hospitals.values()), progress)


def _together(work: Callable[[T], None], items: Sequence[T], progress: Callable[[], None] | None = None) -> None:
    """Do something for every hospital at the same time; the first that fails ends it.

    Args:
        progress: called every ten seconds.
    """
    pool = ThreadPoolExecutor(len(items))
    waiting = {pool.submit(work, item) for item in items}
    pool.shutdown(wait=False)  # not waited for after a failure: the others end when their hospitals are stopped
    while waiting:
        done, waiting = wait(waiting, timeout=10, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
        if waiting and progress is not None:
            progress()


def _refusals(hospital: Hospital) -> Counter[str]:
    found: Counter[str] = Counter()
    for study in hospital.worklist():
        if study["status"] == "refused":
            found[", ".join(sorted(reason["code"] for reason in study["reasons"]))] += 1
    return found


# 4. Verdicts


def _verdicts(story: _Story, hospitals: dict[str, Hospital]) -> None:
    _together(lambda hospital: _read_as_truth(story, hospital), list(hospitals.values()))
    for site, hospital in hospitals.items():
        harm.advance(hospital.site)  # its node has done so, or is about to
        for alarm in harm.alarms(hospital.site):
            stopped = ", and is suspended" if alarm.version.digest in suspensions.standing(hospital.site) else ""
            story.console.print(f"  {site:<10} [red]alarm[/red]: {alarm.text}{stopped}")
        wrong = register.errors(hospital.site)
        tiers = Counter(str(error.tier) for error in wrong)
        story.console.print(f"  {site:<10} {len(wrong)} errors of version 1 in the register ({_counts(tiers)})")


def _read_as_truth(story: _Story, hospital: Hospital) -> None:
    """The true label speaks as the reader: AI hidden for the random sample, AI in view for training patients."""
    truth = {study_uid(story.settings.seed, row, 1): row for row in hospital.rows}
    with hospital.client() as client:
        for number, study in enumerate(hospital.worklist()):
            row = truth.get(study["uid"])
            if row is None or not study["result"]:
                continue
            right = study["result"]["positive"] == row.positive
            hidden = hospital.fold(row) != "train"
            body: dict[str, Any] = {
                "revision": study["revision"],
                "decision": "agree" if right else "reject" if number % 20 == 0 else "correct",
                "answer": "positive" if row.positive else "negative",
                "tier": "single_reader" if hidden else "ai_visible",
                "mode": "doctor_first" if hidden else "ai_first",
            }
            if not right:
                body["reason"] = "subtle" if row.positive else "overlap"
            answer = client.post(f"/api/studies/{study['uid']}/verdicts", json=body)
            if answer.status_code >= 400:
                raise DemonstrationFailed(f"{hospital.name}: a verdict was refused: {answer.text[:300]}")


def _object(story: _Story, hospitals: dict[str, Hospital]) -> dict[str, int]:
    """One training patient of each hospital objects to reuse; returns how many cases that leaves out."""
    left_out: dict[str, int] = {}
    for site, hospital in hospitals.items():
        row = next(row for row in hospital.rows if hospital.fold(row) == "train")
        with hospital.client() as client:
            answer = client.post("/api/objections", json={"patient_id": row.patient, "issuer": site.upper()})
        if answer.status_code >= 400:
            raise DemonstrationFailed(f"{site}: an objection was refused: {answer.text[:300]}")
        left_out[site] = sum(case.objects for case in register.cases(hospital.site))
        story.console.print(f"  {site:<10} one patient objects to reuse: {left_out[site]} case(s) left out of training")
    return left_out


# 6. Again


def _read_again(story: _Story, hospitals: dict[str, Hospital]) -> None:
    _send(story, hospitals, lambda hospital: _test_rows(hospital), sending=2)
    for site, hospital in hospitals.items():
        mended, new, refused = _changes(story, hospital)
        served = next(iter(versions.panel(hospital.site)), None)
        label = f"{served.name}@{served.number}" if served else "none"
        said = f"{mended} errors mended, {new} newly made, {refused} refused"
        story.console.print(f"  {site:<10} read by {label}: {said}")


def _test_rows(hospital: Hospital) -> list[Row]:
    return [row for row in hospital.rows if hospital.fold(row) == "test"]


def _changes(story: _Story, hospital: Hospital) -> tuple[int, int, int]:
    """What the second sending has right that the first had wrong, the other way round, and what one of them refused."""
    answers = {study["uid"]: study["result"]["positive"] for study in hospital.worklist() if study["result"]}
    mended = new = refused = 0
    for row in _test_rows(hospital):
        first, second = (answers.get(study_uid(story.settings.seed, row, sending)) for sending in (1, 2))
        if first is None or second is None:
            refused += 1
            continue
        mended += second == row.positive and first != row.positive
        new += first == row.positive and second != row.positive
    return mended, new, refused


# 7. Evaluate


def _evaluate(story: _Story, out: Path, hospitals: dict[str, Hospital]) -> float:
    """Version 1 on every test patient's picture, from the files, against what the nodes answered by DICOM."""
    manifest, report = out / "test.csv", out / "evaluate.json"
    with manifest.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "site", "label", "patient"))
        for hospital in hospitals.values():
            for row in _test_rows(hospital):
                label = "abnormal" if row.positive else "normal"
                writer.writerow((row.path.resolve(), row.site, label, row.patient))
    version = ["--version", f"{MODEL}@1", "--folder", str(out / "coordinator")]
    _vigie(story, "evaluate", *version, "--manifest", str(manifest), "--out", str(report))
    scores = {site: found["scores"] for site, found in json.loads(report.read_text())["sites"].items()}
    worst = 0.0
    for site, hospital in hospitals.items():
        answers = {study["uid"]: study["result"]["score"] for study in hospital.worklist() if study["result"]}
        for row in _test_rows(hospital):
            # node and evaluation both refuse a picture that is unlike the cohort
            expected = answers.get(study_uid(story.settings.seed, row, 1))
            given = scores.get(site, {}).get(str(row.path.resolve()))
            if expected is not None and given is not None:
                worst = max(worst, abs(given - expected))
    story.console.print(f"  largest difference {worst:.1e}")
    if worst > 1e-4:
        raise DemonstrationFailed(f"evaluate differs from the nodes by {worst:.2g}")
    return worst


# The end


def _summary(
    story: _Story,
    coordinator: Coordinator,
    hospitals: dict[str, Hospital],
    journal: Sequence[dict[str, Any]],
    objecting: dict[str, int],
    difference: float,
    memory: "Memory",
) -> Summary:
    steps = {line["step"]: line for line in journal}
    digest = steps["candidate"]["digest"]
    # what the hospitals themselves saw: small counts do not leave them, so that the coordinator knows less
    evidence = {site: evidence_held(hospital.site, digest) for site, hospital in hospitals.items()}
    decisions = steps["decisions"]["decisions"]
    gate = steps["release-gate"]
    addresses = {"MLflow": coordinator.mlflow_uri, "SuperLink": f"127.0.0.1:{coordinator.config.superlink_port}"}
    for site, hospital in hospitals.items():
        addresses[f"{site} worklist"] = hospital.api
        addresses[f"{site} DICOM"] = f"{hospital.site.config.ae_title}@127.0.0.1:{hospital.site.config.dicom_port}"
    return Summary(
        vigie=installed("vigie"),
        data="real radiographs" if story.real else "phantoms",
        seed=story.settings.seed,
        rounds=story.settings.rounds,
        version_1=f"{MODEL}@1",
        version_2=steps["candidate"]["label"],
        released=gate["released"],
        release_reasons=gate["reasons"],
        hospitals={
            site: _hospital_summary(story, hospital, evidence[site], decisions[site], objecting[site])
            for site, hospital in hospitals.items()
        },
        evaluate_agrees_to=difference,
        seconds=story.seconds,
        round_seconds=[line["seconds"] for line in journal if line["step"] == "round"],
        peak_memory_mib=round(memory.peak_mib, 1),
        peak_rss_sum_mib=round(memory.peak_sum_mib, 1),
        machine={
            "cores": os.cpu_count() or 0,
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "processor": platform.machine(),
            "system": platform.system(),
            "python": platform.python_version(),
        },
        addresses=addresses,
    )


def _hospital_summary(
    story: _Story, hospital: Hospital, evidence: Evidence, decision: dict[str, Any], objecting: int
) -> HospitalSummary:
    served = next(iter(versions.panel(hospital.site)), None)
    mended, new, refused = _changes(story, hospital)
    patients = {row.patient: hospital.fold(row) for row in hospital.rows}
    states = hospital.states()
    from sqlalchemy import func, select

    from client.store.tables import delivery, verdict

    with hospital.site.database.read() as connection:
        delivered = connection.execute(select(func.count()).where(delivery.c.state == "sent")).scalar_one()
        given = connection.execute(select(verdict.c.decision, func.count()).group_by(verdict.c.decision)).all()
    return HospitalSummary(
        patients=dict(sorted(Counter(patients.values()).items())),
        studies={"sent": hospital.sent.total(), **dict(sorted(states.items()))},
        refusals=dict(_refusals(hospital)),
        pacs=hospital.pacs.name,
        delivered=int(delivered),
        in_pacs=hospital.pacs.received(),
        verdicts={str(row[0]): int(row[1]) for row in given},
        errors_of_version_1=len(register.errors(hospital.site)),
        left_out_objecting=objecting,
        before=_performances(evidence.served_gate, evidence.served_test),
        after=_performances(evidence.candidate_gate, evidence.candidate_test),
        decision=decision["outcome"],
        decision_reasons=decision["reasons"],
        served=f"{served.name}@{served.number}" if served else "none",
        mended=mended,
        new_errors=new,
        refused_test_studies=refused,
        crossed=hospital.crossings(),
        ledger_holds=hospital.site.ledger.first_break() is None,
    )


def _performances(gate: Measure | None, test: Measure | None) -> dict[str, Performance]:
    return {name: _performance(found) for name, found in (("gate", gate), ("test", test)) if found is not None}


def _performance(measure: Measure) -> Performance:
    values = figures(measure)

    def figure(name: str) -> Figure:
        parts = [values.get(key) for key in (name, f"{name}_low", f"{name}_high")]
        known = all(part is not None and part == part for part in parts)
        return Figure(value=parts[0], low=parts[1], high=parts[2]) if known else Figure(value=None, low=None, high=None)

    return Performance(
        n=measure.n,
        n_positive=measure.n_positive,
        threshold=measure.threshold,
        sensitivity=figure("sensitivity"),
        specificity=figure("specificity"),
        vendor_sensitivity=figure("vendor_sensitivity"),
        vendor_specificity=figure("vendor_specificity"),
        auc=figure("auc"),
    )


def _show(story: _Story, summary: Summary, out: Path) -> None:
    console = story.console
    console.print(
        f"\n[bold]What came of it[/bold] (test patients, 95 % intervals, as each hospital knows them; {summary.data})"
    )
    table = Table("hospital", "version", "AUC", "sensitivity", "specificity", "mended", "new errors", "decision")
    for site, found in summary.hospitals.items():
        for label, performance in ((summary.version_1, found.before), (summary.version_2, found.after)):
            test = performance.get("test")
            second = label == summary.version_2
            table.add_row(
                "" if second else site,
                label.removeprefix(f"{MODEL}@"),
                *(
                    [_interval(test.auc), _interval(test.sensitivity), _interval(test.specificity)]
                    if test
                    else ["-"] * 3
                ),
                str(found.mended) if second else "",
                str(found.new_errors) if second else "",
                f"{found.decision} ({', '.join(found.decision_reasons)})" if second else "",
            )
    console.print(table, soft_wrap=False)
    crossed = Table("hospital", "crossed the border", "messages", "bytes")
    for site, found in summary.hospitals.items():
        for number, (what, total) in enumerate(found.crossed.items()):
            crossed.add_row("" if number else site, what, str(total["messages"]), f"{total['bytes']:,}")
    console.print(crossed, soft_wrap=False)
    console.print(
        f"{summary.seconds['total']:.0f} s, peak memory {summary.peak_memory_mib / 1024:.1f} GiB; "
        f"everything lies in {out}: summary.json, summary.png, hospitals/, coordinator/"
    )


def _interval(figure: Figure) -> str:
    return "-" if figure.value is None else f"{figure.value:.3f} ({figure.low:.2f} to {figure.high:.2f})"


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counter.items())) or "none"


def _keep(console: Console, summary: Summary) -> None:
    console.print(
        "\n[bold]Left running[/bold]; stop with Ctrl-C. The reader's token is in each hospital's reader.token"
    )
    for name, address in summary.addresses.items():
        console.print(f"  {name:<24} {address}")
    wait_for_signal()
