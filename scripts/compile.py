"""Compiles the modules that a call passes through, in the folder that it runs in."""

from __future__ import annotations

import os
import shlex
import sys
import sysconfig
from pathlib import Path

from mypyc.build import mypycify
from setuptools import setup

# What a call or a chunk runs through. Not here: whatever waits for something while it handles an exception,
# classes that others inherit from, and the ledger's thread; tests/test_compiled.py says why.
COMPILED = [
    *("aiohttp_client", "calls", "connection", "exchange", "fallback", "front", "heads"),
    *("health", "keys", "limits", "observers", "outbox", "prices", "relay", "request_ids", "routes"),
    *("forwarding", "looks", "server", "sockets", "watch", "wire"),
    *("dialects/__init__", "dialects/answers", "dialects/azure", "dialects/openai"),
    *("dialects/passthrough", "dialects/pattern", "dialects/replies", "dialects/usage"),
    *("ledger/__init__", "ledger/books", "ledger/changes", "ledger/committer", "ledger/holding"),
    *("ledger/rows", "ledger/sqlite"),
    *("metrics/__init__", "metrics/counters", "testing/stage"),
    *("transports/chunks", "transports/http1", "transports/live", "transports/origin", "transports/pool"),
    *("transports/rounds",),
]


def main() -> None:
    """Build a wheel, the same bytes wherever the folder and the tools are."""
    # Where this Python's own library lies is no part of what is compiled, and neither is anything else here.
    shared = shlex.split(os.environ.get("LDSHARED") or sysconfig.get_config_var("LDSHARED") or "")
    own = ("-L", "-Wl,-rpath")
    os.environ["LDSHARED"] = shlex.join(word for word in shared if not word.startswith(own))
    paths = [f"tokenhub_proxy/{name}.py" for name in COMPILED]
    extensions = mypycify(
        ["--ignore-missing-imports", *paths], opt_level="2", debug_level="0", group_name="tokenhub_proxy"
    )
    # A call goes straight to what it calls, not by a table of what others might put there: that took lines
    # of the processor's cache for code, which is too small for all that a request runs through.
    flags = [f"-ffile-prefix-map={Path.cwd()}=.", "-fvisibility=hidden", "-fno-plt"]
    for extension in extensions:
        extension.extra_compile_args = [*extension.extra_compile_args, *flags]
    sys.argv = ["compile", "--quiet", "bdist_wheel", "--dist-dir", "."]
    setup(ext_modules=extensions)


if __name__ == "__main__":
    main()
