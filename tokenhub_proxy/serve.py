"""The `serve` command: start, say where, obey signals, follow the config file, stop in order."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import json
import logging
import os
import shlex
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tokenhub_proxy import overload
from tokenhub_proxy.activation import NotListening, inherited
from tokenhub_proxy.carriers import Taped, Transports, scripted
from tokenhub_proxy.cassettes import CassetteError, secrets_of
from tokenhub_proxy.cli import (
    FOUND,
    LEDGER_REFUSED,
    WRONG,
    config_path,
    fail,
    ledger_url,
    listed_price,
    load_config,
    read_config,
)
from tokenhub_proxy.config import Config, ConfigError, values
from tokenhub_proxy.config.embedded import embedded, replayed
from tokenhub_proxy.control import Control
from tokenhub_proxy.errors import ProxyError
from tokenhub_proxy.ledger import LedgerRefused
from tokenhub_proxy.ollama import ollama_models
from tokenhub_proxy.supervisor import Supervisor
from tokenhub_proxy.transports.tape import Tape
from tokenhub_proxy.wiring import Proxy, start

log = logging.getLogger(__name__)

# How often the config file's time is looked at; one look costs microseconds.
WATCH_S = 2.0
# So many new objects bring the next look for garbage: some hundred calls, about 2 MB.
GARBAGE_THRESHOLD = 20_000
# So much freed memory is kept for the next large answer, and a block from such a size on is not.
KEPT_BYTES = 16 * 2**20
BLOCK_BYTES_MAX = 2**20
FIRST_KEY = "first"
# One Ctrl-C, or one stop by systemd, may come twice: to the whole group, and passed on by a parent in it.
ONE_ASKING_S = 0.25
# What is cut after the drain is told, settled and written within this.
AFTER_DRAIN_S = 15.0
# What is decided once, at the start.
FIXED = ("listen_host", "listen_port", "ledger_url", "durability", "log_format", "traces")

Adjust = Callable[[Config], Config]


def run(
    named: str | None,
    listen: str | None,
    ledger: str | None,
    *,
    record: str | None = None,
    replay: str | None = None,
) -> int:
    """Serve until told to stop; gives the exit code. The arguments are the command line's."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    adjust = _adjustment(listen, ledger)
    path = config_path(named)
    # What changes from here on is news.
    watch = None if path is None else Watch(path, adjust)
    tape = None if replay is None else _tape(Path(replay))
    config = adjust(load_config(named) or _without_file(tape))
    for warning in config.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    try:
        listener = inherited(os.environ, os.getpid())
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            transports = _transports(config, record, replay)
            supervisor = Supervisor.of(os.environ, os.getpid())
            return runner.run(_serve(config, watch, listener, transports, supervisor))
    except NotListening as error:
        fail(WRONG, error.message)
    except LedgerRefused as error:
        fail(LEDGER_REFUSED, str(error))
    except ProxyError as error:
        fail(FOUND, error.message)


def _without_file(tape: Tape | None) -> Config:
    """The config where no file is: the first minute's, or what is on tape."""
    if tape is None:
        return embedded(os.environ, ollama_models())
    return replayed(tape.cassette.asks, listed_price)


def _transports(config: Config, record: str | None, replay: str | None) -> Callable[[str], Transports]:
    if replay is not None:
        return partial(Taped, scripted(), Path(replay), None)
    if record is not None:
        return partial(Taped, scripted(), Path(record), secrets_of(config.upstreams.values(), os.environ))
    return partial(Transports, scripted())


def _tape(folder: Path) -> Tape:
    """All cassettes of a folder; a bad one, or none, ends the command."""
    try:
        tape = Tape(folder)
    except (CassetteError, OSError) as error:
        fail(WRONG, f"--replay: {error}")
    if not tape.cassette.asks:
        fail(WRONG, f"--replay: there is no cassette (*.jsonl) in {folder}.")
    return tape


def _adjustment(listen: str | None, ledger: str | None) -> Adjust:
    """What the command line says over the config, now and after each reload."""
    changes: dict[str, Any] = {}
    if listen is not None:
        try:
            changes["listen_host"], changes["listen_port"] = values.listen(listen)
        except ValueError as error:
            fail(WRONG, f"--listen: {error}")
    if ledger is not None:
        changes["ledger_url"] = ledger_url(ledger)
    return lambda config: replace(config, **changes)


def keep_freed_memory() -> None:
    """Give back what the start has freed, and let the C library keep what is freed from then on.

    glibc gives the top of its heap back as soon as some hundred KB of it are free, and takes it again page by
    page: a third of the CPU of an embeddings answer of 400 KB. Elsewhere nothing is done.
    """
    import ctypes

    try:
        library = ctypes.CDLL(None)
        mallopt, malloc_trim = library.mallopt, library.malloc_trim
    except (AttributeError, OSError, TypeError):
        return  # not glibc
    malloc_trim(0)  # 0.8 MiB of what imports and the config needed once
    mallopt(-1, KEPT_BYTES)  # M_TRIM_THRESHOLD
    mallopt(-3, BLOCK_BYTES_MAX)  # M_MMAP_THRESHOLD, which else would follow the largest block


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed: a quarter less CPU for a small request."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(
    config: Config,
    watch: Watch | None,
    listener: socket.socket | None,
    transports: Callable[[str], Transports],
    supervisor: Supervisor,
) -> int:
    overload.raise_limit()
    asyncio.get_running_loop().set_exception_handler(overload.AcceptFailures())
    stop, hurry, reload = asyncio.Event(), asyncio.Event(), asyncio.Event()
    _on_signals(stop, hurry, reload)
    try:
        proxy = await start(config, log=sys.stderr, inherited=listener, transports=transports)
    except OSError as error:
        fail(WRONG, _not_listening(f"{config.listen_host}:{config.listen_port}", error))
    # What a start leaves behind lives as long as the process. Looking through it, and as often as 700
    # new objects come, would be a tenth of a request's time; a call leaves few cycles, a stream none.
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)
    keep_freed_memory()
    control = Control(proxy.leasing.administration, proxy.ledger.path)
    following = beating = None
    try:
        await _open_door(control, proxy)
        if watch is None:
            await _welcome(proxy)
        await _invite(proxy)
        print(f"ready {proxy.base_url}", flush=True)
        supervisor.ready(_status(proxy))
        beating = asyncio.create_task(supervisor.watch(lambda: _status(proxy)))
        following = asyncio.create_task(_follow(proxy, watch, reload, supervisor))
        await stop.wait()
    finally:
        if following is not None:
            following.cancel()
        supervisor.stopping(proxy.config.pre_stop_s + proxy.config.drain_s + AFTER_DRAIN_S)
        await proxy.drain(hurry=hurry)
        # Until the last answer has ended, commands are answered too.
        await control.stop()
        await proxy.ledger.aclose()
        if beating is not None:
            beating.cancel()
    return 0


def _status(proxy: Proxy) -> str:
    doing = "Draining" if proxy.relay.leaving else f"Serving {proxy.base_url}"
    return f"{doing}, {len(proxy.relay.in_flight)} in flight"


async def _open_door(control: Control, proxy: Proxy) -> None:
    try:
        await control.start()
    except OSError as error:
        fail(FOUND, f"{proxy.ledger.path}.sock, where commands come in, can't be made: {error.strerror}.")


def _not_listening(address: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"{address} can't be listened on: somebody does, maybe a server that runs already."
            " With --listen 127.0.0.1:0 any free port is taken."
        )
    return f"{address} can't be listened on: {error.strerror}."


def _on_signals(stop: asyncio.Event, hurry: asyncio.Event, reload: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    first_s = 0.0

    def asked() -> None:
        nonlocal first_s
        if not stop.is_set():
            first_s = loop.time()
            stop.set()
        elif loop.time() - first_s >= ONE_ASKING_S:
            hurry.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked)
    loop.add_signal_handler(signal.SIGHUP, reload.set)


# --- following the config file


class Watch:
    """A config file and what it was like when it was last read."""

    def __init__(self, path: Path, adjust: Adjust) -> None:
        self.path = path
        self._adjust = adjust
        self._seen = self._stamp()

    def changed(self) -> bool:
        """True when the file is another one than at the last call."""
        before, self._seen = self._seen, self._stamp()
        return self._seen != before

    def read(self) -> Config:
        """The config as it is now. Raises ConfigError."""
        return self._adjust(read_config(self.path))

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


async def _follow(proxy: Proxy, watch: Watch | None, asked: asyncio.Event, supervisor: Supervisor) -> None:
    """Reload on SIGHUP and when the file changes; a bad file keeps the config that runs."""
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WATCH_S):
                await asked.wait()
        if not (watch is not None and watch.changed()) and not asked.is_set():
            continue
        asked.clear()
        supervisor.reloading()
        if watch is None:
            log.warning("reload_failed: there is no config file")
        else:
            await _reload(proxy, watch)
        supervisor.ready(_status(proxy))


async def _reload(proxy: Proxy, watch: Watch) -> None:
    proxy.instruments.config_current = False
    try:
        config, before = watch.read(), proxy.config
        await proxy.reload(config)
    except ConfigError as error:
        log.error("reload_failed: the old config stays\n%s", error)
        return
    except ProxyError as error:
        log.error("reload_failed: the old config stays: %s", error.message)
        return
    proxy.instruments.config_current = True
    for warning in config.warnings:
        log.warning("%s", warning)
    for name in FIXED:
        if getattr(config, name) != getattr(before, name):
            log.warning("%s changes at the next start", name.partition("_")[0])
    log.info("reloaded %s", watch.path)


# --- the first minute


async def _welcome(proxy: Proxy) -> None:
    """The first minute: a key, shown once, and a line to paste."""
    path = proxy.ledger.path
    if proxy.ledger.list_keys():
        print(f"{path} has keys already. To make another one:\n\n  {_create_command(path)}\n")
    else:
        made = await proxy.leasing.administration.keys_create({"name": FIRST_KEY})
        print(f"Your key, shown this once (only its digest is kept, in {path}):\n\n  {made['secret']}\n")
        print("Try it:\n")
        routes = proxy.config.routes
        model = "demo" if "demo" in routes else next(iter(routes))
        print(curl_line(proxy.base_url, made["secret"], model), end="\n\n")
    print(f"Models: {', '.join(proxy.config.routes)}")


async def _invite(proxy: Proxy) -> None:
    """Until the dashboard has an operator: the link where one is made, new at every start."""
    try:
        path = await proxy.administration.users.first_link()
    except ProxyError as error:
        log.warning("the dashboard's first link can't be made: %s", error.message)
        return
    if path is not None:
        address = proxy.base_url.removesuffix("/v1")
        print(f"Dashboard: choose the operator's password, once, within 7 days:\n\n  {address}{path}\n")


def _create_command(ledger_path: str) -> str:
    """What can be typed here to make a key in this ledger."""
    called = sys.argv[0]
    name = os.path.basename(called)
    if not name.startswith(
        "tokenhub-proxy"
    ):  # one file of it is tokenhub-proxy.pyz, or has a version in its name
        words = [os.path.basename(sys.executable), "-m", "tokenhub_proxy"]
    elif shutil.which(name) == called:
        words = [name]
    else:
        path = os.path.relpath(called)
        words = [path if os.sep in path else os.path.join(os.curdir, path)]
    words += ["keys", "create", "NAME"]
    # The command looks for its ledger as `serve` does, unless that was told another one.
    if os.path.realpath("tokenhub.db") != ledger_path:
        words += ["--ledger", ledger_path]
    return shlex.join(words)


def curl_line(base_url: str, secret: str, model: str) -> str:
    """A line that streams an answer of the model when pasted."""
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "Hello!"}]}
    return (
        f"curl -N {base_url}/chat/completions -H 'Authorization: Bearer {secret}' "
        f"-H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}"
    )
