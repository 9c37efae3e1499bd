"""What reports and a start cost on a ledger of ten million calls, which is filled for it and deleted."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from tokenhub_proxy.ledger.sqlite import SqliteLedger, open_ledger  # noqa: E402

CALLS = 10_000_000
BYTES_PER_CALL = 500
CHUNK = 500_000
ACCOUNTS, KEYS, MODELS, UPSTREAMS, DAYS = 10, 50, 20, 5, 365
BEGUN = 1_760_000_000 // 86400 * 86400
CREDIT = 10**15
AMOUNT = 1_000_000
CONFIG = """
listen: 127.0.0.1:0
models:
  demo: {targets: [{upstream: demo}], price: free}
upstreams:
  demo: {dialect: demo}
"""

# Call number i, spread over keys, models and days; `n` counts the calls of one chunk.
_CALL = f"""
    WITH RECURSIVE n(i) AS (VALUES (:first) UNION ALL SELECT i + 1 FROM n WHERE i < :last),
    c AS (SELECT i, printf('req_%032x', i) AS request_id, i * 7 % {KEYS} AS key, i / 7 % {MODELS} AS model,
                 {BEGUN} + (i - 1) * ({DAYS} * 86400.0 / :calls) AS at, 60000 + i % 1000 AS cost FROM n)"""
_ACCOUNT, _KEY = f"'account' || (key % {ACCOUNTS})", "'key' || key"
_MODEL, _UPSTREAM = "'model' || model", f"'upstream' || (model % {UPSTREAMS})"
_WINDOW = f"{_KEY} || strftime('/%Y-%m', at, 'unixepoch')"
_FILL = (
    f"""INSERT INTO holds {_CALL} SELECT i, request_id, {_ACCOUNT}, 'key_' || key, {_KEY}, {_MODEL}, {AMOUNT},
        at, {_WINDOW}, 1, 3000000000, 300000000, 3000000000, 15000000000 FROM c""",
    f"""INSERT INTO endings {_CALL} SELECT i, 'settled', at + 2, cost, 10, 0, 0, 2, 0, 1,
        {_UPSTREAM}, '', 200, 300, NULL FROM c""",
    f"""INSERT INTO entries {_CALL} SELECT i + {ACCOUNTS}, at + 2, 'charge', {_ACCOUNT},
        'upstream:' || {_UPSTREAM}, cost, request_id, {_WINDOW}, NULL, '' FROM c""",
    f"""INSERT INTO rollups {_CALL} SELECT CAST((at + 2) / 86400 AS INTEGER) AS day, {_ACCOUNT}, {_KEY},
        {_MODEL}, {_UPSTREAM}, count(*), 10 * count(*), 0, 0, 2 * count(*), 0, 0, sum(cost), count(*), 0
        FROM c GROUP BY 1, 2, 3, 4, 5
        ON CONFLICT DO UPDATE SET requests = requests + excluded.requests, input = input + excluded.input,
        output = output + excluded.output, cost = cost + excluded.cost, ended = ended + excluded.ended""",
)
_BALANCES = (
    f"""INSERT INTO accounts SELECT debit, 0, {CREDIT} - sum(amount), 0, 0 FROM entries
        WHERE kind = 'charge' GROUP BY 1""",
    """INSERT INTO windows SELECT window_name, sum(amount), 0, max(at) FROM entries
        WHERE kind = 'charge' GROUP BY 1""",
)


def fill(path: str, calls: int) -> None:
    """Settled calls in the real tables, written directly: no process could live through them here."""
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -200000"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("BEGIN")
    (index,) = connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'holds_by_account'").fetchone()
    connection.execute("DROP INDEX holds_by_account")
    connection.executemany(
        "INSERT INTO entries VALUES (?, ?, 'credit', 'system:world', ?, ?, NULL, NULL, NULL, '')",
        [(number + 1, float(BEGUN), f"account{number}", CREDIT) for number in range(ACCOUNTS)],
    )
    for first in range(1, calls + 1, CHUNK):
        chunk = {"first": first, "last": min(first + CHUNK - 1, calls), "calls": calls}
        for statement in _FILL:
            connection.execute(statement, chunk)
    for statement in (*_BALANCES, index):
        connection.execute(statement)
    connection.execute("UPDATE meta SET open_from = ?", (calls + 1,))
    connection.execute("COMMIT")
    connection.close()


async def timed(what: str, work: Awaitable[object]) -> None:
    """Await it, and print how long it took."""
    begun = time.perf_counter()
    result = await work
    size = f"{len(result)} rows" if isinstance(result, (list, tuple)) else "found" if result else ""
    print(f"{what:44} {(time.perf_counter() - begun) * 1e3:10.1f} ms  {size}", flush=True)


async def reports(ledger: SqliteLedger, calls: int) -> None:
    """Every report, shallow and deep."""
    for by in ("key", "model", "upstream", "day"):
        await timed(f"usage by {by}", ledger.usage(by))
    await timed("usage by key, the last 30 days", ledger.usage("key", BEGUN + (DAYS - 30) * 86400))
    for before in (None, calls // 2, 1000):
        await timed(f"requests before {before}", ledger.requests(before=before))
        await timed(f"requests of one account before {before}", ledger.requests("account3", before))
    await timed("requests of an account without any", ledger.requests("default"))
    for number in (1, calls // 2, calls):
        await timed(f"receipt of call {number}", ledger.receipt(f"req_{number:032x}"))


def start(folder: str, path: str) -> None:
    """`serve` on the file, until it says that it is ready."""
    with open(os.path.join(folder, "config.yaml"), "w") as config:
        config.write(CONFIG)
    begun = time.perf_counter()
    command = [sys.executable, "-m", "tokenhub_proxy", "serve", "--ledger", f"sqlite:///{path}"]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": ROOT}, text=True
    ) as served:
        assert served.stdout is not None
        ready = any(line.startswith("ready ") for line in served.stdout)
        print(f"{'serve until ready':44} {(time.perf_counter() - begun) * 1e3:10.1f} ms", flush=True)
        served.terminate()
        assert ready
        assert served.wait(30) == 0


async def run(folder: str, calls: int) -> None:
    path = os.path.join(folder, "books.db")
    url = f"sqlite:///{path}"
    await (await open_ledger(url, clock=time.time)).aclose()
    begun = time.perf_counter()
    fill(path, calls)
    size = os.path.getsize(path)
    print(f"{calls} calls, {size / 2**30:.2f} GiB, filled in {time.perf_counter() - begun:.0f} s", flush=True)
    start(folder, path)
    begun = time.perf_counter()
    ledger = await open_ledger(url, clock=time.time)
    print(f"{'open':44} {(time.perf_counter() - begun) * 1e3:10.1f} ms")
    await reports(ledger, calls)
    begun = time.perf_counter()
    found = await ledger.verify()
    print(f"{'verify':44} {(time.perf_counter() - begun) * 1e3:10.1f} ms  {len(found)} differences")
    assert not found
    await ledger.aclose()


def main() -> None:
    """The argument is how many calls, by default ten million (5 GB in the current folder for a while)."""
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else CALLS
    with tempfile.TemporaryDirectory(dir=os.getcwd()) as folder:
        if shutil.disk_usage(folder).free < 2 * calls * BYTES_PER_CALL:
            sys.exit(f"{calls} calls need {2 * calls * BYTES_PER_CALL / 2**30:.1f} GiB of free disk.")
        asyncio.run(run(folder, calls))


if __name__ == "__main__":
    main()
