"""`vigie coordinator …`: the one place that hospitals call, and the registry."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from scripts import coordinator_vendor_commands
from scripts.signals import wait_for_signal

app = typer.Typer(no_args_is_help=True, help="The coordinator. Example: vigie coordinator init --folder coordinator")
app.add_typer(coordinator_vendor_commands.vendor, name="vendor")
app.add_typer(coordinator_vendor_commands.statistics, name="statistics")
app.command("portal")(coordinator_vendor_commands.portal)
_GRACE = 5.0
"""Seconds for the SuperLink and MLflow to end: whoever stops a coordinator (Docker, for instance) waits for ten, and
what they leave running takes some too."""
Folder = Annotated[Path, typer.Option("--folder", envvar="VIGIE_COORDINATOR", help="the coordinator's folder")]


@app.command()
def init(
    folder: Folder,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    superlink_port: int = 9091,
    mlflow_port: int = 5000,
    name: Annotated[list[str] | None, typer.Option(help="name or address hospitals call; repeatable")] = None,
) -> None:
    """Make the coordinator's folder, its certificate and its signing key; what is there already is kept.

    Example: vigie coordinator init --folder coordinator --host 0.0.0.0 --name vigie.example.org
    """
    from configs.schema import CoordinatorConfig
    from models.pki import make_server
    from server.coordinator import create

    names = name or ["localhost"]
    made = create(
        folder,
        CoordinatorConfig(host=host, superlink_port=superlink_port, mlflow_port=mlflow_port, names=names),
    )
    if not (made.folder / "pki" / "ca.crt").exists():
        make_server(made.folder / "pki", names)
    print(f"made {made.folder}")
    print(f"give hospitals {made.folder / 'pki' / 'ca.crt'} and {made.folder / 'trust' / 'coordinator.pub'}")


@app.command()
def run(folder: Folder) -> None:
    """Run the SuperLink and MLflow, each started again should it end by itself; stops on Ctrl-C.

    Meanwhile hospitals that were away are told of withdrawals as soon as they call, and all are asked every now and
    then (inquiry_minutes in coordinator.yaml) which versions serve there.

    Example: vigie coordinator run --folder coordinator
    """
    from models.children import Restarted, follow_parent, together
    from server import tracking
    from server.coordinator import Coordinator
    from server.errands import Errands
    from server.superlink import SuperLink

    follow_parent()
    coordinator = Coordinator(folder.resolve())
    config = coordinator.config
    link = SuperLink(coordinator.folder, config.superlink_port, config.host)
    mlflow = Restarted(
        lambda: tracking.start(coordinator.folder, config.mlflow_port, config.mlflow_host, coordinator.storage)
    )
    errands = Errands(coordinator, link)
    try:
        superlink = Restarted(link.start)
        errands.start()
        print(f"ready: hospitals call {link.address}, versions at {coordinator.mlflow_uri}", flush=True)
        if not wait_for_signal(lambda: not (mlflow.look() and superlink.look())):
            print("MLflow or the SuperLink ended by itself again and again; see logs/", file=sys.stderr)
            raise typer.Exit(1)
    finally:
        errands.stop()
        together(lambda: link.stop(_GRACE), lambda: mlflow.child.stop(_GRACE))


@app.command()
def register(folder: Folder, name: str, key: Annotated[Path, typer.Argument(help="supernode.key.pub")]) -> None:
    """Let a hospital in by its public keys, both in one file; the coordinator has to be running.

    A hospital that was let in with one key is given the other one by doing so again with its new file.

    Example: vigie coordinator register --folder coordinator nih nih.pub
    """
    from server.coordinator import Coordinator
    from server.superlink import SuperLink

    coordinator = Coordinator(folder.resolve())
    site = SuperLink(coordinator.folder, coordinator.config.superlink_port, coordinator.config.host).register(name, key)
    print(f"{site.name} is let in")
    if site.control is None:
        print(
            f"{key.name} has one key: withdrawals wait there for the end of a training; have the hospital run"
            " `vigie site init` again with this release, and register its new supernode.key.pub"
        )


@app.command()
def unregister(folder: Folder, name: str) -> None:
    """Shut a hospital out; its key is never accepted again. The coordinator has to be running.

    Example: vigie coordinator unregister --folder coordinator nih
    """
    from server.coordinator import Coordinator
    from server.superlink import SuperLink

    coordinator = Coordinator(folder.resolve())
    SuperLink(coordinator.folder, coordinator.config.superlink_port, coordinator.config.host).unregister(name)
    print(f"{name} is shut out")
