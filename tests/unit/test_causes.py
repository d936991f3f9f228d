"""Why studies have changed: the cause that a warning names, and that it does not name one without grounds."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from pydicom.dataset import Dataset

from client.inference.traits import MEANINGS, SIZE, Traits, traits_of
from client.vigilance.causes import Cause, Seen, differences, likely

Draw = np.random.Generator
Make = Callable[[Draw, Seen], Seen]


def study(draw: Draw) -> Seen:
    which = int(draw.integers(2))
    truth = bool(draw.random() < 0.3)
    words = {"maker": ("a", "b")[which], "software": f"V{which}", "sex": str(draw.choice(["F", "M"]))}
    numbers = {
        "rows": 2000.0 + which,
        "age": float(draw.normal(50, 15)),
        "exposure": float(np.exp(draw.normal(1, 0.3))),
    }
    for name, spread in (("middle", 0.08), ("noise", 0.1), ("edges", 0.05), ("sharp", 0.1)):
        numbers[name] = float(draw.normal(0.5, spread))
    numbers["score"] = float(np.clip(draw.normal(0.8 if truth else 0.2, 0.15), 0, 1))
    return Seen(Traits(words, numbers, draw.normal(size=SIZE).astype(np.float32)), truth)


def changed(one: Seen, words: dict[str, str] | None = None, **by: float) -> Seen:
    numbers = {name: value + by.get(name, 0.0) for name, value in one.traits.numbers.items()}
    return replace(one, traits=replace(one.traits, words=one.traits.words | (words or {}), numbers=numbers))


def marked(one: Seen, size: float = 1.5) -> Seen:
    """With something in the picture that was in none before."""
    look = one.traits.look
    assert look is not None
    return replace(
        one, traits=replace(one.traits, look=look + size * np.sign(np.sin(np.arange(SIZE))).astype(np.float32))
    )


def new_scanner(_draw: Draw, one: Seen) -> Seen:
    return changed(one, {"maker": "c", "software": "N1"}, middle=0.1)


def new_release(_draw: Draw, one: Seen) -> Seen:
    return changed(one, {"software": "V9"}, middle=0.1)


def silent_release(_draw: Draw, one: Seen) -> Seen:
    return changed(one, middle=0.4)


def lower_dose(_draw: Draw, one: Seen) -> Seen:
    return changed(one, exposure=-1.5, noise=0.3, edges=-0.2)


def silent_dose(_draw: Draw, one: Seen) -> Seen:
    return changed(one, noise=0.4, edges=-0.3, sharp=0.3)


def older(_draw: Draw, one: Seen) -> Seen:
    return changed(one, age=20.0)


def treated(draw: Draw, one: Seen) -> Seen:
    return changed(marked(one), score=-0.3) if one.truth and draw.random() < 0.7 else one


def unseen_disease(draw: Draw, one: Seen) -> Seen:
    return replace(marked(one), truth=True) if draw.random() < 0.25 else one


def turned(_draw: Draw, one: Seen) -> Seen:
    look = one.traits.look
    assert look is not None
    return replace(one, traits=replace(one.traits, look=-look))


@pytest.mark.parametrize(
    ("change", "cause", "word"),
    [
        (new_scanner, Cause.TECHNIQUE, "manufacturer: c in 100%, before 0%"),
        (new_release, Cause.SOFTWARE, "software version: V9 in 100%"),
        (silent_release, Cause.SOFTWARE, "grey curve, mid-tones"),
        (lower_dose, Cause.DOSE, "exposure"),
        (silent_dose, Cause.DOSE, "noise"),
        (older, Cause.POPULATION, "age"),
        (treated, Cause.THERAPY, "what is where in the picture"),
        (unseen_disease, Cause.DISEASE, "what is where in the picture"),
    ],
)
def test_each_cause_is_named_and_told(change: Make, cause: Cause, word: str) -> None:
    draw = np.random.default_rng(5)
    before, after = [study(draw) for _ in range(400)], [change(draw, study(draw)) for _ in range(240)]
    found, rests = likely(before, after)
    assert found is cause
    assert any(word in one.text for one in rests)


def test_nothing_is_named_where_nothing_has_changed_or_too_few_came() -> None:
    draw = np.random.default_rng(6)
    before, after = [study(draw) for _ in range(400)], [study(draw) for _ in range(240)]
    assert likely(before, after) == (Cause.UNKNOWN, ())
    assert differences([one.traits for one in before], [one.traits for one in after]) == ()
    assert likely(before, [new_scanner(draw, one) for one in after[:9]]) == (Cause.UNKNOWN, ())


@pytest.mark.parametrize("change", [treated, unseen_disease])
def test_what_is_in_some_patients_alone_waits_for_their_truths(change: Make) -> None:
    """A therapy and a disease look alike until it is known who has the finding."""
    draw = np.random.default_rng(7)
    before = [study(draw) for _ in range(400)]
    after = [replace(change(draw, study(draw)), truth=None) for _ in range(240)]
    assert likely(before, after)[0] is Cause.UNKNOWN


def test_pictures_that_are_turned_are_the_machines() -> None:
    draw = np.random.default_rng(8)
    usual = 2 * np.sin(np.arange(SIZE)).astype(np.float32)

    def like(one: Seen) -> Seen:
        assert one.traits.look is not None
        return replace(one, traits=replace(one.traits, look=one.traits.look * 0.3 + usual))

    before, after = [like(study(draw)) for _ in range(300)], [turned(draw, like(study(draw))) for _ in range(60)]
    cause, rests = likely(before, after)
    assert cause is Cause.TECHNIQUE
    assert "inverted" in rests[0].text


def test_a_header_may_hold_anything() -> None:
    header = Dataset()
    header.Manufacturer = "Acme\u0007 Ltd"
    header.SoftwareVersions = ["1", "2"]
    header.PatientAge = "018M"
    header.ExposureInuAs = 2500
    header.PixelSpacing = [0.2, 0.2]
    header.KVP = None
    found = traits_of(header, np.full((4, 4), 3.0, np.float32), None)
    assert found.words == {"maker": "Acme Ltd", "software": "1/2"}
    assert found.numbers == {"age": 1.5, "exposure": 2.5, "spacing": 0.2}
    assert found.look is None
    flat = traits_of(Dataset(), np.full((600, 500), 3.0, np.float32), 0.5)
    assert flat.look is not None
    assert all(np.isfinite(value) for value in flat.numbers.values())
    assert set(flat.numbers) <= set(MEANINGS)


def test_a_look_does_not_depend_on_the_grey_curve_and_pixels_do() -> None:
    rows, columns = np.mgrid[0:300, 0:260]
    picture = (np.sin(rows / 40) + np.cos(columns / 30) + 2.1).astype(np.float32)
    one, other = (traits_of(Dataset(), values, None) for values in (picture, picture**2))
    assert one.look is not None
    assert other.look is not None
    assert np.abs(one.look - other.look).max() < 0.3
    assert other.numbers["middle"] < one.numbers["middle"] - 0.1
