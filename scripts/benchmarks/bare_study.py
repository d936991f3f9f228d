"""The bare contender of `latency`: each path on standard input is read, scored and written; prints the milliseconds."""

import json
import sys
import time
from pathlib import Path

from client.dicom import decode
from client.inference.engine import Engine
from client.inference.measured import Measured
from client.inference.preparation import Preparation
from client.results import radiograph
from client.results.finding import Finding
from models.bundle import verify
from models.signing import load_trust


def main() -> None:
    version, trust, target, threads = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    bundle = verify(version, load_trust(trust))
    measured = Measured(target.parent / "measured")
    engine = Engine(bundle, threads)
    preprocessing = Preparation(bundle.preprocessing, measured, threads, volumes=False)
    target.mkdir(parents=True, exist_ok=True)
    for line in sys.stdin:
        began = time.perf_counter()
        image = decode.read(Path(line.strip()))
        answer = engine.run(preprocessing(image.pixels))
        finding = Finding(
            source=image.header,
            input_digest="0" * 64,
            revision=1,
            pixels=image.pixels,
            score=answer.score,
            threshold=bundle.facts.threshold,
            positive=answer.score >= bundle.facts.threshold,
            cam=answer.cam,
            bundle=bundle,
            institution="Hospital",
            created_at=time.time(),
        )
        for item in radiograph.make(finding):
            (target / f"{item.sop_uid}.dcm").write_bytes(item.content)
        print(json.dumps({"ms": 1000 * (time.perf_counter() - began)}), flush=True)


if __name__ == "__main__":
    main()
