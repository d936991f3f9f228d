"""Log lines of a site's processes: one JSON object a line, and of an exception never its text.

What libraries say of a file quotes what the file says of a patient, so their loggers are shut and an exception is
logged as its type and the place where it was raised.
"""

import json
import logging
import logging.handlers
import traceback
import warnings
from pathlib import Path


class JsonLines(logging.Formatter):
    """One record as one JSON line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            frames = traceback.extract_tb(error.__traceback__)
            line["error"] = type(error).__name__
            line["raised"] = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames[-4:]]
        return json.dumps(line, ensure_ascii=True)


def to_file(path: Path) -> None:
    """Log to a file from here on; to be called by a process's composition root only.

    Lines are appended whole, so that processes may share the file, and the file may be moved away under them.
    """
    handler = logging.handlers.WatchedFileHandler(path, encoding="ascii")
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    for existing in root.handlers[:]:
        root.removeHandler(existing)
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    for name in ("pydicom", "pynetdicom", "highdicom", "PIL", "onnxruntime", "uvicorn.access"):
        library = logging.getLogger(name)
        library.setLevel(logging.CRITICAL)
        library.propagate = False
    logging.lastResort = None
    logging.raiseExceptions = False  # a line that cannot be written, on a full disk say, is not printed with its values
    warnings.simplefilter("ignore")  # pydicom's warnings quote values
