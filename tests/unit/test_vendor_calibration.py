"""What a vendor ships with a version: a calibration on patients whom it was not trained on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray
from PIL import Image

from configs.schema import VersionConfig, compose
from models.bundle import verify
from models.errors import ConfigurationError
from models.manifest import Row
from server import vendor
from server.vendor import train_first


@pytest.fixture
def rows(tmp_path: Path) -> Callable[[str, int], list[Row]]:
    """Radiographs of patients: half of them have a bright spot."""
    random = np.random.default_rng(0)

    def make(name: str, count: int) -> list[Row]:
        found: list[Row] = []
        for number in range(count):
            picture, positive = random.integers(60, 90, (48, 48)).astype(np.uint8), number % 2 == 0
            if positive:
                picture[16:32, 16:32] += 60
            path = tmp_path / f"{name}-{number}.png"
            Image.fromarray(picture).save(path)
            found.append(Row(number + 2, path.name, path, "here", positive, f"{name}-{number}"))
        return found

    return make


@pytest.fixture(autouse=True)
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a network learns is another test's; its score is here how bright an image is, with much noise."""
    random = np.random.default_rng(1)

    def scores(_network: Any, images: NDArray[np.float32], threads: int = 1) -> NDArray[np.float64]:
        brightness = images.mean((1, 2, 3)) + random.normal(0, 0.2, len(images))
        return 1 / (1 + np.exp(-4 * (brightness - np.median(brightness))))

    monkeypatch.setattr(vendor, "fit", lambda *_args, **_settings: None)
    monkeypatch.setattr(vendor, "scores", scores)


def _settings() -> VersionConfig:
    return compose("version", VersionConfig, [])


def test_a_calibration_travels_signed_with_the_version(
    rows: Callable[[str, int], list[Row]], tmp_path: Path, vendor_key: Ed25519PrivateKey
) -> None:
    made = train_first(_settings(), rows("a", 16), tmp_path / "out", vendor_key, "vendor", held_out=rows("b", 60))
    facts = verify(tmp_path / "out", {"vendor": vendor_key.public_key()}).facts
    assert facts.calibration is not None
    assert (facts.calibration.positives, facts.calibration.negatives) == (30, 30)
    assert facts.calibration.probability(0.9) > facts.calibration.probability(0.1)
    assert "30 abnormal and 30 normal patients" in made.card
    metadata = json.loads((tmp_path / "out" / "configs" / "metadata.json").read_text())
    assert metadata["vigie"]["calibration"]["level"] == 0.9


def test_patients_who_were_trained_on_and_too_few_are_refused(
    rows: Callable[[str, int], list[Row]], tmp_path: Path, vendor_key: Ed25519PrivateKey
) -> None:
    trained_on = rows("a", 16)
    with pytest.raises(ConfigurationError, match="1 of the patients to calibrate on are among those to train on"):
        train_first(
            _settings(), trained_on, tmp_path / "out", vendor_key, "vendor", held_out=[*rows("b", 60), trained_on[0]]
        )
    with pytest.raises(ConfigurationError, match="10 patients to calibrate on: 20 normal and 20 abnormal"):
        train_first(_settings(), trained_on, tmp_path / "out", vendor_key, "vendor", held_out=rows("c", 10))
    assert not (tmp_path / "out").exists()
