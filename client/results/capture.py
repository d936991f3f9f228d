"""The picture of a result, for viewers that show nothing else (PS3.3 A.8.1)."""

import numpy as np
from numpy.typing import NDArray
from pydicom import config as pydicom_config
from pydicom.dataelem import DataElement
from pydicom.sequence import Sequence
from pydicom.uid import SecondaryCaptureImageStorage

from client.results.attributes import concept, put, reference, to_part10
from client.results.header import shell
from client.results.result import Computed, ResultObject
from client.results.source import text_of


def secondary_capture(
    result: Computed, image: NDArray[np.uint8], what: str, derivation: str, comments: str
) -> ResultObject:
    """A picture that says which image it was made of.

    Args:
        image: (rows, columns, 3) red, green, blue.
        what: of the series' description, e.g. "Map".
        derivation: how it was made, in a sentence.
        comments: what stands below it, as text.
    """
    dataset = shell(result, SecondaryCaptureImageStorage, "sc", what)
    put(dataset, "Modality", "OT")
    put(dataset, "ConversionType", "SYN")
    put(dataset, "SeriesNumber", "9902")
    put(dataset, "ImageType", ["DERIVED", "SECONDARY"])
    put(dataset, "DerivationDescription", derivation[:1024])
    put(dataset, "ImageComments", comments[:10240])
    put(dataset, "PatientOrientation", "")
    put(dataset, "Laterality", text_of(result.source, "Laterality"))
    if burned_in := text_of(result.source, "BurnedInAnnotation"):
        put(dataset, "BurnedInAnnotation", burned_in)
    for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if value := text_of(result.source, keyword):
            put(dataset, keyword, value)
    origin = reference(text_of(result.source, "SOPClassUID"), text_of(result.source, "SOPInstanceUID"))
    purpose = concept("121322", "DCM", "Source image for image processing operation")
    put(origin, "PurposeOfReferenceCodeSequence", Sequence([purpose]))
    put(dataset, "SourceImageSequence", Sequence([origin]))
    put(dataset, "SamplesPerPixel", 3)
    put(dataset, "PhotometricInterpretation", "RGB")
    put(dataset, "PlanarConfiguration", 0)
    put(dataset, "Rows", image.shape[0])
    put(dataset, "Columns", image.shape[1])
    for keyword, bits in (("BitsAllocated", 8), ("BitsStored", 8), ("HighBit", 7), ("PixelRepresentation", 0)):
        put(dataset, keyword, bits)
    raw = image.tobytes()
    dataset[0x7FE00010] = DataElement(
        0x7FE00010, "OB", raw + b"\0" * (len(raw) % 2), validation_mode=pydicom_config.IGNORE
    )
    return ResultObject("sc", str(dataset.SOPInstanceUID), to_part10(dataset))
