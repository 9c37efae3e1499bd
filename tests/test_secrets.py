"""Canaries in every secret, prompt and answer: after good and failing requests none is found anywhere."""

from __future__ import annotations

import asyncio
import io
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from tests.served import Served, run
from tests.upstream import Asked, FakeUpstream, Says, chunk, json_says, stream_says, usual, whole

# Each is unlike all other text, and unlike each other.
UPSTREAM_KEY = "sk-up-CANARYupstreamkey4711"
SPARE_KEY = "sk-up-CANARYsparekey4711"
FILE_KEY = "sk-up-CANARYfilekey4711"
HEADER = "CANARYheader4711"
PROXY_PASSWORD = "CANARYproxypassword4711"
CLIENT_KEY = "sk-th-CANARYclientkey4711"
WRONG_KEY = "sk-th-CANARYwrongkey4711"
PROMPT = "CANARYprompt4711"
ANSWER = "CANARYanswer4711"
CANARIES = (
    UPSTREAM_KEY,
    SPARE_KEY,
    FILE_KEY,
    HEADER,
    PROXY_PASSWORD,
    CLIENT_KEY,
    WRONG_KEY,
    PROMPT,
    ANSWER,
)

CONFIG = """
listen: 127.0.0.1:0
ledger: sqlite:///books.db
max_body_mib: 1
upstreams:
  up:
    dialect: openai
    base_url: {base_url}
    api_key: ["env:CANARY_KEY", {spare}]
    headers: {{X-Org: {header}}}
  filed: {{dialect: anthropic, base_url: "{base_url}", api_key: "file:upstream.key"}}
  behind: {{dialect: openai, base_url: "{base_url}", api_key: {spare}, proxy: "http://user:{password}@127.0.0.1:9"}}
  gone: {{dialect: openai, base_url: "http://127.0.0.1:9/v1", api_key: {spare}}}
models:
  m: {{targets: [{{upstream: up}}], price: {{input: 3.00, output: 15.00}}, max_output_tokens: 100}}
  filed: {{targets: [{{upstream: filed}}], price: free, max_output_tokens: 100}}
  behind: {{targets: [{{upstream: behind}}], price: free}}
  gone: {{targets: [{{upstream: gone}}], price: free}}
keys: [{{name: laptop, key: {client}}}]
"""


def answer(asked: Asked) -> Says:
    """Tells in every way an upstream has what it was told in confidence."""
    echo = (
        f"{asked.headers.get('Authorization')} {asked.headers.get('X-Api-Key')} {asked.headers.get('X-Org')}"
    )
    fails = asked.body.get("user", "")
    if fails == "cut":
        return stream_says([chunk(ANSWER), chunk(ANSWER)], cut=True)
    if fails == "html":
        return Says([f"<html>{echo} {PROMPT}</html>".encode()], 200, {"Content-Type": "text/html"})
    if fails == "nonsense":
        return json_says(b"{" + ANSWER.encode())
    if fails:
        body = {"error": {"message": f"Incorrect API key provided: {echo}", "type": "t", "code": echo}}
        return json_says(orjson.dumps(body), int(fails), **{"X-Echo": echo})
    if asked.body.get("stream"):
        return stream_says([chunk(ANSWER), chunk(reason="stop"), b"data: [DONE]\n\n"])
    return json_says(whole(ANSWER)) if asked.path.endswith("/completions") else usual(asked)


class Errand:
    """Sends requests and keeps everything said to a client who had no right to a canary."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session
        self.heard: list[bytes] = []
        self.statuses: list[int] = []

    async def chat(
        self, key: str = CLIENT_KEY, *, path: str = "", headers: Mapping[str, str] = {}, **body: Any
    ) -> None:
        messages = [{"role": "user", "content": PROMPT}]
        data = orjson.dumps({"model": "m", "messages": messages, **body})
        await self.send("POST", f"/v1/chat/completions{path}", key, data, headers)

    async def send(
        self, method: str, path: str, key: str, data: bytes | None = None, headers: Mapping[str, str] = {}
    ) -> None:
        sent = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", **headers}
        async with self._session.request(
            method, self._url + path, data=data and io.BytesIO(data), headers=sent
        ) as said:
            self.statuses.append(said.status)
            self.heard.append(repr(said.raw_headers).encode())
            try:
                body = await said.read()
            except aiohttp.ClientPayloadError:
                return  # a stream that was cut; its client has read what is its own
            if said.status != 200:
                self.heard.append(body)


async def errands(errand: Errand) -> None:
    """A spread of what clients do, right and wrong."""
    await errand.chat()
    await errand.chat(stream=True)
    await errand.chat(headers={"Idempotency-Key": "one"})
    await errand.chat(headers={"Idempotency-Key": "one"})
    await errand.chat(headers={"x-tokenhub-strict": "1"}, metadata={"a": PROMPT})
    await errand.chat(user="cut", stream=True)
    for fault in ("html", "nonsense", "400", "401", "402", "403", "404", "422", "429", "500", "503"):
        await errand.chat(user=fault)
    for model in ("filed", "behind", "gone", "none"):
        await errand.chat(model=model)
    # Keys that are none, or are shown where they do not belong.
    await errand.chat(WRONG_KEY)
    await errand.chat(UPSTREAM_KEY)
    await errand.chat(headers={"x-api-key": WRONG_KEY})
    await errand.chat(path=f"?api_key={CLIENT_KEY}")
    await errand.send("GET", f"/v1/models?key={WRONG_KEY}", CLIENT_KEY)
    # Bodies that are wrong where the prompt is.
    for body in ({"messages": PROMPT}, {"max_tokens": PROMPT}, {"n": PROMPT}, {"messages": [PROMPT]}):
        await errand.chat(**body)
    await errand.send("POST", "/v1/chat/completions", CLIENT_KEY, b'{"model": "m", ' + PROMPT.encode())
    await errand.send("POST", "/v1/chat/completions", CLIENT_KEY, PROMPT.encode() * 100_000)
    await errand.send("POST", "/v1/embeddings", CLIENT_KEY, orjson.dumps({"model": "m", "input": PROMPT}))
    for path in ("/v1/models", "/v1/models/m", "/v1/key", "/metrics", "/readyz", "/openapi.json"):
        await errand.send("GET", path, CLIENT_KEY)


async def test_no_secret_no_prompt_and_no_answer_is_found_outside(
    tmp_path: Path, upstream: FakeUpstream
) -> None:
    upstream.says = answer
    (tmp_path / "upstream.key").write_text(FILE_KEY)
    (tmp_path / "config.yaml").write_text(
        CONFIG.format(
            base_url=upstream.base_url,
            spare=SPARE_KEY,
            header=HEADER,
            password=PROXY_PASSWORD,
            client=CLIENT_KEY,
        )
    )
    served = await asyncio.to_thread(lambda: Served(tmp_path, CANARY_KEY=UPSTREAM_KEY))
    try:
        async with aiohttp.ClientSession() as session:
            errand = Errand(served.base_url.removesuffix("/v1"), session)
            await errands(errand)
            async with session.get(served.base_url.removesuffix("/v1") + "/metrics") as said:
                metrics = await said.read()
        raw = b"GET /" + PROMPT.encode() + b" HTTP/1.1\r\nBad " + WRONG_KEY.encode() + b"\r\n\r\n"
        reader, writer = await asyncio.open_connection(*served.address.split(":"))
        writer.write(raw)
        refused = await reader.read()
        writer.close()
        commands = [
            await asyncio.to_thread(lambda verb=verb: run(tmp_path, *verb, CANARY_KEY=UPSTREAM_KEY))
            for verb in (["check"], ["keys", "list", "--json"], ["usage", "--json"], ["ledger", "export"])
        ]
        processes = await asyncio.to_thread(
            subprocess.run, ["ps", "-ww", "-o", "args=", "-p", str(served.process.pid)], capture_output=True
        )
        live = {file.name: file.read_bytes() for file in tmp_path.glob("books.db*") if file.is_file()}
    finally:
        code = await asyncio.to_thread(served.stop)
    assert code == 0

    places = {
        **live,
        **{f"closed {file.name}": file.read_bytes() for file in tmp_path.glob("books.db*")},
        "log": served.log.read_bytes(),
        "stdout": served.said.encode(),
        "metrics": metrics,
        "processes": processes.stdout,
        "answers": b"\n".join([*errand.heard, refused]),
        "commands": "".join(done.stdout + done.stderr for done in commands).encode(),
    }
    found = [
        f"{canary} in {place}: …{text[max(0, at - 200) : at + 60]!r}…"
        for place, text in places.items()
        for canary in CANARIES
        if (at := text.find(canary.encode())) >= 0
    ]
    assert found == []

    # The canaries were there to be found, and the places are those where they would be.
    told = repr([(asked.headers, asked.body) for asked in upstream.asked])
    assert all(canary in told for canary in (UPSTREAM_KEY, SPARE_KEY, FILE_KEY, HEADER, PROMPT))
    assert {200, 400, 401, 404, 413, 502} <= set(errand.statuses)
    assert b"laptop" in places["commands"]
    assert b"tokenhub_requests_total" in metrics
    assert b"serve" in processes.stdout
    assert b"req_" in live["books.db-wal"] + live["books.db"]
    assert b"req_" in places["log"]
