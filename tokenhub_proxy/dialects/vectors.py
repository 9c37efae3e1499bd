"""Embeddings between formats: the texts of a call, and an answer as floats or base64."""

from __future__ import annotations

import struct
from base64 import b64encode
from collections.abc import Sequence

import orjson

from tokenhub_proxy.calls import Call
from tokenhub_proxy.errors import InvalidRequest, UpstreamUnavailable
from tokenhub_proxy.prices import Usage


def read_texts(call: Call) -> tuple[str, ...]:
    """The call's inputs, for an upstream that has another tokenizer. Raises InvalidRequest for tokens."""
    given = call.body["input"]
    if isinstance(given, str):
        return (given,)
    if not all(isinstance(item, str) for item in given):
        raise InvalidRequest(
            f"The model {call.model!r} takes texts only, no token lists: its tokenizer is another.",
            param="input",
        )
    return tuple(given)


def wants_base64(call: Call) -> bool:
    """Whether the answer is to be base64. Raises InvalidRequest for an encoding that OpenAI has not."""
    encoding = call.body.get("encoding_format")
    if encoding not in (None, "float", "base64"):
        raise InvalidRequest("encoding_format must be 'float' or 'base64'.", param="encoding_format")
    return encoding == "base64"


def read_dimensions(call: Call) -> int | None:
    """The asked length of each vector. Raises InvalidRequest for what is no positive whole number."""
    dimensions = call.body.get("dimensions")
    if dimensions is None:
        return None
    if type(dimensions) is not int or dimensions < 1:
        raise InvalidRequest("dimensions must be a whole number of at least 1.", param="dimensions")
    return dimensions


def read_vector(values: object) -> list[float]:
    """One vector of an upstream. Raises UpstreamUnavailable for what is none."""
    if isinstance(values, list) and values and all(type(value) in (int, float) for value in values):
        return values
    raise UpstreamUnavailable(kind="bad_json", executed=True)


def embeddings(call: Call, vectors: Sequence[list[float]], model: str, usage: Usage) -> bytes:
    """A whole answer in OpenAI's format; base64 is of little-endian 32-bit floats."""
    base64 = wants_base64(call)
    data = [
        {"object": "embedding", "index": index, "embedding": encode_vector(vector) if base64 else vector}
        for index, vector in enumerate(vectors)
    ]
    told = {"prompt_tokens": usage.input_total, "total_tokens": usage.total}
    return orjson.dumps({"object": "list", "data": data, "model": model, "usage": told})


def encode_vector(vector: list[float]) -> str:
    """Base64 of little-endian 32-bit floats. Raises UpstreamUnavailable for what has no such form."""
    try:
        return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    except (OverflowError, struct.error):  # larger than a 32-bit float
        raise UpstreamUnavailable(kind="bad_json", executed=True) from None
