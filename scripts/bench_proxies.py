"""What the proxy costs beside no proxy, a textbook one, and nginx where it is installed.

Each contender is started in turn in front of the same upstream, on a core of its own where there are two.
CPU is the kernel's account of the contender's whole process tree, so that it holds on a busy machine
to some ten percent; latencies hold less well there. Rounds interleave the contenders; the tables
give medians.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
KEY = "sk-th-benchmark-0123456789"
START_S = 30.0
STREAMS = 500
# Who hammers the dashboard asks for so many pages at a time.
VISITORS = 4
CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"

CONFIG = """\
listen: 127.0.0.1:{port}
durability: {durability}
upstreams:
  up: {{dialect: openai, base_url: "http://127.0.0.1:{upstream}/v1"}}
  claude: {{dialect: anthropic, base_url: "http://127.0.0.1:{upstream}/v1", api_key: none}}
models:
{chat}
  vectors: {{targets: [{{upstream: up}}], price: {{input: 0.01}}}}
accounts: {{main: {{balance: prepaid}}}}
keys:
  - name: bench
    key: {key}
    account: main
    rate: {{requests_per_minute: 1000000000, tokens_per_minute: 1000000000, concurrent: 100000}}
log: {{format: json}}
"""
CHAT_MODEL = """\
  {name}:
    targets: [{{upstream: {upstream}, model: {model}}}]
    price: {{input: 0.01, output: 0.01}}
    max_output_tokens: 1000
"""
# By the name that clients say: the upstream's name and its model.
CHAT_MODELS = {
    "plain": ("up", "plain"),
    "burst": ("up", "burst"),
    "paced": ("up", "paced"),
    "claude-burst": ("claude", "burst"),
    "claude-paced": ("claude", "paced"),
}
NGINX = """\
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  keepalive_requests 1000000000;
  upstream up {{ server 127.0.0.1:{upstream}; keepalive 1024; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    location / {{
      proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_read_timeout 600s;
    }}
  }}
}}
"""


class Phase(NamedTuple):
    """One kind of load: so many connections for so long, or so many requests at once.

    `ours`: only this proxy can do it. `hammered`: somebody asks for its dashboard's pages meanwhile.
    """

    path: str
    model: str
    concurrency: int
    seconds: float
    requests: int | None = None
    ours: bool = False
    hammered: bool = False


PHASES = {
    "plain1": Phase(CHAT, "plain", 1, 2.0),
    "plain32": Phase(CHAT, "plain", 32, 4.0),
    "burst": Phase(CHAT, "burst", 32, 4.0),
    "vectors": Phase(EMBEDDINGS, "vectors", 8, 3.0),
    "paced": Phase(CHAT, "paced", STREAMS, 0, STREAMS),
    "translated burst": Phase(CHAT, "claude-burst", 32, 4.0, ours=True),
    "translated paced": Phase(CHAT, "claude-paced", STREAMS, 0, STREAMS, ours=True),
    "hammered1": Phase(CHAT, "plain", 1, 4.0, ours=True, hammered=True),
    "hammered32": Phase(CHAT, "plain", 32, 4.0, ours=True, hammered=True),
}
# (title, phase, figure, form); the first table also has a ratio for each.
CPU = (
    ("CPU µs/request, 1 at a time", "plain1", "us_per_request", "%.0f"),
    ("CPU µs/request, 32", "plain32", "us_per_request", "%.0f"),
    ("CPU µs/chunk, burst", "burst", "us_per_chunk", "%.2f"),
    ("CPU µs/chunk, 500 paced", "paced", "us_per_chunk", "%.1f"),
    ("CPU µs/reply of vectors", "vectors", "us_per_request", "%.0f"),
    ("CPU µs/chunk, translated burst", "translated burst", "us_per_chunk", "%.2f"),
    ("CPU µs/chunk, translated 500 paced", "translated paced", "us_per_chunk", "%.1f"),
    ("KiB/stream", "paced", "kib_per_stream", "%.1f"),
    ("RSS MiB, idle", "rest", "rss_mib", "%.0f"),
    ("s to the first answer", "rest", "start_s", "%.2f"),
)
LATENCY = (
    ("p50 µs, 1 at a time", "plain1", "p50_us", "%.0f"),
    ("p99 µs, 1 at a time", "plain1", "p99_us", "%.0f"),
    ("p50 µs, 32", "plain32", "p50_us", "%.0f"),
    ("p99 µs, 32", "plain32", "p99_us", "%.0f"),
)
# The same, and what it is while the dashboard is hammered.
HAMMERED = (
    ("p50 µs, 1 at a time, hammered", "hammered1", "p50_us", "%.0f"),
    ("p99 µs, 1 at a time, hammered", "hammered1", "p99_us", "%.0f"),
    ("p50 µs, 32, hammered", "hammered32", "p50_us", "%.0f"),
    ("p99 µs, 32, hammered", "hammered32", "p99_us", "%.0f"),
)
Figures = dict[str, dict[str, float]]


def tree(root: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            parent = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(name))
    found, waiting = [], [root]
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1], [])
    return found


def cpu_us(root: int) -> float:
    """What the tree's threads have run for so far."""
    total = 0
    for process in tree(root):
        for thread in Path(f"/proc/{process}/task").glob("*/schedstat"):
            try:
                total += int(thread.read_text().split()[0])
            except OSError:
                continue
    return total / 1000


def rss_kib(root: int) -> int:
    """The memory of the tree that is in use now."""
    total = 0
    for process in tree(root):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1])
    return total


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def pinned(core: int, *command: str) -> list[str]:
    """The command on a core of its own, where there are two and `taskset` is installed."""
    two = (os.cpu_count() or 1) > 1 and shutil.which("taskset")
    return ["taskset", "-c", str(core), *command] if two else list(command)


@contextmanager
def running(
    core: int, command: list[str], folder: Path, package: Path = ROOT
) -> Iterator[subprocess.Popen[bytes]]:
    """A process for the time of the block, its output in the folder."""
    environment = {**os.environ, "PYTHONPATH": str(package)}
    with open(folder / "output", "ab") as output:
        process = subprocess.Popen(
            pinned(core, *command), stdout=output, stderr=output, cwd=folder, env=environment
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answered(port: int) -> bool:
    """Whether one plain request gets its answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    body = json.dumps({"model": "plain", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]})
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    try:
        connection.request("POST", CHAT, body, headers)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def wait_for(port: int, process: subprocess.Popen[bytes], folder: Path) -> None:
    """Return when the server answers; tell what it said where it doesn't."""
    ends_at = time.monotonic() + START_S
    while not answered(port):
        if process.poll() is not None or time.monotonic() > ends_at:
            sys.exit(f"{process.args} does not answer:\n{(folder / 'output').read_text()[-2000:]}")
        time.sleep(0.005)


def package_of(contender: str) -> Path:
    """Where a contender that is ours is imported from."""
    return ROOT / "build/compiled" if "compiled" in contender else ROOT


def command_of(contender: str, folder: Path, port: int, upstream: int) -> list[str]:
    """How a contender is started; its files are written first."""
    if contender == "nginx":
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, upstream=upstream))
        return ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]
    if contender == "textbook":
        return [sys.executable, str(HERE / "bench_textbook.py"), str(port), str(upstream)]
    durability = "process" if contender.endswith("-process") else "full"
    chat = "".join(
        CHAT_MODEL.format(name=name, upstream=where, model=model)
        for name, (where, model) in CHAT_MODELS.items()
    )
    text = CONFIG.format(port=port, upstream=upstream, durability=durability, key=KEY, chat=chat.rstrip())
    (folder / "config.yaml").write_text(text)
    proxy = [sys.executable, "-m", "tokenhub_proxy"]
    credit = [*proxy, "accounts", "credit", "main", "1000000"]
    environment = {**os.environ, "PYTHONPATH": str(package_of(contender))}
    subprocess.run(credit, cwd=folder, check=True, stdout=subprocess.DEVNULL, env=environment)
    return [*proxy, "serve"]


def measured(
    phase: Phase, port: int, process: subprocess.Popen[bytes] | None, folder: Path
) -> dict[str, float]:
    """One phase's figures."""
    before_us = cpu_us(process.pid) if process else 0.0
    before_kib = highest_kib = rss_kib(process.pid) if process else 0
    arguments = [str(port), phase.path, phase.model, str(phase.concurrency), str(phase.seconds)]
    if phase.requests is not None:
        arguments.append(str(phase.requests))
    command = pinned(1, sys.executable, str(HERE / "bench_load.py"), *arguments)
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=folder) as load:
        while load.poll() is None:
            time.sleep(0.2)
            if process and phase.requests is not None:
                highest_kib = max(highest_kib, rss_kib(process.pid))
        assert load.stdout is not None
        found: dict[str, float] = json.loads(load.stdout.read())
    if found["failures"]:
        print(f"   {found['failures']} of {found['requests']} failed: {phase}", file=sys.stderr)
    if process:
        took_us = cpu_us(process.pid) - before_us
        found["us_per_request"] = took_us / max(1, found["requests"])
        found["us_per_chunk"] = took_us / max(1, found["chunks"])
        found["kib_per_stream"] = (highest_kib - before_kib) / STREAMS
    return found


@contextmanager
def hammering(phase: Phase, port: int, folder: Path) -> Iterator[None]:
    """Somebody who asks for the dashboard's pages for the time of the block, if the phase wants that."""
    if not phase.hammered:
        yield
        return
    link = re.search(r"/dashboard/link/[0-9a-f]+", (folder / "output").read_text())
    session = folder / "session"  # the link works once
    assert link is not None or session.exists(), "serve prints the first operator's link"
    command = [sys.executable, str(HERE / "bench_pages.py"), str(port), link[0] if link else "", str(session)]
    pages = subprocess.Popen(pinned(1, *command, str(VISITORS)), stdout=subprocess.PIPE, text=True)
    assert pages.stdout is not None
    try:
        if pages.stdout.readline() != "hammering\n":
            sys.exit("the dashboard could not be hammered")
        yield
    finally:
        pages.send_signal(signal.SIGTERM)
        print(f"   pages meanwhile: {pages.communicate()[0].strip()}", file=sys.stderr)


def measure(contender: str, upstream: int, phases: Mapping[str, Phase]) -> Figures:
    """One contender's figures in one round."""
    found: Figures = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        if contender == "direct":
            return {title: measured(phase, upstream, None, folder) for title, phase in phases.items()}
        port = free_port()
        command = command_of(contender, folder, port, upstream)
        began = time.monotonic()
        with running(0, command, folder, package_of(contender)) as process:
            wait_for(port, process, folder)
            start_s = time.monotonic() - began
            time.sleep(0.5)
            found["rest"] = {"start_s": start_s, "rss_mib": rss_kib(process.pid) / 1024}
            measured(Phase(CHAT, "plain", 32, 0.5), port, process, folder)
            for title, phase in phases.items():
                with hammering(phase, port, folder):
                    found[title] = measured(phase, port, process, folder)
    return found


def table(
    rounds: Mapping[str, list[Figures]], columns: tuple[tuple[str, str, str, str], ...], ratio_to: str
) -> str:
    """A table of medians; behind each figure its ratio to that contender's."""

    def median(contender: str, phase: str, figure: str) -> float | None:
        found = [one[phase][figure] for one in rounds[contender] if figure in one.get(phase, {})]
        return statistics.median(found) if found else None

    lines = ["| | " + " | ".join(rounds) + " |", "|---" * (len(rounds) + 1) + "|"]
    for title, phase, figure, form in columns:
        reference = median(ratio_to, phase, figure) if ratio_to in rounds else None
        cells = []
        for contender in rounds:
            value = median(contender, phase, figure)
            cell = "-" if value is None else form % value
            if value is not None and reference and contender != ratio_to:
                cell += f" ({value / reference:.2f})"
            cells.append(cell)
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def added(rounds: Mapping[str, list[Figures]]) -> dict[str, list[Figures]]:
    """The latencies without what the load and the upstream take by themselves."""

    def less(found: Figures) -> Figures:
        return {
            phase: {
                figure: value - statistics.median(one[phase][figure] for one in rounds["direct"])
                for figure, value in figures.items()
                if figure in ("p50_us", "p99_us")
            }
            for phase, figures in found.items()
            if phase in rounds["direct"][0]
        }

    return {name: [less(one) for one in found] for name, found in rounds.items() if name != "direct"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, help="how often each contender is measured (5; 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument(
        "--contenders",
        help="direct, textbook, nginx, and tokenhub with -compiled, -process, both or neither",
    )
    parser.add_argument("--phases", help=", ".join(PHASES))
    asked = parser.parse_args()
    phases = PHASES if not asked.phases else {name: PHASES[name] for name in asked.phases.split(",")}
    if asked.quick:
        phases = {name: phase._replace(seconds=phase.seconds / 4) for name, phase in phases.items()}
    given = ["direct", "textbook", "nginx", "tokenhub", "tokenhub-process", "tokenhub-compiled"]
    if asked.contenders:
        given = asked.contenders.split(",")
    contenders = [name for name in given if name != "nginx" or shutil.which("nginx")]
    if any("compiled" in name for name in contenders) and subprocess.run([str(HERE / "compile")]).returncode:
        contenders = [name for name in contenders if "compiled" not in name]
    rounds: dict[str, list[Figures]] = {name: [] for name in contenders}
    upstream = free_port()
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {1})
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        command = [sys.executable, str(HERE / "bench_upstream.py"), str(upstream)]
        with running(1, command, Path(name)) as process:
            wait_for(upstream, process, Path(name))
            for number in range(asked.rounds or (1 if asked.quick else 5)):
                for contender in contenders:
                    print(f"round {number + 1}: {contender}", file=sys.stderr)
                    own = contender.startswith("tokenhub")
                    chosen = {one: what for one, what in phases.items() if own or not what.ours}
                    rounds[contender].append(measure(contender, upstream, chosen))
    reference = "nginx" if "nginx" in rounds else "textbook"
    served = {name: found for name, found in rounds.items() if name != "direct"}
    print(f"Medians; in brackets the ratio to {reference}.\n\n{table(served, CPU, reference)}")
    print(f"\nLatency; in brackets the ratio to {reference}.\n\n{table(rounds, LATENCY, reference)}")
    if "direct" in rounds:
        print(f"\nAdded to `direct`.\n\n{table(added(rounds), LATENCY, reference)}")
    ours = {name: found for name, found in rounds.items() if name.startswith("tokenhub")}
    if ours and any(phase.hammered for phase in phases.values()):
        print(f"\nWhile {VISITORS} visitors hammer the dashboard.\n\n{table(ours, LATENCY + HAMMERED, '')}")


if __name__ == "__main__":
    main()
