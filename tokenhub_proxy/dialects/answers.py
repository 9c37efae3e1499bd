"""Whole answers in OpenAI's format: errors inside them, their usage, and vectors in the asked encoding."""

from __future__ import annotations

import re
import struct
from base64 import b64decode
from binascii import Error as BadBase64
from collections.abc import Mapping
from typing import Any, Final

import orjson

from tokenhub_proxy.calls import Call
from tokenhub_proxy.dialects.facts import PLAIN, Facts
from tokenhub_proxy.dialects.reasoning import Keeper
from tokenhub_proxy.dialects.replies import parse_object, refusal
from tokenhub_proxy.dialects.usage import count, read_usage
from tokenhub_proxy.dialects.vectors import encode_vector, read_vector
from tokenhub_proxy.errors import ProxyError, UpstreamUnavailable
from tokenhub_proxy.prices import Usage

# A whole answer larger than this is not parsed: its ends and its usage are looked at instead.
PARSED_BYTES_MAX: Final = 64 * 2**10
# One that may hold reasoning to keep is, up to here: a long answer beside the longest that is kept.
KEPT_PARSED_BYTES_MAX: Final = 4 * 2**20
# In a large answer the usage stands last, or nearly so.
USAGE_TAIL_BYTES = 4096
# What a good answer has, by endpoint.
_SAID: Final = {"chat": b'"choices"', "embeddings": b'"data"'}
# How a vector begins, and so how it is encoded.
_USAGE_VALUE = re.compile(rb'"usage"\s*:\s*\{')
_BACKSLASH = ord("\\")
_VECTOR = re.compile(rb'"embedding"\s*:\s*(["\[])')


class Answers:
    """What an upstream's answers to one call mean."""

    __slots__ = ("_call", "_facts", "_keeper")

    def __init__(self, call: Call, facts: Facts = PLAIN, keeper: Keeper | None = None) -> None:
        self._call = call
        self._facts = facts
        self._keeper = keeper

    def understand(self, body: bytes) -> tuple[bytes, Usage | None]:
        """A whole body → the client's body and the usage. Raises UpstreamUnavailable or InvalidRequest."""
        chat = self._call.endpoint == "chat"
        if not chat:
            body = self._encoded(body)
        if len(body) > (PARSED_BYTES_MAX if self._keeper is None else KEPT_PARSED_BYTES_MAX):
            if not (body[:64].lstrip().startswith(b"{") and body[-64:].rstrip().endswith(b"}")):
                raise UpstreamUnavailable(kind="bad_json", executed=True)
            # Parsing half a megabyte of floats costs more than relaying it; what may be an error does not.
            if not _names_an_error(body) and _SAID[self._call.endpoint] in body:
                usage = usage_told(usage_at_end(body), self._facts)
                if usage is not None:
                    return body, usage
        found = parse_object(body)
        if found is None:
            raise UpstreamUnavailable(kind="bad_json", executed=True)
        if "error" in found or found.get("object") == "error":
            raise_error_in_200(found)
        if not isinstance(found.get("choices" if chat else "data"), list):
            raise UpstreamUnavailable(kind="bad_answer", executed=True)
        if self._keeper is not None:
            self._keeper.answer(found)
        return body, usage_told(found.get("usage") or usage_member(found, self._facts), self._facts)

    def estimate(self) -> Usage:
        """What a whole answer without usage is billed as: its output nobody can count."""
        return Usage(input=self._call.input_estimate(0))

    def _encoded(self, body: bytes) -> bytes:
        """The vectors as the client asked for them, whatever the upstream made of that."""
        base64 = self._call.body.get("encoding_format") == "base64"
        first = _VECTOR.search(body)
        if first is None or (first[1] == b'"') == base64:
            return body
        found = parse_object(body)
        data = found.get("data") if found is not None else None
        if found is None or not isinstance(data, list):
            raise UpstreamUnavailable(kind="bad_json", executed=True)
        for item in data:
            if not isinstance(item, dict):
                raise UpstreamUnavailable(kind="bad_json", executed=True)
            given = item.get("embedding")
            if base64:
                item["embedding"] = given if isinstance(given, str) else encode_vector(read_vector(given))
            else:
                item["embedding"] = given if isinstance(given, list) else _floats(given)
        return orjson.dumps(found)


def usage_member(found: Mapping[str, Any], facts: Facts) -> object:
    """The usage object of a chunk or of a whole answer, wherever this upstream puts it."""
    usage = found.get("usage")
    if usage is None and facts.usage_in is not None:
        holder = found.get(facts.usage_in)
        usage = holder.get("usage") if isinstance(holder, Mapping) else None
    return usage


def usage_told(usage: object, facts: Facts) -> Usage | None:
    """The usage that such an object tells, None where it can't be billed."""
    if facts.reasoning_apart:
        return read_usage(usage, reasoning_apart=_sums_apart(usage))
    return read_usage(usage)


def _floats(text: object) -> list[float]:
    """The numbers of little-endian 32-bit floats in base64."""
    try:
        data = b64decode(text if isinstance(text, str) else "", validate=True)
        return list(struct.unpack(f"<{len(data) // 4}f", data))
    except (BadBase64, ValueError, struct.error):
        raise UpstreamUnavailable(kind="bad_json", executed=True) from None


def _sums_apart(usage: object) -> bool:
    """False where the total says that the reasoning is inside the output already."""
    if not isinstance(usage, Mapping):
        return False
    prompt, output = count(usage.get("prompt_tokens")), count(usage.get("completion_tokens"))
    total = count(usage.get("total_tokens"))
    return prompt is None or output is None or total != prompt + output


def _names_an_error(body: bytes) -> bool:
    """Whether `"error"` stands anywhere in a large text.

    Numbers have no letters, and one byte is found many times faster than a word; a word is found several
    times faster from the end.
    """
    first = body.find(b"r")
    return first >= 0 and body.rfind(b'"error"', max(0, first - 2)) >= 0


def usage_at_end(body: bytes) -> object:
    """The top-level `usage` of a large JSON object, read from its end; None where it does not stand there.

    In valid JSON it is the one that parsing the whole would find. `"usage"` is a whole string unless its
    first quote is escaped. What follows its value must, with a brace before it, be an object: so one
    brace is all that is open there, and the member is the outermost object's. No later member can
    have the same name, however it is spelled.
    """
    tail = body[-USAGE_TAIL_BYTES:].rstrip()
    start = tail.rfind(b'"usage"')
    value = _USAGE_VALUE.match(tail, start) if start > 0 and tail[start - 1] != _BACKSLASH else None
    if value is None:
        return None
    depth, end = 1, value.end() - 1
    while depth:
        closing = tail.find(b"}", end + 1)
        if closing < 0:
            return None
        depth += tail.count(b"{", end + 1, closing) - 1
        end = closing
    rest = tail[end + 1 :].lstrip()
    after = parse_object(b"{" + rest.removeprefix(b","))
    if after is None or "usage" in after:
        return None
    return parse_object(tail[value.end() - 1 : end + 1])


def read_error(body: bytes) -> tuple[object, object]:
    """The message and the parameter of an error body, in the forms compatible servers use."""
    found = parse_object(body) or {}
    error = found.get("error") or found
    if not isinstance(error, Mapping):
        return error, None
    return _words(error.get("message") or error.get("detail")), error.get("param")


def _words(message: object) -> object:
    """The words of a message; FastAPI's servers list what is wrong and where."""
    if isinstance(message, Mapping):
        message = message.get("detail") or message.get("message")
    if isinstance(message, list):
        said = [item for item in message if isinstance(item, Mapping)]
        return "; ".join(f"{_place(item.get('loc'))}{item.get('msg', '')}" for item in said)
    return message


def _place(where: object) -> str:
    return ".".join(str(part) for part in where) + ": " if isinstance(where, list) else ""


def raise_error_in_200(found: Mapping[str, Any]) -> None:
    """Raises for an error object inside a success, as what it means."""
    error = found.get("error")
    if not error and found.get("object") == "error":
        error = found
    if error:
        raise _error_in_200(error)


def _error_in_200(error: object) -> ProxyError:
    """The request's fault only if the error says so."""
    details = error if isinstance(error, Mapping) else {"message": error}
    code = details.get("code")
    status = int(code) if isinstance(code, (int, str)) and str(code).isdigit() else 0
    if not status and (
        details.get("type") in ("invalid_request_error", "BadRequestError") or code == "content_filter"
    ):
        status = 400
    found = refusal(
        status if status in (400, 413, 422) else 502,
        _words(details.get("message") or details.get("detail")),
        details.get("param"),
        {},
    )
    found.reason = "error_in_200"
    return found
