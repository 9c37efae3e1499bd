"""What is told of finished exchanges: one log line each, and what only the operator can mend."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import IO

import orjson

from tokenhub_proxy import readable
from tokenhub_proxy.errors import InsufficientQuota, ProxyError, UpstreamUnavailable
from tokenhub_proxy.exchange import Exchange
from tokenhub_proxy.prices import NANOS_MAX
from tokenhub_proxy.readable import printable

log = logging.getLogger(__name__)

Observer = Callable[[Exchange], None]

# Outcomes of an attempt that only an operator can mend, and the name of the event that tells them.
TROUBLES = {
    "401": "upstream_auth",
    "403": "upstream_auth",
    "402": "upstream_quota",
    "quota": "upstream_quota",
    "404": "config_mapping",
    "tls_verify": "tls_verify",
}

# The columns of the text log that hold names: key, and model with upstream.
TEXT_WIDTHS, TEXT_WIDTHS_MAX = (8, 20), (20, 48)
# Green, yellow for what the client can mend, red for what it can't; by the status's first digit.
STATUS_COLOURS = {2: "32", 4: "33", 5: "31"}


def fields(exchange: Exchange) -> dict[str, object]:
    """The members of a log line, in their order. No prompt, no answer, no secret.

    `hold_n`, `charge_n` and `writeoff_n` are nanodollars.
    """
    call, error, hold = exchange.call, exchange.error, exchange.hold
    cost, charge, billing = exchange.cost, exchange.charge, exchange.billing
    started_s, first_byte_s = exchange.started_s, exchange.first_byte_s
    found: dict[str, object] = {
        "event": "request_end",
        "id": exchange.id,
        "at": round(exchange.started_at * 1000) / 1000,  # rounding to decimals takes four times as long
        "key_id": exchange.key.id if exchange.key is not None else None,
        "endpoint": exchange.endpoint,
        "model": call.model if call is not None else None,
        "upstream": exchange.upstream or None,
        "status": exchange.told_status,
        "code": error.code if error is not None else None,
        "bytes_in": exchange.bytes_in,
        "bytes_out": exchange.bytes_out,
        "ttfb_ms": round((first_byte_s - started_s) * 1000) if first_byte_s is not None else None,
        "dur_ms": round((exchange.ended_s - started_s) * 1000),
        "hold_n": hold.amount if hold is not None and hold.id else 0,
        "charge_n": charge,
        "billing": billing,
        "reason": exchange.gone or _reason(error) or None,
        **exchange.notes,
    }
    if isinstance(error, UpstreamUnavailable):
        found.update(error.notes)
        if error.upstream_status is not None:
            found["upstream_status"] = error.upstream_status
    if billing == "void" and exchange.at_risk:
        found["cost_at_risk"] = 1
    if cost > charge:
        # An upstream can report any number; a log line holds 64 bits.
        found["hold_exceeded"] = 1
        found["writeoff_n"] = min(cost - charge, NANOS_MAX)
    if len(exchange.attempts) > 1 or error is not None:
        found["attempts"] = exchange.attempts
    return found


def _reason(error: ProxyError | None) -> str:
    """What a refusal says to the log; a parameter is the client's word and not repeated."""
    if error is None:
        return ""
    return error.reason or ("bad_param" if error.param is not None else "")


def trouble(exchange: Exchange) -> None:
    """Tell the operator's own log what only they can mend, also where another target has answered."""
    if exchange.error is None and len(exchange.attempts) < 2:
        return  # the first that was asked has answered
    for attempt in exchange.attempts:
        upstream, _, outcome = attempt.rpartition(":")
        if outcome in TROUBLES:
            log.error(
                "%s upstream=%s outcome=%s request=%s", TROUBLES[outcome], upstream, outcome, exchange.id
            )


class _Lines:
    """Writes lines to a stream; those of one turn of the event loop at once, if it can wait for that.

    `soon` calls a function at the loop's next turn; without it each line is written where it stands.
    What is told of many calls in a row costs less than what is told of each between other things.
    """

    def __init__(self, stream: IO[str], soon: Callable[[Callable[[], None]], object] | None = None) -> None:
        self._stream = stream
        self._soon = soon
        self._waiting: list[Exchange] = []  # as many as end in one turn

    def __call__(self, exchange: Exchange) -> None:
        self._waiting.append(exchange)
        if self._soon is None:
            self._flush()
        elif len(self._waiting) == 1:
            self._soon(self._flush)

    def _line(self, exchange: Exchange) -> str:
        """What is told of an exchange that has ended."""
        raise NotImplementedError

    def _flush(self) -> None:
        """A log that can't be written, on a full disk or a closed pipe, fails no request."""
        stream, ended, self._waiting = self._stream, self._waiting, []
        encoding = getattr(stream, "encoding", None) or "utf-8"
        said = "\n".join([*map(self._line, ended), ""])
        if not said.isascii():
            said = said.encode(encoding, "backslashreplace").decode(encoding)
        with suppress(OSError):
            stream.write(said)
            stream.flush()


class JsonLog(_Lines):
    """Writes one JSON line per exchange."""

    def _line(self, exchange: Exchange) -> str:
        return orjson.dumps(fields(exchange)).decode()


class TextLog(_Lines):
    """Writes one line for people per exchange, in columns that line up.

    Columns grow with what they hold, up to a bound, so that narrow terminals have short lines.
    """

    def __init__(
        self,
        stream: IO[str],
        soon: Callable[[Callable[[], None]], object] | None = None,
        *,
        coloured: bool = False,
    ) -> None:
        super().__init__(stream, soon)
        self._coloured = coloured
        self._widths = list(TEXT_WIDTHS)
        self._second, self._said = -1, ""

    def _line(self, exchange: Exchange) -> str:
        status, error, usage = exchange.told_status, exchange.error, exchange.usage
        at = self._time(int(exchange.started_at + exchange.duration_s))
        key = exchange.key.name if exchange.key is not None else "-"
        model = exchange.call.model if exchange.call is not None else exchange.endpoint
        where = " → ".join(filter(None, (printable(model), exchange.upstream)))
        first = exchange.first_byte_s
        begun = "" if first is None else readable.duration(first - exchange.started_s)
        tokens = f"{readable.count(usage.input_total)}+{readable.count(usage.output)}" if usage.total else ""
        cells = (
            *(self._column(number, text) for number, text in enumerate((key, where))),
            f"{readable.duration(exchange.duration_s):>6} {begun:>6} {tokens:>11}",
            f"{_paid(exchange):>11}",
        )
        said = _what_came(exchange, error)
        line = "  ".join(cells)
        if self._coloured:
            colour = STATUS_COLOURS.get(status // 100, "35")
            said = f"\x1b[{colour}m{said}\x1b[0m" if said else ""
            end = f"\x1b[2m{exchange.id}\x1b[0m"
            return (
                f"\x1b[2m{at}\x1b[0m \x1b[{colour}m{status}\x1b[0m  {line}  {said}{'  ' if said else ''}{end}"
            )
        return f"{at} {status}  {line}  {said}{'  ' if said else ''}{exchange.id}"

    def _time(self, second: int) -> str:
        """The time of day here; asking for it costs as much as all the rest of a line."""
        if second != self._second:
            self._second, self._said = second, time.strftime("%H:%M:%S", time.localtime(second))
        return self._said

    def _column(self, number: int, text: str) -> str:
        self._widths[number] = min(max(self._widths[number], len(text)), TEXT_WIDTHS_MAX[number])
        return readable.fitted(text, self._widths[number])


def _what_came(exchange: Exchange, error: ProxyError | None) -> str:
    """The code of a failure and its reason, and who was asked before whoever answered."""
    code = "client_gone" if exchange.gone else error.code if error is not None else ""
    reason = exchange.gone or _reason(error)
    said = f"{code} ({printable(reason)})" if reason else code
    if len(exchange.attempts) > 1:
        said += f" after {printable(', '.join(exchange.attempts[:-1]))}"
    return said.lstrip()


def _paid(exchange: Exchange) -> str:
    """The charge; an estimate has a tilde before it, and what was not charged nothing but a dash."""
    billing = exchange.billing
    if billing not in ("usage", "estimate"):
        return "-"
    return ("~" if billing == "estimate" else "") + readable.dollars(exchange.charge)


def log_to(
    stream: IO[str],
    form: str,
    soon: Callable[[Callable[[], None]], object] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Observer | None:
    """The access log in the configured form; `auto` is text on a terminal and JSON elsewhere.

    Text has colours on a terminal that can show them, unless NO_COLOR says otherwise.
    """
    if form == "off":
        return None
    terminal = stream.isatty()
    if form == "text" or (form == "auto" and terminal):
        coloured = terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
        return TextLog(stream, soon, coloured=coloured)
    return JsonLog(stream, soon)


class QuotaRefusals:
    """How many calls of each lease its quota could not cover, by the key's id."""

    def __init__(self) -> None:
        self.by_key: Counter[str] = Counter()  # as many as there were leases

    def __call__(self, exchange: Exchange) -> None:
        key = exchange.key
        if isinstance(exchange.error, InsufficientQuota) and key is not None and key.scope.parent is not None:
            self.by_key[key.id] += 1
