"""Orders as people read them: sums with their currency, steps and verdicts in words, and what differs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tokenhub_proxy.dashboard.words import NARROW_SPACE, Words

Object = Mapping[str, Any]

# As fine as the sums of transfers, which are told apart by their last digits.
USD_PLACES = 4
_SIGNS = {"USD": "$", "RUB": "₽", "EUR": "€"}
# How the ledger tells what does not agree; sums are minor units.
_AMOUNTS = re.compile(r"paid (\d+), not (\d+) minor units of [A-Z]+")
_CURRENCIES = re.compile(r"paid in (\S*), not (\S+)")
_AGAIN = re.compile(r"paid once more: (\S+)")
_MODES = (
    "a test payment for a live order, or the other way round",
    "test money and live money in one account",
)
_WAITS = ("created", "pending")
# A page asks soon while somebody surely looks at it, and rarely once it was forgotten in a tab.
_PACES = ((600.0, 3), (3600.0, 15), (float("inf"), 60))


def money(t: Words, text: str, currency: str) -> str:
    """A decimal text such as "828.00" with its currency, as people write it."""
    whole, _, part = text.partition(".")
    # A part of a dollar may be nanodollars; cut, so that what is told is never more than what is there.
    decimals = part[: USD_PLACES if currency == "USD" else None].rstrip("0").ljust(2, "0")
    number = f"{t.number(int(whole))}{'.' if t.code == 'en' else ','}{decimals}"
    if t.code == "en" and currency == "USD":
        return f"${number}"
    return f"{number}{NARROW_SPACE}{_SIGNS.get(currency, currency)}"


def exact(text: str) -> str:
    """A sum to be copied into a wallet: "10.004200" is "10.0042"."""
    whole, _, part = text.partition(".")
    return f"{whole}.{part.rstrip('0').ljust(2, '0')}"


def moment(text: str) -> float:
    """Seconds since 1970 of a timestamp of the verbs."""
    return datetime.fromisoformat(text).timestamp()


def is_waiting(order: Object) -> bool:
    """Whether a page about it has something to wait for."""
    return order["state"] in _WAITS or bool(order["refunding"])


def page_to_pay(order: Object) -> str | None:
    """Where a browser is sent to pay: a web page, whatever the provider wrote there."""
    url = order["redirect_url"] or ""
    return url if order["state"] in _WAITS and url.startswith(("https://", "http://")) else None


def address_to_pay(order: Object) -> str | None:
    """The address of a wallet that the client was told, where that is how the order is paid."""
    url = order["redirect_url"] or ""
    scheme, _, rest = url.partition(":")
    return rest.partition("?")[0] if scheme == "tron" and order["state"] in _WAITS else None


def pace_s(order: Object, now: float) -> int:
    """After how many seconds a page that waits for it asks again."""
    age_s = now - moment(order["created_at"])
    return next(pace for until_s, pace in _PACES if age_s < until_s)


def time_left(t: Words, order: Object, now: float) -> str:
    """How long an order waits for its money, in whole hours, or minutes towards its end."""
    left_s = max(0, int(moment(order["expires_at"]) - now))
    if left_s >= 2 * 3600:
        return t("order.hours_left", n=left_s // 3600)
    return t("order.minutes_left", n=left_s // 60)


def difference(t: Words, note: str, order: Object) -> str:
    """What does not agree, in words; a note that is somebody's own as it is."""
    from tokenhub_proxy.payments.amounts import format_minor

    currency = order["currency"]
    if found := _AMOUNTS.fullmatch(note):
        paid, wanted = (money(t, format_minor(int(text), currency), currency) for text in found.groups())
        return t("differs.amount", paid=paid, wanted=wanted)
    if found := _CURRENCIES.fullmatch(note):
        return t("differs.currency", paid=found[1] or "?", wanted=found[2])
    if found := _AGAIN.fullmatch(note):
        return t("differs.again", payment=found[1])
    if note in _MODES:
        return t(f"differs.mode_{_MODES.index(note)}")
    return note


def step(t: Words, event: Object) -> str:
    """What happened, in words."""
    return t(f"step.{event['kind'].partition(':')[0]}")


def verdict(t: Words, text: str) -> str:
    """What became of a webhook, in words."""
    name, _, reason = text.partition(":")
    known = f"verdict.{name}"
    said = t(known) if t.has(known) else name
    return f"{said}: {t(f'forged.{reason}') if t.has(f'forged.{reason}') else reason}" if reason else said
