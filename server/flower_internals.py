"""What the coordinator changes inside of Flower's SuperLink, in one place, for the pinned version.

Flower documents none of it; `tests/unit/test_flower_internals.py` holds the names against the installed Flower.
"""

from typing import Any

from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState


def let_back_in() -> None:
    """Let a hospital connect again at once, in this process.

    Flower refuses to activate a node that it believes online, which is what a node that was killed is for another
    minute. The request is signed with the hospital's own key, so that whoever asks is that hospital; the activation
    gets a new time, by which a retraining sees that the questions of the old connection are lost.
    """
    activate = SqlLinkState.activate_node

    def again(self: Any, node_id: int, heartbeat_interval: float) -> bool:
        self.deactivate_node(node_id)
        return activate(self, node_id, heartbeat_interval)

    SqlLinkState.activate_node = again
