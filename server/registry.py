"""MLflow: every version, what it came from, and how it does at each hospital. The only importer of mlflow.

A version is three things of MLflow that name each other: a registered model version (number, lineage as tags, card,
aliases), a LoggedModel (the bundle, and the figures per hospital), and the run that made both.

What a hospital measured is an evaluation run below that run, of one LoggedModel on datasets `SITE/FOLD`: a name, a
digest of the counts, nothing else. So MLflow's own pages compare versions over hospitals, and sort them by one's AUC.
The run of the version keeps the same figures as `SITE/FOLD/VERSION/QUANTITY`, e.g. `nih/test/candidate/auc`, and the
registered version its AUCs as tags: MLflow takes the better part of a minute to hand out the LoggedModels of a hundred
versions at ten hospitals with all their figures, and a second for the tags.

Every step may be repeated. The registered version is written last, so that what has one is complete.
"""

import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Final, TypeVar

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModel,
    LoggedModelInput,
    LoggedModelOutput,
    Metric,
    Param,
    Run,
    RunTag,
)
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList

from models.bundle import Bundle, device_uid, verify
from models.errors import Conflict, NotFound
from models.signing import Trusted
from server.evaluation import Evaluation
from server.lineage import PERSONAL

T = TypeVar("T")
_BUNDLE: Final = "bundle"
_FIGURES: Final = "figures."  # before the dataset's name, in a tag's
_ROUNDS: Final = "rounds.json"
_LABEL: Final = re.compile(r"([a-z0-9][a-z0-9-]{0,62})@([0-9]{1,9})", re.ASCII)
_CARD_CHARACTERS: Final = 5000  # of a description, in MLflow's tables; SQLite takes more, PostgreSQL refuses it
_TOGETHER: Final = 900  # metrics; the server takes 1,000 a request
_TOLD: Final = frozenset(
    ("n", "n_positive", *(f"{when}auc{end}" for when in ("", "before_") for end in ("", "_low", "_high")))
)
_EXCLUDES: Final[Mapping[str, tuple[str, ...]]] = {
    "released": ("candidate", "blocked"),
    "blocked": ("candidate", "released"),
    "withdrawn": ("candidate", "released", "blocked"),
}
"""Which aliases a version cannot keep beside another one."""


@dataclass(frozen=True, slots=True)
class Registered:
    """A version as the registry knows it.

    Attributes:
        source: where its bundle lies, as MLflow says it.
        created_at: when it was registered, seconds since 1970.
        tags: what was said of it when it was read.
    """

    name: str
    number: int
    digest: str
    run_id: str
    source: str = field(default="", compare=False)
    created_at: float = field(default=0.0, compare=False)
    tags: Mapping[str, str] = field(default_factory=dict[str, str], compare=False, repr=False)

    @property
    def label(self) -> str:
        return f"{self.name}@{self.number}"

    @property
    def withdrawn(self) -> bool:
        return "withdrawn" in self.tags


@dataclass(frozen=True, slots=True)
class Known:
    """All that the registry knows of a version.

    Attributes:
        aliases: that point at it, in the order of the alphabet.
        figures: by dataset (`SITE/FOLD`), what was measured last: `n`, `n_positive`, `auc`, `auc_low`, `auc_high`, and
            of what it was compared with there `before_auc`, …
    """

    version: Registered
    aliases: tuple[str, ...]
    figures: Mapping[str, Mapping[str, float]]


class Registry:
    """The versions of all models of a coordinator.

    Args:
        uri: of the tracking server, e.g. `http://127.0.0.1:5000`.
    """

    def __init__(self, uri: str) -> None:
        # it would print the address of each run among a command's own lines
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        self._uri = uri
        self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)

    def next_number(self, name: str) -> int:
        """The number that the next registered version of this name will get."""
        try:
            self._client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return 1
            raise
        return 1 + max((int(version.version) for version in self._versions(name)), default=0)

    def register(self, bundle: Bundle, lineage: Mapping[str, str]) -> Registered:
        """Store a version with where it came from; registering the same digest again gives the one there is.

        What an attempt that was cut off has left is taken up again.

        Args:
            lineage: tags, e.g. parent, retraining, rounds, sites, cases per site, configuration.

        Raises:
            Conflict: the registry's next number is not the one that the signed bundle says.
        """
        facts = bundle.facts
        for version in self.versions(facts.name):
            if version.digest == bundle.digest:
                return version
        number = self.next_number(facts.name)
        if number != facts.number:
            raise Conflict(f"the bundle says {facts.label}, the registry's next number is {number}")
        if number == 1:
            self._create_model(facts.name, facts.title)
        tags = {
            **lineage,
            "digest": bundle.digest,
            "number": str(facts.number),
            "signer": bundle.signer,
            "parent": facts.parent or "none",
            "device_uid": bundle.device_uid,  # what a result in a PACS says of who made it
        }
        params = {
            "threshold": str(facts.threshold),
            "threshold_rule": facts.threshold_rule,
            "network": facts.network,
            "precision": facts.precision,
        }
        experiment = self._experiment(facts.name)
        run_id = self._run(experiment, facts.label, tags, params)
        model = self._model(experiment, bundle, run_id, tags, params)
        self._client.log_model_artifacts(model.model_id, str(bundle.folder), _BUNDLE)
        self._client.finalize_logged_model(model.model_id, "READY")
        self._client.set_terminated(run_id)
        created = self._client.create_model_version(
            facts.name,
            source=f"models:/{model.model_id}",
            run_id=run_id,
            tags=tags,
            description=_shortened(bundle.card),
            await_creation_for=0,
            model_id=model.model_id,
        )
        # MLflow's client asks again when a connection breaks, also where the first request had been carried out
        for version in self.versions(facts.name):
            if version.digest == bundle.digest:
                return version
        raise Conflict(f"{facts.label} became {created.version} in the registry: another was registered meanwhile")

    def find(self, label: str) -> Registered:
        """The version called NAME@NUMBER.

        Raises:
            NotFound: there is none.
        """
        if (asked := _LABEL.fullmatch(label)) is None:
            raise NotFound(f"{label!r} is no version: write NAME@NUMBER, e.g. chest-radiograph@2")
        name, number = asked[1], int(asked[2])
        versions = self.versions(name)
        for version in versions:
            if version.number == number:
                return version
        known = ", ".join(version.label for version in versions)
        raise NotFound(f"the registry has no version {label!r}" + (f"; it has {known}" if known else ""))

    def find_standing(self, label: str) -> Registered:
        """The version called NAME@NUMBER, to be offered or trained from.

        Raises:
            NotFound: there is none.
            Conflict: it was withdrawn.
        """
        found = self.find(label)
        if found.withdrawn:
            raise Conflict(f"{label} was withdrawn: {found.tags['withdrawn']}")
        return found

    def versions(self, name: str) -> list[Registered]:
        """All versions of a model, oldest first; one request, with their tags.

        What MLflow gave another number than the signed one, because a request was repeated or another version was
        registered at the same moment, is none.
        """
        return sorted((_registered(one) for one in self._versions(name) if _whole(one)), key=lambda one: one.number)

    def of_retraining(self, name: str, retraining: str) -> Registered | None:
        """The version that a retraining has made, if it has come so far."""
        return next((one for one in self.versions(name) if one.tags.get("retraining") == retraining), None)

    def names(self) -> list[str]:
        """The names of all models."""
        return sorted(
            model.name for model in _all(lambda token: self._client.search_registered_models(page_token=token))
        )

    def known(self, name: str) -> list[Known]:
        """All that is known of a model's versions, oldest first, in a handful of requests however many there are.

        Raises:
            NotFound: there is no such model.
        """
        versions = self.versions(name)
        if not versions:
            raise self._unknown(name)
        aliases = self.aliases(name)
        return [
            Known(
                version,
                tuple(sorted(alias for alias, number in aliases.items() if number == version.number)),
                {
                    key.removeprefix(_FIGURES): json.loads(value)
                    for key, value in version.tags.items()
                    if key.startswith(_FIGURES)
                },
            )
            for version in versions
        ]

    def find_digest(self, digest: str) -> Registered:
        """The version with this digest, whatever its name.

        Raises:
            NotFound: there is none.
        """
        for version in self._client.search_model_versions(f"tags.digest = '{digest}'"):
            if _whole(version):
                return _registered(version)
        raise NotFound(f"the registry has no version with digest {digest[:12]}…")

    def find_device(self, uid: str) -> Registered:
        """The version that is this device (`Bundle.device_uid`).

        Raises:
            NotFound: there is none.
        """
        # computed, not looked up: versions that earlier releases registered say nothing of their device
        for name in self.names():
            for version in self.versions(name):
                if device_uid(version.digest) == uid:
                    return version
        raise NotFound(f"the registry has no version that is the device {uid}")

    def find_form(self, digest: str = "", device: str = "") -> tuple[Registered, str, str]:
        """The version that a hospital's own form is one of, the hospital, and the form's digest: what it told of it.

        Args:
            digest, device: one of them, of the form.

        Raises:
            NotFound: no hospital has told of such a form.
        """
        for name in self.names():
            for version in self.versions(name):
                for key, form in version.tags.items():
                    if key.startswith(PERSONAL) and (form == digest or device_uid(form) == device):
                        return version, key.removeprefix(PERSONAL), form
        raise NotFound(f"the registry has no version {digest[:12] or device}, and no hospital has told of such a form")

    def fetch(self, version: Registered, folder: Path, trusted: Trusted) -> Bundle:
        """Bring a version's bundle to `folder/DIGEST`, verified.

        Raises:
            BundleRefused: what came is not what was registered and signed.
        """
        final = folder / version.digest
        if not final.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as incoming:
                fetched = Path(download_artifacts(self._bundle_at(version), dst_path=incoming, tracking_uri=self._uri))
                verify(fetched, trusted)
                fetched.rename(final)
        return verify(final, trusted)

    def record(self, version: Registered, metrics: Mapping[str, float], step: int = 0) -> None:
        """Add figures to a version; those that do not exist (NaN) are left out, never written as 0."""
        now = int(self._client.get_run(version.run_id).info.start_time)
        entries = [Metric(key, value, now, step) for key, value in metrics.items() if math.isfinite(value)]
        for start in range(0, len(entries), _TOGETHER):
            self._client.log_batch(version.run_id, metrics=entries[start : start + _TOGETHER])

    def evaluate(self, version: Registered, evaluations: Iterable[Evaluation]) -> None:
        """Keep what hospitals measured of a version, and of the one it was compared with; again changes nothing."""
        experiment = self._experiment(version.name)
        model = self._model_of(experiment, version)
        done = {
            run.info.run_name or "": run
            for run in self._client.search_runs(
                [experiment], f"tags.`mlflow.parentRunId` = '{version.run_id}'", max_results=50_000
            )
        }
        found = sorted(evaluations, key=lambda one: (one.retraining, one.site))
        served: dict[str, LoggedModel | None] = {}
        for (retraining, site), group in groupby(found, key=lambda one: (one.retraining, one.site)):
            of_site = list(group)
            name = f"{retraining} {site}"
            self._measured(experiment, version, f"{name} candidate", model, [(one, one.both) for one in of_site], done)
            compared = [(one, one.before) for one in of_site if one.before is not None]
            digest = of_site[0].served
            if digest is not None and compared:
                if digest not in served:
                    served[digest] = self._served(digest)
                if (other := served[digest]) is not None:
                    self._measured(experiment, version, f"{name} served", other, compared, done)
            for one in of_site:
                told = {key: value for key, value in one.both.items() if key in _TOLD and math.isfinite(value)}
                self._client.set_model_version_tag(
                    version.name, str(version.number), _FIGURES + one.dataset, json.dumps(told, sort_keys=True)
                )

    def keep_rounds(self, version: Registered, rounds: Sequence[Mapping[str, Any]]) -> None:
        """Keep what happened in each round of the retraining that made a version: who took part, and who did not."""
        self._client.log_text(version.run_id, json.dumps(list(rounds), indent=1, sort_keys=True), _ROUNDS)

    def rounds(self, version: Registered) -> list[dict[str, Any]]:
        """What `keep_rounds` kept; nothing of a version that no retraining made, or an earlier release registered."""
        if not any(file.path == _ROUNDS for file in self._client.list_artifacts(version.run_id)):
            return []
        with tempfile.TemporaryDirectory() as folder:
            return json.loads(Path(self._client.download_artifacts(version.run_id, _ROUNDS, folder)).read_text())

    def tag(self, version: Registered, tags: Mapping[str, str]) -> None:
        """Say something of a version: decisions, reasons, states."""
        self._client.log_batch(version.run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        for key, value in tags.items():
            self._client.set_model_version_tag(version.name, str(version.number), key, value)

    def alias(self, version: Registered, alias: str) -> None:
        """Point an alias (candidate, released, blocked, withdrawn, adopted-at-SITE) at a version.

        A version that is released is no candidate any more, one that is blocked is not released, and so on: those
        aliases are taken from it.
        """
        held = self.aliases(version.name)
        for other in _EXCLUDES.get(alias, ()):
            if held.get(other) == version.number:
                self._client.delete_registered_model_alias(version.name, other)
        self._client.set_registered_model_alias(version.name, alias, str(version.number))

    def unalias(self, name: str, alias: str) -> None:
        """Let an alias of a model point at no version."""
        self._client.delete_registered_model_alias(name, alias)

    def aliases(self, name: str) -> dict[str, int]:
        """The version that each alias of a model points at.

        Raises:
            NotFound: there is no such model.
        """
        try:
            model = self._client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                raise self._unknown(name) from None
            raise
        return {alias: int(number) for alias, number in model.aliases.items()}

    def withdraw(self, version: Registered, reason: str) -> Registered | None:
        """Take a version out: it is offered and trained from no more. Whoever has adopted it stays named.

        Args:
            reason: for people; no patient, no hospital's data.

        Returns:
            The released version from now on: the newest other one that was released and not withdrawn.

        Raises:
            Conflict: it was withdrawn before, for another reason.
        """
        if version.withdrawn and version.tags["withdrawn"] != reason:
            raise Conflict(f"{version.label} was withdrawn before: {version.tags['withdrawn']}")
        was_released = self.aliases(version.name).get("released") == version.number
        self.tag(version, {"withdrawn": reason})
        standing = [one for one in self.versions(version.name) if one.tags.get("release") == "released"]
        former = next((one for one in reversed(standing) if not one.withdrawn), None)
        # before the alias is taken: cut off between the two, the command can be given again
        if was_released and former is not None:
            self._client.set_registered_model_alias(version.name, "released", str(former.number))
        self.alias(version, "withdrawn")
        return former

    def metrics(self, version: Registered) -> dict[str, float]:
        """The newest value of each figure of a version."""
        return dict(self._client.get_run(version.run_id).data.metrics)

    def tags(self, version: Registered) -> dict[str, str]:
        """What was said of a version."""
        found = self._client.get_model_version(version.name, str(version.number))
        return dict(found.tags)

    def _unknown(self, name: str) -> NotFound:
        return NotFound(f"the registry has no model {name!r}; it has {', '.join(self.names()) or 'none'}")

    def _versions(self, name: str) -> list[ModelVersion]:
        return list(_all(lambda token: self._client.search_model_versions(f"name = '{name}'", page_token=token)))

    def _create_model(self, name: str, title: str) -> None:
        try:
            self._client.create_registered_model(name, description=title)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _experiment(self, name: str) -> str:
        if found := self._client.get_experiment_by_name(name):
            return found.experiment_id
        try:
            return self._client.create_experiment(name)
        except MlflowException as error:
            # asked twice by MLflow's client, because the first answer was lost
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or not (
                found := self._client.get_experiment_by_name(name)
            ):
                raise
            return found.experiment_id

    def _run(self, experiment: str, name: str, tags: Mapping[str, str], params: Mapping[str, str]) -> str:
        """The run that makes a version; the one of an attempt that was cut off, where there is one."""
        begun = self._client.search_runs([experiment], f"tags.digest = '{tags['digest']}'", max_results=1)
        run = begun[0] if begun else self._client.create_run(experiment, tags=dict(tags), run_name=name)
        self._client.log_batch(run.info.run_id, params=[Param(key, value) for key, value in params.items()])
        return run.info.run_id

    def _model(
        self, experiment: str, bundle: Bundle, run_id: str, tags: Mapping[str, str], params: Mapping[str, str]
    ) -> LoggedModel:
        if begun := self._by_digest(experiment, bundle.digest):
            return begun
        model = self._client.create_logged_model(
            experiment,
            name=bundle.facts.label,
            source_run_id=run_id,
            tags=dict(tags),
            params=dict(params),
            model_type=bundle.facts.network,
        )
        self._client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
        return model

    def _model_of(self, experiment: str, version: Registered) -> LoggedModel:
        """A version's logged model; one that an earlier release registered gets its own now."""
        if found := self._by_digest(experiment, version.digest):
            return found
        model = self._client.create_logged_model(
            experiment, name=version.label, source_run_id=version.run_id, tags=dict(version.tags)
        )
        return self._client.finalize_logged_model(model.model_id, "READY")

    def _by_digest(self, experiment: str, digest: str) -> LoggedModel | None:
        found = list(self._client.search_logged_models([experiment], f"tags.digest = '{digest}'"))
        return min(found, key=lambda model: model.creation_timestamp) if found else None

    def _served(self, digest: str) -> LoggedModel | None:
        try:
            served = self.find_digest(digest)
        except NotFound:  # a hospital may serve what was never registered here
            return None
        return self._model_of(self._experiment(served.name), served)

    def _measured(
        self,
        experiment: str,
        version: Registered,
        name: str,
        model: LoggedModel,
        measured: Sequence[tuple[Evaluation, Mapping[str, float]]],
        done: dict[str, Run],
    ) -> None:
        """One run: a model on all folds of a hospital. What the run itself shows is the last fold's, the test's."""
        run = done.get(name)
        if run is not None and run.info.status == "FINISHED":
            return
        if run is None:
            first = measured[0][0]
            tags = {"mlflow.parentRunId": version.run_id, "retraining": first.retraining, "site": first.site}
            run = done[name] = self._client.create_run(experiment, tags=tags, run_name=name)
        inputs: list[DatasetInput] = []
        entries: list[Metric] = []
        for index, (one, figures) in enumerate(measured):
            dataset = Dataset(
                one.dataset,
                one.dataset_digest,
                source_type="hospital",
                source=json.dumps({"site": one.site, "fold": one.fold}),
                profile=json.dumps({"n": one.n, "n_positive": one.n_positive}),
            )
            inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", one.fold)]))
            # a millisecond apart: MLflow tells two values of a run by key and time, not by their dataset
            at = run.info.start_time + index
            entries.extend(
                Metric(key, value, at, 0, model.model_id, dataset.name, dataset.digest)
                for key, value in figures.items()
                if math.isfinite(value)
            )
        self._client.log_inputs(run.info.run_id, inputs, [LoggedModelInput(model.model_id)])
        for start in range(0, len(entries), _TOGETHER):
            self._client.log_batch(run.info.run_id, metrics=entries[start : start + _TOGETHER])
        self._client.set_terminated(run.info.run_id)

    def _bundle_at(self, version: Registered) -> str:
        """Where the bundle lies; MLflow's own reading of `models:/ID` asks whatever server the process knows."""
        if not version.source.startswith("models:/"):
            return version.source  # registered by an earlier release
        model = self._client.get_logged_model(version.source.removeprefix("models:/"))
        return f"{model.artifact_location}/{_BUNDLE}"


def _whole(version: ModelVersion) -> bool:
    return "digest" in version.tags and version.tags.get("number", str(version.version)) == str(version.version)


def _registered(version: ModelVersion) -> Registered:
    return Registered(
        version.name,
        int(version.version),
        version.tags["digest"],
        str(version.run_id),
        str(version.source),
        version.creation_timestamp / 1000,
        dict(version.tags),
    )


def _shortened(card: str) -> str:
    end = "\n…"
    return card if len(card) <= _CARD_CHARACTERS else card[: _CARD_CHARACTERS - len(end)] + end


def _all(page: Callable[[str | None], PagedList[T]]) -> Iterator[T]:
    token: str | None = None
    while True:
        found = page(token)
        yield from found
        token = found.token
        if not token:
            return
