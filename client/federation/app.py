"""The hospital's Flower ClientApp: one kind of question, answered by the border."""

import os
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.federation.border import Border, Handlers
from client.federation.supernode import SITE, channel

app = ClientApp()


@app.query()
def query(message: Message, context: Context) -> Message:
    """Answer one declared message."""
    return Message(open_border().answer(message.content), reply_to=message)


def open_border() -> Border:
    """The border of the hospital whose folder the environment names."""
    from client.store.site import Site

    site = Site(Path(os.environ[SITE]))

    def handlers() -> Handlers:
        # Imported only now: what trains and judges is heavy, and a refused message must not need it.
        from client.federation.site import handlers as make

        return make(site.folder)

    return Border(site.ledger, handlers, channel())
