"""The words of faults: what they mean, and what is refused."""

from __future__ import annotations

import pytest

from tokenhub_proxy.errors import InvalidRequest
from tokenhub_proxy.faults import Fault, parse


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("stall=3", Fault(stall=3)),
        ("cut-event=2, seed=7", Fault(cut_event=2, seed=7)),
        ("cut_event=2;seed=7", Fault(cut_event=2, seed=7)),
        ("pause-s=0.25", Fault(pause_s=0.25)),
        ("html", Fault(html=True)),
        ("usage=missing,done=doubled", Fault(usage="missing", done="doubled")),
    ],
)
def test_a_fault_is_words(text: str, fault: Fault) -> None:
    assert parse(text) == fault


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stal=3", "did you mean 'stall'?"),
        ("", "there is no fault ''"),
        ("stall", "stall is a whole number"),
        ("stall=-1", "stall is a whole number"),
        ("stall=99999", "stall is a whole number"),
        ("head-s=nan", "head-s is a number of seconds"),
        ("head-s=soon", "head-s is a number of seconds"),
        ("usage=twice", "usage is missing or doubled"),
        ("html=no", "html takes no value"),
    ],
)
def test_what_is_no_fault_is_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match="x-tokenhub-fault") as refusal:
        parse(text)
    assert said in refusal.value.message
