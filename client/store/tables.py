"""The tables of a hospital's database, and nothing else.

Times are seconds since the epoch, UTC. Personal data stands in `patient` and `study` alone, so that erasing a
patient touches two tables; everywhere else a patient is a keyed hash and a study its UID.
"""

from sqlalchemy import (
    JSON,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

patient = Table(
    "patient",
    metadata,
    Column("key", String(64), primary_key=True, doc="keyed hash of issuer and PatientID"),
    Column("patient_id", String, nullable=False),
    Column("issuer", String, nullable=False, default=""),
    Column("fold", String(5), nullable=False, doc="train | gate | test, drawn once, for good"),
    Column("objects_to_reuse", Boolean, nullable=False, default=False),
    Column("first_seen", Float, nullable=False),
    CheckConstraint("fold in ('train', 'gate', 'test')", name="fold"),
)

study = Table(
    "study",
    metadata,
    Column("uid", String(64), primary_key=True),
    Column("patient_key", String(64), ForeignKey("patient.key"), nullable=True),
    Column("accession", String, nullable=False, default=""),
    Column("calling_ae", String(16), nullable=False, default=""),
    Column("state", String(9), nullable=False, doc="receiving | queued | scored | refused | failed | prior"),
    Column("revision", Integer, nullable=False, default=1, doc="grows when images come after an outcome"),
    Column("attempts", Integer, nullable=False, default=0, doc="of the present revision"),
    Column("received_at", Float, nullable=False, doc="first instance durable"),
    Column("touched_at", Float, nullable=False, doc="last instance durable"),
    Column("completed_at", Float, nullable=True, doc="when it was called complete last"),
    Column("completed_by", String(16), nullable=False, server_default="", doc="see client.arrival.completeness.Basis"),
    Column("missing", Integer, nullable=False, server_default="0", doc="images expected that were not here by then"),
    Column("urgency", String(9), nullable=False, server_default="routine", doc="see client.arrival.urgency.Urgency"),
    Column("due_at", Float, nullable=True, doc="its place in the queue; moves back each time that it is begun"),
    CheckConstraint("state in ('receiving', 'queued', 'scored', 'refused', 'failed', 'prior')", name="state"),
    Index(None, "state", "touched_at"),
)
# the queue alone: a hospital's other studies are not in it
Index("ix_study_waiting", study.c.urgency, study.c.due_at, sqlite_where=study.c.state == "queued")

instance = Table(
    "instance",
    metadata,
    Column("id", Integer, primary_key=True, doc="grows with entry; a copy that a person chose is entered anew"),
    Column("sop_uid", String(64), nullable=False),
    Column("sha256", String(64), nullable=False, doc="of the stored file; names it in the archive"),
    Column("study_uid", String(64), ForeignKey("study.uid"), nullable=False),
    Column("series_uid", String(64), nullable=False),
    Column("sop_class", String(64), nullable=False),
    Column("transfer_syntax", String(64), nullable=False),
    Column("revision", Integer, nullable=False, doc="of the study when it came"),
    Column("conflicting", Boolean, nullable=False, default=False, doc="same UID, other content: kept apart"),
    Column("received_at", Float, nullable=False),
    Column("calling_ae", String(16), nullable=False, server_default=""),
    Column("modality", String(16), nullable=False, server_default=""),
    Column("number", Integer, nullable=True, doc="InstanceNumber"),
    Column("acquisition", Integer, nullable=True, doc="AcquisitionNumber"),
    Column("stated", Integer, nullable=True, doc="ImagesInAcquisition"),
    Column("frames", Integer, nullable=True),
    Column("rows", Integer, nullable=True),
    Column("columns", Integer, nullable=True),
    UniqueConstraint("sop_uid", "sha256"),
    Index(None, "study_uid"),
)

exclusion = Table(
    "exclusion",
    metadata,
    Column("sop_uid", String(64), primary_key=True, doc="of an image that is not read; may not have come yet"),
    Column("study_uid", String(64), primary_key=True),
    Column("document", String(64), primary_key=True, doc="the key object selection that says so; empty: a person"),
    Column("cause", String(13), nullable=False, doc="see client.arrival.rejection.Cause"),
    Column("by", String, nullable=False, doc="AE title of who sent the selection, or the person"),
    Column("patient", String(64), nullable=False, doc="keyed hash of the PatientID that it names; or empty"),
    Column("told_at", Float, nullable=False),
    Column("lifted_at", Float, nullable=True, doc="it no longer counts since"),
    Column("lifted_by", String, nullable=False, server_default="", doc="the person; empty: it names another patient"),
    CheckConstraint("cause in ('quality', 'safety', 'worklist', 'other-patient')", name="cause"),
    Index(None, "study_uid"),
)

announcement = Table(
    "announcement",
    metadata,
    Column("uid", String(64), primary_key=True, doc="of the procedure step, or of the availability notification"),
    Column("study_uid", String(64), primary_key=True, doc="may not have come yet, or never come"),
    Column("calling_ae", String(16), nullable=False),
    Column("state", String(12), nullable=False, doc="in progress | completed | discontinued"),
    Column("instances", JSON, nullable=False, doc="SOP instance UIDs that it names"),
    Column("created_at", Float, nullable=False),
    Column("changed_at", Float, nullable=False),
    CheckConstraint("state in ('in progress', 'completed', 'discontinued')", name="state"),
    Index(None, "study_uid"),
    Index(None, "created_at"),
)

priority = Table(
    "priority",
    metadata,
    Column("study_uid", String(64), primary_key=True, doc="may not have come yet, or never come"),
    Column("source", String(16), primary_key=True, doc="who says so: images | step | order | triage"),
    Column("urgency", String(9), nullable=False, doc="see client.arrival.urgency.Urgency"),
    Column("told_at", Float, nullable=False),
    Index(None, "told_at"),
)

habit = Table(
    "habit",
    metadata,
    Column("calling_ae", String(16), primary_key=True),
    Column("modality", String(16), primary_key=True),
    Column("basis", String(16), primary_key=True, doc="see client.arrival.completeness"),
    Column("seen", Float, nullable=False),
    Column("clean", Integer, nullable=False),
    Column("late", Float, nullable=False),
    Column("gaps", JSON, nullable=False, doc="weights of a histogram of fixed size"),
    Column("changed_at", Float, nullable=False),
)

version = Table(
    "version",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("name", String, nullable=False),
    Column("number", Integer, nullable=False),
    Column("state", String(9), nullable=False, doc="offered | shadow | adopted | refused | withdrawn | retired"),
    Column("threshold", Float, nullable=True, doc="this site's operating threshold; null: the vendor's"),
    Column("decision", JSON, nullable=True, doc="what the adoption gate said, with its figures"),
    Column("received_at", Float, nullable=False),
    Column("adopted_at", Float, nullable=True),
    Column("form_of", String(64), nullable=True, doc="of this hospital's own form of a version: that one's digest"),
    CheckConstraint("state in ('offered', 'shadow', 'adopted', 'refused', 'withdrawn', 'retired')", name="state"),
)

outcome = Table(
    "outcome",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_uid", String(64), ForeignKey("study.uid"), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("kind", String(7), nullable=False, doc="scored | refused | failed"),
    Column("reasons", JSON, nullable=False, doc="coded reasons; when scored: what of the study could not be read"),
    Column("version_digest", String(64), ForeignKey("version.digest"), nullable=True),
    Column("sop_uid", String(64), nullable=True, doc="the image the score rests on"),
    Column("input_digest", String(64), nullable=True, doc="sha256 of that image's file"),
    Column("score", Float, nullable=True, doc="0..1"),
    Column("threshold", Float, nullable=True, doc="that was applied"),
    Column("positive", Boolean, nullable=True),
    Column("engine", String, nullable=False, default="", doc="execution provider that computed it"),
    Column("prepared_by", String, nullable=False, default="", doc="what preprocessed it: program and release"),
    Column("stratum", String, nullable=False, default="", doc="see client.inference.choice.stratum_of"),
    Column("chosen", String, nullable=False, default="", doc="why this version of those that fit: only | stratum | …"),
    Column("chosen_text", String, nullable=False, default=""),
    Column("measurements", JSON, nullable=True, doc="day of the study, and per series what was measured"),
    Column("confidence", JSON, nullable=True, doc="see client.inference.confidence; as it was known then"),
    Column("read", JSON, nullable=True, doc="UIDs of the series or images that were read; null: not written down"),
    Column("created_at", Float, nullable=False),
    CheckConstraint("kind in ('scored', 'refused', 'failed')", name="kind"),
    UniqueConstraint("study_uid", "revision"),
    Index(None, "version_digest"),
)

succession = Table(
    "succession",
    metadata,
    Column("earlier_id", Integer, ForeignKey("outcome.id"), primary_key=True),
    Column("later_id", Integer, ForeignKey("outcome.id"), primary_key=True, doc="takes its place"),
)

shadow = Table(
    "shadow",
    metadata,
    Column("outcome_id", Integer, ForeignKey("outcome.id"), primary_key=True, doc="what was shown instead"),
    Column("version_digest", String(64), ForeignKey("version.digest"), primary_key=True),
    Column("kind", String(7), nullable=False, doc="scored | refused | failed"),
    Column("reasons", JSON, nullable=False, doc="codes"),
    Column("score", Float, nullable=True),
    Column("threshold", Float, nullable=True),
    Column("positive", Boolean, nullable=True),
    Column("created_at", Float, nullable=False),
    CheckConstraint("kind in ('scored', 'refused', 'failed')", name="kind"),
)

delivery = Table(
    "delivery",
    metadata,
    Column("sop_uid", String(64), primary_key=True, doc="of the result object; derived, so a retry is the same"),
    Column("outcome_id", Integer, ForeignKey("outcome.id"), nullable=False),
    Column("kind", String(8), nullable=False, doc="see client.results.result.Kind"),
    Column("sha256", String(64), nullable=False, doc="names the file in the archive"),
    Column("state", String(11), nullable=False, doc="pending | sent | committed | failed | quarantined | dropped"),
    Column("attempts", Integer, nullable=False, default=0),
    Column("not_before", Float, nullable=False, default=0.0),
    Column("problem", String, nullable=False, default=""),
    Column("sent_at", Float, nullable=True),
    Column("overridden", String, nullable=False, default="", doc="why, and by whom, it is sent unchecked"),
    Column("transaction_uid", String(64), nullable=True, doc="the storage commitment that is being waited for"),
    Column("asked", Integer, nullable=False, default=0, doc="how often its storage commitment was asked for"),
    CheckConstraint("state in ('pending', 'sent', 'committed', 'failed', 'quarantined', 'dropped')", name="state"),
    Index(None, "state", "not_before"),
    Index(None, "outcome_id"),
    Index(None, "transaction_uid"),
)

commitment = Table(
    "commitment",
    metadata,
    Column("transaction_uid", String(64), primary_key=True),
    Column("state", String(10), nullable=False, doc="asked | reported | unanswered"),
    Column("asked_at", Float, nullable=False),
    CheckConstraint("state in ('asked', 'reported', 'unanswered')", name="state"),
    Index(None, "state", "asked_at"),
)

workitem = Table(
    "workitem",
    metadata,
    Column("study_uid", String(64), ForeignKey("study.uid"), primary_key=True),
    Column("revision", Integer, primary_key=True, doc="of the study; a step that has ended is never opened again"),
    Column("uid", String(64), nullable=False, server_default="", doc="of the step at the worklist server, once known"),
    Column("transaction_uid", String(64), nullable=False, doc="the lock under which it is claimed"),
    Column("state", String(9), nullable=False, doc="what the server was told; absent: it has none; lost: another's"),
    Column("told", Integer, nullable=True, doc="percent"),
    Column("attempts", Integer, nullable=False, server_default="0", doc="refusals"),
    Column("not_before", Float, nullable=False, server_default="0"),
    Column("problem", String, nullable=False, server_default=""),
    Column("created_at", Float, nullable=False),
    CheckConstraint(
        "state in ('due', 'scheduled', 'claimed', 'completed', 'canceled', 'absent', 'lost', 'failed')", name="state"
    ),
    Index(None, "state", "not_before"),
)

prior_search = Table(
    "prior_search",
    metadata,
    Column("study_uid", String(64), ForeignKey("study.uid"), primary_key=True, doc="whose earlier studies are sought"),
    Column("state", String(9), nullable=False, doc="due | done | failed | not_asked"),
    Column("attempts", Integer, nullable=False, default=0),
    Column("not_before", Float, nullable=False, default=0.0),
    Column("problem", String, nullable=False, default="", doc="a code; empty where all went well"),
    CheckConstraint("state in ('due', 'done', 'failed', 'not_asked')", name="state"),
    Index(None, "state", "not_before"),
)

prior = Table(
    "prior",
    metadata,
    Column("study_uid", String(64), ForeignKey("study.uid"), primary_key=True),
    Column("prior_uid", String(64), primary_key=True, doc="an earlier study of the same patient"),
    Column("state", String(7), nullable=False, doc="wanted | here | refused | failed"),
    CheckConstraint("state in ('wanted', 'here', 'refused', 'failed')", name="state"),
    Index(None, "prior_uid"),
)

recall = Table(
    "recall",
    metadata,
    Column("outcome_id", Integer, ForeignKey("outcome.id"), primary_key=True),
    Column("version_digest", String(64), ForeignKey("version.digest"), nullable=False),
    Column("action", String(17), nullable=False, doc="withdrawn | to_signer | already_withdrawn"),
    Column("signer", String, nullable=False, default="", doc="whose signatures stand under it"),
    Column("document", String(64), nullable=False, default="", doc="the key object selection that withdraws it"),
    Column("at", Float, nullable=False),
    CheckConstraint("action in ('withdrawn', 'to_signer', 'already_withdrawn')", name="action"),
    Index(None, "version_digest"),
)

reader = Table(
    "reader",
    metadata,
    Column("name", String, primary_key=True),
    Column("token_sha256", String(64), nullable=False, unique=True),
    Column("role", String, nullable=False, doc="clinician | it | operator"),
    Column("created_at", Float, nullable=False),
)

verdict = Table(
    "verdict",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_uid", String(64), ForeignKey("study.uid"), nullable=False),
    Column("outcome_id", Integer, ForeignKey("outcome.id"), nullable=False),
    Column("reader", String, ForeignKey("reader.name"), nullable=False),
    Column("decision", String(7), nullable=False, doc="agree | correct | reject"),
    Column("answer", String(14), nullable=False, doc="positive | negative | not_assessable"),
    Column("tier", String(15), nullable=False, doc="see client.review.verdict.TruthTier"),
    Column("mode", String(12), nullable=False, doc="ai_first | doctor_first | second_reader"),
    Column("reason", String, nullable=False, default="", doc="coded; mandatory on every departure"),
    Column("created_at", Float, nullable=False),
    Index(None, "study_uid"),
    Index(None, "outcome_id"),
)

agreement = Table(
    "agreement",
    metadata,
    Column("retraining", String(63), primary_key=True, doc="a name stands for one set of terms, for good"),
    Column("digest", String(64), nullable=False, doc="of the terms"),
    Column("terms", String, nullable=False, doc="as they were signed, see models.terms"),
    Column("signer", String, nullable=False),
    Column("signature", String(128), nullable=False, doc="hex"),
    Column("state", String(9), nullable=False, doc="waiting | granted | declined | withdrawn"),
    Column("basis", String(6), nullable=False, default="", doc="of what was decided: person | policy"),
    Column("by", String, nullable=False, default="", doc="who decided"),
    Column("proposed_at", Float, nullable=False),
    Column("decided_at", Float, nullable=True),
    Column("trained", JSON, nullable=False, doc="orders to train that were begun, by round"),
    CheckConstraint("state in ('waiting', 'granted', 'declined', 'withdrawn')", name="state"),
    CheckConstraint("basis in ('', 'person', 'policy')", name="basis"),
)

withdrawal = Table(
    "withdrawal",
    metadata,
    Column("version_digest", String(64), primary_key=True, doc="of the version; held here or not"),
    Column("notice", String, nullable=False, doc="as it was signed, see models.withdrawal"),
    Column("signer", String, nullable=False),
    Column("signature", String(128), nullable=False, doc="hex"),
    Column("state", String(7), nullable=False, doc="obeyed | waiting | kept"),
    Column("by", String, nullable=False, default="", doc="the person who decided; empty: the policy"),
    Column("served", Boolean, nullable=False, doc="whether the version read studies here when it was withdrawn"),
    Column("received_at", Float, nullable=False),
    Column("decided_at", Float, nullable=True),
    Column("seen_by", String, nullable=False, default="", doc="the person who has taken note"),
    CheckConstraint("state in ('obeyed', 'waiting', 'kept')", name="state"),
)

summed = Table(
    "summed",
    metadata,
    Column("retraining", String(63), primary_key=True),
    Column("round", Integer, primary_key=True, doc="0: with whom this hospital's updates are summed"),
    Column("digest", String(64), nullable=False, doc="of what was decided, once and for good; see federation/group.py"),
    Column("at", Float, nullable=False),
)

privacy_charge = Table(
    "privacy_charge",
    metadata,
    Column("order_sha256", String(64), primary_key=True, doc="of the order that was trained for"),
    Column("occasion", String(64), primary_key=True, doc="what it was trained from: the same again is the same noise"),
    Column("retraining", String(63), nullable=False),
    Column("round", Integer, nullable=False),
    Column("unit", String(7), nullable=False, doc="whom it protects: patient | site"),
    Column("noise", Float, nullable=False, doc="in units of the clipping norm"),
    Column("share", Float, nullable=False, doc="probability with which a patient was in a step"),
    Column("steps", Integer, nullable=False),
    Column("at", Float, nullable=False),
    CheckConstraint("unit in ('patient', 'site')", name="unit"),
)

alarm = Table(
    "alarm",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("version_digest", String(64), ForeignKey("version.digest"), nullable=False),
    Column("claim", String(15), nullable=False, doc="what is no longer believed, see client.vigilance.harm"),
    Column("since", Float, nullable=False, doc="when the watch began that it ends"),
    Column("facts", JSON, nullable=False, doc="how many exams and errors it rests on"),
    Column("at", Float, nullable=False),
    Column("seen_by", String, nullable=False, default="", doc="the person who has taken note"),
    Column("seen_at", Float, nullable=True),
    CheckConstraint("claim in ('error', 'missed', 'false_positive')", name="claim"),
    Index(None, "version_digest"),
)

second_read = Table(
    "second_read",
    metadata,
    Column("outcome_id", Integer, ForeignKey("outcome.id"), primary_key=True, doc="of which a first opinion came"),
    Column("kind", String(15), nullable=False, doc="discordant | double_positive | double_negative"),
    Column("probability", Float, nullable=False, doc="with which it was drawn"),
    Column("drawn", Boolean, nullable=False),
    Column("at", Float, nullable=False),
    CheckConstraint("kind in ('discordant', 'double_positive', 'double_negative')", name="kind"),
)

trait = Table(
    "trait",
    metadata,
    Column("outcome_id", Integer, ForeignKey("outcome.id"), primary_key=True),
    Column("words", JSON, nullable=False, doc="see client.inference.traits"),
    Column("numbers", JSON, nullable=False),
    Column("look", LargeBinary, nullable=True, doc="float16, little endian"),
)

drift = Table(
    "drift",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String, nullable=False, doc="of the model whose studies have changed"),
    Column("since", Float, nullable=False, doc="when the reference began that they are compared with"),
    Column("change_at", Float, nullable=False, doc="from when on studies are likely to be different"),
    Column("cause", String(21), nullable=False, doc="see client.vigilance.causes"),
    Column("facts", JSON, nullable=False, doc="what is different, in words; how many studies it rests on"),
    Column("at", Float, nullable=False),
    Column("seen_by", String, nullable=False, default="", doc="the person who has taken note"),
    Column("seen_at", Float, nullable=True),
    Column("usual", Boolean, nullable=False, default=False, doc="it is how things are now: compared from then on"),
    UniqueConstraint("name", "since"),
)

drill = Table(
    "drill",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("scenario", String(16), nullable=False, doc="what was made up, see client.vigilance.drills"),
    Column("name", String, nullable=False, doc="of the model"),
    Column("share", Float, nullable=False, doc="of the studies that were changed"),
    Column("studies", Integer, nullable=True, doc="until the warning; null: there was none"),
    Column("of", Integer, nullable=False),
    Column("days", Float, nullable=True, doc="that so many studies take here"),
    Column("cause", String(21), nullable=False, doc="that the warning named"),
    Column("differences", JSON, nullable=False),
    Column("at", Float, nullable=False),
    Column("by", String, nullable=False),
)

incident = Table(
    "incident",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("version_digest", String(64), ForeignKey("version.digest"), nullable=False),
    Column("kind", String(16), nullable=False, doc="see client.vigilance.incidents"),
    Column("severity", String(16), nullable=False, doc="see client.vigilance.deadlines"),
    Column("aware", Float, nullable=False, doc="when somebody here became aware"),
    Column("study_uid", String(64), ForeignKey("study.uid"), nullable=True, doc="of the result that it is about"),
    Column("alarm_id", Integer, ForeignKey("alarm.id"), nullable=True),
)

incident_event = Table(
    "incident_event",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("incident_id", Integer, ForeignKey("incident.id"), nullable=False),
    Column("event", String(9), nullable=False, doc="opened | told | closed | withdrawn"),
    Column("at", Float, nullable=False),
    Column("by", String, nullable=False),
    Column("to", String(12), nullable=False, doc="of what was told: authority | manufacturer"),
    Column("reference", String, nullable=False, doc="under which they know it"),
    Column("text", String, nullable=False, doc="what the person wrote; stays here"),
    CheckConstraint("event in ('opened', 'told', 'closed', 'withdrawn')", name="event"),
    Index(None, "incident_id"),
)

algorithm = Table(
    "algorithm",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(64), nullable=False, doc="its key here; the last row of a name counts"),
    Column("entry", JSON, nullable=False, doc="see client.governance.inventory"),
    Column("by", String, nullable=False),
    Column("at", Float, nullable=False),
    Index(None, "name"),
)

later_truth = Table(
    "later_truth",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("reference", String, nullable=False, doc="of the statement in the system that makes it"),
    Column("study_uid", String(64), ForeignKey("study.uid"), nullable=False),
    Column("finding", String, nullable=False, doc="SCHEME:VALUE; empty: whatever the study was read for"),
    Column("answer", String(14), nullable=False, doc="positive | negative | not_assessable | retracted"),
    Column("tier", String(15), nullable=False, doc="follow_up | biopsy"),
    Column("at", Float, nullable=False, doc="when it was found"),
    Column("source", String(4), nullable=False, doc="csv | hl7 | fhir"),
    Column("by", String, nullable=False, doc="who brought it in"),
    Column("imported_at", Float, nullable=False),
    Index(None, "study_uid"),
    Index(None, "reference"),
)

statistics_release = Table(
    "statistics_release",
    metadata,
    Column("version_digest", String(64), primary_key=True),
    Column("number", Integer, primary_key=True, doc="from 1, in the order in which they were closed"),
    Column("period", Integer, nullable=False, doc="the month in whose beginning it was closed, 202611"),
    Column("lines", JSON, nullable=False, doc="as they leave, see models.exchange.figures.Lines"),
    Column("patients", Integer, nullable=False, doc="whom it counts"),
    Column("epsilon", Float, nullable=False, doc="of the noise on the counts; 0: there is none"),
    Column("state", String(8), nullable=False, doc="waiting | agreed | declined"),
    Column("by", String, nullable=False, default="", doc="the person who decided; empty: the policy"),
    Column("made_at", Float, nullable=False),
    Column("decided_at", Float, nullable=True),
    Column("asked_at", Float, nullable=True, doc="when it was given in answer first; the ledger says whether it left"),
    CheckConstraint("state in ('waiting', 'agreed', 'declined')", name="state"),
)

statistics_patient = Table(
    "statistics_patient",
    metadata,
    Column("version_digest", String(64), primary_key=True),
    Column("patient_key", String(64), primary_key=True, doc="who is counted, once for a version and for good"),
    Column("number", Integer, nullable=False, doc="of the release"),
    Index(None, "version_digest", "number"),
)

suspension = Table(
    "suspension",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("version_digest", String(64), ForeignKey("version.digest"), nullable=False),
    Column("cause", String(6), nullable=False, doc="alarm | person"),
    Column("reason", String, nullable=False, doc="coded: the alarm's claim, or the person's reason"),
    Column("by", String, nullable=False, default="", doc="the person; empty: the stop rule"),
    Column("at", Float, nullable=False),
    Column("lifted_by", String, nullable=False, default=""),
    Column("lifted_at", Float, nullable=True),
    CheckConstraint("cause in ('alarm', 'person')", name="cause"),
    Index(None, "version_digest"),
)

ledger = Table(
    "ledger",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("event", String, nullable=False),
    Column("facts", String, nullable=False, doc="canonical JSON, as hashed"),
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
)
