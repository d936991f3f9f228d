"""The DICOM objects of an outcome."""

from client.inference.pipeline import Scored, ScoredVolumes
from client.results import outlines, radiograph
from client.results.outlined import OutlinedStudy
from client.results.result import ResultObject
from configs.schema import ResultsConfig


def objects(outcome: Scored | ScoredVolumes, wanted: ResultsConfig) -> list[ResultObject]:
    """What goes to the PACS for an outcome, in the order in which to send it.

    Args:
        wanted: which of the objects that not every PACS takes.
    """
    if isinstance(outcome, Scored):
        return radiograph.make(outcome.finding, heat_map=wanted.heat_maps)
    return outlines.make(OutlinedStudy(outcome.outlined), structure_sets=wanted.structure_sets)
