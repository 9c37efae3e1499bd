"""The simulator's pages: plain HTML, without a script."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenhub_proxy.payments.simulator import Knobs, Taken

_HEAD = """<!doctype html><html lang="en"><head><meta charset="utf-8"><link rel="icon" href="data:,">
<title>{title}</title>
<style>body{{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}}
table{{border-collapse:collapse;width:100%}}
td,th{{border-bottom:1px solid #ccc;padding:.3rem;text-align:left}}
form{{display:inline}}label{{display:inline-block;margin-right:1rem}}</style></head><body><h1>{title}</h1>"""
_FOOT = "</body></html>"
# The newest rows; a demonstration has few.
_ROWS_MAX = 50


def page_of(
    knobs: Knobs,
    payments: Iterable[Taken],
    transfers: Sequence[Mapping[str, Any]],
    sent: Sequence[tuple[str, int]],
) -> str:
    """All payments with their buttons, the knobs, and how webhooks were answered."""
    parts = [_HEAD.format(title="Payment simulator"), "<p>Nothing here is money.</p>", _knobs(knobs)]
    rows = [
        [
            taken.id,
            taken.provider,
            taken.order,
            f"{taken.amount} {taken.currency}",
            taken.status,
            taken.refunded,
        ]
        for taken in payments
    ][-_ROWS_MAX:]
    parts.append(
        "<h2>Payments</h2><table><tr><th>id<th>provider<th>order<th>sum<th>status<th>refunded<th></tr>"
    )
    for row in reversed(rows):
        cells = "".join(f"<td>{escape(cell)}" for cell in row)
        parts.append(f"<tr>{cells}<td>{_buttons(row[0], ('pay', 'cancel', 'refund'))}</tr>")
    parts.append(
        "</table><h2>TRC-20</h2><form method=post action=/transfer>"
        "<label>to <input name=address size=36></label><label>USDT <input name=amount></label>"
        "<button>send</button></form><ul>"
    )
    parts += [
        f"<li>{escape(str(one['value']))} to {escape(str(one['to']))}" for one in transfers[-_ROWS_MAX:]
    ]
    parts.append("</ul><h2>Webhooks</h2><ul>")
    parts += [
        f"<li>{escape(provider)}: {status or 'nobody answered'}" for provider, status in sent[-_ROWS_MAX:]
    ]
    return "".join([*parts, "</ul>", _FOOT])


def pay_page(taken: Taken) -> str:
    """The page that a client is sent to."""
    sum_ = escape(f"{taken.amount} {taken.currency}")
    return "".join(
        [
            _HEAD.format(title="Pay"),
            f"<p>{sum_} for order {escape(taken.order)}: {escape(taken.status)}. Nothing here is money.</p>",
            _buttons(taken.id, ("pay", "cancel"), back=True),
            _FOOT,
        ]
    )


def _buttons(id: str, actions: Iterable[str], back: bool = False) -> str:
    hidden = "<input type=hidden name=back value=1>" if back else ""
    return " ".join(
        f'<form method=post action="/do/{action}/{escape(id)}">{hidden}'
        f"<button id={action}>{action}</button></form>"
        for action in actions
    )


def _knobs(knobs: Knobs) -> str:
    parts = ["<h2>What goes wrong</h2><form method=post action=/knobs>"]
    for knob in fields(knobs):
        value = getattr(knobs, knob.name)
        label = knob.name.replace("_", " ")
        if isinstance(value, bool):
            checked = " checked" if value else ""
            parts.append(f"<label><input type=checkbox name={knob.name}{checked}> {label}</label>")
        else:
            parts.append(f"<label>{label} <input name={knob.name} size=4 value={value}></label>")
    return "".join([*parts, "<button>set</button></form>"])
