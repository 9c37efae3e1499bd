"""What one plain call costs inside the proxy: no sockets, a client and an upstream that are only called.

    bench_relay.py [--durability full] [--concurrency 32] [--profile]

Prints CPU microseconds a call, of the event loop's thread and of the ledger's, the least and the
median of many short rounds; with --profile the share of each module instead (under cProfile, which
makes small functions look dearer than they are).
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import os
import pstats
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import orjson  # noqa: E402 - the checkout comes before what may be installed

from tokenhub_proxy import wiring  # noqa: E402
from tokenhub_proxy.cli import read_config  # noqa: E402

KEY = "sk-th-benchmark-0123456789"
ROUNDS, CALLS = 40, 1000
CONFIG = """\
listen: 127.0.0.1:0
ledger: sqlite:///{folder}/books.db
durability: {durability}
upstreams: {{up: {{dialect: openai, base_url: "http://127.0.0.1:1/v1"}}}}
models: {{m: {{targets: [{{upstream: up}}], price: {{input: 0.01, output: 0.01}}, max_output_tokens: 1000}}}}
accounts: {{main: {{balance: prepaid}}}}
keys:
  - name: bench
    key: {key}
    account: main
    rate: {{requests_per_minute: 1000000000, tokens_per_minute: 1000000000, concurrent: 1000}}
log: {{format: json}}
"""
BODY = orjson.dumps(
    {
        "model": "m",
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "Say something short about the sea, please. " * 4},
        ],
        "max_tokens": 256,
    }
)
ANSWER = orjson.dumps(
    {
        "id": "c-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "A short answer about the sea."},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 24, "completion_tokens": 12, "total_tokens": 36},
    }
)


class Headers(dict[str, str]):
    """A request's headers; the names that are asked for are few."""

    def get(self, name: str, default: Any = None) -> Any:
        return dict.get(self, name.lower(), default)

    def getall(self, name: str, default: Any = ()) -> Any:
        value = dict.get(self, name.lower())
        return default if value is None else [value]


HEADERS = Headers({"authorization": f"Bearer {KEY}", "content-type": "application/json"})


class Client:
    """`wire.Client` that takes everything at once."""

    paused = stalled = False
    peer = "127.0.0.1"
    headers = HEADERS
    special = query_credentials = ()
    digest = None

    def __init__(self) -> None:
        self.bytes_out = 0
        self.begun = False
        self.source = None
        self.status = 0

    async def body(self, bytes_max: int, **_: object) -> bytes:
        return BODY

    def begin(self, status: int, lines: list[str]) -> None:
        self.status = status

    def write(self, data: bytes) -> None:
        self.begun = True
        self.bytes_out += len(data)

    async def end(self, data: bytes) -> None:
        self.write(data)

    async def abort(self, data: bytes) -> None:
        raise SystemExit(f"a call was aborted: {data!r}")


class Answered:
    """`wire.Incoming` that has the whole answer; its own context, and the transport too."""

    status = 200
    headers: Mapping[str, str] = {"content-type": "application/json"}
    notes: Mapping[str, object] = {}
    complete = True

    def send(self, outgoing: object) -> Answered:
        return self

    async def __aenter__(self) -> Answered:
        return self

    def close(self, error: BaseException | None) -> None:
        """Nothing is kept."""

    async def pump(self, sink: Callable[[bytes], object]) -> bool:
        sink(ANSWER)
        return True


def threads() -> tuple[float, float]:
    """CPU microseconds so far: of the first thread, and of all others."""
    first = others = 0.0
    for task in Path("/proc/self/task").iterdir():
        spent_us = int((task / "schedstat").read_text().split()[0]) / 1000
        if task.name == str(os.getpid()):
            first += spent_us
        else:
            others += spent_us
    return first, others


async def calls(relay: Any, count: int, concurrency: int) -> None:
    """So many calls, so many at a time."""
    left = count

    async def client() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            one = Client()
            await asyncio.create_task(relay.handle(one, "chat"))
            assert one.status == 200, one.status

    await asyncio.gather(*(client() for _ in range(concurrency)))


async def main(asked: argparse.Namespace, folder: Path) -> None:
    in_memory = asked.durability == "memory"
    file = folder / "config.yaml"
    durability = "process" if in_memory else asked.durability
    file.write_text(CONFIG.format(folder=folder, durability=durability, key=KEY))
    config = read_config(file)
    if in_memory:
        config = replace(config, ledger_url="sqlite:///:memory:")
    with open(os.devnull, "w") as log:
        proxy = await wiring.start(config, log=log)
        await proxy.ledger.credit("main", 10**17, at=time.time())
        relay = proxy.relay
        relay.fallback._transport = lambda target, call: Answered()
        await calls(relay, CALLS, asked.concurrency)
        if asked.profile:
            profile = cProfile.Profile()
            profile.enable()
            await calls(relay, 10 * CALLS, asked.concurrency)
            profile.disable()
            shares(profile)
        else:
            found = []
            for _ in range(ROUNDS):
                before = threads()
                await calls(relay, CALLS, asked.concurrency)
                found.append([(after - was) / CALLS for after, was in zip(threads(), before, strict=True)])
            for title, pick in (("least", min), ("median", statistics.median)):
                loop, others = (pick(column) for column in zip(*found, strict=True))
                print(f"{title}: {loop:.1f} us of the loop's thread, {others:.1f} us of others, a call")
        await proxy.stop(1)


def shares(profile: cProfile.Profile) -> None:
    """Print which part of the time each module's own functions took."""
    spent: Counter[str] = Counter()
    functions: Any = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    for (file, _, name), (_, _, own, _, _) in functions.items():
        spent[file.partition("tokenhub_proxy/")[2] or (name if file == "~" else Path(file).name)] += own
    total = sum(spent.values())
    for place, own in spent.most_common(30):
        print(f"{100 * own / total:5.1f} %  {place}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--durability", choices=("full", "process", "memory"), default="full")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--profile", action="store_true")
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        try:
            import uvloop

            uvloop.run(main(parser.parse_args(), Path(name)))
        except ImportError:
            asyncio.run(main(parser.parse_args(), Path(name)))
