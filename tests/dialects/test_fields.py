"""The loss report: tables that know every field, and a page that can't lag."""

from __future__ import annotations

from pathlib import Path

import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from openai.types.embedding_create_params import EmbeddingCreateParams

from tests.dialects.contract import call_of
from tokenhub_proxy.dialects.fields import NAMES_MAX, Fate, Losses, sort_fields
from tokenhub_proxy.dialects.table import TABLES, page
from tokenhub_proxy.errors import InvalidRequest

PAGE = Path(__file__).parents[2] / "docs" / "dialects.md"


@pytest.mark.parametrize("title", TABLES)
def test_every_field_of_the_official_types_has_a_fate(title: str) -> None:
    official = EmbeddingCreateParams if "embeddings" in title else CompletionCreateParamsBase
    assert official.__annotations__.keys() - TABLES[title].keys() == set()


def test_the_page_is_what_the_code_obeys() -> None:
    assert PAGE.read_text() == page(), "run scripts/docs_dialects"


FIELDS = {
    "model": Fate("mapped", "m"),
    "messages": Fate("mapped", "m"),
    "stream": Fate("mapped", "m"),
    "own": Fate("passed", "as it is"),
    "lost": Fate("dropped", "has no equivalent", (0,)),
    "never": Fate("refused", "is not served", ([],)),
}


def test_fields_go_their_ways() -> None:
    call = call_of(False, own={"a": 1}, lost=2, unknown=3)
    losses = Losses(call)
    assert sort_fields(call, FIELDS, losses) == {"own": {"a": 1}}
    assert losses.names() == ("lost", "unknown")


def test_null_and_neutral_values_are_no_loss() -> None:
    call = call_of(False, own=None, lost=0, unknown=None, never=[])
    losses = Losses(call)
    assert sort_fields(call, FIELDS, losses) == {}
    assert losses.names() == ()


def test_a_refused_field_is_named_as_the_parameter() -> None:
    call = call_of(False, never=["x"])
    with pytest.raises(InvalidRequest, match="'never': is not served") as caught:
        sort_fields(call, FIELDS, Losses(call))
    assert caught.value.param == "never"


def test_names_in_the_report_fit_a_header() -> None:
    losses = Losses(call_of(False))
    for name in ("a\r\nb: c", "с,о", "x" * 1000, "", *(f"n{number}" for number in range(100))):
        losses.drop(name)
        losses.drop(name)
    names = losses.names()
    assert names[:4] == ("ab:c", "unnamed", "x" * 64, "n0")
    assert len(names) == NAMES_MAX
