"""What every message is, and how Flower carries it.

On the wire a message is a Flower RecordDict: one ConfigRecord `vigie`, and one ArrayRecord where there are weights or
a bundle.
"""

from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from models.compression import Encoding
from models.errors import BorderRefused
from models.exchange import weights as tensors
from models.exchange.weights import Layout, Pack, Weights
from models.exchange.words import KINDS, WIRE, Kind

if TYPE_CHECKING:
    from flwr.app import RecordDict


class Declared(BaseModel):
    """Strict: no conversion, no unknown field, nothing changed afterwards."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Message(Declared):
    """A message without weights or bundle; `payload` names the arrays that it must have, `optional` those it may."""

    kind: ClassVar[Kind]
    payload: ClassVar[tuple[str, ...]] = ()
    optional: ClassVar[tuple[str, ...]] = ()

    def to_record(self, pack: Pack = tensors.packed) -> "RecordDict":
        """The message as Flower carries it.

        Args:
            pack: makes an array of weights; a `Packer`, where several messages have the same.
        """
        from flwr.app import ConfigRecord, RecordDict

        fields: dict[str, Any] = {"kind": self.kind, "wire": WIRE}
        for key, value in self.model_dump(exclude={*self.payload, *self.optional}, exclude_none=True).items():
            if isinstance(value, dict):
                fields.update({f"{key}.{part}": _listed(found) for part, found in value.items()})
            else:
                fields[key] = _listed(value)
        record = RecordDict()
        self._pack(record, fields, pack)
        record["vigie"] = ConfigRecord(fields)
        return record

    @classmethod
    def from_record(cls, record: "RecordDict", layout: Layout | None = None) -> Self:
        """Read and check a message of this kind.

        Args:
            record: what Flower carried.
            layout: the base's weights; those of the message must have exactly these names, shapes and types.

        Raises:
            BorderRefused: another kind, a field too many or too few, a value outside its list or bounds, a number that
                is not finite, weights unlike the layout.
        """
        if (kind := claimed(record)) != cls.kind:
            raise BorderRefused(f"expected {cls.kind}, got {kind}")
        fields = declaration(record)
        del fields["kind"]
        if fields.pop("wire", None) != WIRE:
            raise BorderRefused("other wire version")
        values = _nest(fields)
        extra = set(record.keys()) - {"vigie", *cls.payload, *cls.optional}
        if extra or not set(cls.payload) <= set(record.keys()):
            raise BorderRefused("records do not fit the kind")
        cls._unpack(record, values)
        try:
            message = cls.model_validate(values)
        except ValidationError as error:
            # Field and rule only: the value itself is what must not travel or be logged.
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            raise BorderRefused(f"{cls.kind}: {first['type']}") from None
        if layout is not None:
            message._require_layout(layout)
        return message

    def _pack(self, record: "RecordDict", fields: dict[str, Any], pack: Pack) -> None:
        """Add the arrays to the record, and what describes them to the fields."""

    @classmethod
    def _unpack(cls, record: "RecordDict", values: dict[str, Any]) -> None:
        """Put into the values what `_pack` added."""

    def _require_layout(self, layout: Layout) -> None:
        """Refuse weights that are not laid out so."""


class Weighted(Message):
    """A message with weights.

    Attributes:
        encoding: how they travel.
        weights: of the moving layers.
        control: SCAFFOLD's, laid out and encoded as the weights are.
    """

    payload = ("weights",)
    optional = ("control",)

    encoding: Encoding = "plain"
    weights: Weights
    control: Weights | None = None

    def _pack(self, record: "RecordDict", fields: dict[str, Any], pack: Pack) -> None:
        from flwr.app import ArrayRecord

        record["weights"] = ArrayRecord({"packed": pack(self.weights, self.encoding)})
        fields["layout"] = tensors.lines(self.weights)
        if self.control is not None:
            if tensors.layout_of(self.control) != tensors.layout_of(self.weights):
                raise BorderRefused("a control variate is not laid out as the weights")
            record["control"] = ArrayRecord({"packed": pack(self.control, self.encoding)})

    @classmethod
    def _unpack(cls, record: "RecordDict", values: dict[str, Any]) -> None:
        forms, encoding = tensors.forms(values.pop("layout", None)), values.get("encoding")
        if encoding not in tensors.ENCODINGS:
            raise BorderRefused("unknown encoding")
        for name in ("weights", "control"):
            if name in record.keys():  # noqa: SIM118 - a RecordDict is no dict
                values[name] = tensors.unpacked(record, name, forms, encoding)

    def _require_layout(self, layout: Layout) -> None:
        tensors.check_weights(self.weights, layout)


def claimed(record: "RecordDict") -> Kind:
    """The kind that a record says it is.

    Raises:
        BorderRefused: none that there is.
    """
    kind = declaration(record).get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise BorderRefused("unknown kind")
    return cast(Kind, kind)


def require(holds: bool, what: str) -> None:
    """For validators: say what does not hold."""
    if not holds:
        raise ValueError(what)


def declaration(record: "RecordDict") -> dict[str, Any]:
    """The fields of a record, as they came."""
    if "vigie" not in record.config_records:
        raise BorderRefused("no declaration")
    return dict(record.config_records["vigie"])


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _nest(fields: dict[str, Any]) -> dict[str, Any]:
    """`gate.n` → {"gate": {"n": …}}, one level; lists become tuples. What is not a declared field is refused later."""
    values: dict[str, Any] = {}
    for key, value in fields.items():
        head, dot, tail = key.partition(".")
        if isinstance(value, list) and key != "layout":
            value = tuple(cast(list[Any], value))
        if not dot:
            if head in values:
                raise BorderRefused("a field twice")
            values[head] = value
            continue
        inner = values.setdefault(head, {})
        if not isinstance(inner, dict):
            raise BorderRefused("a field twice")
        inner[tail] = value
    return values
