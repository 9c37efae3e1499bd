"""Somebody who hammers the dashboard while the benchmark measures calls.

    bench_pages.py PORT LINK SESSION CLIENTS

Opens the first operator's LINK, keeps its cookie in the file SESSION for the next time, then asks for the
heaviest pages in a loop, so many at a time, until it is told to stop (SIGTERM). Prints one JSON object:
pages, failures, and the pages' median and 99th percentile in milliseconds.
"""

from __future__ import annotations

import http.client
import json
import signal
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlencode

# All that a visitor's browser would fetch again and again, and that reads the most.
PAGES = (
    "/dashboard",
    "/dashboard/usage?days=90&by=key",
    "/dashboard/requests",
    "/dashboard/requests?status=failed",
    "/dashboard/live",
    "/dashboard/live/panel",
    "/dashboard/audit",
    "/dashboard/config",
    "/dashboard/models",
)
PASSWORD = "a long enough password, for nobody"


def sign_in(port: int, link: str) -> str:
    """The cookie of a new session."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    origin = {"origin": f"http://127.0.0.1:{port}", "content-type": "application/x-www-form-urlencoded"}
    connection.request("POST", link, urlencode({"new_password": PASSWORD, "again": PASSWORD}), origin)
    answer = connection.getresponse()
    cookie = answer.getheader("set-cookie") or ""
    if answer.status != 303 or not cookie:
        sys.exit(f"signing in: {answer.status} {answer.read()[:500]!r}")
    return cookie.partition(";")[0]


def hammer(port: int, cookie: str, stop: threading.Event, taken_ms: list[float], failures: list[str]) -> None:
    """Ask for a page after the other on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    number = 0
    while not stop.is_set():
        began = time.perf_counter()
        page = PAGES[number % len(PAGES)]
        try:
            connection.request("GET", page, headers={"cookie": cookie})
            answer = connection.getresponse()
            answer.read()
        except OSError as error:
            failures.append(f"{page}: {error!r}")
            connection.close()
            continue
        if answer.status == 200:
            taken_ms.append((time.perf_counter() - began) * 1000)
        else:
            failures.append(f"{page}: {answer.status}")
        number += 1


def main(port: int, link: str, session: Path, clients: int) -> None:
    if not session.exists():
        session.write_text(sign_in(port, link))
    cookie = session.read_text()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    taken_ms: list[float] = []
    failures: list[str] = []
    threads = [
        threading.Thread(target=hammer, args=(port, cookie, stop, taken_ms, failures)) for _ in range(clients)
    ]
    for thread in threads:
        thread.start()
    print("hammering", flush=True)
    for thread in threads:
        thread.join()
    taken_ms.sort()
    figures = {
        "pages": len(taken_ms),
        "failures": failures[:5],
        "p50_ms": taken_ms[len(taken_ms) // 2] if taken_ms else None,
        "p99_ms": taken_ms[int(len(taken_ms) * 0.99)] if taken_ms else None,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
