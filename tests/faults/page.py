"""`docs/faults.md`, made of the rows that the tests of this folder hold the proxy to.

python -m tests.faults.page >docs/faults.md
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.faults import (
    scene,
    test_clients,
    test_clients_bodies,
    test_clients_rights,
    test_host,
    test_host_operations,
    test_streams,
    test_streams_bytes,
    test_upstream,
    test_upstream_answers,
)
from tests.faults.scene import BILLING, COMPLETE, CUT, GONE, JSON, NOTHING, REFUSED, TOLD, Fault

HEAD = """# What happens when…

Each row is a test in `tests/faults/`, which plays the fault over real sockets and compares what the client
saw, what the books say and what the log says with the row; `scripts/docs_faults` writes this page from them.

An error has the shape `{"error": {"code", "message", "type", "param", "request_id"}}`. A stream whose body is
left open lacks the last chunk of HTTP, so that every client sees a failure. Where the upstream may have done
its work although nobody is charged, the log line says `cost_at_risk`.
"""
SECTIONS = {
    "upstream": ("An upstream fails before its answer has begun", (test_upstream, test_upstream_answers)),
    "streams": (
        "An upstream fails in mid-stream, or streams what few expect",
        (test_streams, test_streams_bytes),
    ),
    "clients": (
        "A client leaves, stalls, lies, or asks for what it may not have",
        (test_clients, test_clients_bodies, test_clients_rights),
    ),
    "host": ("The ledger, the host, the operator", (test_host, test_host_operations)),
}
ANSWERS = {
    NOTHING: "the connection closed, not a byte",
    GONE: "nothing: it has left",
    JSON: "`200`, a JSON answer",
    COMPLETE: "`200`, the whole stream",
    TOLD: "`200`, the stream so far and an error event; the body is left open",
    CUT: "`200`, the stream so far; the body is left open",
    REFUSED: REFUSED,
}
LEVELS = ("INFO", "WARNING", "ERROR", "CRITICAL")


def page() -> str:
    """The whole page."""
    return HEAD + "".join(_sections())


def _sections() -> Iterator[str]:
    for title, modules in SECTIONS.values():
        yield f"\n## {title}\n\n"
        yield "| what happens | the client sees | it costs | the log says | besides |\n"
        yield "|---|---|---|---|---|\n"
        for module in modules:
            for row in scene.ROWS:
                if row.module == module.__name__:
                    cells = (row.what, _client(row), _billing(row), _log(row), row.note)
                    yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _client(row: Fault) -> str:
    said = [ANSWERS.get(one, f"`{one}`" if one[0].isdigit() else one) for one in row.client]
    told = [_header(name, value) for name, value in row.headers.items() if value is not None]
    return " or ".join(said) + (f"; {', '.join(told)}" if told else "")


def _header(name: str, value: object) -> str:
    if name == "retry-after":
        return "`Retry-After`"
    return f"`{name}: {value}`" if isinstance(value, str) else f"`{name}`"


def _billing(row: Fault) -> str:
    return " or ".join(BILLING[one] for one in row.billing)


def _log(row: Fault) -> str:
    members = [_member(name, value) for name, value in (row.log or {}).items() if value is not None]
    level = next((event for event in row.events if event in LEVELS), "")
    events = [re.split(r"[\s:]", event)[0] for event in row.events if event not in LEVELS]
    told = [f"{level} `{event}`".strip() for event in events]
    return ", ".join([*members, *told]) or "no line of a call"


def _member(name: str, value: object) -> str:
    if value is ... or isinstance(value, re.Pattern):
        return f"`{name}`"
    if isinstance(value, tuple):
        known = [str(one) for one in value if one is not None]
        return f"`{name}={'`/`'.join(known)}`" if len(known) < 5 else f"`{name}`"
    if isinstance(value, list):
        return f"`{name}=[{', '.join(map(str, value))}]`"
    return f"`{name}={value}`"


if __name__ == "__main__":
    print(page(), end="")
