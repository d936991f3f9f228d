"""The transfer syntaxes in which this node takes datasets: all that pydicom's dictionary knows, and newer ones.

What nothing here decodes is kept and handed out as it came, and refused when it is to be read. Left out is what is no
encoding of a dataset (XML, MIME, Papyrus), and what refers to pixels elsewhere in a deflated dataset.

Source: PS3.6 A-1, retired ones included: old archives are sent on as they are.
"""

from typing import Final

from pydicom.uid import UID, AllTransferSyntaxes, UID_dictionary

JPEG_XL: Final = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
}
"""PS3.5 A.4.12, which pydicom 3.0 does not know."""
for _uid, _name in JPEG_XL.items():
    # pydicom asks its dictionary how a dataset is encoded, and raises for a transfer syntax that is not in it
    UID_dictionary.setdefault(_uid, (_name, "Transfer Syntax", "", "", _name.replace(" ", "")))

_RETIRED_JPEG: Final = (*range(52, 57), *range(58, 67))

ACCEPTED: Final = (
    *(UID(syntax) for syntax in dict.fromkeys((*AllTransferSyntaxes, *JPEG_XL))),
    UID("1.2.840.10008.1.2.1.98"),  # Encapsulated Uncompressed Explicit VR Little Endian
    *(UID(f"1.2.840.10008.1.2.4.{process}") for process in _RETIRED_JPEG),
    UID("1.2.840.10008.1.2.4.94"),  # JPIP Referenced
)
