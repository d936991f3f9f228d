"""Flower waits a second before it asks again for a part of a message that is still on its way; we ask sooner.

A message becomes visible to its receiver before its parts have arrived, so this wait is paid at every hop of every
message. `tests/unit/test_flower_internals.py` holds the two names used here against the pinned version.
"""

FIRST_WAIT = 0.05  # seconds; doubles up to the longest
LONGEST_WAIT = 2.0


def quicken_pulls() -> None:
    """Shorten the waits in this process."""
    from flwr.supercore.inflatable.inflatable_utils import pull_objects

    defaults = pull_objects.__kwdefaults__
    if defaults is None or not {"initial_backoff", "backoff_cap"} <= set(defaults):
        raise RuntimeError("this Flower is not the pinned one: pull_objects has other parameters")
    defaults.update(initial_backoff=FIRST_WAIT, backoff_cap=LONGEST_WAIT)
