"""The playground: a chat with a chosen key, through the same /v1 as every client's."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import Any

import orjson

from tokenhub_proxy import keys
from tokenhub_proxy.dashboard.access import Visitor
from tokenhub_proxy.dashboard.asked import Answer, Asked
from tokenhub_proxy.dashboard.hub import Hub
from tokenhub_proxy.errors import InvalidRequest
from tokenhub_proxy.keys import Key, Scope
from tokenhub_proxy.wire import Incoming

Named = tuple[str, ...]
# A borrowed secret opens its key so long: for one conversation.
TICKET_S = 900.0
PROMPT_LENGTH_MAX = 20_000


async def page(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    return _page(hub, asked, visitor, {})


def _page(hub: Hub, asked: Asked, visitor: Visitor, known: dict[str, Any]) -> Answer:
    now = hub.clock()
    account = hub.account(asked, visitor)
    usable = [key for key in hub.keys(account) if key.works(key.digest, now)]
    routes = hub.relay.serving.routes.visible(Scope()).values()
    return hub.page(
        asked,
        visitor,
        "playground.html",
        account=account,
        keys=[key.name for key in usable],
        models=[route.model for route in routes if not route.embeddings_only],
        **{"said": "", "prompt": "", "model": "", "key": "", "receipt": None, "refusal": None, **known},
    )


def _lend(hub: Hub, asked: Asked, visitor: Visitor) -> tuple[Key, str]:
    """A secret in memory alone that opens the chosen key for a while, with all of that key's limits."""
    key, now = hub.key(asked.field("key"), visitor), hub.clock()
    if not key.works(key.digest, now):
        raise InvalidRequest("That key does not work any more.", param="key")
    secret = keys.mint(os.urandom(keys.RANDOM_BYTES))
    hub.ledger.lend(key.name, keys.digest(secret), now + TICKET_S)
    return key, secret


async def ticket(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    """A borrowed secret, for the page's script to call /v1 with."""
    _, secret = _lend(hub, asked, visitor)
    return Answer(orjson.dumps({"secret": secret}), content_type="application/json")


async def ask(hub: Hub, asked: Asked, visitor: Visitor, named: Named) -> Answer:
    """The same without a script: one question, one whole answer, one page."""
    prompt, model = asked.field("prompt"), asked.field("model")
    if not prompt or len(prompt) > PROMPT_LENGTH_MAX:
        raise InvalidRequest(f"A question has 1 to {PROMPT_LENGTH_MAX} characters.", param="prompt")
    key, secret = _lend(hub, asked, visitor)
    body = orjson.dumps({"model": model, "messages": [{"role": "user", "content": prompt}]})
    client = Alone(secret, body, asked)
    await hub.relay.handle(client, "chat")
    known: dict[str, Any] = {"prompt": prompt, "model": model, "key": key.name}
    answer = orjson.loads(client.answer)
    if client.status == 200:
        known["said"] = answer["choices"][0]["message"].get("content") or ""
        known["receipt"] = client.header("x-request-id")
    else:
        known["refusal"] = answer["error"]
    return _page(hub, asked, visitor, known)


class _Headers(dict[str, str]):
    """The headers of a request that was never on a wire."""

    def getall(self, name: str, default: Sequence[str]) -> Sequence[str]:
        return [self[name]] if name in self else default


class Alone:
    """A `wire.Client` whose answer is kept rather than written."""

    def __init__(self, secret: str, body: bytes, asked: Asked) -> None:
        self.headers: Any = _Headers(
            {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
        )
        self.peer = asked.address
        self.special: Collection[str] = ()
        self.query_credentials: Sequence[str] = ()
        self.digest: bytes | None = None
        self.begun = False
        self.bytes_out = 0
        self.source: Incoming | None = None
        self.stalled = False
        self.paused = False
        self.status = 0
        self._lines: list[str] = []
        self.answer = b""
        self._body = body

    def header(self, name: str) -> str | None:
        """What the answer's head says under this name."""
        return next((line.partition(": ")[2] for line in self._lines if line.startswith(f"{name}: ")), None)

    async def body(self, bytes_max: int) -> bytes:
        return self._body

    def begin(self, status: int, lines: list[str]) -> None:
        self.status, self._lines = status, lines

    def write(self, data: bytes) -> None:
        self.begun = True
        self.answer += data

    async def end(self, data: bytes) -> None:
        self.write(data)

    async def abort(self, data: bytes) -> None:
        self.write(data)
