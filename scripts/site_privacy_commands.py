"""`vigie site privacy`: what this hospital's patients' privacy was spent on."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from scripts.hospital_folder import opened

Folder = Annotated[Path, typer.Option("--folder", envvar="VIGIE_SITE", help="the hospital's folder")]


def privacy(folder: Folder) -> None:
    """Show the budget of differential privacy: what retrainings have used of it, and what is left.

    Example: vigie site privacy --folder node
    """
    from client.federation.budget import account
    from client.store.versions import listed
    from models.privacy import epsilon

    site = opened(folder)
    found = account(site)
    table = Table("retraining", "protects", "rounds", "trainings", "noise", "epsilon", "last")
    for name in dict.fromkeys(one.retraining for one in found.charges):
        own = [one for one in found.charges if one.retraining == name]
        table.add_row(
            name,
            "patients" if own[0].unit == "patient" else "hospital",
            str(len({one.round for one in own})),
            str(len(own)),
            f"{own[0].mechanism.noise:g}",
            f"{epsilon([one.mechanism for one in own], found.delta):.2f}",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(own[-1].at)),
        )
    labels = {one.digest: one.label for one in listed(site)} if found.told else {}
    for digest, cost in found.told.items():
        name = f"counts of {labels.get(digest, digest[:12])}"
        table.add_row(name, "patients", "", "", "geometric", f"{cost:.2f}", "")
    Console().print(table)
    print(f"spent {found.spent:.2f} of {found.cap:g} (epsilon at delta {found.delta:g}, all retrainings together)")
    if not found.cap:
        print("nothing may be spent: privacy.epsilon in site.yaml is 0")
