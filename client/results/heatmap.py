"""Draws what the score is made of: the activation map over the radiograph, with its scale and what it must not be.

The colour means the same on every image: it grows with the local evidence for the finding and is absent where there
is none, so a negative study is not painted red by stretching a map that is flat.
"""

from functools import cache, lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.float32]
Rgb = NDArray[np.uint8]

LONGEST_PX: Final = 1024
_NARROWEST_PX: Final = 256
_TINT: Final = 0.25  # of an outlined structure's inside
_STRONGEST: Final = 0.6  # opacity where the evidence is complete: the anatomy below stays readable

# Nine samples of matplotlib's "inferno", without its black start: perceptually even, readable when printed grey.
_ANCHORS: Final = np.array(
    [
        (87, 15, 109), (120, 28, 109), (153, 43, 99), (187, 55, 84), (214, 77, 62),
        (237, 105, 37), (248, 143, 10), (250, 186, 32), (246, 232, 106),
    ],
    dtype=np.float32,
)  # fmt: skip


def draw(pixels: Pixels, cam: Pixels, caption: str) -> Rgb:
    """Lay the map over the radiograph, with a colour bar at the right and the caption below.

    Args:
        pixels: (H, W) presentation values, larger is whiter.
        cam: (h, w) class activation map over the whole image; its mean is the logit.
        caption: wrapped to the width of the image.

    Returns:
        (rows, columns, 3); the image itself at most `LONGEST_PX` on its long side, in the upper left corner.
    """
    grey = _grey(pixels)
    place = _strength(cam, grey.shape[0], grey.shape[1])
    place *= 255.0
    place += 0.5
    at = place.astype(np.uint16)
    at <<= 8
    at |= grey
    image = _blended().take(at).view(np.uint8).reshape(*grey.shape, 4)
    return _frame(image[..., :3], caption)


def paint(pixels: Pixels, labels: NDArray[np.uint8], colours: dict[int, tuple[int, int, int]], caption: str) -> Rgb:
    """Lay outlined structures over a plane: edges in full colour, insides tinted, the caption below.

    Args:
        pixels: (H, W) presentation values, larger is whiter.
        labels: (H, W), 0 or the value of a label.
        colours: of each value, (red, green, blue).

    Returns:
        (rows, columns, 3), rather large than small: a crop of fifty pixels is drawn several times its size.
    """
    times = max(1, _NARROWEST_PX // max(pixels.shape))
    grey = np.kron(_grey(pixels), np.ones((times, times), np.uint8))
    image = np.repeat(grey[..., None], 3, axis=2).astype(np.float32)
    # the plane may have been made smaller than it is
    rows, columns = (
        (np.arange(side) * of // side).clip(0, of - 1) for side, of in zip(grey.shape, labels.shape, strict=True)
    )
    shown = labels[np.ix_(rows, columns)]
    for value, colour in colours.items():
        inside = shown == value
        core = inside.copy()
        core[1:] &= inside[:-1]
        core[:-1] &= inside[1:]
        core[:, 1:] &= inside[:, :-1]
        core[:, :-1] &= inside[:, 1:]
        tint = np.asarray(colour, np.float32)
        image[inside] = image[inside] * (1 - _TINT) + tint * _TINT
        image[inside & ~core] = tint
    size = 11 if image.shape[1] < 480 else 16
    footer = _caption(caption, max(image.shape[1], _NARROWEST_PX), size)
    framed = np.zeros((image.shape[0] + footer.shape[0], footer.shape[1], 3), np.uint8)
    framed[: image.shape[0], : image.shape[1]] = np.rint(image).astype(np.uint8)
    framed[image.shape[0] :] = footer
    return framed


def to_grey(pixels: Pixels) -> Rgb:
    """The radiograph alone, (H, W) 8 bit, at most `LONGEST_PX` on its long side."""
    return _grey(pixels)


def _grey(pixels: Pixels) -> Rgb:
    low, high = float(pixels.min()), float(pixels.max())
    scale = 255.0 / (high - low) if high > low else 0.0
    grey = ((pixels - np.float32(low)) * np.float32(scale) + np.float32(0.5)).astype(np.uint8)
    rows, columns = grey.shape
    longest = max(rows, columns)
    if longest <= LONGEST_PX:
        return grey
    size = (max(1, columns * LONGEST_PX // longest), max(1, rows * LONGEST_PX // longest))
    return np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))


def _strength(cam: Pixels, rows: int, columns: int) -> Pixels:
    # Interpolated before it is bent, so that edges of the coarse map stay straight lines in evidence.
    # tanh(x / 2) = 2 sigmoid(x) - 1: 0 where the place says nothing, 1 where it alone would settle the score.
    coarse = np.nan_to_num(cam.astype(np.float32), nan=0.0, posinf=30.0, neginf=-30.0) * np.float32(0.5)
    fine = np.array(Image.fromarray(coarse).resize((columns, rows), Image.Resampling.BILINEAR))
    np.maximum(fine, 0.0, out=fine)
    return np.tanh(fine, out=fine)


@cache
def _blended() -> NDArray[np.uint32]:
    """Red, green, blue and nothing, for each level of evidence (high byte) over each grey (low byte)."""
    share = np.linspace(0.0, 1.0, 256, dtype=np.float32)
    opacity = _STRONGEST * np.sqrt(share)
    base = np.rint((1.0 - opacity) * 256.0).astype(np.uint16)
    colour = np.rint(_colours(share) * opacity[:, None] * 256.0).astype(np.uint16)
    made = np.zeros((256, 256, 4), np.uint8)
    made[..., :3] = (colour[:, None] + base[:, None, None] * np.arange(256, dtype=np.uint16)[None, :, None]) >> 8
    return made.view(np.uint32).reshape(-1)


def _colours(share: Pixels) -> Pixels:
    position = np.linspace(0.0, 1.0, len(_ANCHORS), dtype=np.float32)
    return np.stack([np.interp(share, position, _ANCHORS[:, c]) for c in range(3)], axis=-1).astype(np.float32)


def _frame(image: Rgb, caption: str) -> Rgb:
    rows, columns = image.shape[:2]
    size = 11 if columns < 480 else 16
    footer = _caption(caption, max(columns, _NARROWEST_PX) + 4 * size, size)
    bar = _bar(rows, size)
    framed = np.zeros((rows + footer.shape[0], footer.shape[1], 3), np.uint8)
    framed[:rows, :columns] = image
    framed[:rows, framed.shape[1] - bar.shape[1] :] = bar
    framed[rows:] = footer
    return framed


@lru_cache(maxsize=16)
def _bar(rows: int, size: int) -> Rgb:
    canvas = np.zeros((rows, 4 * size, 3), np.uint8)
    top, bottom = 2 * size, max(2 * size + 1, rows - 2 * size)
    levels = np.linspace(1.0, 0.0, max(0, min(bottom, rows) - top), dtype=np.float32)
    canvas[top : top + len(levels), size // 2 : size + size // 2] = _colours(levels).astype(np.uint8)[:, None]
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    pen.text((2, 2), "strong", fill=(220, 220, 220), font=_font(size))
    pen.text((2, max(0, rows - size - 6)), "none", fill=(220, 220, 220), font=_font(size))
    return np.asarray(picture)


@lru_cache(maxsize=4096)
def _words(text: str, size: int) -> Image.Image:
    """One word, drawn once: all but the score recurs on every image."""
    font = _font(size)
    picture = Image.new("L", (max(1, round(font.getlength(text)) + 1), size + size // 2))
    ImageDraw.Draw(picture).text((0, 0), text, fill=230, font=font)
    return picture


def _caption(text: str, width: int, size: int) -> Rgb:
    space, height, margin = size // 3, size + size // 2, size // 2
    places: list[tuple[int, int, Image.Image]] = []
    x, y = margin, margin
    for word in text.split():
        drawn = _words(word, size)
        if x > margin and x + drawn.width > width - margin:
            x, y = margin, y + height
        places.append((x, y, drawn))
        x += drawn.width + space
    picture = Image.new("L", (width, y + height + margin))
    for x, y, drawn in places:
        picture.paste(drawn, (x, y))
    return np.repeat(np.asarray(picture)[..., None], 3, axis=2)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType: no caption can be drawn")
    return font
