"""The coordinator's Flower ServerApp: it opens the folder and hands the retraining, or the errand, over."""

import os
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from models.flower_pace import quicken_pulls
from server import survey
from server.messaging import Exchange
from server.parcels import PARCELS, Shelf
from server.superlink import COORDINATOR, ERRAND

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Conduct the retraining, take the survey, or do the errand, whose name the run carries."""
    quicken_pulls()
    folder, name = Path(os.environ[COORDINATOR]), str(context.run_config["retraining"])
    shelf = os.environ.get(PARCELS)
    hospitals = Exchange(grid, folder, Shelf(Path(shelf)) if shelf else None)
    if name.startswith(survey.PREFIX):
        survey.take(hospitals, folder, *name.removeprefix(survey.PREFIX).split("/"))
        return
    if name.startswith(ERRAND):
        from server import errands

        errands.conduct(hospitals, folder, name)
        return
    from server.retraining import conduct

    conduct(hospitals, folder, name)
