"""What pydicom and the decoders beside it raise on bytes that are not what they say: one list for everybody who reads.

`BytesLengthException` is no `ValueError`, and its text quotes the value: a reader that forgets it leaves a peer without
an answer and puts a patient's data into a log.
"""

import zlib
from struct import error as StructError
from typing import Final

from pydicom.errors import BytesLengthException

# MemoryError is among them because a codestream can ask for more than there is
MALFORMED: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BytesLengthException,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RecursionError,
    RuntimeError,
    StructError,
    TypeError,
    ValueError,
    zlib.error,
)
