"""MLflow: every version, what it came from, and how it does at each hospital. The only importer of mlflow.

A version is a registered model version whose run holds the bundle, the lineage as tags and the performance per
hospital as metrics named `SITE/FOLD/VERSION/QUANTITY`, e.g. `nih/test/candidate/auc` with `…/auc_low`, `…/auc_high`.
"""

import math
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from models.bundle import Bundle, verify
from models.errors import Conflict, NotFound
from models.signing import Trusted

_BUNDLE = "bundle"
_LABEL = re.compile(r"([a-z0-9][a-z0-9-]{0,62})@([0-9]{1,9})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Registered:
    """A version as the registry knows it."""

    name: str
    number: int
    digest: str
    run_id: str

    @property
    def label(self) -> str:
        return f"{self.name}@{self.number}"


class Registry:
    """The versions of all models of a coordinator.

    Args:
        uri: of the tracking server, e.g. `http://127.0.0.1:5000`.
    """

    def __init__(self, uri: str) -> None:
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

        Args:
            lineage: tags, e.g. parent, retraining, rounds, sites, cases per site, configuration.

        Raises:
            Conflict: the registry's next number is not the one that the signed bundle says.
        """
        facts = bundle.facts
        for version in self._versions(facts.name):
            if version.tags.get("digest") == bundle.digest:
                return _registered(version)
        number = self.next_number(facts.name)
        if number != facts.number:
            raise Conflict(f"the bundle says {facts.label}, the registry's next number is {number}")
        if number == 1:
            self._create_model(facts.name, facts.title)
        tags = {**lineage, "digest": bundle.digest, "signer": bundle.signer, "parent": facts.parent or "none"}
        run_id = self._run(facts.name, facts.label, tags)
        params = [
            Param("threshold", str(facts.threshold)),
            Param("threshold_rule", facts.threshold_rule),
            Param("network", facts.network),
            Param("precision", facts.precision),
        ]
        self._client.log_batch(run_id, params=params)
        self._client.log_artifacts(run_id, str(bundle.folder), _BUNDLE)
        version = self._client.create_model_version(
            facts.name, source=f"runs:/{run_id}/{_BUNDLE}", run_id=run_id, tags=tags, description=bundle.card
        )
        self._client.set_terminated(run_id)
        return _registered(version)

    def find(self, label: str) -> Registered:
        """The version called NAME@NUMBER.

        Raises:
            NotFound: there is none.
        """
        if (asked := _LABEL.fullmatch(label)) is None:
            raise NotFound(f"{label!r} is no version: write NAME@NUMBER, e.g. chest-radiograph@2")
        name, number = asked.groups()
        for version in self._versions(name):
            if int(version.version) == int(number):
                return _registered(version)
        known = ", ".join(f"{name}@{version.version}" for version in self._versions(name))
        raise NotFound(f"the registry has no version {label!r}" + (f"; it has {known}" if known else ""))

    def versions(self, name: str) -> list[Registered]:
        """All versions of a model, oldest first."""
        return sorted((_registered(version) for version in self._versions(name)), key=lambda found: found.number)

    def find_digest(self, digest: str) -> Registered:
        """The version with this digest, whatever its name.

        Raises:
            NotFound: there is none.
        """
        for version in self._client.search_model_versions(f"tags.digest = '{digest}'"):
            return _registered(version)
        raise NotFound(f"the registry has no version with digest {digest[:12]}…")

    def fetch(self, version: Registered, folder: Path, trusted: Trusted) -> Bundle:
        """Bring a version's bundle to `folder/DIGEST`, verified.

        Raises:
            BundleRefused: what came is not what was registered and signed.
        """
        final = folder / version.digest
        if not final.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as incoming:
                fetched = Path(self._client.download_artifacts(version.run_id, _BUNDLE, incoming))
                verify(fetched, trusted)
                fetched.rename(final)
        return verify(final, trusted)

    def record(self, version: Registered, metrics: Mapping[str, float], step: int = 0) -> None:
        """Add figures to a version; those that do not exist (NaN) are left out, never written as 0."""
        now = int(self._client.get_run(version.run_id).info.start_time)
        entries = [Metric(key, value, now, step) for key, value in metrics.items() if math.isfinite(value)]
        for start in range(0, len(entries), 900):  # the server takes 1,000 a request
            self._client.log_batch(version.run_id, metrics=entries[start : start + 900])

    def tag(self, version: Registered, tags: Mapping[str, str]) -> None:
        """Say something of a version: decisions, reasons, states."""
        self._client.log_batch(version.run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        for key, value in tags.items():
            self._client.set_model_version_tag(version.name, str(version.number), key, value)

    def alias(self, version: Registered, alias: str) -> None:
        """Point an alias (candidate, released, withdrawn, adopted-at-SITE) at a version."""
        self._client.set_registered_model_alias(version.name, alias, str(version.number))

    def metrics(self, version: Registered) -> dict[str, float]:
        """The newest value of each figure of a version."""
        return dict(self._client.get_run(version.run_id).data.metrics)

    def tags(self, version: Registered) -> dict[str, str]:
        """What was said of a version."""
        found = self._client.get_model_version(version.name, str(version.number))
        return dict(found.tags)

    def _versions(self, name: str) -> list[ModelVersion]:
        return list(self._client.search_model_versions(f"name = '{name}'"))

    def _create_model(self, name: str, title: str) -> None:
        try:
            self._client.create_registered_model(name, description=title)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _run(self, experiment: str, name: str, tags: Mapping[str, str]) -> str:
        found = self._client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else self._client.create_experiment(experiment)
        return self._client.create_run(experiment_id, tags=dict(tags), run_name=name).info.run_id


def _registered(version: ModelVersion) -> Registered:
    return Registered(version.name, int(version.version), version.tags["digest"], str(version.run_id))
