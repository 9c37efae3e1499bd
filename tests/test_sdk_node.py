"""The official Node SDK against the proxy, unmodified."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import orjson
import pytest

from tests.conftest import KEY, Running

FOLDER = Path(__file__).parent / "node"
needs_node = pytest.mark.skipif(
    shutil.which("node") is None or not (FOLDER / "node_modules" / "openai").exists(),
    reason="node, or tests/node/node_modules (npm ci --prefix tests/node), is missing",
)


async def run_node(script: str, *arguments: str) -> dict[str, object]:
    """The JSON that a script prints."""
    process = await asyncio.create_subprocess_exec(
        "node",
        str(FOLDER / script),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(120):
        told, trouble = await process.communicate()
    assert process.returncode == 0, trouble.decode()
    found: dict[str, object] = orjson.loads(told)
    return found


@needs_node
async def test_the_node_sdk_streams_calls_tools_embeds_lists_and_raises_its_typed_errors(
    proxy: Running,
) -> None:
    told = await run_node("sdk.mjs", proxy.base_url, KEY, "m")

    assert told == {
        "plain": "Hello",
        "usage": True,
        "stream": "Hello",
        "chunks": 3,
        "tool": {"name": "weather", "arguments": '{"city":"demo"}'},
        "dimensions": 64,
        "models": ["m", "free", "e", "demo"],
        "errors": {
            "unknown": ["NotFoundError", 404, "model_not_found", True],
            "bad": ["BadRequestError", 400, "invalid_request", True],
            "stranger": ["AuthenticationError", 401, "invalid_api_key", True],
        },
    }
