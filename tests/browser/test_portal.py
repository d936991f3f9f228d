"""The vendors' pages can be read by everybody, and signing in leads to what is the vendor's.

With VIGIE_SCREENSHOTS=FOLDER each page is kept there as a picture at each width, and the report as PDF.
"""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import serving

from configs.schema import CoordinatorConfig
from models.exchange import Figures, Lines
from models.stats.release import Column, Line, Patient, close, groups_of
from server import portal, statistics, vendors
from server.coordinator import create
from server.registry import Registered

pytestmark = pytest.mark.peers("chromium")
NOW, YEAR = 2e9, 365 * 86400.0
VERSION = Registered("chest-radiograph", 2, "c" * 64, "run")
STRATA = ("F|40-64|siemens", "F|65+|siemens", "M|40-64|ge", "M|65+|philips", "M|18-39|ge", "F|18-39|philips")


def lines(seed: int, wrong: float, count: int) -> tuple[Line, ...]:
    """What a hospital tells that has validated so many patients."""
    draw, found = random.Random(seed), list[Patient]()
    columns = [
        (Column("random", "single_reader", 100, "with"), wrong, 1.0),
        (Column("random", "single_reader", 100, "without"), wrong / 2, 3.0),
        (Column("routine", "ai_visible", 0, "with"), wrong / 3, 1.0),
        (Column("discordant", "single_reader", 100, "with"), 0.6, 0.4),
        (Column("double-positive", "single_reader", 50, "with"), 0.0, 0.8),
        (Column("double-negative", "single_reader", 15, "with"), 1.0, 0.1),
    ]
    for column, rate, share in columns:
        for _ in range(round(count * share)):
            groups = groups_of(draw.choice(STRATA))
            found.append(Patient(str(len(found)), column, groups, draw.random() >= rate, NOW - 2 * YEAR))
    return close(found, NOW).lines


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = create(tmp_path_factory.mktemp("coordinator"), CoordinatorConfig())
    statistics._name(made.folder, VERSION)  # pyright: ignore[reportPrivateUsage] - as `collect` does
    for number, (site, wrong, count) in enumerate(
        [("nih", 0.15, 400), ("shenzhen", 0.35, 250), ("guangzhou", 0.14, 700), ("lyon", 0.02, 300), ("ghent", 0.2, 90)]
    ):
        told = Lines.of(lines(number, wrong, count))
        for release in (1, 2):
            figures = Figures(digest=VERSION.digest, number=release, period=202609 + release, told=told)
            statistics.keep(made.folder, VERSION.digest, site, figures)
    return made.folder


@pytest.fixture
def served(coordinator: Path) -> Iterator[str]:
    with serving(portal.make(coordinator)) as address:
        yield address


def test_a_vendor_signs_in_and_every_page_can_be_read(
    page: Any, coordinator: Path, axe: str, picture: Callable[[str], None]
) -> None:
    key = vendors.add(coordinator, "acme", ["chest-radiograph"])

    def look(name: str) -> None:
        # the portal runs no script of anybody's: axe is put in past its own rule
        found = page.evaluate(axe + ";axe.run(document, {resultTypes: ['violations']})")["violations"]
        assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found] == [], name
        for width in (1280, 820):
            page.set_viewport_size({"width": width, "height": 800})
            picture(f"portal-{name}-{width}")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} is cut off at {width}"

    page.goto("/")
    look("login")
    page.fill("#key", "not this one")
    page.keyboard.press("Enter")
    page.wait_for_selector("[role=alert]")
    page.fill("#key", key)
    page.keyboard.press("Enter")
    page.wait_for_selector("text=chest-radiograph@2")
    look("versions")
    page.click("text=chest-radiograph@2")
    page.wait_for_selector("svg")
    look("version")
    assert page.locator("text=nih").count() == 0
    page.goto("/versions/chest-radiograph/3")
    look("error")
    report = page.request.get("/api/versions/chest-radiograph/2/report.pdf")
    assert report.body().startswith(b"%PDF-")
    if folder := os.environ.get("VIGIE_SCREENSHOTS"):
        (Path(folder) / "portal-report.pdf").write_bytes(report.body())
    page.goto("/")
    page.click("text=Sign out")
    page.wait_for_selector("#key")
    assert [one for one in page.complaints if "404" not in one and "401" not in one] == []
    assert page.strangers == []
