"""What computes a version: only what gives its numbers here, the fastest of those, and said with the reasons.

GPUs are played by a runtime of our own at the edge to onnxruntime: what is tested is what the node makes of a provider
that is missing, falls back in silence, gives other numbers, or is right.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.inference import contest, providers, selection, torchscript
from client.inference.computing import Computation, OnnxOnDevice, OnnxRuntime, open_onnx, open_session
from client.inference.contest import Figures
from client.inference.engine import Engine
from client.inference.panel import Panel
from client.inference.providers import CPU, CUDA, TENSORRT, Named
from client.inference.selection import Demand, Installed
from client.inference.volume_engine import VolumeEngine
from client.store import versions
from client.store.site import Site
from models.bundle import Bundle, seal, verify
from models.errors import BundleRefused, ExportMismatch
from models.export import export_volume_onnx
from models.networks import build
from models.packing import pack_segmentation

Floats = NDArray[np.float32]


class Played:
    """A computation that says it is on a GPU and adds an error to each score's logit."""

    def __init__(self, name: str, real: Computation, off: float = 0.0) -> None:
        self.name = name
        self.registered: Sequence[str] = [name, CPU]
        self.placed: Mapping[str, int] = {name: 7}
        self.inputs = real.inputs
        self.outputs = real.outputs
        self.sizes: list[int] = []
        self.broken = False
        self._real = real
        self._off = off

    def run(self, outputs: Sequence[str], images: Floats) -> list[Floats]:
        self.sizes.append(len(images))
        if self.broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return [part + np.float32(self._off) for part in self._real.run(outputs, images)]


class Machine(Installed):
    """A machine with these GPU providers; each opens what is given for it, or raises it."""

    def __init__(self, **found: Callable[[Computation], Computation] | Exception) -> None:
        self._found = found
        self.opened: list[list[Named]] = []

    def available(self) -> Sequence[str]:
        return [CPU, *self._found]  # in no particular order

    def open(self, path: Path, stack: Sequence[Named], threads: int) -> Computation:
        self.opened.append(list(stack))
        real = open_onnx(path, [(CPU, {})], threads)
        if stack[0][0] == CPU:
            return real
        found = self._found[stack[0][0]]
        if isinstance(found, Exception):
            raise found
        return found(real)


@pytest.fixture
def bundle(bundle_folder: Path, vendor_key: Ed25519PrivateKey) -> Bundle:
    return verify(bundle_folder, {"vendor": vendor_key.public_key()})


def test_the_first_provider_that_gives_the_right_numbers_computes(bundle: Bundle, tmp_path: Path) -> None:
    gpu: list[Played] = []

    def right(real: Computation) -> Computation:
        gpu.append(Played(CUDA, real))
        return gpu[-1]

    machine = Machine(
        CUDAExecutionProvider=right,
        TensorrtExecutionProvider=lambda real: Played(TENSORRT, real, off=0.01),
    )
    engine = Engine(bundle, 1, tmp_path / "engines", machine)

    assert engine.provider == CUDA
    assert [stack[0][0] for stack in machine.opened] == [TENSORRT, CUDA]
    assert list(engine.selected.skipped) == [TENSORRT]
    assert "reference score differs" in engine.selected.text
    # every shape that a batch can have was run before the engine is handed over
    assert {1, 2, 4, 8, 16, 32} <= set(gpu[0].sizes)


@pytest.mark.parametrize(
    ("gives", "said"),
    [
        (lambda real: real, "left it out"),  # onnxruntime goes on with the processor and says nothing
        (RuntimeError("CUDA failure 35"), "cannot be loaded"),
        (lambda real: Played(CUDA, real, off=float("nan")), "no finite number"),
    ],
)
def test_what_does_not_compute_is_skipped_and_said(
    bundle: Bundle, gives: Callable[[Computation], Computation] | Exception, said: str
) -> None:
    engine = Engine(bundle, runtime=Machine(CUDAExecutionProvider=gives))

    assert engine.provider == CPU
    assert said in engine.selected.skipped[CUDA]
    assert said in engine.selected.text


def test_a_gpu_that_fails_while_it_serves_leaves_the_work_to_the_processor(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    gpu: list[Played] = []

    def sound(real: Computation) -> Computation:
        gpu.append(Played(CUDA, real))
        return gpu[-1]

    engine = Engine(bundle, runtime=Machine(CUDAExecutionProvider=sound))
    image = np.full(bundle.facts.input_shape, 0.6, np.float32)
    expected = engine.run(image).score
    assert engine.provider == CUDA

    gpu[0].broken = True

    assert engine.run(image).score == pytest.approx(expected, abs=1e-6)
    assert engine.provider == CPU
    assert "failed while it served" in engine.selected.skipped[CUDA]
    assert "CUDAExecutionProvider" in caplog.text


def test_a_provider_that_takes_no_operator_is_not_used(bundle: Bundle) -> None:
    def idle(real: Computation) -> Computation:
        played = Played(CUDA, real)
        played.placed = {CPU: 7}
        return played

    assert "no part" in Engine(bundle, runtime=Machine(CUDAExecutionProvider=idle)).selected.skipped[CUDA]


def test_the_installed_onnxruntime_falls_back_in_silence_and_is_caught(bundle: Bundle) -> None:
    """The real one: asked for a GPU that is not here, it computes on the processor."""

    class Boasting(Installed):
        def available(self) -> Sequence[str]:
            return [CUDA, CPU]

    with pytest.warns(UserWarning, match="not in available"):
        engine = Engine(bundle, runtime=Boasting())
    assert engine.provider == CPU
    assert "left it out" in engine.selected.skipped[CUDA]
    assert sum(engine.selected.computation.placed.values()) >= 5


def test_where_not_even_the_processor_is_right_the_version_is_refused(
    bundle: Bundle, vendor_key: Ed25519PrivateKey
) -> None:
    (bundle.folder / "reference" / "expected.json").write_text(json.dumps({"scores": [0.1, 0.2, 0.3]}))
    with pytest.raises(BundleRefused, match="reference score differs"):
        Engine(seal(bundle.folder, vendor_key, "vendor"), runtime=Machine(CUDAExecutionProvider=RuntimeError("no")))


def test_the_options_of_a_gpu_session(tmp_path: Path) -> None:
    stack = providers.stack(TENSORRT, [TENSORRT, CUDA, CPU], (1, 96, 64), 32, tmp_path)
    assert [name for name, _ in stack] == [TENSORRT, CUDA, CPU]
    options = stack[0][1]
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == str(tmp_path)
    assert options["trt_profile_min_shapes"] == "image:1x1x96x64"
    assert options["trt_profile_max_shapes"] == "image:32x1x96x64"
    # fewer bits are another version's
    assert (options["trt_fp16_enable"], options["trt_int8_enable"], stack[1][1]["use_tf32"]) == ("False", "False", "0")
    assert [name for name, _ in providers.stack(TENSORRT, [TENSORRT], (1, 8, 8), 1, None)] == [TENSORRT, CPU]
    assert providers.stack(CPU, [CUDA], (1, 8, 8), 1, None) == [(CPU, {})]
    assert providers.candidates([CPU, CUDA, "Other"]) == [CUDA, CPU]


def test_bound_buffers_give_what_a_plain_run_gives(bundle: Bundle) -> None:
    """The way of a GPU's batch, walked in the processor's memory: bound, padded, used again, copied out."""
    session = open_session(bundle.onnx, [(CPU, {})], 1)
    plain, bound = OnnxRuntime(session), OnnxOnDevice(session, "cpu")
    kept: list[tuple[Floats, Floats]] = []
    for count in (3, 1, 4, 3, 7, 1):
        images = np.random.default_rng(count).random((count, *bundle.facts.input_shape), np.float32)
        logit, cam = bound.run(("logit", "cam"), images)
        for found, expected in zip((logit, cam), plain.run(("logit", "cam"), images), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-6)
        kept.append((logit, logit.copy()))
        assert len(bound.run(("cam",), images)) == 1
    assert all((found == copied).all() for found, copied in kept), "a later batch wrote over an earlier answer"


# ── Which is faster ──────────────────────────────────────────────────────────────────────────────────────────────────


@given(usual=st.floats(0.1, 1e4), other=st.floats(0.1, 1e4))
def test_another_runtime_has_to_win_by_the_margin(usual: float, other: float) -> None:
    measured = Figures(ms={CPU: {1: usual}, "TorchScript": {1: other}})
    assert (measured.fastest(CPU) == "TorchScript") == (other <= 0.9 * usual)


@pytest.mark.parametrize(
    ("ms", "batch"), [({1: 10, 4: 30, 8: 50}, 8), ({1: 10, 4: 30, 8: 70}, 4), ({1: 10, 4: 39, 8: 79}, 1), ({1: 10}, 1)]
)
def test_images_wait_for_each_other_only_where_that_is_faster(ms: dict[int, float], batch: int) -> None:
    assert Figures(ms={CPU: ms}).batch(CPU) == batch


def test_turns_are_interleaved_and_the_median_forgets_a_busy_moment() -> None:
    now, order = 0.0, list[str]()

    def taking(name: str, *seconds: float) -> Callable[[], None]:
        durations = iter(seconds)

        def run() -> None:
            nonlocal now
            order.append(name)
            now += next(durations)

        return run

    contenders = {"a": {1: taking("a", 5, 1, 9, 1)}, "b": {1: taking("b", 5, 2, 2, 2)}}
    assert contest.by_turns(contenders, seconds=0, clock=lambda: now) == {"a": {1: 1000}, "b": {1: 2000}}
    assert order == ["a", "b"] * 4  # the first turn is not counted


def test_a_measurement_is_remembered_until_what_it_depends_on_changes(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, turns = tmp_path / "engines" / "version", list[int]()
    real = contest.by_turns
    monkeypatch.setattr(contest, "by_turns", lambda timed: (turns.append(1), real(timed, seconds=0))[1])

    first = Engine(bundle, 1, folder).selected
    assert first.measured is not None
    assert Engine(bundle, 1, folder).selected.measured == first.measured
    assert len(turns) == 1
    Engine(bundle, 2, folder)  # another number of threads
    assert len(turns) == 2
    Engine(bundle, 1, folder)  # and back: both are known
    assert len(turns) == 2
    for path in folder.parent.glob("*.json"):
        path.write_text("{half")
    Engine(bundle, 2, folder)
    assert len(turns) == 3
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    assert Engine(bundle, 1, blocked / "engines").provider == CPU  # nowhere to keep it: it computes all the same


# ── TorchScript, made here ───────────────────────────────────────────────────────────────────────────────────────────


def faster(bundle: Bundle, folder: Path, threads: int = 1, torchscript_ms: float = 1.0) -> None:
    """Let this machine remember that TorchScript took that long for such a network, and ONNX Runtime 2 ms."""
    usual = open_onnx(bundle.onnx, [(CPU, {})], threads)
    volume = bundle.facts.segmentation is not None
    sizes = (1,) if volume else (1, 4, 8)
    ms = {CPU: {1: 2.0, 4: 8.0, 8: 16.0}, torchscript.NAME: {1: torchscript_ms, 4: 4.0, 8: 4.0}}
    demand = Demand(bundle, (), threads, lambda _: 0.0, sizes)
    known = selection._circumstances(demand, usual, Installed())  # pyright: ignore[reportPrivateUsage]
    contest.remember(folder, known, Figures(ms=ms))


def test_torchscript_computes_where_it_was_measured_to_be_faster(residual: Bundle, tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(size=(5, 1, 64, 64)).astype(np.float32)
    by_onnx = Engine(residual)
    folder = tmp_path / "version"
    faster(residual, folder, torchscript_ms=1.0)

    engine = Engine(residual, 1, folder)

    assert (engine.provider, engine.batch) == (torchscript.NAME, 8)
    np.testing.assert_allclose(engine.scores(images), by_onnx.scores(images), atol=1e-5)
    for one, other in zip(engine.run_many(list(images)), by_onnx.run_many(list(images)), strict=True):
        np.testing.assert_allclose(one.cam, other.cam, atol=1e-4)
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]  # nothing that could be run is kept
    faster(residual, folder, torchscript_ms=1.9)  # not by the margin
    assert Engine(residual, 1, folder).provider == CPU


def test_both_are_measured_when_a_version_is_adopted(residual: Bundle, tmp_path: Path) -> None:
    selected = Engine(residual, 1, tmp_path / "version").selected

    assert selected.measured is not None
    assert set(selected.measured.ms) == {CPU, torchscript.NAME}
    assert selected.computation.name == selected.measured.fastest(CPU)
    for name in (CPU, torchscript.NAME):
        assert f"{name} {selected.measured.ms[name][1]:.2f} ms" in selected.text


def test_a_retrained_version_of_a_known_architecture_is_not_measured_again(
    residual: Bundle, vendor_key: Ed25519PrivateKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It still passes its own reference cases, with each computation that is used for it."""
    import torch

    from models.packing import pack
    from models.preprocessing import Preprocessing

    facts = residual.facts.model_copy(update={"number": 2})
    torch.manual_seed(1)
    steps = Preprocessing(residual.preprocessing)
    network = build("residual", **facts.network_facts)
    retrained = pack(tmp_path / "retrained", facts, network, steps, "# The card", vendor_key, "vendor")
    engines, turns, tested = tmp_path / "engines", list[int](), list[str]()
    real, passed = contest.by_turns, Engine._differs  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(contest, "by_turns", lambda timed: (turns.append(1), real(timed, seconds=0))[1])

    def differs(engine: Engine, computation: Computation, *cases: object) -> float:
        tested.append(f"{engine.bundle.facts.number} {computation.name}")
        return passed(engine, computation, *cases)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Engine, "_differs", differs)
    first = Engine(residual, 1, engines / residual.digest).selected
    second = Engine(retrained, 1, engines / retrained.digest).selected

    assert len(turns) == 1
    assert second.measured == first.measured
    assert second.computation.name == first.computation.name
    assert f"2 {second.computation.name}" in tested
    other = pack(
        tmp_path / "wider",
        facts.model_copy(update={"network_facts": {"channels": [8, 8, 16, 24], "groups": 4}}),
        build("residual", channels=[8, 8, 16, 24], groups=4),
        steps,
        "# The card",
        vendor_key,
        "vendor",
    )
    Engine(other, 1, engines / other.digest)
    assert len(turns) == 2  # another architecture


def test_weights_that_are_not_the_file_s_never_compute(
    residual: Bundle, vendor_key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(residual.folder, tmp_path / "version"))
    weights = residual.read_weights()
    np.savez(folder / "models" / "weights.npz", **{name: value * 1.5 for name, value in weights.items()})
    bundle = seal(folder, vendor_key, "vendor")
    engines = tmp_path / "engines"
    faster(residual, engines / residual.digest)  # of the same architecture

    assert Engine(bundle, 1, engines / bundle.digest).provider == CPU
    shutil.rmtree(engines)
    measured = Engine(bundle, 1, engines / bundle.digest).selected.measured
    assert measured is not None
    assert "differs" in measured.refused[torchscript.NAME]
    sound = Engine(residual, 1, engines / residual.digest).selected.measured
    assert sound is not None
    assert set(sound.ms) == {CPU, torchscript.NAME}  # what one version's weights spoil is not held against another's
    assert not torchscript.possible(Bundle(folder, "", "", bundle.facts.model_copy(update={"network": "os.system"})))


def test_a_network_for_volumes_is_computed_by_the_faster_one_too(
    volumes: ModuleType, vendor_key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    facts = {"channels": [4, 8], "strides": [2], "units": 0}
    network = build("unet", **facts)
    said = volumes.facts(network="unet", network_facts=facts)
    export_volume_onnx(network, said.segmentation.window, tmp_path / "exported.onnx")
    onnx = (tmp_path / "exported.onnx").read_bytes()
    other = build("unet", **facts)
    with pytest.raises(ExportMismatch):
        pack_segmentation(tmp_path / "no", said, onnx, volumes.PREPROCESSING, "# U", vendor_key, "vendor", other)
    bundle = pack_segmentation(
        tmp_path / "version", said, onnx, volumes.PREPROCESSING, "# U", vendor_key, "vendor", network
    )
    faster(bundle, tmp_path / "engines")

    engine = VolumeEngine(bundle, said.segmentation, 1, tmp_path / "engines")

    assert engine.provider == torchscript.NAME
    windows = np.random.default_rng(0).normal(size=(1, 1, *said.segmentation.window)).astype(np.float32)
    by_onnx = VolumeEngine(bundle, said.segmentation).predict(windows)
    np.testing.assert_allclose(engine.predict(windows), by_onnx, atol=1e-3)


def test_the_site_keeps_what_was_measured_of_an_architecture(site: Site, residual: Bundle) -> None:
    shutil.copytree(residual.folder, site.versions / residual.digest)
    versions.receive(site, residual)
    versions.adopt(site, residual.digest)
    faster(residual, site.engines / residual.digest, site.threads)
    panel = Panel(site)

    panel.warm()

    assert [member.engine.provider for member in panel.members()] == [torchscript.NAME, CPU]
    assert all(path.suffix == ".json" for path in site.engines.iterdir())  # of each architecture
