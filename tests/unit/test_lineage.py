"""A lineage says what each version came from and what became of it, in words as in the picture."""

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import NotFound
from server.drawing import svg
from server.lineage import Figure, Hospital, Lineage, Version, lineage, lines
from server.registry import Known, Registered

SVG = "{http://www.w3.org/2000/svg}"


def _known(number: int, parent: str, aliases: tuple[str, ...] = (), **tags: str) -> Known:
    digest = f"{number:064x}"
    said = {"digest": digest, "parent": parent, "signer": "coordinator", **tags}
    figures = {"nih/test": {"auc": 0.91, "auc_low": 0.88, "auc_high": 0.93}}
    if parent != "none":
        figures["nih/test"] |= {"before_auc": 0.85, "before_auc_low": 0.81, "before_auc_high": 0.88}
    return Known(Registered("chest", number, digest, "run", "", 0.0, said), aliases, figures)


def test_what_the_registry_knows_is_told_in_words_and_in_the_picture() -> None:
    retrained = {
        "retraining": "spring",
        "rounds": "8",
        "strategy": "fedprox",
        "cases.nih": "120",
        "cases.shenzhen": "80",
        "decision.nih": "refused",
        "decision.nih.reasons": "sensitivity-inferior",
        "personal.nih": "f" * 64,
        "release": "blocked",
        "release.reasons": "nih: sensitivity is <worse> & more",
    }
    found = lineage(
        "chest",
        [
            _known(1, "none", ("adopted-at-nih", "released"), release="released"),
            _known(2, f"{1:064x}", ("blocked",), **retrained),
            _known(3, f"{1:064x}", ("withdrawn",), release="released", withdrawn="saturates on bright films"),
        ],
    )
    text = "\n".join(lines(found))
    drawn = svg(found)
    root = ET.fromstring(drawn)
    written = " ".join(element.text or "" for element in root.iter(f"{SVG}text"))
    for said in (
        "first version, signed by coordinator",
        "from chest@1 by spring: 8 rounds, fedprox, 200 cases at 2 hospitals",
        "0.850 (0.810 to 0.880)",
        "0.910 (0.880 to 0.930)",
        "nih: sensitivity is <worse> & more",
        "saturates on bright films",
    ):
        assert said in text
        assert said in written
    assert [one.state for one in found.versions] == ["released", "blocked", "withdrawn"]
    assert found.versions[0].adopted_at == ("nih",)
    assert "adopted before" in text
    assert "in its own form ffffffffffff" in text
    assert "refused in its own form: sensitivity-inferior" in written
    long = Hospital("nih", 120, None, None, "refused", "specificity-not-shown, " * 4, adopted=True, personal="f" * 64)
    cut = svg(Lineage("chest", (replace(found.versions[0], hospitals=(long,)),)))
    assert ">refused in its own form; adopted before: specificity" in cut
    # each version is one item of a list that names itself, for who cannot see the picture
    items = [element for element in root.iter() if element.get("role") == "listitem"]
    assert [item.get("aria-label", "").split(",")[0] for item in items] == ["chest@1", "chest@2", "chest@3"]
    assert root.find(f"{SVG}title") is not None
    assert "<script" not in drawn


def test_a_version_alone_is_drawn_with_its_ancestors_and_what_was_made_of_it() -> None:
    chain = [_known(1, "none"), _known(2, f"{1:064x}"), _known(3, f"{1:064x}"), _known(4, f"{2:064x}")]
    found = lineage("chest", chain)
    assert [one.label for one in found.of("chest@2").versions] == ["chest@1", "chest@2", "chest@4"]
    assert [one.label for one in found.ancestors("chest@4")] == ["chest@4", "chest@2", "chest@1"]
    with pytest.raises(NotFound, match="chest@9"):
        found.of("chest@9")
    # tags that were tampered with name two versions as each other's parents
    circle = lineage("chest", [_known(1, f"{2:064x}"), _known(2, f"{1:064x}")])
    assert len(circle.ancestors("chest@1")) == 2
    assert svg(circle.of("chest@1"))


@given(st.lists(st.integers(min_value=0, max_value=30), min_size=1, max_size=30), st.randoms())
def test_no_line_passes_through_another_version(parents: list[int], random) -> None:
    """A line runs in its child's lane from the parent's row to the child's: no other version may stand there."""
    versions = [
        Version(
            label=f"m@{index}",
            digest=f"{index:064x}",
            created_at=0.0,
            signer="s",
            parent=f"m@{parent % index}" if index and parent % (index + 1) else "",
            made_by="",
            rounds=0,
            strategy="",
            state=random.choice(["released", "blocked", "candidate"]),
            reasons="",
            hospitals=(Hospital("nih", None, None, Figure(0.9, 0.8, 0.95), "", "", False),),
        )
        for index, parent in enumerate(parents)
    ]
    found = Lineage("m", tuple(versions))
    lanes = found.lanes()
    row = {one.label: index for index, one in enumerate(versions)}
    for index, one in enumerate(versions):
        if one.parent:
            between = range(row[one.parent] + 1, index)
            assert lanes[index] not in [lanes[other] for other in between]
    ET.fromstring(svg(found))
