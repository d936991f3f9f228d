"""Closed lines around a mask. Pure."""

import numpy as np
from numpy.typing import NDArray


def contours(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Closed lines along the pixel edges of a mask, the longest first.

    Args:
        mask: (rows, columns), not empty.

    Returns:
        Each (k, 2), (column, row), first point repeated at the end; the upper left corner of the image is (0, 0).
    """
    framed = np.pad(mask, 1)
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # each edge between inside and outside once, walked with the inside at its right hand
    for row, column in np.argwhere(framed):
        r, c = int(row) - 1, int(column) - 1
        for outside, start, end in (
            (not framed[row - 1, column], (c, r), (c + 1, r)),
            (not framed[row, column + 1], (c + 1, r), (c + 1, r + 1)),
            (not framed[row + 1, column], (c + 1, r + 1), (c, r + 1)),
            (not framed[row, column - 1], (c, r + 1), (c, r)),
        ):
            if outside:
                following.setdefault(start, []).append(end)
    lines: list[NDArray[np.float64]] = []
    while following:
        begin = next(iter(following))
        line, at = [begin], begin
        while True:
            nexts = following[at]
            to = nexts.pop()
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
            if at == begin:
                break
        lines.append(np.array(line, dtype=np.float64))
    return sorted(lines, key=len, reverse=True)
