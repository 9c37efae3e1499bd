"""A soak: many streams at once for minutes, and what the proxy's memory and books do meanwhile.

python -m tests.soak --streams 2000 --rate 5 --minutes 10
"""

from __future__ import annotations

import argparse
import os
import re
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tests.firehose import PROMPT_TOKENS, Process, raise_file_limit, resident_kib
from tests.served import Served, run

KEY = "sk-th-soaksoaksoaksoak"
SAMPLE_S = 0.5
WARM_STREAMS = 50
# Nanodollars a token.
INPUT, OUTPUT = 3_000, 15_000


def config(upstream_port: int) -> str:
    return f"""
listen: 127.0.0.1:0
ledger: sqlite:///books.db
upstreams:
  up: {{dialect: openai, base_url: "http://127.0.0.1:{upstream_port}/v1", max_connections: 10000}}
models:
  m: {{targets: [{{upstream: up}}], price: {{input: 3.00, output: 15.00}}, max_output_tokens: 100000}}
keys: [{{name: soak, key: {KEY}}}]
"""


@dataclass(frozen=True)
class Plan:
    """What to do: `settle_s` after all streams run the measuring begins."""

    streams: int
    rate: float
    seconds: float
    settle_s: float
    ramp: float = 100.0  # streams begun in a second

    @property
    def events(self) -> int:
        return int(self.seconds * self.rate)


@dataclass(frozen=True)
class Found:
    """What a soak showed."""

    plan: Plan
    idle_kib: int
    samples: Sequence[tuple[float, int]]  # seconds, KiB: while all streams run and nothing is new
    cpu_s: float  # of the proxy, in that time
    wrong: Sequence[str]  # streams whose client got other bytes than the upstream sent
    differences: str  # what the books say of themselves
    endings: Sequence[tuple[str, int, int]]  # status, how many, nanodollars

    @property
    def slope_kib_per_minute(self) -> float:
        """Of the least-squares line through the samples."""
        times = [at for at, _ in self.samples]
        sizes = [size for _, size in self.samples]
        middle, mean = sum(times) / len(times), sum(sizes) / len(sizes)
        above = sum((at - middle) * (size - mean) for at, size in self.samples)
        return 60 * above / sum((at - middle) ** 2 for at in times)

    @property
    def kib_per_stream(self) -> float:
        return (max(size for _, size in self.samples) - self.idle_kib) / self.plan.streams

    @property
    def measured_s(self) -> float:
        return self.samples[-1][0] - self.samples[0][0]

    @property
    def expected_endings(self) -> list[tuple[str, int, int]]:
        streams = self.plan.streams
        warm = PROMPT_TOKENS * INPUT + OUTPUT
        each = PROMPT_TOKENS * INPUT + self.plan.events * OUTPUT
        return [("settled", streams + WARM_STREAMS, streams * each + WARM_STREAMS * warm)]

    def table(self) -> str:
        events = self.plan.streams * self.plan.rate * self.measured_s
        rows = {
            "streams": f"{self.plan.streams:,}",
            "events a second": f"{self.plan.streams * self.plan.rate:,.0f}",
            "measured": f"{self.measured_s:.0f} s, {len(self.samples)} samples",
            "RSS idle": f"{self.idle_kib / 1024:.1f} MiB",
            "RSS under way": f"{self.samples[0][1] / 1024:.1f} to {self.samples[-1][1] / 1024:.1f} MiB",
            "RSS a stream": f"{self.kib_per_stream:.1f} KiB",
            "RSS slope": f"{self.slope_kib_per_minute / 1024:+.3f} MiB a minute",
            "CPU": f"{100 * self.cpu_s / self.measured_s:.0f} % of a core",
            "CPU an event": f"{1e6 * self.cpu_s / events:.0f} us",
            "wrong SHA-256": f"{len(self.wrong)} of {self.plan.streams}",
            "books": self.differences or "add up",
            "endings": ", ".join(f"{count} {status}" for status, count, _ in self.endings),
        }
        return "\n".join(f"{name:<16} {value}" for name, value in rows.items())


def soak(folder: Path, plan: Plan) -> Found:
    """Run a plan; the proxy is started as users start it."""
    raise_file_limit(plan.streams)
    upstream = Process("upstream")
    processes = [upstream]
    try:
        (folder / "config.yaml").write_text(config(upstream.says()))
        served = Served(folder)
        pid, port = served.process.pid, int(served.address.rpartition(":")[2])
        try:
            idle_kib = _warmed(pid, port, processes)
            sampler = Sampler(pid)
            clients = Process("clients", port, KEY, plan.streams, plan.events, plan.rate, plan.ramp)
            processes.append(clients)
            assert clients.says() == "all run"
            time.sleep(plan.settle_s)
            sampler.start()
            assert clients.says() == "the first has ended"
            samples, cpu_s = sampler.stop()
            got = clients.says()
        finally:
            assert served.stop() == 0
        upstream.ask_to_end()
        sent = upstream.says()
    finally:
        for each in processes:
            each.close()
    return Found(
        plan=plan,
        idle_kib=idle_kib,
        samples=samples,
        cpu_s=cpu_s,
        wrong=[f"{id}: {digest}" for id, digest in got.items() if digest != sent.get(id)],
        differences=_differences(folder),
        endings=_endings(folder),
    )


def _warmed(pid: int, port: int, processes: list[Process]) -> int:
    """What the first calls import and grow is no stream's; gives the memory after them, in KiB."""
    warming = Process("clients", port, KEY, WARM_STREAMS, 1, 1, 1000)
    processes.append(warming)
    assert [warming.says(), warming.says()] == ["all run", "the first has ended"]
    assert len(set(warming.says().values())) == WARM_STREAMS
    time.sleep(0.5)
    return resident_kib(pid)


def _differences(folder: Path) -> str:
    checked = run(folder, "ledger", "verify")
    return "" if checked.returncode == 0 else checked.stdout + checked.stderr


def _endings(folder: Path) -> list[tuple[str, int, int]]:
    with closing(sqlite3.connect(folder / "books.db")) as books:
        return books.execute("SELECT status, count(*), sum(cost) FROM endings GROUP BY status").fetchall()


class Sampler:
    """Takes the memory of a process in regular intervals, and its CPU time over all of them."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._samples: list[tuple[float, int]] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def start(self) -> None:
        self._cpu_s = cpu_s(self._pid)
        self._thread.start()

    def _sample(self) -> None:
        starts_at = time.monotonic()
        while not self._stopped.wait(SAMPLE_S):
            self._samples.append((time.monotonic() - starts_at, resident_kib(self._pid)))

    def stop(self) -> tuple[list[tuple[float, int]], float]:
        self._stopped.set()
        self._thread.join()
        return self._samples, cpu_s(self._pid) - self._cpu_s


def cpu_s(pid: int) -> float:
    """The CPU time that a process has used."""
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__ or "")[0])
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=5.0, help="events a second of each stream")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--settle", type=float, default=120.0, help="seconds before measuring begins")
    parser.add_argument("--ramp", type=float, default=100.0, help="streams begun in a second")
    given = parser.parse_args()
    plan = Plan(given.streams, given.rate, given.minutes * 60, given.settle, given.ramp)
    with tempfile.TemporaryDirectory() as folder:
        found = soak(Path(folder), plan)
    print(found.table())
    return 1 if found.wrong or found.differences or list(found.endings) != found.expected_endings else 0


if __name__ == "__main__":
    sys.exit(main())
