"""Which version serves here: the one that the hospital adopted last, verified and tested when it is loaded."""

from dataclasses import dataclass, replace

from client.inference.engine import Engine
from client.store import versions
from client.store.site import Site
from models.bundle import Bundle, verify
from models.errors import BundleRefused
from models.novelty import Novelty
from models.preprocessing import Preprocessing
from models.signing import load_trust


@dataclass(frozen=True, slots=True)
class Serving:
    """A version in service, with what it needs to score.

    Attributes:
        threshold: this hospital's operating threshold, the vendor's where it has set none.
        novelty: refuses images unlike the version's training cohort; None where it ships no such check.
    """

    bundle: Bundle
    engine: Engine
    preprocessing: Preprocessing
    threshold: float
    novelty: Novelty | None = None


class Panel:
    """The adopted versions of a site; asks the database each time, loads only what changed."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._loaded: Serving | None = None

    def serving(self) -> Serving | None:
        """The version to score with now, or None where none is adopted.

        Raises:
            BundleRefused: the adopted version's files are not what its digest and a trusted signature say.
        """
        chosen, loaded = versions.serving(self._site), self._loaded
        self._loaded = None  # nothing serves on when loading its successor fails
        if chosen is None:
            return None
        if loaded is None or loaded.bundle.digest != chosen.digest:
            loaded = load(self._site, chosen.digest)
        threshold = loaded.bundle.facts.threshold if chosen.threshold is None else chosen.threshold
        self._loaded = replace(loaded, threshold=threshold)
        return self._loaded


def load(site: Site, digest: str) -> Serving:
    """Verify a version of this site, load it and let it pass its reference cases.

    Raises:
        BundleRefused: missing, altered, not signed by someone trusted here, of another digest, or failing its test.
    """
    bundle = verify(site.versions / digest, load_trust(site.trust))
    if bundle.digest != digest:
        raise BundleRefused(f"{digest}: the files there have another digest")
    engine = Engine(bundle, site.config.inference_threads)
    preprocessing = Preprocessing(bundle.preprocessing)
    return Serving(bundle, engine, preprocessing, bundle.facts.threshold, bundle.read_novelty())
