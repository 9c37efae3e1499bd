"""The `serve` command: start, say where, obey signals, follow the config file, stop in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenhub_proxy.cli import CONFIG_FILE, LEDGER_REFUSED, WRONG, fail, load_config
from tokenhub_proxy.config import Config, ConfigError, load_file, values
from tokenhub_proxy.config.embedded import embedded
from tokenhub_proxy.control import Control
from tokenhub_proxy.ledger import LedgerRefused
from tokenhub_proxy.wiring import Proxy, administration, listed_price, ollama_models, start

log = logging.getLogger(__name__)

# How often the config file's time is looked at; one look costs microseconds.
WATCH_S = 2.0
FIRST_KEY = "first"


def run(config_path: str | None, listen: str | None, ledger: str | None) -> int:
    """Serve until told to stop; gives the exit code."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    config = load_config(config_path)
    path = None if config is None else Path(config_path or os.environ.get("TOKENHUB_CONFIG") or CONFIG_FILE)
    adjust = _adjustment(listen, ledger)
    first_minute = config is None
    config = adjust(config if config is not None else embedded(os.environ, ollama_models()))
    for warning in config.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(_serve(config, path, adjust, first_minute))
    except LedgerRefused as error:
        fail(LEDGER_REFUSED, str(error))
    except OSError as error:
        fail(WRONG, f"{config.listen_host}:{config.listen_port} can't be listened on: {error.strerror}")


def _adjustment(listen: str | None, ledger: str | None) -> Callable[[Config], Config]:
    """What the command line says over the config, now and after each reload."""
    changes: dict[str, Any] = {}
    if listen is not None:
        try:
            changes["listen_host"], changes["listen_port"] = values.listen(listen)
        except ValueError as error:
            fail(WRONG, f"--listen: {error}")
    if ledger is not None:
        changes["ledger_url"] = ledger
    return lambda config: replace(config, **changes)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed: a quarter less CPU for a small request."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(
    config: Config, path: Path | None, adjust: Callable[[Config], Config], first_minute: bool
) -> int:
    proxy = await start(config, log=sys.stderr)
    stop, hurry = asyncio.Event(), asyncio.Event()
    _on_signals(stop, hurry)
    control = Control(administration(proxy.relay, proxy.ledger), proxy.ledger.path)
    await control.start()
    if first_minute:
        await _welcome(proxy)
    print(f"ready {proxy.base_url}", flush=True)
    watcher = asyncio.create_task(_watch(proxy, path, adjust)) if path is not None else None
    await stop.wait()
    if watcher is not None:
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher
    await control.stop()
    await proxy.stop(hurry=hurry)
    return 0


def _on_signals(stop: asyncio.Event, hurry: asyncio.Event) -> None:
    def asked() -> None:
        (hurry if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked)


async def _watch(proxy: Proxy, path: Path, adjust: Callable[[Config], Config]) -> None:
    """Reload on SIGHUP and when the file changes; a bad file keeps the config that runs."""
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, asked.set)
    seen = _stamp(path)
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asked.wait(), WATCH_S)
        stamp = _stamp(path)
        if not asked.is_set() and stamp == seen:
            continue
        asked.clear()
        seen = stamp
        try:
            await proxy.reload(adjust(load_file(path, os.environ, listed_price)))
        except ConfigError as error:
            log.error("reload_failed: the old config stays\n%s", error)
        else:
            log.info("reloaded %s", path)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


async def _welcome(proxy: Proxy) -> None:
    """The first minute: a key, shown once, and a line to paste."""
    if proxy.ledger.list_keys():
        print(f"Ledger {proxy.ledger.path} has keys already; one more: tokenhub-proxy keys create NAME")
    else:
        made = await administration(proxy.relay, proxy.ledger).keys_create({"name": FIRST_KEY})
        print(f"Your key, shown this once (kept in {proxy.ledger.path} as a digest):\n\n  {made['secret']}\n")
        print("Try it:\n")
        print(curl_line(proxy.base_url, made["secret"]), end="\n\n")
    print(f"Models: {', '.join(proxy.config.routes)}")


def curl_line(base_url: str, secret: str) -> str:
    """A line that streams an answer of the demo model when pasted."""
    return (
        f"curl -N {base_url}/chat/completions -H 'Authorization: Bearer {secret}' "
        "-H 'Content-Type: application/json' "
        """-d '{"model": "demo", "stream": true, "messages": [{"role": "user", "content": "Hello!"}]}'"""
    )
