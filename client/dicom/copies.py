"""What there is to say of files that came under one SOP Instance UID: which can be decoded, and in what they differ.

For a person who has to choose between them. No value is told, only the names of elements: they may say who somebody is.

Run as a program it looks at many, a line each: decoders of pictures from anywhere are no part of the process that asks,
and where one falls over, the others are still looked at (`look`).
"""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pydicom.pixels import iter_pixels

from client.dicom import decode
from client.dicom.alike import differences
from client.dicom.malformed import MALFORMED
from models.errors import InvalidStudy

GONE: Final = "file-gone"
_FELL: Final = "ends-the-decoder"
_SECONDS: Final = 60.0  # for one image and its copies
# of a picture that this node does not read, and another one may
_NOT_GREY: Final = frozenset({"colour", "unsupported-pixels", "not-one-plane"})


@dataclass(frozen=True, slots=True)
class Looked:
    """One file beside the first of its UID.

    Attributes:
        problem: a code of why it cannot be decoded; empty where it can, or is no picture.
        differs: the names of the elements in which it differs from the first one.
    """

    problem: str
    differs: tuple[str, ...] = ()


def look(images: Sequence[Sequence[Path]]) -> list[list[Looked]]:
    """Look at the copies of some images, in a process of their own.

    Args:
        images: of each the files; the first is what the others are held against.

    Returns:
        Of each image, what is said of each of its files.
    """
    found: list[list[Looked]] = []
    while len(found) < len(images):
        rest = images[len(found) :]
        found += _answers(rest) or [[Looked(_FELL) for _ in rest[0]]]
    return found


def _answers(images: Sequence[Sequence[Path]]) -> list[list[Looked]]:
    """As many answers as there are before one of the images ends the process, or takes too long."""
    question = json.dumps([[os.fspath(path) for path in copies] for copies in images]).encode()
    try:
        said = subprocess.run(
            [sys.executable, "-m", "client.dicom.copies"],
            input=question,
            stdout=subprocess.PIPE,
            timeout=_SECONDS * len(images),
            check=False,
            env={"OPENBLAS_NUM_THREADS": "1"}
            | os.environ
            | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        ).stdout
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""
    lines = [line for line in said.splitlines(keepends=True) if line.endswith(b"\n")]
    return [[Looked(one["problem"], tuple(one["differs"])) for one in json.loads(line)] for line in lines]


def _looked(copies: Sequence[Path]) -> list[Looked]:
    problems = [_problem(path) for path in copies]
    return [
        Looked(problem, differences(copies[0], path) if number and GONE not in (problem, problems[0]) else ())
        for number, (path, problem) in enumerate(zip(copies, problems, strict=True))
    ]


def _problem(path: Path) -> str:
    """Why a file cannot be decoded; empty where it can."""
    try:
        header = decode.read_header(path)
        if not (header.get("Rows") and header.get("Columns")):
            return ""
        try:
            for _ in decode.read_planes(path, header, range(decode.frame_count(header))):
                pass
        except InvalidStudy as error:
            if error.reason not in _NOT_GREY:
                raise
            for _ in iter_pixels(path):
                pass
    except FileNotFoundError:
        return GONE
    except InvalidStudy as error:
        return error.reason
    except MALFORMED:
        return "undecodable"
    return ""


def main() -> None:
    """Read `[["path", …], …]` from the standard input and answer each item with a line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote values
        for copies in json.loads(sys.stdin.buffer.read()):
            found = _looked([Path(path) for path in copies])
            sys.stdout.write(json.dumps([asdict(one) for one in found]) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
