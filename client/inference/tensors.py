"""Preprocessed images on disk: what the node has read once, local training need not read again."""

import contextlib
import logging
import os
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.dicom import decode
from client.store.archive import Archive
from models.preprocessing import Preprocessing

log = logging.getLogger(__name__)


class Tensors:
    """The tensors of one site.

    Args:
        folder: where they are kept; may be emptied at any time.
        archive: to make again what is not there.
    """

    def __init__(self, folder: Path, archive: Archive) -> None:
        self._folder = folder
        self._archive = archive

    def get(self, sha256: str, preprocessing: Preprocessing) -> NDArray[np.float32]:
        """The tensor (1, h, w) of the archived file with this digest, from the cache or made and kept.

        Raises:
            InvalidStudy: the file cannot be read as an image.
        """
        path = self._path(sha256, preprocessing)
        try:
            return np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):  # missing, or torn by a power cut: made again
            tensor = preprocessing(decode.read(self._archive.path(sha256)).pixels)
            self.keep(sha256, preprocessing, tensor)
            return tensor

    def keep(self, sha256: str, preprocessing: Preprocessing, tensor: NDArray[np.float32]) -> None:
        """Keep a tensor that was just made; whole or not at all.

        Where it cannot be kept, for want of room say, nothing is lost but the time to make it again.
        """
        path = self._path(sha256, preprocessing)
        if path.exists():
            return
        temporary = path.with_name(f".{os.getpid()}-{threading.get_ident()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                np.save(file, tensor)
            temporary.replace(path)
        except OSError as error:
            log.warning("a prepared image is not kept: %s", type(error).__name__)
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _path(self, sha256: str, preprocessing: Preprocessing) -> Path:
        return self._folder / preprocessing.digest / f"{sha256}.npy"
