"""`vigie demo`."""

import json
from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[
        Path, typer.Option(help="folder that receives everything; an earlier demo there is replaced")
    ] = Path("runs/demo"),
    data: Annotated[Path, typer.Option(envvar="VIGIE_DATA", help="folder that holds cxr/manifest.csv")] = Path(
        "../shared/data"
    ),
    phantoms: Annotated[bool, typer.Option("--phantoms", help="draw thorax phantoms instead of real data")] = False,
    seed: Annotated[int, typer.Option(help="fixes folds, first weights and every draw")] = 1,
    rounds: Annotated[int, typer.Option(help="of the retraining")] = 8,
    steps: Annotated[int, typer.Option(help="optimiser steps of version 1 (0: as configured)")] = 0,
    limit: Annotated[int, typer.Option(help="at most so many images a hospital (0: all)")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="leave it all running until Ctrl-C")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="print the schema of summary.json and end")] = False,
) -> None:
    """Run the whole loop: three hospitals, their errors, a retraining without an image leaving, their decisions.

    Example: vigie demo --rounds 8
    """
    if schema:
        from scripts.demonstration.summary import Summary

        print(json.dumps(Summary.model_json_schema(), indent=2))
        return
    from scripts.demonstration.loop import Settings, run

    run(Settings(out, data, phantoms, seed, rounds, steps, limit, keep))
