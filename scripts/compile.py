"""Compiles the modules that a call passes through, in the folder that it runs in."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from mypyc.build import mypycify
from setuptools import setup

# What a call or a chunk runs through. Not here: whatever waits for something while it handles an exception,
# classes that others inherit from, and the ledger's thread; tests/test_compiled.py says why.
COMPILED = [
    *("aiohttp_client", "calls", "connection", "exchange", "fallback", "front", "heads"),
    *("health", "keys", "limits", "observers", "outbox", "prices", "request_ids", "routes", "sockets"),
    *("forwarding", "watch", "wire"),
    *("dialects/__init__", "dialects/answers", "dialects/azure", "dialects/openai"),
    *("dialects/passthrough", "dialects/pattern", "dialects/replies", "dialects/usage"),
    *("ledger/__init__", "ledger/books", "ledger/changes", "ledger/rows"),
    *("metrics/__init__", "metrics/counters", "testing/stage"),
    *("transports/chunks", "transports/http1", "transports/live", "transports/origin", "transports/pool"),
]


def main() -> None:
    """Build a wheel, and put what is compiled beside the modules."""
    paths = [f"tokenhub_proxy/{name}.py" for name in COMPILED]
    extensions = mypycify(
        ["--ignore-missing-imports", *paths], opt_level="2", debug_level="0", group_name="tokenhub_proxy"
    )
    sys.argv = ["compile", "--quiet", "bdist_wheel", "--dist-dir", "."]
    setup(ext_modules=extensions)
    for library in Path("build").glob("lib.*"):
        for path in library.rglob("*.so"):
            shutil.copy(path, path.relative_to(library))


if __name__ == "__main__":
    main()
