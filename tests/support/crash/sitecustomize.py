"""Named points in the processes of a federation: one that is armed stops there until the test has killed somebody.

A folder `points` beside the coordinator's and the hospitals' holds `NAME.armed`; whoever comes to the point takes it
(`NAME.reached`), once, and waits for `NAME.go`. A point's name ends with the hospital's where it is in one.
"""

import importlib.abc
import importlib.machinery
import os
import sys
import time
from pathlib import Path

_FOLDER = os.environ.get("VIGIE_SITE") or os.environ.get("VIGIE_COORDINATOR")
_POINTS = Path(_FOLDER).parent / "points" if _FOLDER else None


def reach(name):
    site = Path(os.environ["VIGIE_SITE"]).name if "VIGIE_SITE" in os.environ else ""
    name = f"{name}-{site}" if site else name
    try:
        (_POINTS / f"{name}.armed").rename(_POINTS / f"{name}.reached")
    except FileNotFoundError:
        return
    deadline = time.monotonic() + 120
    while not (_POINTS / f"{name}.go").exists() and time.monotonic() < deadline:
        time.sleep(0.02)


def _around(owner, name, point):
    function = getattr(owner, name)

    def call(*arguments, **given):
        what = point(*arguments, **given)
        if what:
            reach(f"before-{what}")
        answer = function(*arguments, **given)
        if what:
            reach(f"after-{what}")
        return answer

    setattr(owner, name, call)


def _journal(module):
    _around(module.Journal, "write", lambda self, step, facts: f"journal-{step}{facts.get('round', '')}")
    _around(module.Journal, "save_weights", lambda self, number, weights: f"weights{number}")


def _messaging(module):
    def what(self, orders, timeout):
        order = next(iter(orders.values()))
        return f"ask-{order.kind}{getattr(order, 'round', '')}"

    _around(module.Exchange, "send_and_receive", what)


def _outbox(module):
    _around(module.Outbox, "put", lambda self, order, *_: f"outbox{order.round}")


def _kept(module):
    _around(module.Memory, "before", lambda self, number, *_: f"training{number}")


def _internals(module):
    def what(client, message, context):
        if not message.has_content():
            return ""
        from models import parcels  # not before: it is imported while Flower's own modules still are

        fields = dict(parcels.opened(message.content)["vigie"])
        return f"reply-{fields['kind']}{fields.get('round', '')}"

    _around(module, "push_message", what)


_WRAPPED = {
    "server.journal": _journal,
    "server.messaging": _messaging,
    "client.federation.outbox": _outbox,
    "client.federation.kept": _kept,
    "client.federation.flower_internals": _internals,
}


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path, target=None):
        wrap = _WRAPPED.get(fullname)
        if wrap is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            wrap(module)

        spec.loader.exec_module = exec_module
        return spec


if _POINTS is not None:
    sys.meta_path.insert(0, _Finder())
