"""What the codes of another system mean here: as the site's settings say, and nothing is guessed beyond them."""

from collections.abc import Iterable

from configs.schema import TruthCodeConfig, TruthConfig
from models.errors import InvalidVerdict


def patient(identifiers: Iterable[tuple[str, str]], config: TruthConfig) -> tuple[str, str]:
    """The one identifier of a patient that counts here: PatientID and its issuer, as images have them.

    Args:
        identifiers: each value, and who assigned it as the other system says.

    Raises:
        InvalidVerdict: none counts, or several do.
    """
    issuers = {one.name: one.issuer for one in config.authorities}
    counting = {(value, issuers[name]) for value, name in identifiers if value and name in issuers}
    if not counting:
        raise InvalidVerdict("the patient has no identifier of an authority that truth.authorities names")
    if len(counting) > 1:
        raise InvalidVerdict(f"the patient has {len(counting)} identifiers that truth.authorities names")
    return counting.pop()


def known(code: Iterable[str], config: TruthConfig) -> bool:
    """Whether the settings say anything of an observation that bears these codes (SCHEME:VALUE)."""
    return bool(set(code) & {one.code for one in config.codes})


def of(code: Iterable[str], value: Iterable[str], config: TruthConfig) -> TruthCodeConfig:
    """What an observation says of its study.

    Args:
        code: the codes of what was observed (translations of one another), SCHEME:VALUE.
        value: the codes of the answer, likewise.

    Raises:
        InvalidVerdict: the settings do not say, or say more than one thing.
    """
    codes, values = set(code), set(value)
    found = [one for one in config.codes if one.code in codes and one.value in values]
    if not found:
        said = ", ".join(sorted(values)) or "no code"
        raise InvalidVerdict(f"truth.codes does not say what {said} means as an answer to {', '.join(sorted(codes))}")
    if len({(one.answer, one.tier, one.finding) for one in found}) > 1:
        raise InvalidVerdict(f"truth.codes says several things of {', '.join(sorted(values))}")
    return found[0]


def any_of(code: Iterable[str], config: TruthConfig) -> TruthCodeConfig:
    """Some meaning of an observation that is taken back, whose answer no longer matters."""
    codes = set(code)
    return next(one for one in config.codes if one.code in codes)
