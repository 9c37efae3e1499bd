"""Clients that never read of a gigabyte: they cost little memory, hold up nobody, and are closed in time."""

from __future__ import annotations

import http.client
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.firehose import Process, raise_file_limit, request, resident_kib
from tests.served import START_S, Served, run
from tests.soak import KEY, config
from tokenhub_proxy import sockets

GROWTH_MIB_MAX = 150
# Of a whole answer for somebody who reads, from the connection to its end.
HEALTHY_MEDIAN_S_MAX = 0.5
# `serve` with another patience with clients that take nothing.
IMPATIENT = (
    "import sys; from tokenhub_proxy import cli, sockets; "
    "sockets.WRITE_STALL_S = float(sys.argv.pop(1)); sys.exit(cli.main())"
)
# How much later than the stall's deadline the last of them may be booked on a busy machine.
LATE_S = 20.0


def endings(folder: Path) -> dict[tuple[str | None, str | None], int]:
    """How many calls ended how: status and reason, both None for an open hold."""
    with closing(sqlite3.connect(f"file:{folder / 'books.db'}?mode=ro", uri=True)) as books:
        return {
            (status, reason): count
            for status, reason, count in books.execute(
                "SELECT e.status, e.reason, count(*) FROM holds h LEFT JOIN endings e ON e.hold = h.id"
                " GROUP BY 1, 2"
            )
        }


def healthy(served: Served) -> float:
    """A short stream for somebody who reads: seconds until its end."""
    starts_at = time.monotonic()
    connection = http.client.HTTPConnection(served.address, timeout=START_S)
    connection.connect()
    connection.sock.sendall(request(KEY, "steady healthy 1 1"))
    with connection.sock.makefile("rb") as answer:
        said = answer.read()
    connection.close()
    assert said.startswith(b"HTTP/1.1 200 ")
    assert said.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    return time.monotonic() - starts_at


@pytest.mark.parametrize(
    ("clients", "stall_s"), [(50, 3.0), pytest.param(500, sockets.WRITE_STALL_S, marks=pytest.mark.long)]
)
def test_clients_that_never_read_are_closed_and_harm_nobody(
    tmp_path: Path, clients: int, stall_s: float
) -> None:
    raise_file_limit(clients)
    processes = [upstream := Process("upstream")]
    (tmp_path / "config.yaml").write_text(config(upstream.says()))
    served = Served(tmp_path, command=[sys.executable, "-c", IMPATIENT, str(stall_s)])
    took: list[float] = []
    try:
        took += [healthy(served) for _ in range(20)]
        before = most = resident_kib(served.process.pid)
        processes.append(deaf := Process("deaf", int(served.address.rpartition(":")[2]), KEY, clients))
        assert deaf.says() == "all asked"
        deadline = time.monotonic() + stall_s + LATE_S
        while endings(tmp_path).get(("settled", "write_timeout"), 0) < clients:
            assert time.monotonic() < deadline, endings(tmp_path)
            took.append(healthy(served))
            most = max(most, resident_kib(served.process.pid))
            time.sleep(0.05)
        upstream.ask_to_end()
        left = [id for id, how in upstream.says().items() if how == "left"]
    finally:
        for each in processes:
            each.close()
        assert served.stop() == 0

    took.sort()
    print(
        f"\n{clients} deaf clients: RSS {before / 1024:.1f}, at most {most / 1024:.1f} MiB; "
        f"{len(took)} healthy calls, median {took[len(took) // 2]:.3f} s, longest {took[-1]:.3f} s"
    )
    assert (most - before) / 1024 < GROWTH_MIB_MAX
    assert len(took) > 30
    assert took[len(took) // 2] < HEALTHY_MEDIAN_S_MAX
    assert len(left) == clients
    assert endings(tmp_path) == {("settled", "write_timeout"): clients, ("settled", ""): len(took)}
    assert run(tmp_path, "ledger", "verify").returncode == 0
