"""The eager contender of `inference`: MONAI in PyTorch from file to PACS, in one process that stays.

Whatever its inbox has written down as stored it reads with pydicom, brings through MONAI's transforms and network, and
sends report and capture to the PACS over an association that it keeps.
"""

import sys
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import pydicom
import torch
from monai import transforms
from numpy.typing import NDArray
from pydicom.pixels import apply_modality_lut, apply_voi_lut  # type: ignore[attr-defined]
from pynetdicom import AE
from pynetdicom import _config as pynetdicom_config

from client.delivery.carrier import RESULT_CLASSES
from client.dicom.requestor import associate
from client.results import radiograph
from client.results.finding import Finding
from models.bundle import Bundle, verify
from models.children import follow_parent
from models.networks import with_activation_map
from models.signing import load_trust
from scripts.benchmarks import versions
from scripts.benchmarks.pacs import Pacs


class App:
    """What an app keeps between studies."""

    def __init__(self, bundle: Bundle, port: int) -> None:
        self._bundle = bundle
        self._steps = transforms.Compose(
            [
                transforms.EnsureChannelFirst(channel_dim="no_channel"),
                *(
                    getattr(transforms, step["_target_"])(**{key: step[key] for key in step if key != "_target_"})
                    for step in versions.RADIOGRAPH.declaration
                ),
            ]
        )
        mapped = with_activation_map(versions.network())
        assert mapped is not None
        self._network = mapped.eval()
        entity = AE("EAGER")
        for sop_class in RESULT_CLASSES:
            entity.add_requested_context(sop_class)
        self._association = associate(entity, "127.0.0.1", port, "PACS")

    def read(self, path: Path) -> None:
        """One study, from its file to its results at the PACS."""
        source = pydicom.dcmread(path)
        stored = apply_modality_lut(source.pixel_array, source)
        pixels = np.asarray(apply_voi_lut(stored, source), np.float32)
        with torch.inference_mode():
            image = cast(torch.Tensor, self._steps(pixels))
            logit, cam = self._network(torch.as_tensor(image)[None])
            score = float(torch.sigmoid(logit)[0, 0])
        finding = self._finding(source, pixels, score, cam[0].numpy())
        for item in radiograph.make(finding):
            if self._association.send_c_store(item.dataset).get("Status") != 0x0000:
                raise RuntimeError("the PACS did not store a result")

    def _finding(
        self, source: pydicom.Dataset, pixels: NDArray[np.float32], score: float, cam: NDArray[np.float32]
    ) -> Finding:
        del source.PixelData
        threshold = self._bundle.facts.threshold
        digest = f"{abs(hash(str(source.SOPInstanceUID))):064x}"
        return Finding(
            source=source,
            input_digest=digest,
            revision=1,
            pixels=pixels,
            score=score,
            threshold=threshold,
            positive=score >= threshold,
            cam=cam,
            bundle=self._bundle,
            institution="Hospital",
            created_at=time.time(),
        )


def main() -> None:
    inbox, port, version, threads = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    trust = load_trust(Path(sys.argv[5]))
    follow_parent()
    torch.set_num_threads(threads)
    pynetdicom_config.LOG_HANDLER_LEVEL = "none"
    app = App(verify(version, trust), port)
    files, done = Pacs(inbox, 0), 0
    (inbox / "eager").touch()
    while True:
        stored: list[Any] = files.stored()
        if len(stored) == done:
            time.sleep(0.002)
        for one in stored[done:]:
            app.read(inbox / f"{one.sop_uid}.dcm")
            done += 1


if __name__ == "__main__":
    main()
