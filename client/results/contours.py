"""Closed lines around a mask. Pure."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Line = NDArray[np.float64]


def contours(mask: NDArray[np.bool_]) -> list[Line]:
    """Closed lines along the pixel edges of a mask, the longest first.

    Where two pixels touch at a corner only, each keeps a line of its own.

    Args:
        mask: (rows, columns), not empty.

    Returns:
        Each (k, 2), (column, row), first point repeated at the end; the upper left corner of the image is (0, 0).
    """
    framed = np.pad(mask, 1)
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    surrounded = framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]
    # each edge between inside and outside once, walked with the inside at its right hand
    for row, column in np.argwhere(mask & ~surrounded) + 1:
        r, c = int(row) - 1, int(column) - 1
        for outside, start, end in (
            (not framed[row - 1, column], (c, r), (c + 1, r)),
            (not framed[row, column + 1], (c + 1, r), (c + 1, r + 1)),
            (not framed[row + 1, column], (c + 1, r + 1), (c, r + 1)),
            (not framed[row, column - 1], (c, r + 1), (c, r)),
        ):
            if outside:
                following.setdefault(start, []).append(end)
    lines: list[Line] = []
    while following:
        begin = next(iter(following))
        line, at = [begin], begin
        while True:
            nexts = following[at]
            right = _right(line)
            to = right if right in nexts else nexts[0]
            nexts.remove(to)
            if not nexts:
                del following[at]
            straight = len(line) > 1 and (line[-1][0] - line[-2][0], line[-1][1] - line[-2][1]) == (
                to[0] - at[0],
                to[1] - at[1],
            )
            if straight:
                line[-1] = to
            else:
                line.append(to)
            at = to
            if at == begin and _right(line) not in following.get(at, []):
                break
        lines.append(np.array(line, dtype=np.float64))
    return sorted(lines, key=len, reverse=True)


def outlines(mask: NDArray[np.bool_]) -> list[Line]:
    """Closed lines that each go round one piece of a mask and, along a channel without width, round its holes.

    Whoever fills each of them has the mask, also who knows nothing of holes (PS3.3 C.8.8.6.3, the "keyhole").

    Args:
        mask: (rows, columns).

    Returns:
        As `contours`; a line passes the channel of a hole twice.
    """
    found: Any = ndimage.label(mask)
    pieces: NDArray[np.int32] = found[0]
    lines: list[Line] = []
    for number, box in enumerate(ndimage.find_objects(pieces), start=1):
        around = contours(pieces[box] == number)
        holes = [line for line in around if _area(line) < 0]
        (outer,) = (line for line in around if _area(line) > 0)
        # the rightmost first: what lies to the right of a hole is then part of the outer line already
        for hole in sorted(holes, key=lambda line: -float(line[:, 0].max())):
            outer = _with_hole(outer, hole)
        lines.append(outer + np.array([box[1].start, box[0].start], np.float64))
    return lines


def _right(line: list[tuple[int, int]]) -> tuple[int, int] | None:
    """The next corner for who turns right: so the line keeps to the pixel that it goes round."""
    if len(line) < 2:
        return None
    (x, y), (before_x, before_y) = line[-1], line[-2]
    return x - int(np.sign(y - before_y)), y + int(np.sign(x - before_x))


def _area(line: Line) -> float:
    """Pixels inside, negative for a hole."""
    return float((line[:-1, 0] * line[1:, 1] - line[1:, 0] * line[:-1, 1]).sum()) / 2


def _with_hole(outer: Line, hole: Line) -> Line:
    corner = int(hole[:-1, 0].argmax())
    x, y = hole[corner]
    start, end = outer[:-1], outer[1:]
    # upright pieces of the outer line that a ray to the right meets
    met = (start[:, 0] == end[:, 0]) & (start[:, 0] > x)
    met &= (np.minimum(start[:, 1], end[:, 1]) <= y) & (y <= np.maximum(start[:, 1], end[:, 1]))
    places = np.flatnonzero(met)
    nearest = int(places[start[places, 0].argmin()])
    gate = np.array([[start[nearest, 0], y]])
    inside = np.concatenate([hole[corner:-1], hole[: corner + 1]])
    return np.concatenate([outer[: nearest + 1], gate, inside, gate, outer[nearest + 1 :]])
