"""The MONAI Deploy contender of `latency`: outlines a CT with the App SDK's own operators, in its own environment.

Nothing of ours is imported here. DICOMDataLoader → DICOMSeriesSelector → DICOMSeriesToVolume → a threshold at -420 HU
→ DICOMSegmentationWriter, as the SDK's example of the spleen does it, the network replaced by a comparison. Each line
on standard input is one `run`, whose seconds become a line of JSON in a file: on standard output the SDK itself talks.
"""

# pyright: basic, reportMissingImports=false
# its imports are another environment's

import json
import logging
import sys
import time
from pathlib import Path

import numpy as np
from monai.deploy.conditions import CountCondition
from monai.deploy.core import Application, Image, Operator, OperatorSpec
from monai.deploy.operators.dicom_data_loader_operator import DICOMDataLoaderOperator
from monai.deploy.operators.dicom_seg_writer_operator import (
    DICOMSegmentationWriterOperator,
    SegmentDescription,
)
from monai.deploy.operators.dicom_series_selector_operator import DICOMSeriesSelectorOperator
from monai.deploy.operators.dicom_series_to_volume_operator import DICOMSeriesToVolumeOperator
from pydicom.sr.coding import Code


class Threshold(Operator):
    """Marks what is brighter than a number; stands where a network would."""

    def __init__(self, fragment, *args, above, **kwargs):
        self.above = above
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec):
        spec.input("image")
        spec.output("seg_image")

    def compute(self, op_input, op_output, context):
        image = op_input.receive("image")
        mask = (image.asnumpy() > self.above).astype(np.uint8)
        op_output.emit(Image(mask, image.metadata()), "seg_image")


class Outline(Application):
    """From a folder of DICOM files to a folder with one SEG."""

    def __init__(self, source, target, above):
        self.source, self.target, self.above = source, target, above
        super().__init__([])

    def compose(self):
        description = SegmentDescription(
            segment_label="Nodule",
            segmented_property_category=Code("49755003", "SCT", "Morphologically Abnormal Structure"),
            segmented_property_type=Code("27925004", "SCT", "Nodule"),
            algorithm_name="threshold",
            algorithm_version="1",
        )
        # once: the loader has no input that it would wait for
        loader = DICOMDataLoaderOperator(self, CountCondition(self, 1), input_folder=self.source, name="loader")
        selector = DICOMSeriesSelectorOperator(self, name="selector")
        volume = DICOMSeriesToVolumeOperator(self, name="volume")
        threshold = Threshold(self, above=self.above, name="threshold")
        writer = DICOMSegmentationWriterOperator(
            self, segment_descriptions=[description], output_folder=self.target, name="writer"
        )
        self.add_flow(loader, selector, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(selector, volume, {("study_selected_series_list", "study_selected_series_list")})
        self.add_flow(volume, threshold, {("image", "image")})
        self.add_flow(selector, writer, {("study_selected_series_list", "study_selected_series_list")})
        self.add_flow(threshold, writer, {("seg_image", "seg_image")})


def main():
    source, target, above, answers = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4])
    logging.disable(logging.WARNING)
    application = Outline(source, target, above)
    for _ in sys.stdin:
        began = time.perf_counter()
        application.run()
        with answers.open("a") as lines:
            lines.write(json.dumps({"seconds": time.perf_counter() - began}) + "\n")


if __name__ == "__main__":
    main()
