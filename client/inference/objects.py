"""The DICOM objects of an outcome."""

from client.inference.pipeline import Scored, ScoredVolumes
from client.results import outlines, radiograph
from client.results.result import ResultObject


def objects(outcome: Scored | ScoredVolumes) -> list[ResultObject]:
    """What goes to the PACS for an outcome, in the order in which to send it."""
    if isinstance(outcome, Scored):
        return radiograph.make(outcome.finding)
    return [made for outlined in outcome.outlined for made in outlines.make(outlined)]
