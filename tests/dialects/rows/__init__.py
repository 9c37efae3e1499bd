"""The rows of the contract suite: each module here holds the `ROW` of the dialect of its name."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from tests.dialects.contract import Row
from tokenhub_proxy.dialects import DIALECTS

ROWS: dict[str, Row] = {
    name: import_module(f"{__name__}.{name}").ROW
    for name in DIALECTS
    if find_spec(f"{__name__}.{name}") is not None
}
