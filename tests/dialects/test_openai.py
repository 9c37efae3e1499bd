"""The openai dialect: what is asked, and what any bytes of an answer become."""

from __future__ import annotations

import json
import random
import struct
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from itertools import pairwise

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionChunk

from tokenhub_proxy.calls import parse
from tokenhub_proxy.dialects import Asking, Memory, dialect
from tokenhub_proxy.dialects.answers import usage_at_end
from tokenhub_proxy.dialects.passthrough import EVENT_BYTES_MAX, FIRST_EVENT_BYTES_MAX
from tokenhub_proxy.errors import InvalidRequest, ProxyError, UpstreamUnavailable
from tokenhub_proxy.prices import Usage
from tokenhub_proxy.routes import Target, Upstream

SSE = {"content-type": "text/event-stream; charset=utf-8"}
JSON = {"content-type": "application/json"}
CUT = UpstreamUnavailable(kind="reset_read", executed=True)


def asking(base_url="http://upstream.test/v1", model="m-1", output_max=None, credential="sk-up", **options):
    upstream = Upstream("up", "openai", base_url, options=options)
    return Asking(Target(upstream, model), credential, output_max=output_max)


def chat(**fields):
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello there"}], **fields}
    return parse(orjson.dumps(body), "chat")


def embeddings(**fields):
    return parse(orjson.dumps({"model": "m", "input": ["a", "b"], **fields}), "embeddings")


ASKED = {"stream": True, "stream_options": {"include_usage": True}}
STREAM, STREAM_ASKED = chat(stream=True), chat(**ASKED)


@dataclass
class Said:
    """All that a reply said of some pieces, and how it ended."""

    fed: bytes = b""
    closed: bytes = b""
    usage: Usage = field(default_factory=Usage)
    finished: bool = False
    begun: bool = False
    notes: dict[str, object] = field(default_factory=dict)
    raised: tuple[type, str] | None = None

    @property
    def all(self) -> bytes:
        return self.fed + self.closed


def say(pieces, call=STREAM, *, headers=SSE, status=200, clean=True, where=None) -> Said:
    """Feed the pieces; `clean` ends the body, else it is cut. A finished reply is closed at once."""
    said = Said()
    try:
        reply = dialect("openai", Memory()).reply(call, where or asking(), status, headers)
        for piece in pieces:
            said.fed += reply.feed(piece)
            assert reply.begun or not said.fed
        if clean:
            said.fed += reply.feed(b"")
        said.closed = reply.close(CUT, "req-1")
    except ProxyError as error:
        said.raised = (type(error), error.reason)
        return said
    said.usage, said.finished, said.begun, said.notes = reply.usage, reply.finished, reply.begun, reply.notes
    return said


def chunk(text=None, finish=None, *, usage="absent", choices=None, **extra) -> dict:
    delta = {} if text is None else {"content": text}
    listed = [{"index": 0, "delta": delta, "finish_reason": finish}] if choices is None else choices
    body = {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": listed,
        **extra,
    }
    return body if usage == "absent" else {**body, "usage": usage}


def events(*bodies, end=b"\n\n", done=True) -> bytes:
    listed = [b"data: " + (body if isinstance(body, bytes) else orjson.dumps(body)) for body in bodies]
    return b"".join(event + end for event in (*listed, *([b"data: [DONE]"] if done else [])))


USAGE = {"prompt_tokens": 11, "completion_tokens": 2, "total_tokens": 13}
USAGE_EVENT = chunk(choices=[], usage=USAGE)
ANSWER = [chunk(""), chunk("Hi"), chunk(" you"), chunk(finish="stop")]
DONE = b"data: [DONE]\n\n"


# Requests


def test_the_model_is_renamed_and_all_else_reaches_an_unknown_upstream_as_it_is():
    call = chat(stream=True, max_tokens=5, top_k=3, seed=1, vendor={"deep": [1]})
    outgoing = dialect("openai", Memory()).request(call, asking())
    assert orjson.loads(outgoing.body) == {
        **call.body,
        "model": "m-1",
        "stream_options": {"include_usage": True},
    }
    assert (outgoing.path, outgoing.dropped) == ("/chat/completions", ())
    assert ("authorization", "Bearer sk-up") in outgoing.headers


def test_the_clients_own_body_is_never_changed():
    call = chat(stream=True, max_tokens=5, messages=[{"role": "developer", "content": "x"}])
    before = orjson.dumps(call.body)
    dialect("openai", Memory()).request(call, asking("https://api.mistral.ai/v1"))
    assert orjson.dumps(call.body) == before


def test_a_limit_that_we_add_is_max_tokens_and_no_credential_is_no_header():
    outgoing = dialect("openai", Memory()).request(chat(), asking(output_max=77, credential=None))
    assert orjson.loads(outgoing.body)["max_tokens"] == 77
    assert [name for name, _ in outgoing.headers] == ["content-type"]


def test_stream_options_of_the_client_are_kept_beside_ours():
    call = chat(stream=True, stream_options={"include_obfuscation": False})
    body = orjson.loads(dialect("openai", Memory()).request(call, asking()).body)
    assert body["stream_options"] == {"include_obfuscation": False, "include_usage": True}


def test_stream_options_without_a_stream_are_left_out():
    body = dialect("openai", Memory()).request(chat(stream_options={"include_usage": True}), asking()).body
    assert "stream_options" not in orjson.loads(body)


# Streams: what the client gets


def test_a_stream_is_relayed_byte_for_byte_and_done_waits_for_the_close():
    raw = events(*ANSWER)
    said = say([raw], STREAM_ASKED)
    assert said.fed == raw.removesuffix(DONE)
    assert said.closed == DONE
    assert said.finished


def test_the_usage_event_that_only_we_asked_for_is_hidden_and_counted():
    said = say([events(*ANSWER, USAGE_EVENT)])
    assert said.all == events(*ANSWER)
    assert said.usage == Usage(input=11, output=2, reported=True)


def test_the_usage_event_that_the_client_asked_for_is_relayed():
    raw = events(*ANSWER, USAGE_EVENT)
    assert say([raw], STREAM_ASKED).all == raw


def test_usage_beside_choices_is_never_hidden():
    raw = events(*ANSWER[:-1], chunk(finish="stop", usage=USAGE))
    said = say([raw])
    assert said.all == raw
    assert said.usage.reported


def test_of_usage_in_every_chunk_the_last_one_counts():
    raw = events(
        *[chunk("x", usage={**USAGE, "completion_tokens": n}) for n in (1, 2, 9)], chunk(finish="stop")
    )
    said = say([raw])
    assert (said.usage.output, said.notes["usage_chunks"], said.all) == (9, 3, raw)


@pytest.mark.parametrize("usage", [
    {"prompt_tokens": -1, "completion_tokens": 2}, {"prompt_tokens": 1.5, "completion_tokens": 2},
    {"prompt_tokens": True, "completion_tokens": 2}, {"prompt_tokens": "9", "completion_tokens": 2},
    {"prompt_tokens": 2**60, "completion_tokens": 2}, {}, "much", [1],
])  # fmt: skip
def test_usage_that_is_none_is_estimated_and_its_unasked_event_still_hidden(usage):
    said = say([events(*ANSWER, chunk(choices=[], usage=usage))])
    assert said.all == events(*ANSWER)
    assert not said.usage.reported
    assert said.usage.output >= 1
    assert said.notes["usage"] == "invalid"


def test_usage_of_zero_is_kept_and_flagged():
    said = say([events(*ANSWER, chunk(choices=[], usage={"prompt_tokens": 0, "completion_tokens": 0}))])
    assert said.usage == Usage(reported=True)
    assert said.notes["usage_zero"] == 1


def test_missing_usage_is_estimated_from_the_texts_and_marked():
    text = "word " * 400
    said = say([events(chunk(""), *[chunk(text)] * 3, chunk(finish="stop"))])
    assert not said.usage.reported
    assert 1400 <= said.usage.output <= 1600  # 6,000 bytes of text are about 1,500 tokens
    assert said.notes["usage"] == "missing"


def test_an_estimate_is_never_above_the_limit():
    said = say(
        [events(chunk(""), chunk("x" * 9000), chunk(finish="length"))], chat(stream=True, max_tokens=10)
    )
    assert said.usage.output == 10


def test_azures_first_chunk_without_choices_is_relayed():
    first = {"choices": [], "id": "", "model": "", "prompt_filter_results": [{"prompt_index": 0}]}
    raw = events(first, *ANSWER)
    assert say([raw]).all == raw


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
def test_all_three_line_ends_are_relayed_and_understood(end):
    said = say([events(*ANSWER, USAGE_EVENT, end=end)])
    assert said.all.replace(end, b"\n\n") == events(*ANSWER)
    assert said.usage.reported


def test_a_byte_order_mark_multi_line_data_and_unknown_fields_are_relayed_and_understood():
    body = json.dumps(chunk(finish="stop", usage=USAGE), indent=1).replace("\n", "\ndata: ").encode()
    raw = b"\xef\xbb\xbfid: 7\ndata:" + orjson.dumps(chunk("\u2028\u0085")) + b"\n\n" + events(body)
    said = say([raw])
    assert said.all == raw
    assert said.usage.reported


def test_comments_before_the_first_event_wait_for_it():
    machine = dialect("openai", Memory()).reply(STREAM, asking(), 200, SSE)
    assert machine.feed(b": PROCESSING\n\n: PROCESSING\n\n") == b""
    assert not machine.begun
    event = events(chunk(""), done=False)
    assert machine.feed(event) == b": PROCESSING\n\n: PROCESSING\n\n" + event
    assert machine.feed(b": ping\n\n") == b": ping\n\n"


def test_comments_without_end_are_no_stream():
    assert say([b": x\n\n" * (FIRST_EVENT_BYTES_MAX // 4)]).raised == (UpstreamUnavailable, "too_large")
    assert say([b": " + b"x" * (FIRST_EVENT_BYTES_MAX + 9)]).raised == (UpstreamUnavailable, "too_large")


def test_a_piece_of_text_is_relayed_before_its_event_is_whole():
    machine = dialect("openai", Memory()).reply(STREAM, asking(), 200, SSE)
    machine.feed(events(chunk(""), done=False))
    event = events(chunk("x" * 500), done=False)
    assert machine.feed(event[:300]) == event[:300]
    assert machine.feed(event[300:]) == event[300:]


# Streams: endings


def test_a_missing_done_is_added_when_the_model_finished():
    said = say([events(*ANSWER, done=False)])
    assert said.closed == DONE
    assert said.notes["missing_done"] == 1
    assert say([events(*ANSWER, done=False)], clean=False).closed == DONE


def test_done_without_its_blank_line_is_done():
    for raw in (events(*ANSWER)[:-1], events(*ANSWER)[:-2]):
        assert say([raw]).all == events(*ANSWER)


def test_bytes_after_done_are_relayed_with_it():
    raw = events(*ANSWER) + DONE + b": bye\n\n" + b"rest"
    said = say([raw])
    assert said.all == raw
    assert said.notes["after_done"] == 1


def test_a_finish_without_its_blank_line_is_closed_before_done():
    raw = events(*ANSWER, done=False)[:-2]
    assert say([raw]).all == raw + b"\n\n" + DONE


def test_an_event_that_is_cut_after_the_finish_is_left_out():
    said = say([events(*ANSWER, done=False) + b'data: {"id":"c","choices":[{"delta":{"conte'], STREAM_ASKED)
    assert said.all == events(*ANSWER)


def test_no_finish_is_an_error_event_and_no_done():
    said = say([events(*ANSWER[:-1], done=False)])
    assert not said.finished
    assert orjson.loads(said.closed.removeprefix(b"data: "))["error"]["code"] == "upstream_unavailable"
    assert said.notes["kind"] == "no_finish"


def test_a_cut_inside_a_relayed_event_says_nothing_more():
    raw = events(*ANSWER[:2], done=False) + orjson.dumps(chunk("more")).join([b"data: ", b""])[:-3]
    said = say([raw], clean=False)
    assert said.fed == raw
    assert said.closed == b""


def test_of_several_choices_all_must_finish():
    call = chat(stream=True, n=2)
    one = chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
    two = chunk(choices=[{"index": 1, "delta": {}, "finish_reason": "length"}])
    assert not say([events(chunk(""), one, done=False)], call).finished
    assert say([events(chunk(""), one, two, done=False)], call).finished
    assert say([events(chunk(""), one)], call).finished


@pytest.mark.parametrize("error", [{"message": "overloaded", "code": 503}, "overloaded"])
def test_an_error_as_the_first_event_leaves_another_target_possible(error):
    assert say([b": hi\n\n", events({"error": error})]).raised == (UpstreamUnavailable, "error_in_200")


def test_an_error_as_the_first_event_may_be_the_requests_own_fault():
    body = {
        "error": {"message": "too long", "type": "invalid_request_error", "code": "context_length_exceeded"}
    }
    assert say([events(body)]).raised == (InvalidRequest, "error_in_200")
    assert say([orjson.dumps({"error": {"message": "x", "code": "400"}})]).raised[0] is InvalidRequest


@pytest.mark.parametrize("error", [
    {"error": {"message": "boom", "code": 502}}, {"error": "boom"}, {"object": "error", "message": "boom"},
    chunk(finish="error"), {**chunk(finish="error"), "error": {"code": 502, "message": "boom"}},
])  # fmt: skip
def test_an_error_after_text_is_relayed_and_nothing_after_it_is_an_ending(error):
    for done in (True, False):
        said = say([events(*ANSWER[:2], error, done=done)])
        assert said.fed == events(*ANSWER[:2], error, done=False)
        assert said.closed == b""
        assert not said.finished
        assert said.notes["error_event"] == 1


def test_a_finish_after_an_error_does_not_count():
    assert not say([events(ANSWER[0], {"error": "boom"}, ANSWER[-1])]).finished


def test_groqs_error_event_ends_the_stream_without_done():
    raw = events(*ANSWER[:2], done=False) + b'event: error\ndata: {"error":{"code":"tool_use_failed"}}\n\n'
    said = say([raw])
    assert (said.all, said.finished) == (raw, False)


def test_a_bare_error_line_is_a_cut():
    said = say([events(*ANSWER[:2], done=False) + b'error: {"message":"x"}\n\n'])
    assert said.closed.startswith(b'data: {"error"')


@pytest.mark.parametrize("raw", [b"", b"\n\n", b": ping\n\n", b"data: [DONE]\n\n", b"data: [DONE]", b"junk"])
def test_a_stream_of_nothing_leaves_another_target_possible(raw):
    assert say([raw] if raw else []).raised == (UpstreamUnavailable, "empty")


def test_broken_json_in_an_event_is_relayed_and_counted():
    raw = events(ANSWER[0], b'{"finish_reason": oops', *ANSWER[1:])
    said = say([raw])
    assert (said.all, said.finished, said.notes["bad_events"]) == (raw, True, 1)


def test_a_giant_event_is_relayed_without_being_kept():
    image = orjson.dumps(chunk("x" * (EVENT_BYTES_MAX + 50_000)))
    raw = events(ANSWER[0], image, *ANSWER[1:], USAGE_EVENT)
    whole, pieces = say([raw]), say([raw[at : at + 60_000] for at in range(0, len(raw), 60_000)])
    assert whole.all == pieces.all == events(ANSWER[0], image, *ANSWER[1:])
    assert whole.usage == pieces.usage == Usage(input=11, output=2, reported=True)
    raw = raw[: EVENT_BYTES_MAX + 40_000]
    cut = say([raw[at : at + 60_000] for at in range(0, len(raw), 60_000)], clean=False)
    assert cut.usage.output >= EVENT_BYTES_MAX // 4


# Any cut gives the same


def random_stream(dice: random.Random) -> bytes:
    end = dice.choice([b"\n\n", b"\n\n", b"\n\n", b"\r\n\r\n", b"\r\r"])
    space = dice.random() < 0.15
    said: list[bytes] = []
    if dice.random() < 0.1:
        said.append(b"\xef\xbb\xbf")
    for _ in range(dice.randrange(1, 9)):
        kind = dice.random()
        if kind < 0.6:
            body: object = chunk(
                dice.choice(["a", "Grüße 🌍", '"usage"', "data: x", "[DONE]", "\u2028\n\n", "z" * 90])
            )
        elif kind < 0.7:
            body = chunk(
                finish=dice.choice(["stop", "stop", "tool_calls", "error", ""]),
                usage=dice.choice([None, USAGE]),
            )
        elif kind < 0.8:
            body = chunk(
                choices=[],
                usage=dice.choice([USAGE, None, {"prompt_tokens": -1}]),
                note=dice.choice(["", '"delta"', {"delta": 1}]),
            )
        elif kind < 0.83:
            body = {"error": dice.choice([{"message": "x"}, "x", None])}
        else:
            said.append(
                dice.choice(
                    [
                        b": ping",
                        b"event: x",
                        b"event: y\ndata: [DONE] {",
                        b"data: not json",
                        b"data:",
                        b"id: 1\ndata: {}",
                        b"",
                    ]
                )
                + end
            )
            continue
        text = json.dumps(body).encode() if space else orjson.dumps(body)
        said.append(b"data: " + text + end)
    if dice.random() < 0.6:
        said.append(
            b"data: [DONE]" + dice.choice([end, end, b"", b"\n", end + b"data: [DONE]" + end, end + b"more"])
        )
    raw = b"".join(said)
    return raw[: dice.randrange(len(raw) + 1)] if dice.random() < 0.3 else raw


def cuts(raw: bytes, dice: random.Random) -> list[bytes]:
    points = sorted({0, len(raw), *(dice.randrange(len(raw) + 1) for _ in range(dice.choice([1, 2, 5, 20])))})
    return [raw[a:b] for a, b in pairwise(points) if b > a]


def test_where_the_network_cuts_changes_nothing_in_ten_thousand_streams():
    dice = random.Random(20261122)
    for _ in range(10_000):
        raw, clean = random_stream(dice), dice.random() < 0.8
        call = dice.choice([STREAM, STREAM_ASKED])
        whole, pieces = say([raw] if raw else [], call, clean=clean), say(cuts(raw, dice), call, clean=clean)
        assert pieces.raised == whole.raised, raw
        if whole.raised is None:
            assert pieces == whole, raw
            assert not whole.finished or b"[DONE]" in whole.closed


def test_every_truncation_and_every_byte_apart_tell_the_same_and_never_an_ending_too_many():
    raw = b": hi\n\n" + events(*ANSWER, USAGE_EVENT, done=False).replace(b"Hi", "Grüße 🌍".encode()) + DONE
    finish = raw.index(b'"stop"')
    for length in range(1, len(raw) + 1):
        part = raw[:length]
        for clean in (True, False):
            whole, bytewise = (
                say([part], clean=clean),
                say([part[at : at + 1] for at in range(length)], clean=clean),
            )
            assert whole == bytewise
            assert whole.finished == (b"[DONE]" in whole.closed)
            assert not whole.finished or length > finish
            visible = part if whole.begun else b""
            assert visible.startswith(whole.fed)


def test_each_chunk_that_is_relayed_is_one_to_the_official_types():
    for line in say([events(*ANSWER, USAGE_EVENT)], STREAM_ASKED).fed.split(b"\n\n")[:-1]:
        ChatCompletionChunk.model_validate_json(line.removeprefix(b"data: "))


# Whole answers

COMPLETION = {"id": "c", "object": "chat.completion", "choices": [{"index": 0}], "usage": USAGE}


def test_a_whole_answer_is_relayed_byte_for_byte_with_its_usage():
    raw = b"  \n" + json.dumps(COMPLETION, indent=2).encode()
    said = say([raw[:9], raw[9:]], chat(), headers=JSON)
    assert (said.fed, said.closed, said.usage.output) == (b"", raw, 2)


def test_a_completion_for_a_stream_request_is_relayed_as_json():
    said = say([orjson.dumps(COMPLETION)], STREAM, headers=JSON)
    assert said.closed == orjson.dumps(COMPLETION)
    assert said.notes["not_streamed"] == 1


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"null", orjson.dumps(COMPLETION)[:-1], b"{}", b'{"detail": "no"}']
)
def test_nonsense_under_a_200_is_the_upstreams_fault(raw):
    raised = say([raw] if raw else [], chat(), headers=JSON).raised
    assert raised is not None
    assert raised[0] is UpstreamUnavailable


@pytest.mark.parametrize("kind", ["text/html", "text/plain; charset=utf-8", "text/event-stream"])
def test_pages_and_unasked_streams_under_a_200_are_refused(kind):
    said = say([b"<html>"], chat(), headers={"content-type": kind})
    assert said.raised == (UpstreamUnavailable, "content_type")


def test_json_errors_under_a_200_are_errors():
    body = {"error": {"message": "Input too long", "code": 400}}
    for call in (chat(), STREAM):
        assert say([orjson.dumps(body)], call, headers=JSON).raised == (InvalidRequest, "error_in_200")
    body = {"error": {"message": "no key", "code": "401"}}
    assert say([orjson.dumps(body)], chat(), headers=JSON).raised == (UpstreamUnavailable, "error_in_200")


USAGE_KEYS = st.sampled_from(
    ['"usage"', '"us\\u0061ge"', '"u"', '"say \\"usage"', '"usages"', '"}"', '"data"']
)
LEAVES = st.sampled_from(
    [
        "{}",
        "null",
        "[]",
        '"usage"',
        '"\\\\"',
        '{"prompt_tokens": 3}',
        '{"prompt_tokens":7,"x":"}"}',
        '"}, {"',
        "0",
    ]
)


def members(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """JSON objects as text, spaced as upstreams do, or not."""
    pairs = st.lists(st.tuples(USAGE_KEYS, values, st.sampled_from([":", " : "])), max_size=5)
    return pairs.map(lambda found: "{" + ", ".join(key + colon + value for key, value, colon in found) + "}")


JSON_TEXTS = members(st.recursive(LEAVES, lambda inner: st.one_of(members(inner), inner.map("[{}]".format))))


@settings(max_examples=2000)
@given(text=JSON_TEXTS, before=st.booleans(), pad=st.sampled_from([0, 4000, 9000]))
def test_the_usage_at_the_end_of_a_large_answer_is_the_one_of_the_whole(text, before, pad):
    """Where it is found without reading the whole, it is what reading the whole would find."""
    inner = text.removeprefix("{").removesuffix("}")
    padding = '"pad":"' + "x" * pad + '"'
    body = "{" + ", ".join(filter(None, (padding, inner) if before else (inner, padding))) + "}"
    found = usage_at_end(body.encode())
    assert found is None or found == orjson.loads(body)["usage"]


def test_the_usage_of_an_ordinary_large_answer_is_read_from_its_end():
    plain = {
        "object": "list",
        "data": [{"embedding": [0.125] * 9000, "usage": {"prompt_tokens": 1}}],
        "model": "m",
    }
    for form in (
        orjson.dumps,
        lambda body: json.dumps(body).encode(),
        lambda body: json.dumps(body, indent=2).encode(),
    ):
        assert usage_at_end(form({**plain, "usage": USAGE})) == USAGE
        assert usage_at_end(form({**plain, "usage": USAGE, "id": "x"})) == USAGE
        assert usage_at_end(form(plain)) is None


def test_an_error_in_a_large_answer_counts_for_more_than_its_usage():
    body = orjson.dumps({"data": ["x" * 70_000], "error": {"message": "no", "code": 500}, "usage": USAGE})
    assert say([body], embeddings(), headers=JSON).raised == (UpstreamUnavailable, "error_in_200")


def test_a_large_answer_is_understood_by_its_ends():
    vectors = [{"object": "embedding", "index": n, "embedding": [0.125] * 3000} for n in range(20)]
    for body in (
        {"usage": USAGE, "data": vectors},
        {"data": vectors, "usage": USAGE},
        {"data": vectors, "usage": USAGE, "pad": "x" * 9000},
    ):
        raw = orjson.dumps(body)
        said = say([raw], embeddings(), headers=JSON)
        assert (said.closed, said.usage.input) == (raw, 11)
    assert say([raw[:-1]], embeddings(), headers=JSON).raised == (UpstreamUnavailable, "bad_json")
    assert say([raw[: len(raw) // 2] + b"}"], embeddings(), headers=JSON).raised == (
        UpstreamUnavailable,
        "bad_json",
    )


@pytest.mark.parametrize(("status", "body", "expected", "words"), [
    (400, {"error": {"message": "bad n", "param": "n"}}, InvalidRequest, "bad n"),
    (422, {"detail": [{"loc": ["body", "user"], "msg": "Extra"}]}, InvalidRequest, "body.user: Extra"),
    (422, {"object": "error", "message": {"detail": [{"loc": ["n"], "msg": "no"}]}}, InvalidRequest, "n: no"),
    (400, {"error": "plain words"}, InvalidRequest, "plain words"),
    (400, {"detail": "words"}, InvalidRequest, "words"),
    (401, {"error": {"message": "org-secret1234"}}, UpstreamUnavailable, "unavailable"),
    (404, {"error": {"message": "no such model"}}, UpstreamUnavailable, "unavailable"),
    (429, {"error": {"message": "slow"}}, UpstreamUnavailable, "unavailable"),
])  # fmt: skip
def test_error_bodies_of_all_forms(status, body, expected, words):
    machine = dialect("openai", Memory()).reply(
        chat(), asking(), status, {"content-type": "application/octet-stream"}
    )
    machine.feed(orjson.dumps(body))
    with pytest.raises(expected, match=words):
        machine.feed(b"")


# Vectors


def base64_of(*values: float) -> str:
    return b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


def test_vectors_come_in_the_encoding_that_was_asked_for_whatever_the_upstream_sends():
    floats, text = [0.5, -2.0], base64_of(0.5, -2.0)
    for sent in (floats, text):
        raw = orjson.dumps({"data": [{"index": 0, "embedding": sent}], "usage": USAGE})
        for encoding, expected in ((None, floats), ("float", floats), ("base64", text)):
            call = embeddings() if encoding is None else embeddings(encoding_format=encoding)
            said = say([raw], call, headers=JSON)
            assert orjson.loads(said.closed)["data"][0]["embedding"] == expected
            assert said.usage.input == 11


def test_an_upstream_without_base64_is_asked_for_floats():
    call = embeddings(encoding_format="base64")
    ollama = asking("http://127.0.0.1:11434/v1")
    assert "encoding_format" not in orjson.loads(dialect("openai", Memory()).request(call, ollama).body)
    assert (
        orjson.loads(dialect("openai", Memory()).request(call, asking()).body)["encoding_format"] == "base64"
    )
    raw = orjson.dumps({"data": [{"embedding": [1, 2.5]}], "usage": USAGE})
    encoded = orjson.loads(say([raw], call, headers=JSON, where=ollama).closed)["data"][0]["embedding"]
    assert struct.unpack("<2f", b64decode(encoded)) == (1.0, 2.5)


@pytest.mark.parametrize("vector", ["!!!", "AAA=", [], ["x"], [1e300], None])
def test_vectors_that_are_none_are_the_upstreams_fault(vector):
    encoding = "float" if isinstance(vector, str) else "base64"
    raw = orjson.dumps(
        {"data": [{"embedding": base64_of(1) if encoding == "float" else [1.0]}, {"embedding": vector}]}
    )
    said = say([raw], embeddings(encoding_format=encoding), headers=JSON)
    assert said.raised == (UpstreamUnavailable, "bad_json")


def test_an_unknown_encoding_is_refused():
    with pytest.raises(InvalidRequest, match="encoding_format"):
        dialect("openai", Memory()).request(embeddings(encoding_format="int8"), asking())
