"""The anthropic dialect against a real model that offers Anthropic's format."""

from __future__ import annotations

import http.client
import os
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest

from tests.dialects.contract import Heard, heard, heard_whole
from tokenhub_proxy import calls
from tokenhub_proxy.dialects import Asking, Memory, dialect
from tokenhub_proxy.routes import Target, Upstream

STARTER = os.environ.get("TOKENHUB_REAL_MODEL")
pytestmark = [
    pytest.mark.real_model,
    pytest.mark.xdist_group("real_model"),
    pytest.mark.skipif(
        STARTER is None,
        reason="TOKENHUB_REAL_MODEL is not set: the path of a script that starts a model",
    ),
]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "W", "parameters": SCHEMA}}


def ask(model: dict[str, str], stream: bool, **fields: Any) -> tuple[Heard, Any]:
    """One exchange over a real socket, and the reply that understood it."""
    # The likeliest words begin with a letter: before a first character of several tokens the
    # server leaves its count of the input out.
    body = {"model": "m", "stream": stream, "max_tokens": 40, "temperature": 0, **fields}
    call = calls.parse(orjson.dumps(body), "chat", owner="main")
    base = model["anthropic_base_url"]
    asking = Asking(Target(Upstream("real", "anthropic", base + "/v1"), model["model"]), "k", 1.0)
    speaking = dialect("anthropic", Memory())
    outgoing = speaking.request(call, asking)
    place = urlsplit(base)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=120)
    try:
        connection.request("POST", f"/v1{outgoing.path}", outgoing.body, dict(outgoing.headers))
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        reply = speaking.reply(call, asking, answer.status, headers)
        said = b""
        while piece := answer.read1(65536):
            said += reply.feed(piece)
        said += reply.feed(b"") + reply.close()
    finally:
        connection.close()
    assert reply.finished
    assert reply.usage.reported
    assert reply.usage.output > 0
    return (heard(said) if stream else heard_whole(said)), reply


@pytest.mark.parametrize("stream", [False, True])
def test_a_real_model_answers_in_openais_shape(real_model: dict[str, str], stream: bool) -> None:
    found, reply = ask(real_model, stream, messages=[{"role": "user", "content": "Say hello."}])
    assert found.text
    assert found.finish in ("stop", "length")
    assert reply.usage.input_total > 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_loop_of_two_turns_is_understood(real_model: dict[str, str], stream: bool) -> None:
    question = {"role": "user", "content": "What is the weather in Paris?"}
    first, _ = ask(real_model, stream, messages=[question], tools=[TOOL], tool_choice="required")
    # A small model may answer in words; the second turn is then what the first should have been.
    id, name, given = first.tools[0] if first.tools else ("call_1", "get_weather", {"city": "Paris"})
    function = {"name": name, "arguments": orjson.dumps(given).decode()}
    turn = {"role": "assistant", "tool_calls": [{"id": id, "type": "function", "function": function}]}
    result = {"role": "tool", "tool_call_id": id, "content": "Sunny, 20 degrees."}
    second, reply = ask(real_model, stream, messages=[question, turn, result], tools=[TOOL])
    assert second.text or second.tools
    assert reply.usage.input_total > 0
