"""A stream on its way from the upstream's socket to the client's."""

from __future__ import annotations

from tokenhub_proxy.dialects import Reply
from tokenhub_proxy.wire import Client, Incoming, Sink

# After [DONE] an upstream gets so long to end its body, so that the connection can be kept.
LINGER_S = 2.0


class _Forwarding:
    """What a chunk needs, in one object: with 500 streams its time is that of reading cold memory."""

    __slots__ = ("_client", "_incoming", "_reply")

    def __init__(self, reply: Reply, client: Client, incoming: Incoming) -> None:
        self._reply = reply
        self._client = client
        self._incoming = incoming

    def forward(self, data: bytes) -> None:
        reply = self._reply
        said = reply.feed(data)
        self._client.write(said)
        # What is passed on as it came is no ending.
        if said is not data and reply.done:
            self._incoming.linger(LINGER_S)


def sink(reply: Reply, client: Client, incoming: Incoming) -> Sink:
    """The sink of a stream: one read of the upstream, one write to the client."""
    return _Forwarding(reply, client, incoming).forward
