"""What may be configured, typed and checked.

Dataclasses for Hydra's structured configs (not frozen: OmegaConf fills them); `__post_init__` refuses what cannot
work. `compose` gives the validated object, so that the rest of the code gets plain values.
"""

import copy
from dataclasses import dataclass, field
from functools import lru_cache
from io import StringIO
from ipaddress import ip_network
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl, urlsplit
from zoneinfo import ZoneInfo

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from models.durable import replacing
from models.errors import ConfigurationError
from models.validation import told

T = TypeVar("T")
CONFIGS = Path(__file__).parent
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass
class PeerConfig:
    """The PACS: where results go, and earlier studies come from.

    Attributes:
        query: it may be asked how many images of a study it has, and which studies it has of some days.
        stow_url: DICOMweb root of the PACS; results go there by STOW-RS instead of C-STORE.
        commitment: ask the PACS to confirm that it keeps our results (PS3.4 J).
        fetch: how earlier studies are fetched: not, by C-MOVE to our AE title, or by C-GET.
        priors: how many of a patient's earlier studies, the newest.
    """

    host: str = "127.0.0.1"
    port: int = 4242
    ae_title: str = "PACS"
    tls: bool = False
    query: bool = False
    stow_url: str = ""
    commitment: bool = False
    fetch: str = "none"
    priors: int = 2

    def __post_init__(self) -> None:
        _require(0 < self.port < 65536, f"pacs.port is {self.port}: a TCP port is 1 to 65535")
        _ae_title("pacs.ae_title", self.ae_title)
        _require(
            not self.stow_url or self.stow_url.startswith(("http://", "https://")),
            f"pacs.stow_url {self.stow_url!r}: an address that begins with https:// or http://",
        )
        _require(self.fetch in ("none", "move", "get"), f"pacs.fetch {self.fetch!r}: none, move or get")
        _require(1 <= self.priors <= 20, f"pacs.priors is {self.priors}: 1 to 20")


@dataclass
class TlsConfig:
    """The node's certificate for DICOM, its key, and who signs the certificates of peers: PEM files, relative to the
    site's folder. All empty: without TLS.
    """

    certificate: str = ""
    key: str = ""
    ca: str = ""

    def __post_init__(self) -> None:
        named = [bool(name) for name in (self.certificate, self.key, self.ca)]
        _require(all(named) or not any(named), "tls needs all of certificate, key and ca, or none of them")


@dataclass
class GateConfig:
    """A hospital's adoption gate: how much worse is still not worse, and how sure one has to be.

    Attributes:
        min_positives, min_negatives: patients of the random sample, before the gate looks.
        looks: fixed: one look; obrien-fleming or pocock: again each time that the sample has grown by a tenth of what
            is planned, with the one alpha shared among all looks.
        planned_positives, planned_negatives: patients at which the last of several looks is taken.
        min_validated: share of the random sample whose truth has to be known, of what was called positive as of what
            was called negative.
        population: what becomes of a version that was trained on other patients than those here: ignore, warn (it is
            said), or require (it stays in shadow, as does one that does not say whom it was trained on).
        shadow_cases: patients whom an adopted version reads beside the served one before it serves; 0: none.
        shadow_days: that this takes at least.
    """

    margin: float = 0.05
    alpha: float = 0.025
    min_positives: int = 20
    min_negatives: int = 20
    looks: str = "fixed"
    planned_positives: int = 150
    planned_negatives: int = 150
    min_validated: float = 0.5
    population: str = "warn"
    shadow_cases: int = 0
    shadow_days: float = 0.0

    def __post_init__(self) -> None:
        _require(0 < self.margin < 0.5, f"gate.margin is {self.margin}: between 0 and 0.5")
        _require(0 < self.alpha < 0.5, f"gate.alpha is {self.alpha}: between 0 and 0.5")
        _require(self.min_positives >= 1 and self.min_negatives >= 1, "gate minimums are at least 1")
        known = ("fixed", "obrien-fleming", "pocock")
        _require(self.looks in known, f"gate.looks {self.looks!r}: {', '.join(known)}")
        _require(
            self.planned_positives >= self.min_positives and self.planned_negatives >= self.min_negatives,
            "gate: no fewer patients can be planned for the last look than the first one needs",
        )
        _require(0 <= self.min_validated <= 1, f"gate.min_validated is {self.min_validated}: a share, 0 to 1")
        known = ("ignore", "warn", "require")
        _require(self.population in known, f"gate.population {self.population!r}: {', '.join(known)}")
        _require(self.shadow_cases >= 0 and self.shadow_days >= 0, "gate: a shadow period cannot be negative")
        _require(
            not self.shadow_days or self.shadow_cases > 0,
            "gate.shadow_days needs shadow_cases: days in which nobody came show nothing",
        )


@dataclass
class PrivacyConfig:
    """What this hospital's patients' privacy may be spent on, over all retrainings.

    Attributes:
        epsilon: the cap; 0: no training that costs of it is agreed to.
        delta: at which epsilon is counted; well below one over the number of patients.
        statistics: epsilon of the noise on what is told of a version to its vendor, for each patient and version, taken
            from the cap; 0: no noise, and nothing is taken.
        required: a retraining whose updates are not differentially private per patient is refused.
        summed: a retraining whose updates are not hidden in sums (secure aggregation) is refused.
    """

    epsilon: float = 0.0
    delta: float = 1e-5
    statistics: float = 0.0
    required: bool = False
    summed: bool = False

    def __post_init__(self) -> None:
        _require(0 <= self.epsilon <= 100, f"privacy.epsilon is {self.epsilon}: 0 to 100; beyond, it protects nobody")
        _require(
            self.statistics == 0 or 0.01 <= self.statistics <= 100,
            f"privacy.statistics is {self.statistics}: 0, or 0.01 to 100",
        )
        _require(0 < self.delta <= 1e-2, f"privacy.delta is {self.delta}: above 0 and at most 0.01")
        _require(
            not (self.required and self.summed),
            "privacy: required and summed together refuse everything, for no retraining is protected in both ways",
        )


@dataclass
class UpsConfig:
    """The hospital's worklist server, where it has one (UPS-RS).

    A bearer token, where the server wants one, lies in the site's `secrets/ups.token`.

    Attributes:
        url: its root, before `/workitems`; empty: no worklist is told.
        create: schedule a step for a study that has none.
        station: code value of the station name that steps for us are scheduled for; empty: our AE title.
        label: of the worklist that our own steps stand in.
    """

    url: str = ""
    create: bool = False
    station: str = ""
    label: str = "AI"

    def __post_init__(self) -> None:
        _require(
            not self.url or self.url.startswith(("http://", "https://")),
            f"ups.url {self.url!r}: an address that begins with https:// or http://",
        )
        _require(len(self.station) <= 16, "ups.station: 16 characters at most")
        _require(bool(self.label), "ups.label cannot be empty")


@dataclass
class ResultsConfig:
    """Result objects that not every PACS takes, or that are large: made only where the site asks for them.

    Attributes:
        heat_maps: parametric maps of cross-sectional images; the secondary capture is made in any case.
        structure_sets: contours for radiotherapy, of versions that declare that use.
        refusals: which studies that were refused, or whose reading failed, get a report that says so: none, relevant
            (those of an examination that an adopted version reads), or all.
    """

    heat_maps: bool = False
    structure_sets: bool = False
    refusals: str = "relevant"

    def __post_init__(self) -> None:
        known = ("none", "relevant", "all")
        _require(self.refusals in known, f"results.refusals {self.refusals!r}: {', '.join(known)}")


@dataclass
class SenderConfig:
    """What a site knows of the studies of one calling AE (C-STORE) or device (STOW-RS).

    Attributes:
        ae_title: who sends them.
        urgency: they are at least so urgent: emergency, urgent or routine.
        seconds: allowed for those that nobody calls more urgent; 0: what the class allows.
    """

    ae_title: str = MISSING
    urgency: str = "routine"
    seconds: float = 0.0

    def __post_init__(self) -> None:
        _ae_title("urgency.senders.ae_title", self.ae_title)
        known = ("emergency", "urgent", "routine")
        _require(self.urgency in known, f"urgency.senders.urgency {self.urgency!r}: {', '.join(known)}")
        _require(self.seconds >= 0, "urgency.senders.seconds cannot be negative")


@dataclass
class UrgencyConfig:
    """Within how many seconds a complete study is to be read, by its class; and what is known of senders.

    Attributes:
        senders: those whose studies are more urgent, or have another time allowed, than others.
        triage: name of an adopted model that looks first at what waits; what it calls positive becomes an emergency.
            Empty: none.
    """

    emergency_seconds: float = 60.0
    urgent_seconds: float = 600.0
    routine_seconds: float = 3600.0
    senders: list[SenderConfig] = field(default_factory=lambda: list[SenderConfig]())
    triage: str = ""

    def __post_init__(self) -> None:
        times = (self.emergency_seconds, self.urgent_seconds, self.routine_seconds)
        _require(
            0 < times[0] <= times[1] <= times[2],
            "urgency: emergency_seconds, urgent_seconds and routine_seconds are positive, and none is less than the"
            " one before",
        )
        titles = [one.ae_title.strip() for one in self.senders]
        _require(len(set(titles)) == len(titles), "urgency.senders: an AE title stands twice")


@dataclass
class ConsentConfig:
    """To what retrainings and deliveries this hospital agrees without a person looking at each: a standing policy.

    What fits all of it is granted, what does not waits for `vigie site retraining approve`. It holds while it stands
    here: what it granted and no longer fits is stopped at the next order.

    Attributes:
        standing: none, deliveries (of versions as they are, to be judged here), or retrainings (those, too).
        signers: whose signature under terms counts: names of keys in the site's `trust/`.
        most_rounds: of one retraining.
        most_retrainings: begun within a year by this policy.
        strategies: which may aggregate; empty: any.
        fewest_others: at least so many other hospitals are asked, too.
        largest_norm: largest bound on what a round may change.
        clip_norm: this hospital's updates are kept to this bound where the terms allow a larger one, whoever agreed to
            them; 0: as the terms say.
        surveys: the coordinator may ask how many errors there are to learn from, and is told in steps of eleven.
        withdrawals: what becomes of a version that the coordinator withdraws: obey (it reads no further study), or ask
            (it goes on until a person has decided).
        statistics: who agrees that counts of right and wrong answers leave, for the vendors of the versions: none
            (nothing leaves), ask (a person looks at each release first), or policy (each leaves when it is asked for).
        holdings: the coordinator may ask which of its versions serve here, or did, and whether safety was why not.
    """

    standing: str = "none"
    signers: list[str] = field(default_factory=lambda: ["coordinator"])
    most_rounds: int = 20
    most_retrainings: int = 4
    strategies: list[str] = field(default_factory=lambda: list[str]())
    fewest_others: int = 2
    largest_norm: float = 20.0
    clip_norm: float = 0.0
    surveys: bool = False
    withdrawals: str = "obey"
    holdings: bool = True
    statistics: str = "none"

    def __post_init__(self) -> None:
        known = ("obey", "ask")
        _require(self.withdrawals in known, f"consent.withdrawals {self.withdrawals!r}: {', '.join(known)}")
        known = ("none", "ask", "policy")
        _require(self.statistics in known, f"consent.statistics {self.statistics!r}: {', '.join(known)}")
        known = ("none", "deliveries", "retrainings")
        _require(self.standing in known, f"consent.standing {self.standing!r}: {', '.join(known)}")
        for key in ("most_rounds", "most_retrainings", "fewest_others"):
            _require(getattr(self, key) >= 0, f"consent.{key} cannot be negative")
        _require(self.largest_norm > 0, "consent.largest_norm is more than 0")
        _require(self.clip_norm >= 0, "consent.clip_norm cannot be negative; 0: as the terms of a retraining say")


@dataclass
class WatchConfig:
    """The watch over what reads here: what is tolerated of a version, and what an alarm does.

    Attributes:
        missed: share of what is there that a version may miss, of the random sample; 0: not watched.
        false_positive: share of what is not there that it may call; 0: not watched. Of either, what the adoption gate
            saw here and accepted is tolerated too, with the gate's margin.
        false_alarms: alarms a year that may be false, of all versions and rates together.
        least_tier: the lowest truth tier that counts; below single_reader the AI's answer was in view.
        double_positive: share of the exams that AI and first reader both called that a second reader reads again.
        double_negative: share of those that neither called.
        on_alarm: suspend (the version reads nothing until a person lets it), or warn.
        reference: studies that later ones are compared with, to see whether what comes has changed; 0: nothing is
            compared.
        false_warnings: warnings a year that studies have changed which may be false, of all models together.
    """

    missed: float = 0.20
    false_positive: float = 0.20
    false_alarms: float = 0.1
    least_tier: str = "single_reader"
    double_positive: float = 0.5
    double_negative: float = 0.15
    on_alarm: str = "suspend"
    reference: int = 600
    false_warnings: float = 0.1

    def __post_init__(self) -> None:
        for key in ("missed", "false_positive"):
            _require(0 <= getattr(self, key) <= 0.9, f"watch.{key} is {getattr(self, key)}: 0 to 0.9")
        for key in ("double_positive", "double_negative"):
            _require(0 <= getattr(self, key) <= 1, f"watch.{key} is {getattr(self, key)}: a share, 0 to 1")
        _require(self.missed + self.false_positive > 0, "watch: at least one rate is watched")
        _require(0 < self.false_alarms <= 10, f"watch.false_alarms is {self.false_alarms}: above 0, 10 at most")
        _require(0 < self.false_warnings <= 10, f"watch.false_warnings is {self.false_warnings}: above 0, 10 at most")
        enough = self.reference == 0 or 200 <= self.reference <= 5000
        _require(enough, f"watch.reference is {self.reference}: 0, or 200 to 5,000 studies")
        known = ("ai_visible", "report", "single_reader", "blind_consensus", "follow_up", "biopsy")
        _require(self.least_tier in known, f"watch.least_tier {self.least_tier!r}: {', '.join(known)}")
        known = ("suspend", "warn")
        _require(self.on_alarm in known, f"watch.on_alarm {self.on_alarm!r}: {', '.join(known)}")


@dataclass
class TruthCodeConfig:
    """What one coded answer of another system means. Codes are SCHEME:VALUE, as in SCT:263654008.

    Attributes:
        code: of the observation: OBX-3, or Observation.code.
        value: its answer: OBX-5, or Observation.valueCodeableConcept.
        answer: what that says of the study: positive, negative or not_assessable.
        tier: how it is known: follow_up or biopsy.
        finding: what it is about; empty: whatever the study was read for.
    """

    code: str = MISSING
    value: str = MISSING
    answer: str = MISSING
    tier: str = MISSING
    finding: str = ""

    def __post_init__(self) -> None:
        for key in ("code", "value", "finding"):
            said = getattr(self, key)
            coded = said == MISSING or (key == "finding" and not said) or all(said.rpartition(":")[::2])
            _require(coded, f"truth.codes.{key} {said!r}: SCHEME:VALUE, e.g. SCT:263654008")
        known = ("positive", "negative", "not_assessable", MISSING)
        _require(self.answer in known, f"truth.codes.answer {self.answer!r}: {', '.join(known[:-1])}")
        known = ("follow_up", "biopsy", MISSING)
        _require(self.tier in known, f"truth.codes.tier {self.tier!r}: {', '.join(known[:-1])}")


@dataclass
class AuthorityConfig:
    """Whose patient identifiers count.

    Attributes:
        name: as other systems call who assigned them: CX-4.1 of PID-3, or the system of a FHIR identifier.
        issuer: the same as images call it, Issuer of Patient ID; empty where they have none.
    """

    name: str = MISSING
    issuer: str = ""


@dataclass
class TruthConfig:
    """What HL7 v2 messages and FHIR bundles say of studies later, and what of it is understood.

    Attributes:
        codes: which answers mean what. Nothing else is taken in.
        authorities: whose patient identifiers count.
        accession: the field of OBR in which the accession number of the image stands.
        schemes: FHIR code systems (URI) by the scheme that stands for them in `codes`.
        port: where HL7 v2 messages are taken by MLLP, over TLS where `tls` is filled in; 0: nowhere.
        addresses: who may send them, addresses or networks; whoever may can change what counts as true here.
    """

    codes: list[TruthCodeConfig] = field(default_factory=lambda: list[TruthCodeConfig]())
    authorities: list[AuthorityConfig] = field(default_factory=lambda: list[AuthorityConfig]())
    accession: int = 18
    schemes: dict[str, str] = field(
        default_factory=lambda: {
            "SCT": "http://snomed.info/sct",
            "LN": "http://loinc.org",
            "DCM": "http://dicom.nema.org/resources/ontology/DCM",
        }
    )
    port: int = 0
    addresses: list[str] = field(default_factory=lambda: list[str]())

    def __post_init__(self) -> None:
        _require(1 <= self.accession <= 50, f"truth.accession is {self.accession}: OBR has the fields 1 to 50")
        _require(0 <= self.port < 65536, f"truth.port is {self.port}: 1 to 65535, or 0 for none")
        _require(not self.port or bool(self.addresses), "truth.port needs truth.addresses: who may send truths")
        for one in self.addresses:
            _require(_is_network(one), f"truth.addresses {one!r}: 10.0.0.5 or 10.0.0.0/8")
        pairs = [(one.code, one.value) for one in self.codes]
        _require(len(set(pairs)) == len(pairs), "truth.codes: the same answer to the same code stands twice")
        names = [one.name for one in self.authorities]
        _require(len(set(names)) == len(names), "truth.authorities: a name stands twice")


@dataclass
class ValueConfig:
    """What the dashboard needs to say what a study costs.

    Attributes:
        cost_a_year: of licences, machines and people, in `currency`; 0: not known, and nothing is said.
    """

    cost_a_year: float = 0.0
    currency: str = "EUR"

    def __post_init__(self) -> None:
        _require(0 <= self.cost_a_year <= 1e9, f"value.cost_a_year is {self.cost_a_year}: 0 to 1e9")
        _require(
            len(self.currency) == 3 and self.currency.isalpha(), f"value.currency {self.currency!r}: three letters"
        )


@dataclass
class SiteConfig:
    """One hospital's node: `site.yaml` in its folder.

    Attributes:
        inference_threads: of one computation; 0: one less than the cores that the process may use, at least one.
        require_called_ae: whoever calls us by another title than `ae_title` is rejected.
        rejections_from: whose word that images are not to be used is heeded: AE titles (C-STORE), and accounts of
            readers (STOW-RS). Empty: the PACS, by its AE title, and no account. What others say waits for a person.
        unknown_classes: objects of private SOP classes, and of storage classes newer than this release, are kept; none
            of them is read.
        most_waiting: studies that may wait before new ones are refused.
        most_emergencies: studies known to be emergencies that are taken beyond that.
        timezone: where the hospital is, as in Europe/Paris; empty: as the machine is set. Deadlines are days there.
        batch_wait_ms: how long a radiograph that is ready waits for others that are being prepared, to be scored with
            them where that was measured to be faster; 0: never.
    """

    name: str = "hospital"
    institution: str = "Hospital"
    timezone: str = ""
    ae_title: str = "VIGIE"
    host: str = "127.0.0.1"
    dicom_port: int = 11112
    api_port: int = 8080
    pacs: PeerConfig = field(default_factory=PeerConfig)
    results: ResultsConfig = field(default_factory=ResultsConfig)
    ups: UpsConfig = field(default_factory=UpsConfig)
    calling_ae_titles: list[str] = field(default_factory=lambda: list[str]())
    calling_addresses: list[str] = field(default_factory=lambda: list[str]())
    require_called_ae: bool = False
    rejections_from: list[str] = field(default_factory=lambda: list[str]())
    unknown_classes: bool = True
    tls: TlsConfig = field(default_factory=TlsConfig)
    quiet_seconds: float = 2.0
    longest_quiet_seconds: float = 60.0
    longest_step_seconds: float = 600.0
    max_attempts: int = 3
    inference_threads: int = 0
    batch_wait_ms: float = 5.0
    reserve_mib: int = 1024
    memory_mib: int = 0  # 0: half of what this machine or container has
    training_priority: str = "idle"  # training runs when nothing else does; low: a little in any case; normal
    training_memory_mib: int = 0  # 0: a quarter of it; what trains and judges may take beside what reads
    most_waiting: int = 20_000
    most_emergencies: int = 1000
    read_ahead: bool = True
    urgency: UrgencyConfig = field(default_factory=UrgencyConfig)
    superlink: str = ""
    gate: GateConfig = field(default_factory=GateConfig)
    consent: ConsentConfig = field(default_factory=ConsentConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    value: ValueConfig = field(default_factory=ValueConfig)
    truth: TruthConfig = field(default_factory=TruthConfig)

    def __post_init__(self) -> None:
        if self.timezone:
            try:
                ZoneInfo(self.timezone)
            except (ValueError, OSError, KeyError):  # KeyError: ZoneInfoNotFoundError
                raise ConfigurationError(f"timezone {self.timezone!r}: as in Europe/Paris") from None
        _require(
            self.name.replace("-", "").isalnum() and self.name.islower(),
            f"name {self.name!r}: lower case letters, digits and - only",
        )
        _ae_title("ae_title", self.ae_title)
        _require(not self.pacs.tls or bool(self.tls.certificate), "pacs.tls needs the tls section filled in")
        for title in self.calling_ae_titles:
            _ae_title("calling_ae_titles", title)
        _require(0 <= self.dicom_port < 65536, f"dicom_port is {self.dicom_port}: 1 to 65535, or 0 for any")
        _require(0 <= self.api_port < 65536, f"api_port is {self.api_port}: 1 to 65535, or 0 for any")
        _require(self.quiet_seconds >= 0, "quiet_seconds cannot be negative")
        for key in ("longest_quiet_seconds", "longest_step_seconds"):
            _require(getattr(self, key) >= self.quiet_seconds, f"{key} cannot be less than quiet_seconds")
        _require(self.max_attempts >= 1, "max_attempts is at least 1")
        _require(self.inference_threads >= 0, "inference_threads cannot be negative; 0: by the cores that there are")
        _require(0 <= self.batch_wait_ms <= 1000, "batch_wait_ms is 0 to 1000")
        known = ("idle", "low", "normal")
        _require(self.training_priority in known, f"training_priority {self.training_priority!r}: {', '.join(known)}")
        _require(self.training_memory_mib >= 0, "training_memory_mib cannot be negative: it is what training may take")
        _require(self.memory_mib >= 0, "memory_mib cannot be negative: it is what studies being read may take")
        _require(self.most_waiting >= 1, "most_waiting is at least 1: studies that may wait before others are refused")
        _require(
            self.most_emergencies >= 0, "most_emergencies cannot be negative: it is what is taken beyond most_waiting"
        )
        _require(self.reserve_mib >= 0, "reserve_mib cannot be negative: it is what images leave free on the disk")


@dataclass
class CoordinatorConfig:
    """The coordinator: `coordinator.yaml` in its folder.

    Attributes:
        mlflow_store: MLflow's tables in PostgreSQL, `postgresql://USER@HOST/DATABASE`; its password is no setting
            (PGPASSWORD, PGPASSFILE, or `secrets/mlflow.password`). Empty: SQLite in the folder.
        mlflow_artifacts: MLflow's files at `s3://BUCKET/PREFIX`; credentials as boto3 finds them, or in
            `secrets/s3.credentials`. Empty: in the folder.
        s3_endpoint: of a store other than Amazon's.
        inquiry_minutes: between two questions which versions serve at each hospital; each leaves two entries in a
            hospital's ledger.
        statistics_hours: between two questions how the vendors' versions do at each hospital.
    """

    host: str = "127.0.0.1"
    superlink_port: int = 9091
    mlflow_host: str = "127.0.0.1"
    mlflow_port: int = 5000
    mlflow_store: str = ""
    mlflow_artifacts: str = ""
    s3_endpoint: str = ""
    names: list[str] = field(default_factory=lambda: ["localhost"])
    inquiry_minutes: float = 10.0
    statistics_hours: float = 24.0

    def __post_init__(self) -> None:
        _require(self.inquiry_minutes > 0, "inquiry_minutes is more than 0")
        _require(self.statistics_hours > 0, "statistics_hours is more than 0")
        _no_secret("mlflow_store", self.mlflow_store, ("postgresql://",))
        _no_secret("mlflow_artifacts", self.mlflow_artifacts, ("s3://",))
        _no_secret("s3_endpoint", self.s3_endpoint, ("https://", "http://"))
        for key, port in (("superlink_port", self.superlink_port), ("mlflow_port", self.mlflow_port)):
            _require(0 < port < 65536, f"{key} is {port}: a TCP port is 1 to 65535")


@dataclass
class RetrainingConfig:
    """A federated retraining; checked further by server.plan.Plan."""

    name: str = MISSING
    base: str = MISSING
    sites: list[str] = field(default_factory=lambda: list[str]())
    quorum: int = 0
    quorum_cases: int = 0
    quorum_sites: list[str] = field(default_factory=lambda: list[str]())
    late: bool = True
    rounds: int = 20
    strategy: dict[str, Any] = field(default_factory=lambda: dict[str, Any]())
    compression: dict[str, Any] = field(default_factory=lambda: dict[str, Any]())
    privacy: dict[str, Any] = field(default_factory=lambda: dict[str, Any]())
    seed: int = 0
    deadline_seconds: float = 600.0
    connect_seconds: float = 60.0
    consent_seconds: float = 3600.0
    valid_days: float = 30.0
    norm: float = 10.0
    layers: list[str] = field(default_factory=lambda: ["*"])
    hyper: dict[str, Any] = field(default_factory=lambda: dict[str, Any]())


@dataclass
class ScheduleConfig:
    """When to retrain a model by itself: a policy file, for `vigie retrain schedule`.

    Any of the three reasons is enough, within the hours, and not sooner than `least_days` after the last one. Each
    hospital still agrees, or does not.

    Attributes:
        name: of the policy; its retrainings are called NAME-1, NAME-2, …
        model: the model whose released version is retrained.
        retraining: settings of configs/retraining.yaml, KEY=VALUE.
        every_days: the calendar; 0: no such reason.
        errors: so many new errors over all hospitals that let them be counted; 0: no such reason.
        hospitals: so many of them have to have some.
        alarms: `vigie retrain alarm` is a reason.
        least_days: between the beginnings of two.
        hours: from and to, of the day, in this machine's time; to may be smaller than from: over midnight.
        weekdays: mon … sun; empty: all.
        survey_hours: between two counts.
        retry_hours: until one that ended before its last step is resumed.
    """

    name: str = MISSING
    model: str = MISSING
    retraining: list[str] = field(default_factory=lambda: list[str]())
    every_days: float = 0.0
    errors: int = 0
    hospitals: int = 1
    alarms: bool = True
    least_days: float = 7.0
    hours: list[float] = field(default_factory=lambda: [0.0, 24.0])
    weekdays: list[str] = field(default_factory=lambda: list[str]())
    survey_hours: float = 24.0
    retry_hours: float = 6.0

    def __post_init__(self) -> None:
        for key in ("every_days", "errors", "hospitals", "least_days", "survey_hours", "retry_hours"):
            _require(getattr(self, key) >= 0, f"{key} cannot be negative")
        ok = len(self.hours) == 2 and all(0 <= hour <= 24 for hour in self.hours) and self.hours[0] != self.hours[1]
        _require(ok, f"hours {self.hours}: from and to, 0 to 24")
        if unknown := sorted(set(self.weekdays) - set(WEEKDAYS)):
            _require(False, f"weekdays {unknown[0]!r}: {', '.join(WEEKDAYS)}")
        _require(
            self.every_days > 0 or self.errors > 0 or self.alarms, "a policy without a reason never launches anything"
        )


@dataclass
class VersionConfig:
    """A vendor's first version of a model."""

    name: str = MISSING
    title: str = MISSING
    vendor: str = MISSING
    finding: dict[str, str] = field(default_factory=lambda: dict[str, str]())
    intended_use: dict[str, Any] = field(default_factory=lambda: dict[str, Any]())
    network: dict[str, Any] = field(default_factory=lambda: dict[str, Any]())
    hyper: dict[str, Any] = field(default_factory=lambda: dict[str, Any]())
    change_plan: str = ""  # JSON file of what a retraining may change (models.change_plan); empty: weights alone
    seed: int = 0
    threads: int = 2


def load(path: Path, schema: type[T]) -> T:
    """Read and check a settings file (`site.yaml`, `coordinator.yaml`).

    Raises:
        ConfigurationError: the file is missing, is no YAML, has an unknown key or a value that cannot work.
    """
    if not path.exists():
        raise ConfigurationError(f"{path} is missing: run `vigie {path.stem} init` first")
    try:
        content = path.read_text(encoding="utf-8")
        _require(bool(content.strip()), f"{path} is empty: it was not written whole, and defaults are no settings")
        # what stands elsewhere, in the environment for instance, is looked up anew
        return cast(T, _read(content, schema) if "${" in content else copy.deepcopy(_known(content, schema)))
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigurationError(f"{path}: {told(error)}") from error


def _read(content: str, schema: type[Any]) -> Any:
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.load(StringIO(content))))


_known = lru_cache(maxsize=4)(_read)  # to check settings takes a tenth of a second of processor time


def save(config: SiteConfig | CoordinatorConfig, path: Path) -> None:
    """Write a settings file, to be read by `load`; whole or not at all."""
    with replacing(path) as file:
        file.write(OmegaConf.to_yaml(OmegaConf.structured(config)).encode())


def compose(name: str, schema: type[T], overrides: list[str]) -> T:
    """Compose `configs/NAME.yaml` with Hydra overrides into a validated object of `schema`.

    Raises:
        ConfigurationError: an unknown key, group or option, or a value that cannot work.
    """
    if added := [override for override in overrides if override[:1] in "+~"]:
        raise ConfigurationError(f"{added[0]!r}: settings can be changed, not added or removed")
    store = ConfigStore.instance()
    store.store(name=f"{name}_schema", node=schema)
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            composed = hydra_compose(name, overrides)
        return cast(T, OmegaConf.to_object(composed))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigurationError(told(error)) from error


def _is_network(text: str) -> bool:
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ConfigurationError(problem)


def _no_secret(key: str, address: str, schemes: tuple[str, ...]) -> None:
    """An address that begins as one of these, or none; a password in it would stand in backups and process lists."""
    _require(not address or address.startswith(schemes), f"{key}: an address that begins with {' or '.join(schemes)}")
    parts = urlsplit(address)
    named = {name.lower() for name, _ in parse_qsl(parts.query)}
    _require(
        parts.password is None and not named & {"password", "sslpassword"},
        f"{key}: no password in the settings: it belongs in the environment, or in the folder's secrets/",
    )


def _ae_title(key: str, title: str) -> None:
    # PS3.8 9.3.2: 16 characters at most, no backslash, no control character
    ok = len(title.strip()) > 0 and len(title) <= 16 and title.isascii() and title.isprintable()
    _require(ok and "\\" not in title, f"{key} {title!r}: 1 to 16 printable ASCII characters, no backslash")
