"""Call: a client's body, parsed once, checked, and bounded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import orjson

from tokenhub_proxy.errors import InvalidRequest, UnsupportedMediaType, shown
from tokenhub_proxy.faults import Fault
from tokenhub_proxy.prices import estimate_tokens

Endpoint = Literal["chat", "embeddings"]

MODEL_LENGTH_MAX: Final = 256
# A reply with more choices than this is a mistake or an attack on somebody's balance.
CHOICES_MAX = 128
# The largest limit that can be meant; far above what any model writes.
OUTPUT_MAX = 2**31
# orjson reads 1024 levels but writes only 254; what dialects wrap around a body needs some of them.
DEPTH_MAX: Final = 128
# Other names of "the most tokens to write". The hold is made on the largest of them.
OUTPUT_LIMITS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")
# Fields that choose models or hosts past the key's scope.
SCOPE_FIELDS: Final = ("models", "fallbacks", "route", "provider")

_READ: Final = frozenset(
    {
        "model", "messages", "input", "stream", "stream_options", "n", "best_of", "tools", "tool_choice",
        "encoding_format", "response_format", "user", *OUTPUT_LIMITS, *SCOPE_FIELDS,
    }
)  # fmt: skip
_READ_FOLDED = {name.casefold(): name for name in _READ}
# Only pictures are no text. A page or a script in a data URL is, for upstreams that read it.
_PICTURE = re.compile(r"data:image/(?!svg)", re.IGNORECASE)
_RARE: Final = frozenset({"stream_options", "n", "best_of", "tools", "web_search_options", *SCOPE_FIELDS})
# What a message's content may be.
_CONTENTS: Final = {str, list, type(None)}
_CLIENT_TOOLS = ("function", "custom", None)
# Content parts whose bytes stand in the body, where they bound what the upstream reads.
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal", "thinking", "input_audio")
_NO_BODY: Final[Mapping[str, Any]] = {}


@dataclass(slots=True, init=False)
class Call:
    """One request of a client, understood.

    `body` is the parsed JSON object; nobody changes it. `owner` is the account that asks.
    `output_max` is the largest limit that the client states, None where it states none.
    `text_bytes` and `images` bound the input: a token is at least one byte of text. Where
    `reads_more`, the body names files, videos or searches that only the upstream can size. `fault`
    is what a test wants to go wrong.
    """

    endpoint: Endpoint
    model: str
    body: Mapping[str, Any]
    owner: str
    stream: bool
    usage_asked: bool
    output_max: int | None
    choices: int
    text_bytes: int
    images: int
    reads_more: bool
    strict: bool
    scope_fields: tuple[str, ...]
    fault: Fault | None

    def __init__(
        self,
        endpoint: Endpoint,
        model: str,
        body: Mapping[str, Any],
        owner: str = "",
        stream: bool = False,
        usage_asked: bool = False,
        output_max: int | None = None,
        choices: int = 1,
        text_bytes: int = 0,
        images: int = 0,
        reads_more: bool = False,
        strict: bool = False,
        scope_fields: tuple[str, ...] = (),
        fault: Fault | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.model = model
        self.body = body
        self.owner = owner
        self.stream = stream
        self.usage_asked = usage_asked
        self.output_max = output_max
        self.choices = choices
        self.text_bytes = text_bytes
        self.images = images
        self.reads_more = reads_more
        self.strict = strict
        self.scope_fields = scope_fields
        self.fault = fault

    def forget_body(self) -> None:
        """Let go of the body, which may have megabytes: its answer has begun, and may last an hour."""
        self.body = _NO_BODY

    def input_max(self, image_tokens_max: int) -> int:
        """The most tokens the input can be."""
        return self.text_bytes + self.images * image_tokens_max

    def input_estimate(self, image_tokens_max: int) -> int:
        """The input's likely tokens, the same for the same body on every machine."""
        return estimate_tokens(self.text_bytes) + self.images * image_tokens_max


def parse(
    raw: bytes,
    endpoint: Endpoint,
    *,
    content_type: str = "application/json",
    owner: str = "",
    strict: bool = False,
    fault: Fault | None = None,
) -> Call:
    """A client's body as a Call. Raises InvalidRequest with the `param`, or UnsupportedMediaType."""
    if content_type != "application/json":
        _check_content_type(content_type)
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        # The parser's words name a position, never the text around it.
        raise InvalidRequest(f"The body is not valid JSON: {exc.msg}.", reason="bad_json") from None
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.", reason="bad_json")
    # Each level opens a bracket, so that a body with few of them needs no look. What `replace` leaves out it
    # finds ten times as fast as `count`, which looks at each byte: a long prompt has many, and no brackets.
    brackets = 2 * len(raw) - len(raw.replace(b"{", b"")) - len(raw.replace(b"[", b""))
    if brackets > DEPTH_MAX:
        _check_depth(body)
    call = _understood(body, endpoint, len(raw), owner, strict)
    return call if fault is None else replace(call, fault=fault)


def with_defaults(call: Call, defaults: Mapping[str, Any]) -> Call:
    """The call with the route's default fields where the client sent none.

    The output limits are one field under several names: a client that stated one gets no other.
    """
    if not defaults:
        return call
    sent = call.body.keys() | (OUTPUT_LIMITS if call.output_max is not None else ())
    added = {name: value for name, value in defaults.items() if name not in sent}
    if not added:
        return call
    length = call.text_bytes + len(orjson.dumps(added))
    body = {**call.body, **added}
    understood = _understood(body, call.endpoint, length, call.owner, call.strict)
    return replace(understood, text_bytes=length, stream=call.stream, fault=call.fault)


def _understood(body: dict[str, Any], endpoint: Endpoint, length: int, owner: str, strict: bool) -> Call:
    if not _READ.issuperset(body):
        _check_names(body.keys() - _READ, _READ_FOLDED)
    model = body.get("model")
    if not (isinstance(model, str) and 0 < len(model) <= MODEL_LENGTH_MAX and model.isprintable()):
        raise _no_model(model)
    stream = "stream" in body and _boolean(body, "stream") and endpoint == "chat"
    choices, output_max, media, images, reads_more = 1, None, 0, 0, False
    usage_asked = False
    scope_fields: tuple[str, ...] = ()
    rare = not _RARE.isdisjoint(body)  # most calls have nothing of what is looked for one by one
    if rare:
        usage_asked = "stream_options" in body and _usage_asked(body["stream_options"])
        scope_fields = tuple(name for name in SCOPE_FIELDS if name in body)
    if endpoint == "chat":
        has_parts = _check_messages(body)
        if rare:
            choices = max(_integer(body, "n", CHOICES_MAX) or 1, _integer(body, "best_of", CHOICES_MAX) or 1)
        for name in OUTPUT_LIMITS:
            if name in body:
                limit = _integer(body, name, OUTPUT_MAX)
                if limit is not None and (output_max is None or limit > output_max):
                    output_max = limit
        if has_parts:
            media, images, reads_more = _media(body)
        if rare and ("tools" in body or "web_search_options" in body):
            _check_tools(body.get("tools"))
            reads_more = reads_more or _searches(body)
    else:
        _check_input(body)
    return Call(
        endpoint,
        model,
        body,
        owner,
        stream,
        usage_asked,
        output_max,
        choices,
        length - media if length > media else 0,
        images,
        reads_more,
        strict,
        scope_fields,
    )


def _check_content_type(content_type: str) -> None:
    kind, _, parameters = content_type.partition(";")
    kind = kind.strip().lower()
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise UnsupportedMediaType("The body must be application/json.", reason="content_type")
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset" and value.strip(' "').lower() not in ("utf-8", "utf8"):
            raise UnsupportedMediaType("The body must be UTF-8.", reason="charset")


def _check_depth(body: Mapping[str, Any]) -> None:
    level: list[Any] = [body]
    for _ in range(DEPTH_MAX):
        level = [member for container in level for member in _members(container)]
        if not level:
            return
    raise InvalidRequest(f"The body is nested deeper than {DEPTH_MAX} levels.", reason="bad_json")


def _members(container: Any) -> Iterable[Any]:
    """The objects and lists in an object or a list."""
    values = container.values() if type(container) is dict else container
    return [value for value in values if type(value) is dict or type(value) is list]


def _check_names(names: Iterable[str], read: Mapping[str, str], path: str = "") -> None:
    """Refuse names that another parser could take for one we read: in other case, with a NUL or spaces."""
    for name in names:
        ours = read.get(name.partition("\0")[0].strip().casefold())
        if ours is not None and ours != name:
            raise InvalidRequest(
                f"Unknown field {shown(path + name)}; did you mean {path + ours!r}?", param=path + name[:80]
            )


def _no_model(model: object) -> InvalidRequest:
    if not isinstance(model, str) or not model:
        return InvalidRequest("model must be a non-empty string.", param="model")
    return InvalidRequest(
        f"model must be printable and at most {MODEL_LENGTH_MAX} characters.", param="model"
    )


def _usage_asked(options: object) -> bool:
    if options is not None and not isinstance(options, dict):
        raise InvalidRequest("stream_options must be an object.", param="stream_options")
    if not options:
        return False
    _check_names(options, {"include_usage": "include_usage"}, "stream_options.")
    return _boolean(options, "include_usage", "stream_options.include_usage")


def _boolean(body: Mapping[str, Any], name: str, param: str | None = None) -> bool:
    value = body.get(name)
    if value is None or isinstance(value, bool):
        return value is True
    raise InvalidRequest(f"{param or name} must be true or false.", param=param or name)


def _integer(body: Mapping[str, Any], name: str, most: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequest(f"{name} must be a whole number.", param=name)
    if not 1 <= value <= most:
        raise InvalidRequest(f"{name} must be from 1 to {most}.", param=name)
    return value


def _check_messages(body: Mapping[str, Any]) -> bool:
    """True where the content of some message is a list of parts."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("messages must be a non-empty list.", param="messages")
    has_parts = False
    for message in messages:
        if type(message) is not dict or type(message.get("role")) is not str:
            raise _bad_message(messages)
        kind = type(message.get("content"))
        if kind is str:
            continue
        if kind is list:
            has_parts = True
        elif kind not in _CONTENTS:
            raise _bad_message(messages)
    return has_parts


def _check_tools(tools: object) -> None:
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise InvalidRequest("tools must be a list of objects.", param="tools")


def _bad_message(messages: list[Any]) -> InvalidRequest:
    """What is wrong with the first message that is not as it must be."""
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            return InvalidRequest(f"{where} must be an object with a role.", param=where)
        if type(message.get("content")) not in _CONTENTS:
            param = f"{where}.content"
            return InvalidRequest(f"{param} must be text or a list of parts.", param=param)
    raise AssertionError("every message is as it must be")


def _check_input(body: Mapping[str, Any]) -> None:
    given = body.get("input")
    if isinstance(given, str) and given:
        return
    if isinstance(given, list) and given:
        if all(isinstance(item, str) for item in given):
            return
        if _token_list(given) or all(isinstance(item, list) and _token_list(item) for item in given):
            return
    raise InvalidRequest(
        "input must be text, a list of texts, a list of tokens, or a list of token lists.", param="input"
    )


def _token_list(items: list[Any]) -> bool:
    # In C: a batch has hundreds of thousands of tokens.
    return set(map(type, items)) == {int} and min(items) >= 0


def _media(body: Mapping[str, Any]) -> tuple[int, int, bool]:
    """The characters of inlined pictures, how many images there are, and whether parts name more."""
    length, images, reads_more = 0, 0, False
    for message in body["messages"]:
        content = message.get("content")
        if not isinstance(content, list):
            continue
        for part in content:
            if not isinstance(part, dict):
                continue
            kind = part.get("type")
            if kind == "image_url":
                image = part.get("image_url")
                url = image.get("url") if isinstance(image, dict) else image
                if isinstance(url, str) and _PICTURE.match(url):
                    length += len(url)
                images += 1
            elif kind not in _TEXT_PARTS and not _inlined(part):
                reads_more = True
    return length, images, reads_more


def _inlined(part: Mapping[str, Any]) -> bool:
    """True for a file whose bytes are in the part itself."""
    file = part.get("file")
    data = file.get("file_data") if isinstance(file, dict) else None
    return isinstance(data, str) and not data.startswith(("http:", "https:"))


def _searches(body: Mapping[str, Any]) -> bool:
    """True when the upstream may look things up by itself; the client's own functions can't."""
    if "web_search_options" in body:
        return True
    tools = body.get("tools") or ()
    return bool(tools) and any(tool.get("type") not in _CLIENT_TOOLS for tool in tools)
