"""What commands print: tables for people, JSON and CSV for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import orjson


def as_json(result: Any) -> str:
    """A result as indented JSON."""
    return orjson.dumps(result, option=orjson.OPT_INDENT_2).decode()


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """A list of objects as CSV with a head; nothing where there are none."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def table(result: Any) -> str:
    """A list of objects as a table, an object as lines of name and value."""
    if isinstance(result, Mapping):
        return _lines([(name, _shown(value)) for name, value in result.items()])
    if not result:
        return "Nothing yet."
    # A column in which nobody has anything says nothing.
    names = [name for name in result[0] if any(row[name] not in (None, [], False) for row in result)]
    return _lines([names, *([_shown(row[name]) for name in names] for row in result)])


def explanation(told: Mapping[str, Any]) -> str:
    """What `explain` found, for people."""
    lines = [
        ("key", f"{told['key']}, paid by the account {told['account']}"),
        ("model", _shown(told["model"])),
    ]
    if "hold_usd" in told:
        left = "no limit" if told["left_usd"] is None else f"{told['left_usd']} USD left"
        lines.append(("hold", f"{told['hold_usd']} USD ({left})"))
    if "output_max_sent" in told:
        lines.append(("output", f"limited to {told['output_max_sent']} tokens, which is sent upstream"))
    lines += told.get("limits", {}).items()
    for place, target in enumerate(told.get("targets", ()), 1):
        order = f"priority {target['priority']}, weight {target['weight']}"
        lines.append((f"target {place}", f"{target['upstream']} as {target['model']} ({order})"))
        if "refusal" in target:
            lines.append(("", f"can't be asked this: {target['refusal']}"))
            continue
        lines.append(("", f"POST {target['url']}"))
        lines.append(("", orjson.dumps(target["body"]).decode()))
        if target["dropped"]:
            lines.append(("", f"dropped: {', '.join(target['dropped'])}"))
    if "refusal" in told:
        refusal = told["refusal"]
        why = f" ({refusal['reason']})" if "reason" in refusal else ""
        lines.append(("refusal", f"{refusal['status']} {refusal['code']}: {refusal['message']}{why}"))
    return _lines(lines)


def _lines(rows: Sequence[Sequence[str]]) -> str:
    """Rows in columns; the last one is as wide as it likes."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in padded)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ",".join(str(item) for item in value) or "-"
    return "-" if value is None else str(value)
