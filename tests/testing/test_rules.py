"""Which rule a request gets, and what is said when it gets none."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tokenhub_proxy.testing import answers
from tokenhub_proxy.testing.answers import ToolCall, fail, reply, stream
from tokenhub_proxy.testing.rules import Request, Rule, Rules


def request(last: Any = "What is the weather?", model: str = "m") -> Request:
    body = {"model": model, "messages": [{"role": "user", "content": last}]}
    return Request(model, body, False, "openai", "/chat/completions", {}, body)


def rules(*found: Rule) -> Rules:
    made = Rules()
    for rule in found:
        made.add(rule)
    return made


def test_rules_without_a_condition_are_a_queue() -> None:
    queue = rules(Rule(reply("one"), times=1), Rule(reply("two"), times=1))
    said = [queue.take(request()) for _ in range(3)]
    assert said == [reply("one"), reply("two"), None]


def test_the_first_rule_that_fits_answers_again_and_again() -> None:
    found = rules(
        Rule(reply("a"), model="gpt-*"),
        Rule(reply("b"), last="weather"),
        Rule(reply("c"), last=re.compile("^Hi")),
        Rule(reply("d"), when=lambda request: request.stream is False),
    )
    assert [found.take(request(model="gpt-5")) for _ in range(2)] == [reply("a")] * 2
    assert found.take(request()) == reply("b")
    assert found.take(request("Hi there")) == reply("c")
    assert found.take(request("no Hi")) == reply("d")
    assert found.unused == []


def test_the_last_message_is_the_text_of_its_parts() -> None:
    parts = [{"type": "text", "text": "two"}, {"type": "image_url"}, {"type": "text", "text": "words"}]
    assert request(parts).last == "two  words"
    assert request(None).last == ""


def test_a_miss_names_the_nearest_rule_and_what_differs() -> None:
    found = rules(Rule(reply(""), model="gpt-*", last="sun"), Rule(reply(""), last="rain"))
    assert found.take(request()) is None
    assert found.miss(request()) == (
        "no rule answers this request (model 'm', last message 'What is the weather?'); "
        "the nearest of 2 is number 2:\n"
        "  - last message contains: 'rain'\n"
        "  + last message: 'What is the weather?'"
    )


def test_a_miss_tells_of_predicates_and_of_rules_that_are_used_up() -> None:
    def is_late(request: Request) -> bool:
        return False

    found = rules(Rule(reply(""), when=is_late))
    assert "- when: is_late is true" in found.miss(request())
    spent = rules(Rule(reply(""), times=1))
    spent.take(request())
    assert "- answers 1 request(s)\n  + one more came" in spent.miss(request())
    assert "there is none" in Rules().miss(request())


def test_a_long_text_is_shown_by_its_beginning() -> None:
    assert len(rules(Rule(reply(""), last="x")).miss(request("y" * 10_000))) < 1000


@pytest.mark.parametrize(
    "given",
    [
        ("weather", {"city": "Paris"}),
        {"name": "weather", "arguments": {"city": "Paris"}},
        {"function": {"name": "weather", "arguments": '{"city":"Paris"}'}},
        ToolCall("weather", '{"city":"Paris"}'),
    ],
)
def test_a_tool_call_is_said_in_any_of_its_forms(given: Any) -> None:
    assert reply(tool_calls=[given]).tool_calls == (ToolCall("weather", '{"city":"Paris"}'),)


def test_what_is_no_tool_call_is_refused() -> None:
    with pytest.raises(TypeError, match="a pair such as"):
        reply(tool_calls=["weather"])


def test_a_text_is_streamed_by_words_that_join_to_it() -> None:
    assert reply("  Hello  there,\nyou ").pieces == ("  ", "Hello  ", "there,\n", "you ")
    assert answers.said("Hi") == reply("Hi")
    assert stream(["a", "b"], delay_s=1).text == "ab"


@pytest.mark.parametrize("status", [529, 418])
def test_a_refusal_that_the_proxy_never_says_is_no_refusal(status: int) -> None:
    with pytest.raises(ValueError, match=f"never answers {status}"):
        fail(status)
    assert fail(status, upstream=True).status == status
    with pytest.raises(ValueError, match="no error"):
        fail(200, upstream=True)
