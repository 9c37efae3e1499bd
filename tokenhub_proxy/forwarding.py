"""A stream on its way from the upstream's socket to the client's."""

from __future__ import annotations

from tokenhub_proxy.dialects import Reply
from tokenhub_proxy.wire import Client, Incoming, Sink

# After [DONE] an upstream gets so long to end its body, so that the connection can be kept.
LINGER_S = 2.0


def sink(reply: Reply, client: Client, incoming: Incoming) -> Sink:
    """The sink of a stream: one read of the upstream, one write to the client."""
    feed, write = reply.feed, client.write

    def forward(data: bytes) -> None:
        write(feed(data))
        if reply.done:
            incoming.linger(LINGER_S)

    return forward
