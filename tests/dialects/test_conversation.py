"""OpenAI messages in the neutral form: what is read, and what is refused by its place."""

from __future__ import annotations

from typing import Any

import pytest

from tests.dialects.contract import call_of
from tokenhub_proxy.dialects.conversation import Text, Thinking, ToolCall, Turn, read_conversation
from tokenhub_proxy.dialects.fields import Losses
from tokenhub_proxy.errors import InvalidRequest

USER = {"role": "user", "content": "Hi"}


def call_to(name: str = "now", arguments: Any = "{}", **more: Any) -> dict[str, Any]:
    return {"id": "a", "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def read(*messages: Any) -> Any:
    call = call_of(False, messages=list(messages))
    return read_conversation(call, Losses(call))


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "function", "name": "f", "content": "x"}, "messages[1].role"),
        ({"role": "tool", "tool_call_id": "b", "content": "x"}, "messages[1].tool_call_id"),
        ({"role": "tool", "content": "x"}, "messages[1].tool_call_id"),
        ({"role": "assistant", "tool_calls": {"a": 1}}, "messages[1].tool_calls"),
        ({"role": "assistant", "tool_calls": [7]}, "messages[1].tool_calls[0]"),
        ({"role": "assistant", "tool_calls": [{**call_to(), "id": ""}]}, "messages[1].tool_calls[0]"),
        (
            {"role": "assistant", "tool_calls": [call_to(arguments="[1]")]},
            "messages[1].tool_calls[0].function.arguments",
        ),
        (
            {"role": "assistant", "tool_calls": [call_to(arguments='{"a":')]},
            "messages[1].tool_calls[0].function.arguments",
        ),
        ({"role": "assistant", "function_call": {"name": "f"}}, "messages[1].function_call"),
        ({"role": "assistant", "audio": {"id": "x"}}, "messages[1].audio"),
        (
            {"role": "system", "content": [{"type": "image_url", "image_url": "https://x.test/a"}]},
            "messages[1].content",
        ),
    ],
)
def test_what_has_no_form_is_refused_by_its_place(message: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(USER, message)
    assert caught.value.param == param


def test_nothing_at_all_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        read({"role": "user", "content": ""}, {"role": "assistant", "content": None})
    assert caught.value.param == "messages"


def test_arguments_in_every_form_are_an_object() -> None:
    for arguments, expected in ((None, {}), ("", {}), ('{"a": 1}', {"a": 1}), ({"a": 1}, {"a": 1})):
        found = read(USER, {"role": "assistant", "tool_calls": [call_to(arguments=arguments)]})
        assert found.turns[1] == Turn("assistant", (ToolCall("a", "now", expected),))


def test_a_refusal_of_an_earlier_turn_is_text() -> None:
    part = {"type": "refusal", "refusal": "No."}
    for message in ({"content": None, "refusal": "No."}, {"content": [part]}):
        assert read(USER, {"role": "assistant", **message}).turns[1].parts == (Text("No."),)


def test_of_the_forms_of_reasoning_the_most_exact_one_is_taken() -> None:
    message = {
        "role": "assistant",
        "content": "x",
        "reasoning_content": "text",
        "reasoning_details": [{"type": "reasoning.text", "text": "detail", "signature": "s"}],
    }
    assert read(USER, message).turns[1].parts[0] == Thinking("detail", "s")
    del message["reasoning_details"]
    assert read(USER, message).turns[1].parts[0] == Thinking("text")


def test_names_of_participants_are_reported() -> None:
    call = call_of(False, messages=[{**USER, "name": "Ada"}])
    losses = Losses(call)
    read_conversation(call, losses)
    assert losses.names() == ("messages.name",)
