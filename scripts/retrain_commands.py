"""`vigie retrain …`: what an ML engineer launches and watches."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    no_args_is_help=True,
    help="Federated retraining. Example: vigie retrain launch --folder coordinator spring base=chest-radiograph@1",
)
Folder = Annotated[Path, typer.Option("--folder", envvar="VIGIE_COORDINATOR", help="the coordinator's folder")]


@app.command()
def launch(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="of the retraining, lower case")],
    overrides: Annotated[list[str] | None, typer.Argument(help="of configs/retraining.yaml, KEY=VALUE")] = None,
) -> None:
    """Launch a retraining over the hospitals, or resume one of this name, and follow it to the decisions.

    `rounds=0` delivers the base version as it is.

    Example: vigie retrain launch --folder coordinator spring base=chest-radiograph@1 rounds=30
    """
    from server.coordinator import Coordinator
    from server.launch import launch as start
    from server.launch import plan_named

    coordinator = Coordinator(folder.resolve())
    start(coordinator, plan_named(name, overrides or [], coordinator), lambda line: print(told(line), flush=True))


@app.command()
def plan(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="of the retraining, lower case")],
    overrides: Annotated[list[str] | None, typer.Argument(help="of configs/retraining.yaml, KEY=VALUE")] = None,
) -> None:
    """Show the plan that a launch with these settings would carry out; nothing is written or sent.

    Example: vigie retrain plan --folder coordinator spring base=chest-radiograph@1 rounds=30
    """
    from server.coordinator import Coordinator
    from server.launch import plan_named

    print(plan_named(name, overrides or [], Coordinator(folder.resolve())).model_dump_json(indent=2))


@app.command()
def resume(folder: Folder, name: str) -> None:
    """Go on with a retraining that was stopped or cut off, after its last journalled step, and follow it to the end.

    Example: vigie retrain resume --folder coordinator spring
    """
    from server.coordinator import Coordinator
    from server.launch import launch as start
    from server.plan import load

    coordinator = Coordinator(folder.resolve())
    start(coordinator, load(coordinator.folder, name), lambda line: print(told(line), flush=True))


@app.command()
def watch(folder: Folder, name: str) -> None:
    """Follow a retraining that was launched elsewhere.

    Example: vigie retrain watch --folder coordinator spring
    """
    from server import journal
    from server.coordinator import Coordinator
    from server.launch import runs
    from server.superlink import FINISHED

    coordinator = Coordinator(folder.resolve())
    seen = 0
    while True:
        states = runs(coordinator, name)  # before the journal is read, which then has all that an ended run wrote
        lines = list(journal.read(folder / "retrainings" / name))
        for line in lines[seen:]:
            print(told(line), flush=True)
        seen = len(lines)
        if all(state.progress in FINISHED for state in states):
            if not lines or lines[-1]["step"] != "finished":
                print(f"ended as {states[-1].progress}; launch it again to go on")
            return
        time.sleep(1.0)


@app.command()
def schedule(
    folder: Folder, policy: Annotated[Path, typer.Argument(help="YAML file; see ScheduleConfig in configs/schema.py")]
) -> None:
    """Retrain by a policy: on a calendar, on enough new errors, on an alarm; runs until Ctrl-C.

    A retraining that it has begun goes on when it is stopped, and is followed again when it is started.

    Example: vigie retrain schedule --folder coordinator chest.yaml
    """
    from configs.schema import ScheduleConfig, load
    from models.children import follow_parent
    from server.coordinator import Coordinator
    from server.schedule import Schedule, run

    follow_parent()
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    work = Schedule(Coordinator(folder.resolve()), load(policy, ScheduleConfig))
    run(work, time.sleep, lambda text: print(text, flush=True), lambda line: print(told(line), flush=True))


@app.command()
def alarm(
    folder: Folder, model: str, why: Annotated[str, typer.Argument(help="no patient, no hospital's data")]
) -> None:
    """Say that a model is to be retrained: its schedule does so as soon as its policy lets it.

    Example: vigie retrain alarm --folder coordinator chest-radiograph "drift at two hospitals"
    """
    # an alarm is noted whatever does not answer: the registry is asked once, not for minutes
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    from server.coordinator import Coordinator
    from server.schedule import is_known, raise_alarm

    coordinator = Coordinator(folder.resolve())
    unsure = "" if is_known(coordinator, model) else "; the registry does not answer: is there such a model?"
    raise_alarm(coordinator.folder, model, why, time.time())
    print(f"{model}: noted{unsure}")


@app.command()
def simulate(
    name: Annotated[str, typer.Argument(help="of the retraining, lower case")],
    overrides: Annotated[list[str] | None, typer.Argument(help="of configs/retraining.yaml, KEY=VALUE")] = None,
    hospitals: Annotated[int, typer.Option(help="how many to make up")] = 50,
    patients: Annotated[int, typer.Option(help="of each")] = 60,
    folder: Annotated[Path, typer.Option(help="made; hospitals that are there are used again")] = Path(
        "runs/simulation"
    ),
    at_once: Annotated[int, typer.Option(help="hospitals that are answered for at a time; 0: as many as cores")] = 0,
    seed: Annotated[int, typer.Option(help="of all that is drawn for the hospitals")] = 0,
) -> None:
    """Try a retraining on many made-up hospitals on this machine, with the code that coordinator and hospitals run.

    The pictures are drawn, so its figures mean nothing; how long it takes, and whether a setting works with so many,
    does.

    Example: vigie retrain simulate trial --hospitals 50 strategy=fedprox rounds=2 hyper.steps=10
    """
    from client.cores import allowed
    from scripts.simulation.loop import Settings
    from scripts.simulation.loop import simulate as run

    settings = Settings(folder, name, tuple(overrides or ()), hospitals, patients, seed, at_once or allowed().count)
    try:
        found = run(settings, lambda text: print(text, flush=True))
    except KeyboardInterrupt:
        print("stopped; typed again, it goes on after its last journalled step", file=sys.stderr, flush=True)
        os._exit(130)  # the thread that conducts it would wait for hospitals that are gone
    print(
        f"{found.making:.0f} s for the hospitals, {found.retraining:.0f} s for the retraining; memory of all processes "
        f"{found.peak_mib / 1024:.1f} GiB at most, shared pages counted once; everything lies in {folder}"
    )


@app.command()
def stop(folder: Folder, name: str) -> None:
    """Stop a retraining; launching it again goes on after the last whole round.

    Example: vigie retrain stop --folder coordinator spring
    """
    from server.coordinator import Coordinator
    from server.launch import stop as end

    end(Coordinator(folder.resolve()), name)
    print(f"{name} is stopped; launch it again to go on")


@app.command("list")
def list_all(folder: Folder) -> None:
    """List retrainings with their last step, and who took part, who did not, and why.

    Example: vigie retrain list --folder coordinator
    """
    from models.errors import NotFound
    from server import journal
    from server.participation import participation

    if not (folder / "coordinator.yaml").exists():
        raise NotFound(f"{folder} is not a coordinator's folder")
    for path in sorted((folder / "retrainings").glob("*/plan.json")):
        try:
            plan = json.loads(path.read_text())
        except ValueError:
            print(f"{path.parent.name:<24} its plan.json is damaged")
            continue
        lines = list(journal.read(path.parent))
        last = lines[-1]["step"] if lines else "not started"
        print(f"{plan['name']:<24} base {plan['base']:<24} rounds {plan['rounds']:>3}  {last}")
        for site, found in participation(lines).items():
            print(f"  {site:<22} {found.told(plan['rounds'])}")


def told(line: dict[str, Any]) -> str:
    """One line of a journal for a person."""
    match line["step"]:
        case "started":
            return f"started from {line['base']}, {line['rounds']} rounds, hospitals {', '.join(line['sites'])}"
        case "proposed":
            return f"terms {line['terms'][:12]}… are signed and sent; each hospital agrees, or does not"
        case "consent":
            return f"{line['site']}: {line['state']} ({', '.join(line['reasons'])})"
        case "consents":
            rest = "".join(f"; {state}: {', '.join(line[state])}" for state in ("declined", "waiting") if line[state])
            return f"agreed: {', '.join(line['granted']) or 'no hospital'}{rest}"
        case "round":
            sites = "  ".join(
                f"{site} late, of round {facts['late']}, on {facts['cases']}"
                if facts.get("late")
                else f"{site} AUC {facts['auc_received']:.3f} on {facts['cases']} ({_errors(facts['errors'])})"
                if facts.get("auc_received") is not None
                else f"{site} on {facts['cases']}"
                for site, facts in line["sites"].items()
            )
            missing = "".join(f"  {site}: {code}" for site, code in line["failures"].items())
            mean = f", all together AUC {together['auc_received']:.3f}" if (together := line.get("together")) else ""
            return f"round {line['round']} in {line['seconds']:.1f} s  training patients: {sites}{mean}{missing}"
        case "group":
            return f"their updates are summed, and never seen by themselves: {', '.join(line['sites'])}"
        case "attempt":
            return f"round {line['round']}, attempt {line['attempt']}: the hospitals train"
        case "masked":
            return f"round {line['round']}: masked updates of {', '.join(line['sites'])}"
        case "candidate":
            return f"candidate {line['label']} ({line['digest'][:12]}…) is packed, signed and registered"
        case "evidence":
            missing = "".join(f"  {site}: {code}" for site, code in line["failures"].items())
            return f"evidence from {', '.join(line['evidence']) or 'no hospital'}{missing}"
        case "release-gate":
            return "release gate: " + ("released" if line["released"] else f"blocked ({'; '.join(line['reasons'])})")
        case "decisions":
            return "decisions: " + "  ".join(
                f"{site}: {found['outcome']} ({', '.join(found['reasons'])})"
                for site, found in line["decisions"].items()
            )
        case "quorum-missed":
            missing = "".join(f"  {site}: {code}" for site, code in line["failures"].items())
            return f"round {line['round']}: quorum missed, {line['why']}{missing}"
        case "finished" if line.get("rehearsed"):
            return "finished: a rehearsal, nothing was learned and no version made of it"
        case "ended":
            return f"ended before its last step: {line['why']}"
        case step:
            return str(step)


def _errors(count: int | None) -> str:
    return "errors too few, or too many, to be told" if count is None else f"{count} errors"
