"""What operators build from: the containers' recipes are sound, and install as everybody else does."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@pytest.mark.parametrize("recipe", sorted((ROOT / "docker").glob("*.Dockerfile")), ids=lambda path: path.stem)
def test_container_recipes_pass_hadolint_and_use_the_one_installer(recipe: Path) -> None:
    done = subprocess.run([BIN / "hadolint", recipe], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    text = recipe.read_text()
    assert "RUN scripts/install --no-dev" in text
    assert "pip install" not in text
    assert text.rindex("USER 10001") < text.rindex("CMD")


def test_compose_follows_its_specification() -> None:
    done = subprocess.run(
        [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", ROOT / "docker" / "compose.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_dependencies_are_pinned() -> None:
    import tomllib

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(line.split("==")[0]) for line in lines if "==" in line and not line.startswith("#")}
    missing = {canonicalize_name(Requirement(text).name) for text in asked} - pinned
    assert not missing
