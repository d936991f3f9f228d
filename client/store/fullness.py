"""Whether something failed because there is no room on the disk: no fault of the image or the study that met it.

A disk that fails is not among it: waiting mends that of nobody's, and a study whose one file cannot be read would wait
for ever where a person should hear of it.
"""

import errno
import os
import sqlite3
import tempfile
from pathlib import Path
from typing import Final

_NUMBERS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_A_LITTLE: Final = 64 << 10  # bytes; a transaction's order of size
PRIMARY: Final = 0xFF  # of an SQLite result code; what is above says where


def out_of_room(error: BaseException | None) -> bool:
    """Whether an exception, or one that it was raised from, says so.

    Source: SQLite, result codes (SQLITE_FULL).
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NUMBERS:
            return True
        if isinstance(error, sqlite3.Error) and _full(error):
            return True
        error = error.__cause__
    return False


def _full(error: sqlite3.Error) -> bool:
    code: int = getattr(error, "sqlite_errorcode", 0)  # absent where Python itself raised it
    return code & PRIMARY == sqlite3.SQLITE_FULL


def want_of_room(folder: Path) -> OSError | None:
    """What the system says to somebody who writes a little there; None where there is room."""
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            file.write(bytes(_A_LITTLE))
            os.fsync(file.fileno())
    except OSError as error:
        return error if out_of_room(error) else None
    return None
