"""What is let go of while a stream goes on, and what large answers free is there for the next ones."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import tracemalloc

import pytest

from tests import chaos
from tests.conftest import Serve, one_upstream
from tests.served import ROOT
from tests.test_relay_streams import BODY, STREAM, answers, request_bytes, stream

# Four answers of 400 KB at a time, fifty times; tells how many pages were asked of the kernel.
ANSWERS = """
import resource
from tokenhub_proxy.serve import keep_freed_memory
if KEPT:
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for turn in range(51):
    if turn == 1:
        before = faults()
    held = [b"x" * (400_000 + number) for number in range(4)]
    del held
print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heap")
def test_memory_of_large_answers_is_used_again() -> None:
    def faults(kept: bool) -> int:
        code = ANSWERS.replace("KEPT", str(kept))
        return int(
            subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True).stdout
        )

    asked = faults(kept=False)
    if asked < 1000:
        pytest.skip("this C library keeps it by itself")
    assert faults(kept=True) < asked / 10


def held_bytes() -> int:
    """What the package's own lines have asked for and hold."""
    gc.collect()
    ours = tracemalloc.Filter(True, "*/tokenhub_proxy/*")
    return sum(each.size for each in tracemalloc.take_snapshot().filter_traces([ours]).statistics("filename"))


async def test_a_stream_under_way_holds_neither_its_prompt_nor_its_upstreams_head(serve: Serve) -> None:
    goes_on = asyncio.Event()
    fields = b"".join(b"X-Of-The-Upstream-%d: %b\r\n" % (number, b"x" * 8000) for number in range(7))
    head = chaos.CHUNKED.replace(b"\r\n", b"\r\n" + fields, 1)
    first, *rest = (chaos.send(chaos.chunk(event)) for event in (*STREAM, b""))
    script = [chaos.request(), chaos.send(head), first, chaos.wait(goes_on), *rest]
    async with chaos.serve(answers(STREAM), script) as up:
        running = await serve(one_upstream(up.url + "/v1"))
        await stream(running)  # imports what it needs
        up.peers[0].transport.abort()
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        tracemalloc.start()
        try:
            before = held_bytes()
            messages = [{"role": "user", "content": "word " * 200_000}]
            writer.write(request_bytes({**BODY, "messages": messages}))
            said = await reader.readuntil(STREAM[0])
            held = held_bytes() - before
        finally:
            tracemalloc.stop()
        goes_on.set()
        said += await reader.read()
        writer.close()

    assert said.startswith(b"HTTP/1.1 200 OK")
    assert STREAM[-1] in said
    assert held < 20_000  # of a prompt of a megabyte, a head of 56 KB
