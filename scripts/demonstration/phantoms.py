"""Thorax phantoms for a demonstration without real radiographs: two lungs, a heart, and, where abnormal, opacities.

Each hospital has a look of its own (contrast, blur, noise, size), so that a model of one hospital does worse at
another, as with real ones. Nothing can be concluded from them about real radiographs.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter


@dataclass(frozen=True, slots=True)
class Look:
    """A hospital's images; `size` in pixels, `gamma` and `blur` of its processing, `opacity` of what is found there."""

    patients: int
    size: int
    gamma: float
    blur: float
    noise: float
    opacity: float


LOOKS = {
    "guangzhou": Look(400, 224, 1.0, 1.0, 0.02, 0.35),
    "nih": Look(240, 320, 0.6, 3.0, 0.06, 0.28),
    "shenzhen": Look(200, 128, 1.7, 0.5, 0.04, 0.28),
}


def make(folder: Path, seed: int, limit: int = 0) -> Path:
    """Draw the phantoms of all hospitals, at most `limit` each (0: all), and return their manifest."""
    manifest = folder / "manifest.csv"
    rows: list[dict[str, str]] = []
    for site, look in LOOKS.items():
        (folder / site).mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng([seed, sum(site.encode())])
        for number in range(min(look.patients, limit or look.patients)):
            abnormal = number % 2 == 1
            file = f"{site}/{number:04d}.png"
            Image.fromarray(draw(random, look, abnormal)).save(folder / file)
            label = "abnormal" if abnormal else "normal"
            rows.append(
                {"file": file, "site": site, "label": label, "patient": f"PH-{site}-{number:04d}", "view": "PA"}
            )
    with manifest.open("w", newline="") as file_:
        writer = csv.DictWriter(file_, ["file", "site", "label", "patient", "view"])
        writer.writeheader()
        writer.writerows(rows)
    return manifest


def draw(random: np.random.Generator, look: Look, abnormal: bool) -> NDArray[np.uint8]:
    """One thorax, (size, size), as a hospital of this look would have it."""
    y, x = np.mgrid[-1 : 1 : look.size * 1j, -1 : 1 : look.size * 1j]
    shift, scale = random.normal(0, 0.05, 2), 1 + random.normal(0, 0.05)
    x, y = (x - shift[0]) * scale, (y - shift[1]) * scale
    image = 0.75 * np.exp(-((x / 0.95) ** 8 + (y / 1.3) ** 8))
    lungs = np.zeros_like(image)
    for side in (-1, 1):
        lungs += np.exp(-((((x - side * 0.42) / 0.30) ** 4 + ((y + 0.05) / 0.62) ** 4) ** 2))
    image -= 0.5 * np.clip(lungs, 0, 1)
    image += 0.25 * np.exp(-(((x - 0.1) / 0.25) ** 2 + ((y - 0.35) / 0.25) ** 2) * 2)
    for rib in np.linspace(-0.6, 0.5, 7):
        image += 0.05 * np.exp(-(((y - rib - 0.15 * x**2) / 0.025) ** 2)) * lungs
    if abnormal:
        for _ in range(random.integers(1, 4)):
            side, height, radius = random.choice((-1, 1)), random.uniform(-0.45, 0.4), random.uniform(0.08, 0.2)
            centre = side * random.uniform(0.3, 0.5)
            image += look.opacity * np.exp(-(((x - centre) / radius) ** 2 + ((y - height) / radius) ** 2)) * lungs
    image = gaussian_filter(np.clip(image, 0, 1), look.blur) ** look.gamma
    image += random.normal(0, look.noise, image.shape)
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)
