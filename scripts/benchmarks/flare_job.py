"""`flare_job.py CHECKPOINT.npy ROUNDS SITES FOLDER`: write an NVFLARE job for the bench `rounds`.

Run with the Python of NVFLARE's own environment. It is the recipe that NVFLARE's NumPy examples begin with.
"""

import sys
from pathlib import Path

from nvflare.app_common.np.recipes.fedavg import (  # pyright: ignore[reportMissingImports]
    NumpyFedAvgRecipe,
)


def main() -> None:
    """Write the job."""
    checkpoint, rounds, sites, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    recipe = NumpyFedAvgRecipe(
        name="rounds",
        initial_ckpt=checkpoint,
        min_clients=sites,
        num_rounds=rounds,
        train_script=str(Path(__file__).with_name("flare_site.py")),
    )
    recipe.export(folder)


if __name__ == "__main__":
    main()
