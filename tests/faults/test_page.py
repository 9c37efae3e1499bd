"""The page about faults is what the tests hold the proxy to."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from tests.faults import page, scene

DOCS = Path(__file__).parent.parent.parent / "docs/faults.md"


def test_the_page_is_made_of_the_rows() -> None:
    assert DOCS.read_text() == page.page(), "run scripts/docs_faults"


def test_every_row_is_one_fault_and_on_the_page_once() -> None:
    rows = Counter(row.what for row in scene.ROWS)
    assert max(rows.values()) == 1
    assert len(re.findall(r"^\| (?!what happens).* \|$", DOCS.read_text(), re.MULTILINE)) == len(rows)
    told = {module.__name__ for _, modules in page.SECTIONS.values() for module in modules}
    assert {row.module for row in scene.ROWS} == told
