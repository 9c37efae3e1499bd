"""Embedding models behind Bedrock's InvokeModel: Titan, Cohere and Nova, each with a body of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol

import orjson

from tokenhub_proxy.calls import Call
from tokenhub_proxy.dialects import Asking
from tokenhub_proxy.dialects.bedrock_families import model_name
from tokenhub_proxy.dialects.bedrock_fields import EMBEDDING_FIELDS
from tokenhub_proxy.dialects.fields import Losses, sort_fields
from tokenhub_proxy.dialects.usage import count
from tokenhub_proxy.dialects.vectors import embeddings, read_dimensions, read_texts, read_vector, wants_base64
from tokenhub_proxy.errors import InvalidRequest, UpstreamUnavailable
from tokenhub_proxy.prices import Usage

# OpenAI takes as many inputs in one call; more would be a flood of calls here.
TEXTS_MAX = 2048
COUNT_HEADER = "x-amzn-bedrock-input-token-count"


class Embedder(Protocol):
    """How one family of models is asked."""

    @property
    def texts_max(self) -> int:
        """The most texts of one call."""
        ...

    @property
    def own(self) -> tuple[str, ...]:
        """The names of the vendor's own fields."""
        ...

    @property
    def sized(self) -> bool:
        """Whether it takes the length of the vectors."""
        ...

    def body(self, texts: tuple[str, ...], dimensions: int | None, own: Mapping[str, Any]) -> dict[str, Any]:
        """The body of one call; `own` are the vendor's own fields."""
        ...

    def vectors(self, answer: Mapping[str, Any]) -> object:
        """The list of vectors of one answer."""
        ...


class Titan:
    """Amazon Titan Text Embeddings; the first version has one length and no options."""

    texts_max = 1
    own = ("normalize",)

    def __init__(self, sized: bool) -> None:
        self.sized = sized

    def body(self, texts: tuple[str, ...], dimensions: int | None, own: Mapping[str, Any]) -> dict[str, Any]:
        sized = {} if dimensions is None else {"dimensions": dimensions}
        return {"inputText": texts[0], **sized, **own}

    def vectors(self, answer: Mapping[str, Any]) -> object:
        return [answer.get("embedding")]


class Cohere:
    """Cohere Embed: up to 96 texts a call; version 4 answers by type and takes a length."""

    texts_max = 96
    own = ("input_type", "truncate")

    def __init__(self, sized: bool) -> None:
        self.sized = sized

    def body(self, texts: tuple[str, ...], dimensions: int | None, own: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {"texts": list(texts), "input_type": "search_document", **own}
        if self.sized:
            found["embedding_types"] = ["float"]
        if dimensions is not None:
            found["output_dimension"] = dimensions
        return found

    def vectors(self, answer: Mapping[str, Any]) -> object:
        found = answer.get("embeddings")
        return found.get("float") if isinstance(found, Mapping) else found


class Nova:
    """Amazon Nova Multimodal Embeddings, of texts."""

    texts_max = 1
    own = ("embeddingPurpose",)
    sized = True

    def body(self, texts: tuple[str, ...], dimensions: int | None, own: Mapping[str, Any]) -> dict[str, Any]:
        asked: dict[str, Any] = {
            "embeddingPurpose": "GENERIC_INDEX",
            **own,
            "text": {"value": texts[0], "truncationMode": "END"},
        }
        if dimensions is not None:
            asked["embeddingDimension"] = dimensions
        return {"taskType": "SINGLE_EMBEDDING", "singleEmbeddingParams": asked}

    def vectors(self, answer: Mapping[str, Any]) -> object:
        found = answer.get("embeddings")
        return (
            [item.get("embedding") for item in found if isinstance(item, Mapping)]
            if isinstance(found, list)
            else []
        )


def bodies(call: Call, asking: Asking) -> tuple[list[bytes], tuple[str, ...]]:
    """The bodies to send, in order, and what was dropped. Raises InvalidRequest."""
    losses = Losses(call)
    passed = sort_fields(call, EMBEDDING_FIELDS, losses)
    texts, dimensions = read_texts(call), read_dimensions(call)
    wants_base64(call)
    if len(texts) > TEXTS_MAX:
        raise InvalidRequest(f"input may hold at most {TEXTS_MAX} texts.", param="input")
    embedder = _embedder(call, asking)
    if dimensions is not None and not embedder.sized:
        losses.drop("dimensions")
        dimensions = None
    for name in passed.keys() - set(embedder.own):
        losses.drop(name)
    own = {name: passed[name] for name in embedder.own if name in passed}
    step = embedder.texts_max
    groups = [texts[at : at + step] for at in range(0, len(texts), step)]
    return [orjson.dumps(embedder.body(group, dimensions, own)) for group in groups], losses.names()


def _embedder(call: Call, asking: Asking) -> Embedder:
    """How the target's model is asked. Raises InvalidRequest for one that makes no embeddings."""
    name = model_name(asking.target.model)
    if name.startswith("amazon.titan-embed"):
        return Titan(sized=not name.startswith("amazon.titan-embed-text-v1"))
    if name.startswith("cohere.embed"):
        return Cohere(sized=not re.search(r"-v3(?::|$)", name))
    if name.startswith("amazon.nova") and "embed" in name:
        return Nova()
    raise InvalidRequest(f"The model {call.model!r} makes no embeddings.", param="model")


def whole(body: bytes, call: Call, asking: Asking) -> tuple[bytes, Usage | None]:
    """The answers of all calls, as one array of heads and bodies → one answer and its usage.

    Raises UpstreamUnavailable where they are none.
    """
    embedder = _embedder(call, asking)
    try:
        answers = orjson.loads(body)
    except orjson.JSONDecodeError:
        answers = None
    vectors: list[list[float]] = []
    tokens: int | None = 0
    for answer in answers if isinstance(answers, list) else []:
        told = answer.get("body") if isinstance(answer, Mapping) else None
        found = embedder.vectors(told) if isinstance(told, Mapping) else None
        if not isinstance(found, list):
            raise UpstreamUnavailable(kind="bad_json", executed=True)
        vectors += [read_vector(vector) for vector in found]
        counted = _tokens(told or {}, answer.get("headers") or {})
        tokens = None if tokens is None or counted is None else tokens + counted
    if len(vectors) != len(read_texts(call)):
        raise UpstreamUnavailable(kind="bad_json", executed=True)
    usage = Usage(input=call.input_estimate(0)) if tokens is None else Usage(input=tokens, reported=True)
    return embeddings(call, vectors, call.model, usage), usage


def _tokens(answer: Mapping[str, Any], headers: Mapping[str, Any]) -> int | None:
    """The input tokens of one call: Titan tells them in the body, all tell them in the head."""
    told = headers.get(COUNT_HEADER)
    if isinstance(told, str) and told.isascii() and told.isdigit():
        return count(int(told[:20]))
    return count(answer.get("inputTextTokenCount"))
