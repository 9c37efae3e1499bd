"""An endpoint as a client without an SDK sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from tokenhub_proxy import sse

ANSWER_BYTES_MAX = 8 * 2**20
# Enough for a sentence or a call, and soon said.
OUTPUT_MAX = 64
HELLO = "Say hello to the world in one short sentence."


class Broken(Exception):
    """A behaviour is not as it should be; the message says why."""


class Skipped(Exception):
    """A behaviour could not be seen; the message says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            raise Broken(f"status {self.status}, and the body is no JSON") from None

    def good(self) -> Any:
        """The JSON of a 200."""
        if self.status != 200:
            raise Broken(f"status {self.status}: {self.body[:150].decode(errors='replace')}")
        return self.json()


class Endpoint:
    """An endpoint under test, as a client without an SDK sees it."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, key: str, model: str, embeddings_model: str | None
    ) -> None:
        self._session = session
        self._url = url.rstrip("/")
        self._key = key
        self.model = model
        self.embeddings_model = embeddings_model

    async def ask(
        self, path: str, body: Any = None, *, key: str | None = None, raw: bytes | None = None
    ) -> Answer:
        """One request: a GET without a body, else a POST."""
        async with self.open(path, body, key=key, raw=raw) as answer:
            found = await answer.content.read(ANSWER_BYTES_MAX)
            while not answer.content.at_eof() and len(found) < ANSWER_BYTES_MAX:
                found += await answer.content.read(ANSWER_BYTES_MAX)
            headers = {name.lower(): value for name, value in answer.headers.items()}
            return Answer(answer.status, headers, found)

    def open(self, path: str, body: Any = None, *, key: str | None = None, raw: bytes | None = None) -> Any:
        """The context of one request."""
        data = raw if raw is not None else orjson.dumps(body) if body is not None else None
        headers = {
            "Authorization": f"Bearer {self._key if key is None else key}",
            "Content-Type": "application/json",
        }
        return self._session.request(
            "GET" if data is None else "POST", f"{self._url}/{path}", data=data, headers=headers
        )

    def body(self, text: str = HELLO, **more: Any) -> dict[str, Any]:
        """The body of a chat call."""
        messages = [{"role": "user", "content": text}]
        return {"model": self.model, "messages": messages, "max_tokens": OUTPUT_MAX, "temperature": 0, **more}

    async def chat(self, text: str = HELLO, **more: Any) -> Any:
        """A whole completion."""
        return (await self.ask("chat/completions", self.body(text, **more))).good()

    async def stream(self, text: str = HELLO, **more: Any) -> list[Any]:
        """The chunks of a stream. Raises Broken where its grammar is."""
        answer = await self.ask("chat/completions", self.body(text, stream=True, **more))
        if answer.status != 200:
            answer.good()
        kind = answer.headers.get("content-type", "")
        require(kind.startswith("text/event-stream"), f"content-type {kind!r}")
        splitter = sse.Splitter()
        payloads = [data for event in splitter.feed(answer.body) if (data := sse.data(event)) is not None]
        require(not splitter.rest.strip(), "the last event has no blank line")
        require(payloads[-1:] == [b"[DONE]"], "it does not end in data: [DONE]")
        require(payloads.count(b"[DONE]") == 1, "[DONE] is said more than once")
        try:
            return [orjson.loads(payload) for payload in payloads[:-1]]
        except orjson.JSONDecodeError:
            raise Broken("an event holds no JSON") from None


def require(condition: object, why: str) -> None:
    """Raise Broken unless the condition holds."""
    if not condition:
        raise Broken(why)
