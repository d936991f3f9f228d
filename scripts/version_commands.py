"""`vigie version …` and `vigie evaluate`: making, listing and judging model versions."""

import hashlib
import json
import re
import sys
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from models.bundle import Bundle
    from models.intended_use import IntendedUse
    from models.quantizing import Judged
    from server.registry import Registry

app = typer.Typer(no_args_is_help=True, help="Model versions. Example: vigie version list --folder coordinator")
DEFAULT_COORDINATOR = Path("runs/demo/coordinator")
Folder = Annotated[Path, typer.Option("--folder", envvar="VIGIE_COORDINATOR", help="the coordinator's folder")]


@app.command()
def train(
    manifest: Annotated[Path, typer.Option(help="CSV with the columns file,site,label,patient")],
    out: Annotated[Path, typer.Option(help="the bundle's folder, made")],
    key: Annotated[Path, typer.Option(help="signing key; made, with its .pub, if it is not there")],
    calibration: Annotated[
        Path | None, typer.Option(help="CSV of other patients: what the version's scores mean among them")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="of configs/version.yaml, KEY=VALUE")] = None,
) -> None:
    """Train a first version on labelled images, pack and sign it; the signer's name is the key's file name.

    Example: vigie version train --manifest images/manifest.csv --out bundle --key vendor.key
    """
    from configs.schema import VersionConfig, compose
    from models.manifest import read
    from models.signing import make_key
    from server.vendor import train_first

    config = compose("version", VersionConfig, overrides or [])
    rows = list(read(manifest))
    held_out = list(read(calibration)) if calibration else []

    def progress(step: int, steps: int, loss: float) -> None:
        if step % 20 == 0 or step == steps:
            print(f"step {step} of {steps}, loss {loss:.3f}", flush=True)

    bundle = train_first(config, rows, out, make_key(key), key.stem, progress, held_out)
    print(f"{bundle.facts.label} {bundle.digest}")


@app.command()
def pack(
    onnx: Annotated[Path, typer.Option(help="network: image (n, 1, *window) to logits (n, channels, *window)")],
    facts: Annotated[Path, typer.Option(help="JSON: what the version says of itself, with a segmentation block")],
    preprocessing: Annotated[Path, typer.Option(help="JSON: list, or Compose, of MONAI transforms of the intensities")],
    card: Annotated[Path, typer.Option(help="the model card, Markdown")],
    out: Annotated[Path, typer.Option(help="the bundle's folder, made")],
    key: Annotated[Path, typer.Option(help="signing key; made, with its .pub, if it is not there")],
    volumes: Annotated[
        Path | None,
        typer.Option(
            help="CSV with the columns folder,patient, a DICOM series a row: fits the check that refuses series unlike "
            "these, of 60 patients at least; without it the version ships none"
        ),
    ] = None,
) -> None:
    """Pack and sign a version that outlines in volumes, made elsewhere; the signer's name is the key's file name.

    Example: vigie version pack --onnx network.onnx --facts facts.json --preprocessing preprocessing.json
    --card card.md --volumes training/volumes.csv --out bundle --key vendor.key
    """
    from pydantic import ValidationError

    from client.inference import cohort
    from models.bundle import Facts
    from models.errors import ConfigurationError
    from models.packing import pack_segmentation
    from models.preprocessing import Preprocessing, declared
    from models.signing import make_key
    from models.validation import told

    try:
        said = Facts.model_validate_json(facts.read_bytes())
        steps = json.loads(preprocessing.read_bytes())
        network, text = onnx.read_bytes(), card.read_text(encoding="utf-8")
    except ValidationError as error:
        raise ConfigurationError(f"{facts}: {told(error)}") from error
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"a file of the version cannot be read: {error}") from error
    if out.exists():  # before the cohort is read, not after it
        raise ConfigurationError(f"{out} is there already")
    declaration = Preprocessing(declared(steps))
    declaration.prove(said.input_shape, volumes=True)  # before the cohort, too
    novelty = cohort.fit_novelty(cohort.read(volumes), said) if volumes else None
    bundle = pack_segmentation(out, said, network, declaration, text, make_key(key), key.stem, novelty=novelty)
    print(f"{bundle.facts.label} {bundle.digest}")
    check = f"series beyond a distance of {novelty.limit:.2f} are refused" if novelty else "no image check is shipped"
    print(check)


@app.command()
def register(
    bundle: Annotated[Path, typer.Argument(help="a bundle's folder")],
    folder: Folder = DEFAULT_COORDINATOR,
) -> None:
    """Put a signed bundle into the registry; its signer's public key has to be in the coordinator's trust folder.

    Example: vigie version register --folder coordinator bundle
    """
    from models.bundle import verify
    from server.coordinator import Coordinator

    coordinator = Coordinator(folder.resolve())
    with registry_of(folder) as registry:
        registered = registry.register(verify(bundle, coordinator.trusted), {"origin": "vendor"})
    print(f"{registered.label} {registered.digest}")


@app.command()
def quantize(
    bundle: Annotated[Path, typer.Argument(help="the folder of a float32 version")],
    to: Annotated[str, typer.Option(help="int8 or float16")],
    out: Annotated[Path, typer.Option(help="the new bundle's folder, made")],
    key: Annotated[Path, typer.Option(help="signing key")],
    number: Annotated[int, typer.Option(help="of the new version; 0: the base's and one")] = 0,
    manifest: Annotated[
        Path | None, typer.Option(help="CSV as for train: half of the patients calibrate, the others judge")
    ] = None,
    tensors: Annotated[
        Path | None, typer.Option(help="preprocessed images (N, ...) as .npy, to calibrate with instead")
    ] = None,
    trust: Annotated[Path | None, typer.Option(help="folder of NAME.pub, where another key signed the base")] = None,
) -> None:
    """Make the same network in fewer bits: another version, signed, which every hospital's gate judges anew.

    Example: vigie version quantize bundle --to int8 --out bundle-int8 --key vendor.key --manifest images/manifest.csv
    """
    import numpy as np

    from client.inference import contest
    from client.inference.engine import Engine
    from models import quantizing
    from models.bundle import verify
    from models.signing import load_key, load_trust

    signing_key = load_key(key)
    base = verify(bundle, (load_trust(trust) if trust else {}) | {key.stem: signing_key.public_key()})
    calibration, judged = _images(base, manifest, tensors)
    made, found = quantizing.quantize(
        base,
        out,
        cast("quantizing.Precision", to),
        number or base.facts.number + 1,
        signing_key,
        key.stem,
        calibration,
        judged,
    )
    print(f"{made.facts.label} {made.digest}")
    print(found.text)
    if base.facts.segmentation is None:
        engines = {one.facts.precision: Engine(one) for one in (base, made)}
        image = np.zeros(base.facts.input_shape, np.float32)
        timed = contest.by_turns({name: {1: partial(one.run, image)} for name, one in engines.items()})
        print(", ".join(f"{name} {sizes[1]:.2f} ms an image here" for name, sizes in timed.items()))


def _images(
    base: "Bundle", manifest: Path | None, tensors: Path | None
) -> "tuple[NDArray[np.float32] | None, Judged | None]":
    """What calibrates, and what judges: other patients."""
    import numpy as np

    from client.inference.evaluation import Problem, prepared
    from models.errors import ConfigurationError
    from models.manifest import read
    from models.preprocessing import Preprocessing
    from models.quantizing import MAX_CALIBRATION, Judged

    if manifest is not None and tensors is not None:
        raise ConfigurationError("--manifest or --tensors, not both")
    if tensors is not None:
        try:
            return np.asarray(np.load(tensors, allow_pickle=False), np.float32), None
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{tensors} holds no array: {error}") from error
    if manifest is None:
        return None, None
    if base.facts.segmentation is not None:
        raise ConfigurationError("a manifest lists pictures: give windows of volumes as --tensors")
    problems: list[Problem] = []
    calibrating: list[NDArray[np.float32]] = []
    judging: list[NDArray[np.float32]] = []
    positive: list[bool] = []
    for one in prepared(read(manifest), Preprocessing(base.preprocessing), base.read_novelty(), problems):
        if one.reason is not None:
            continue  # no hospital would read it
        # by the patient's name alone, so that no patient is on both sides and the same half calibrates every time
        if hashlib.sha256(one.row.patient.encode()).digest()[0] % 2:
            judging.append(one.tensor)
            positive.append(one.row.positive)
        elif len(calibrating) < MAX_CALIBRATION:
            calibrating.append(one.tensor)
    for problem in problems:
        print(f"line {problem.line}: {problem.file}: {problem.reason}", file=sys.stderr)
    if not calibrating or not judging:
        raise ConfigurationError(f"{manifest}: too few patients: some calibrate, others judge")
    return np.stack(calibrating), Judged(np.stack(judging), np.array(positive))


@app.command()
def explain(
    bundle: Annotated[
        Path | None, typer.Argument(help="a bundle's folder; none: the intended use of the settings")
    ] = None,
    try_on: Annotated[Path | None, typer.Option(help="a folder of DICOM files to hold it against")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="of configs/version.yaml, KEY=VALUE")] = None,
) -> None:
    """Say an intended use in sentences, and which files of a folder it would let through; no image is scored.

    Ends with 1 where a clause can never be met. Example: vigie version explain --try-on images
    """
    from models.intended_use import problems, sentences

    use = _intended_use(bundle, overrides or [])
    for sentence in sentences(use):
        print(sentence)
    wrong = problems(use)
    for problem in wrong:
        print(f"wrong: {problem}", file=sys.stderr)
    if try_on is not None:
        _hold_against(use, try_on)
    if wrong:
        raise typer.Exit(1)


@app.command("list")
def list_all(name: str = "chest-radiograph", folder: Folder = DEFAULT_COORDINATOR) -> None:
    """List a model's versions with lineage and decisions.

    Example: vigie version list --folder coordinator --name chest-radiograph
    """
    with registry_of(folder) as registry:
        for version in registry.versions(name):
            tags = version.tags
            print(f"{version.label}  {version.digest[:12]}…  parent {tags['parent'][:12]}")
            for key in sorted(tags):
                if key.startswith(("release", "decision", "retraining", "sites", "rounds", "withdrawn")):
                    print(f"    {key}: {tags[key]}")


@app.command()
def lineage(
    version: Annotated[str, typer.Argument(help="NAME of a model, or NAME@N for what one came from and led to")],
    folder: Folder = DEFAULT_COORDINATOR,
    output: Annotated[Path | None, typer.Option(help="FILE.svg (to print or show), FILE.json or FILE.txt")] = None,
) -> None:
    """Draw where versions come from: parents, retrainings, hospitals with figures before and after, decisions.

    Example: vigie version lineage chest-radiograph --folder coordinator --output lineage.svg
    """
    from dataclasses import asdict

    from models.errors import ConfigurationError
    from server.drawing import svg
    from server.lineage import lineage as of_all
    from server.lineage import lines

    if output is not None and output.suffix not in (".svg", ".json", ".txt"):
        raise ConfigurationError(f"{output}: name a file that ends with .svg, .json or .txt")
    name = version.partition("@")[0]
    with registry_of(folder) as registry:
        found = of_all(name, registry.known(name))
    if "@" in version:
        found = found.of(version)
    match output.suffix if output else ".txt":
        case ".svg":
            text = svg(found)
        case ".json":
            text = json.dumps(asdict(found), indent=2) + "\n"
        case _:
            text = "\n".join(lines(found)) + "\n"
    if output is None:
        print(text, end="")
        return
    try:
        output.write_text(text)
    except OSError as error:
        raise ConfigurationError(f"{output} cannot be written: {error.strerror}") from error


@app.command()
def trace(
    result: Annotated[str, typer.Argument(help="a DICOM file of ours, a version's digest, or its device UID")],
    folder: Folder = DEFAULT_COORDINATOR,
) -> None:
    """Say which version made a result, and which rounds, hospitals and decisions are behind it, back to the first one.

    Of a file only what names the version is read. Example: vigie version trace --folder coordinator report.dcm
    """
    from models.errors import NotFound
    from server.lineage import Lineage, lines
    from server.lineage import lineage as of_all

    digest, device = _origin(result)
    with registry_of(folder) as registry:
        form = ""
        try:
            found = registry.find_digest(digest) if digest else registry.find_device(device)
        except NotFound:
            found, site, own = registry.find_form(digest, device)
            form = f"{found.label}+local, {site}'s own form of it\ndigest {own}\nform of {found.digest}"
        everything = of_all(found.name, registry.known(found.name))
        ancestors = everything.ancestors(found.label)
        rounds = {one.label: registry.rounds(registry.find(one.label)) for one in ancestors if one.made_by}
    print(f"made by {form}" if form else f"made by {found.label}\ndigest {found.digest}")
    for one in ancestors:
        for line in lines(Lineage(one.label, (one,))):
            print(line)
        for told in rounds.get(one.label, []):
            sites = ", ".join(f"{site} {said['cases']} cases" for site, said in sorted(told["sites"].items()))
            missing = "".join(f"; {site}: {code}" for site, code in sorted(told["failures"].items()))
            print(f"    round {told['round']}: {sites}{missing}")


@app.command()
def withdraw(
    version: Annotated[str, typer.Argument(help="NAME@N")],
    reason: Annotated[str, typer.Option(help="for people; nothing of a patient")],
    folder: Folder = DEFAULT_COORDINATOR,
) -> None:
    """Take a version out: it is not offered, released or trained from again, and reads no further study at hospitals.

    Hospitals that are connected are told at once, also while they train, the others as soon as they call while `vigie
    coordinator run` runs. Given again, it shows who has confirmed.

    Example: vigie version withdraw chest-radiograph@2 --reason "wrong threshold" --folder coordinator
    """
    from server import errands, withdrawal
    from server.coordinator import Coordinator
    from server.superlink import SuperLink, SuperLinkRefused

    coordinator = Coordinator(folder.resolve())
    reason = withdrawal.require_reason(reason)
    with registry_of(folder) as registry:
        found = registry.find(version)
        former = registry.withdraw(found, reason)
    withdrawal.announce(coordinator, found, reason)
    print(f"{found.label} is withdrawn; released is {former.label if former else 'no other version'}", flush=True)
    if withdrawal.untold(coordinator.folder, found.digest):
        try:
            config = coordinator.config
            errands.run(SuperLink(coordinator.folder, config.superlink_port, config.host), "withdrawals")
        except SuperLinkRefused as error:
            print(f"nobody can be told now: {error}", file=sys.stderr)
    for site, word in withdrawal.said(coordinator.folder, found.digest).items():
        print(f"  {site:<22} {_MEANS.get(word, f'{word}: asked again every now and then')}")
    for site, word in withdrawal.untold(coordinator.folder, found.digest).items():
        if not word:
            print(f"  {site:<22} not reached yet: told when it calls, while `vigie coordinator run` runs")


_MEANS = {
    "withdrawn": "reads no study with it any more",
    "waiting": "a person there has to decide; it goes on until then",
    "kept": "a person there has decided to keep it",
    "not-held": "does not have it",
}


def evaluate(
    version: Annotated[str, typer.Option(help="NAME@NUMBER of the registry, or a bundle's folder")],
    manifest: Annotated[Path, typer.Option(help="CSV with the columns file,site,label,patient")],
    out: Annotated[Path, typer.Option(help="JSON to write")],
    folder: Folder = DEFAULT_COORDINATOR,
    trust: Annotated[Path | None, typer.Option(help="folder of NAME.pub; for a bundle's folder")] = None,
    threads: int = 2,
) -> None:
    """Score a folder of labelled images with a version, as the node would, and sum up per site.

    What the node would refuse by its pixels counts in no figure; it is counted beside them and named in the file. Ends
    with 1 where an image could not be scored: all others are in the file, and it is named there and here.

    Example: vigie evaluate --version chest-radiograph@2 --manifest images/manifest.csv --out scores.json
    """
    from client.inference.evaluation import evaluate as run
    from models.errors import ConfigurationError
    from models.manifest import read

    rows = list(read(manifest))
    if not rows:
        raise ConfigurationError(f"{manifest} has no row")

    def progress(done: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{done} of {len(rows)} images", end="", file=sys.stderr, flush=True)

    report = run(_bundle(version, folder, trust), rows, threads=threads, on_progress=progress)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=2))
    except OSError as error:
        raise ConfigurationError(f"{out} cannot be written: {error.strerror}") from error
    for site, found in report["sites"].items():
        area = found["auc"]
        text = (
            f"AUC {area['value']:.3f} ({area['low']:.3f} to {area['high']:.3f})" if area else "AUC - (one class only)"
        )
        refused = ", ".join(f"{count} {code}" for code, count in sorted(found["refused"].items()))
        print(f"{site:<20} n {found['n']:>5}  {text}" + (f"  refused: {refused}" if refused else ""))
    for problem in report["problems"]:
        print(f"line {problem['line']}: {problem['file']}: {problem['reason']}", file=sys.stderr)
    if report["problems"]:
        raise typer.Exit(1)


def _intended_use(bundle: Path | None, overrides: list[str]) -> "IntendedUse":
    """Of a bundle that need not be signed yet by anyone trusted here, or of the settings."""
    from pydantic import ValidationError

    from configs.schema import VersionConfig, compose
    from models.bundle import Facts
    from models.errors import ConfigurationError
    from models.intended_use import IntendedUse
    from models.validation import told

    try:
        if bundle is None:
            return IntendedUse.model_validate(compose("version", VersionConfig, overrides).intended_use)
        metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
        return Facts.model_validate(metadata["vigie"]).intended_use
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise ConfigurationError(f"no readable intended use in {bundle or 'the settings'}: {told(error)}") from error


def _hold_against(use: "IntendedUse", folder: Path) -> None:
    """Print a line a file, and what required series the whole folder lacks, as if it were one study."""
    from pydicom.dataset import FileDataset

    from client.dicom import decode
    from client.inference.scope import Acquisition, InScope, check, missing_series
    from client.inference.spacing import by_positions
    from models.errors import InvalidStudy, NotFound

    if not folder.is_dir():
        raise NotFound(f"{folder} is not a folder")
    headers: dict[Path, FileDataset | InvalidStudy] = {}
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        try:
            headers[path] = decode.read_header(path)
        except InvalidStudy as error:
            headers[path] = error
    read = [header for header in headers.values() if not isinstance(header, InvalidStudy)]
    acquisitions = by_positions([(header, Acquisition.from_dataset(header)) for header in read])
    left = iter(acquisitions)
    for path, header in headers.items():
        name = path.relative_to(folder)
        if isinstance(header, InvalidStudy):
            print(f"{name}: {header}")
            continue
        found = check(use, next(left))
        reasons = "" if isinstance(found, InScope) else "; ".join(f"{one.code}: {one.text}" for one in found.reasons)
        print(f"{name}: {reasons or 'in scope'}")
    for reason in missing_series(use, acquisitions):
        print(f"{reason.code}: {reason.text}")


def _origin(result: str) -> tuple[str, str]:
    """Digest and device UID that a file, or what was typed, names; one of them may be empty."""
    from client.results.origin import origin
    from models.errors import NotFound

    path = Path(result)
    if path.is_file():
        found = origin(path)
        return found.digest, found.device
    if re.fullmatch(r"[0-9a-f]{64}", result):
        return result, ""
    if re.fullmatch(r"[0-9.]{1,64}", result):
        return "", result
    raise NotFound(f"{result!r} is no file, no digest (64 hex digits) and no UID")


@contextmanager
def registry_of(folder: Path) -> "Generator[Registry]":
    """The coordinator's registry; where its server is not running, one is started for as long as it is needed."""
    from models.children import free_port
    from server import tracking
    from server.coordinator import Coordinator
    from server.registry import Registry

    coordinator = Coordinator(folder.resolve())
    if tracking.runs(coordinator.storage, coordinator.config.mlflow_port):
        yield coordinator.registry
        return
    port = free_port()
    server = tracking.start(coordinator.folder, port, kept=coordinator.storage)
    try:
        yield Registry(f"http://127.0.0.1:{port}")
    finally:
        server.stop()


def _bundle(version: str, folder: Path, trust: Path | None) -> "Bundle":
    from models.bundle import verify
    from models.errors import NotFound
    from models.signing import load_trust
    from server.coordinator import Coordinator

    path = Path(version)
    if path.is_dir():
        # a bundle that lies in a site's or a coordinator's versions/ has its trust folder two levels up
        near = path.resolve().parent.parent / "trust"
        return verify(path, load_trust(trust or (near if near.is_dir() else folder / "trust")))
    if not (folder / "coordinator.yaml").exists():
        raise NotFound(f"{version!r} is no bundle's folder, and there is no coordinator in {folder}: say --folder")
    coordinator = Coordinator(folder.resolve())
    with registry_of(folder) as registry:
        return registry.fetch(registry.find(version), coordinator.versions, coordinator.trusted)
