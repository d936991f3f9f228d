"""What a hospital would report of a version, made up: a fold of 200 cases of which `good` of 100 are found."""

from models.exchange import Evidence, Measure


def measure(good: int, auc: float, n: int = 200) -> Measure:
    half = n // 2
    counts = {"tp": good, "fn": half - good, "tn": good, "fp": n - half - good}
    vendor = {f"vendor_{key}": value for key, value in counts.items()}
    return Measure(
        n=n,
        n_positive=half,
        threshold=0.5,
        auc=auc,
        auc_low=max(0.0, auc - 0.05),
        auc_high=min(1.0, auc + 0.05),
        **counts,
        **vendor,
    )


def evidence(retraining: str, digest: str, served: str | None, before: float, after: float) -> Evidence:
    """Gate and test folds alike; AUCs `before` and `after`."""
    old = measure(60, before) if served else None
    return Evidence(
        retraining=retraining,
        digest=digest,
        served=served,
        verdict="adopt",
        reasons=("non-inferior",),
        served_gate=old,
        served_test=old,
        candidate_gate=measure(80, after),
        candidate_test=measure(80, after),
    )
