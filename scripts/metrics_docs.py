"""Puts the table of all metrics into docs/observability.md, between its two marks."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from tokenhub_proxy.metrics import FAMILIES

PAGE = Path(__file__).parent.parent / "docs/observability.md"
MARKS = re.compile(r"(<!-- metrics -->\n).*?(<!-- end of metrics -->\n)", re.DOTALL)


def table() -> str:
    """Every metric with its kind, labels and meaning."""
    rows = ""
    for name, family in FAMILIES.items():
        labels = ", ".join(f"`{label}`" for label in family.labels)
        rows += f"| `{name}` | {family.kind} | {labels} | {family.help} |\n"
    return f"\n| metric | kind | labels | |\n|---|---|---|---|\n{rows}\n"


def page(text: str) -> str:
    """The page with the table as it is now."""
    return MARKS.sub(lambda marks: marks[1] + table() + marks[2], text)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
