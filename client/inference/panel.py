"""Which version serves here: the one that the hospital adopted last, verified and tested when it is loaded."""

from dataclasses import replace

from client.inference.engine import Engine
from client.inference.serving import Outlining, Scoring, Serving
from client.inference.volume_engine import VolumeEngine
from client.store import versions
from client.store.site import Site
from models.bundle import verify
from models.errors import BundleRefused
from models.preprocessing import Preprocessing
from models.signing import load_trust


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
    threads, threshold = site.config.inference_threads, bundle.facts.threshold
    preprocessing = Preprocessing(bundle.preprocessing)
    if (declared := bundle.facts.segmentation) is not None:
        return Outlining(bundle, VolumeEngine(bundle, declared, threads), preprocessing, declared, threshold)
    return Scoring(bundle, Engine(bundle, threads), preprocessing, threshold)
