"""A real browser, and a person signed in."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from client.review import readers
from client.store.site import Site

# WebGL without a GPU, for the viewer
_DRAWING = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The browser itself, for the tests of one file."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path="/usr/bin/chromium", args=_DRAWING)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any, served: str) -> Iterator[Any]:
    """An empty page of a browser without a past. `page.complaints` fills with what goes wrong in its scripts,
    `page.strangers` with addresses elsewhere that it asks for."""
    context = chromium.new_context(base_url=served, viewport={"width": 1440, "height": 900})
    opened = context.new_page()
    opened.complaints, opened.strangers = [], []

    def note(request: Any) -> None:
        if not request.url.startswith((served, "data:", "blob:")):
            opened.strangers.append(request.url)

    opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
    opened.on("console", lambda said: opened.complaints.append(said.text) if said.type == "error" else None)
    opened.on("request", note)
    yield opened
    context.close()


@pytest.fixture
def sign_in(page: Any, site: Site) -> Callable[..., None]:
    """Sign somebody in by the login page: `sign_in(role="clinician", name="Ada Lovelace")`."""

    def enter(role: str = "clinician", name: str = "Ada Lovelace") -> None:
        page.goto("/")
        page.fill("#token", readers.add(site, name, role))
        page.keyboard.press("Enter")
        page.wait_for_selector("tbody tr")

    return enter


@pytest.fixture
def picture(page: Any) -> Callable[[str], None]:
    """Keep a screenshot of the whole page where VIGIE_SCREENSHOTS says: `picture(name)`."""

    def keep(name: str) -> None:
        if folder := os.environ.get("VIGIE_SCREENSHOTS"):
            page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)

    return keep


@pytest.fixture(scope="session")
def axe() -> str:
    """The script of axe-core, which tells what of a page cannot be read by everybody."""
    file = Path(os.environ.get("VIGIE_AXE") or Path(sys.prefix) / "axe") / "axe.min.js"
    if not file.is_file():
        problem = f"no axe-core at {file}: scripts/install --peers, or VIGIE_AXE"
        if os.environ.get("VIGIE_REQUIRE_PEERS") == "1":
            pytest.fail(problem, pytrace=False)
        pytest.skip(problem)
    return file.read_text()
