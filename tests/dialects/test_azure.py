"""Azure OpenAI: its two surfaces, its credentials, and its answers."""

from __future__ import annotations

import orjson
import pytest

from tokenhub_proxy.calls import parse
from tokenhub_proxy.dialects import Asking, Memory, dialect
from tokenhub_proxy.errors import InvalidRequest, UpstreamUnavailable
from tokenhub_proxy.routes import Target, Upstream

BASE = "https://me.openai.azure.com"
SSE = {"content-type": "text/event-stream"}
CHAT = parse(b'{"model":"m","stream":true,"messages":[{"role":"user","content":"Hi"}]}', "chat")
EMBEDDINGS = parse(b'{"model":"m","input":"x"}', "embeddings")
BLOCKED = {
    "message": "The response was filtered due to the prompt triggering content management policy.",
    "type": None,
    "param": "prompt",
    "code": "content_filter",
    "status": 400,
    "innererror": {
        "code": "ResponsibleAIPolicyViolation",
        "content_filter_result": {"hate": {"filtered": True}},
    },
}


def outgoing(call=CHAT, base=BASE, model="prod gpt", credential="0123abcd", **options):
    upstream = Upstream("azure", "azure", base, options=options)
    return dialect("azure", Memory()).request(call, Asking(Target(upstream, model), credential, output_max=9))


def reply(status, headers, call=CHAT):
    upstream = Upstream("azure", "azure", BASE)
    return dialect("azure", Memory()).reply(call, Asking(Target(upstream, "gpt-4o")), status, headers)


def test_the_v1_surface_takes_the_deployment_as_the_model():
    sent = outgoing()
    assert sent.path == "/openai/v1/chat/completions"
    assert orjson.loads(sent.body)["model"] == "prod gpt"
    assert outgoing(EMBEDDINGS).path == "/openai/v1/embeddings"
    assert outgoing(base=BASE + "/openai/v1/").path == "/chat/completions"


def test_the_classic_surface_has_the_deployment_in_its_path():
    sent = outgoing(api_version="2024-10-21")
    assert sent.path == "/openai/deployments/prod%20gpt/chat/completions?api-version=2024-10-21"
    sent = outgoing(EMBEDDINGS, api_version="2024-10-21")
    assert sent.path == "/openai/deployments/prod%20gpt/embeddings?api-version=2024-10-21"


def test_a_key_and_a_token_have_headers_of_their_own():
    assert ("api-key", "0123abcd") in outgoing().headers
    token = dict(outgoing(credential="eyJhbGciOi.x.y").headers)
    assert token["authorization"] == "Bearer eyJhbGciOi.x.y"
    assert "api-key" not in token
    assert {"api-key", "authorization"}.isdisjoint(dict(outgoing(credential=None).headers))


def test_limits_go_by_the_model_where_it_is_known():
    assert orjson.loads(outgoing().body)["max_completion_tokens"] == 9
    assert orjson.loads(outgoing(model="Mistral-large").body)["max_tokens"] == 9
    limited = parse(b'{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"Hi"}]}', "chat")
    assert orjson.loads(outgoing(limited, model="my-old-deployment").body)["max_tokens"] == 5
    assert orjson.loads(outgoing(limited, model="gpt-5-mini").body)["max_completion_tokens"] == 9


def test_files_are_refused():
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}],
    }
    with pytest.raises(InvalidRequest, match="no file parts"):
        outgoing(parse(orjson.dumps(body), "chat"), base="https://gateway.test")


def test_a_stream_that_opens_without_choices_or_delta_is_relayed():
    first = b'data: {"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":[]}\n\n'
    text = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}],"id":"c"}\n\n'
    filtered = b'data: {"choices":[{"index":0,"finish_reason":null,"content_filter_offsets":{"end":2}}]}\n\n'
    ending = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    machine = reply(200, SSE)
    assert machine.feed(first + text + filtered + ending) == first + text + filtered + ending
    assert machine.finished


@pytest.mark.parametrize("headers", [{"content-type": "application/json"}, SSE])
def test_a_blocked_prompt_is_the_requests_fault_as_a_400_and_inside_a_200(headers):
    for status, body in ((400, orjson.dumps({"error": BLOCKED})), (200, orjson.dumps({"error": BLOCKED}))):
        machine = reply(status, headers)
        machine.feed(body)
        with pytest.raises(InvalidRequest, match="content management policy"):
            machine.feed(b"")


@pytest.mark.parametrize(
    ("status", "code"), [(401, "401"), (404, "DeploymentNotFound"), (429, "429"), (200, "401")]
)
def test_the_operators_troubles_are_not_the_clients(status, code):
    machine = reply(status, {"content-type": "application/json", "retry-after": "7"})
    machine.feed(orjson.dumps({"error": {"code": code, "message": "Access denied for res-name"}}))
    with pytest.raises(UpstreamUnavailable) as caught:
        machine.feed(b"")
    assert "res-name" not in caught.value.message
