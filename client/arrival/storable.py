"""Which SOP classes are images and the like, to be kept, and which are services.

The table of the standard knows those up to its edition. A class of a manufacturer's own, or one that is newer than the
table, is taken for storage, too: a class says nowhere what it is, and an object that is refused at the door is lost to
everybody who may read it later. What is in the table as anything else (verification, queries, printing, a transfer
syntax) never is.
"""

from typing import Final

from pydicom.uid import UID, UID_dictionary
from pynetdicom import AllStoragePresentationContexts
from pynetdicom.presentation import PresentationContext

_STANDARD: Final = "1.2.840.10008."
_STORAGE: Final = "1.2.840.10008.5.1.4.1.1."


def _storage_classes() -> set[str]:
    """Every storage SOP class, with the retired ones that old devices still send."""
    current = {str(context.abstract_syntax) for context in AllStoragePresentationContexts}
    retired = {
        value
        for value, (name, kind, *_) in UID_dictionary.items()
        if kind == "SOP Class" and value.startswith(_STORAGE) and "Storage" in name
    }
    return current | retired


STORAGE_CLASSES: Final = frozenset(_storage_classes())


def storable(sop_class: str, *, unknown: bool) -> bool:
    """Whether an object of this class is kept.

    Args:
        unknown: so are those of classes that nobody here knows.
    """
    return sop_class in STORAGE_CLASSES or (unknown and _may_be_storage(sop_class))


def unknown_among(requested: list[PresentationContext]) -> list[UID]:
    """The abstract syntaxes that are proposed, known to nobody here, and perhaps storage; each once."""
    proposed = dict.fromkeys(UID(context.abstract_syntax or "") for context in requested)
    return [one for one in proposed if one not in STORAGE_CLASSES and _may_be_storage(one)]


def _may_be_storage(sop_class: str) -> bool:
    if sop_class in UID_dictionary or len(sop_class) > 64 or not UID(sop_class).is_valid:
        return False
    return not sop_class.startswith(_STANDARD) or sop_class.startswith(_STORAGE)
