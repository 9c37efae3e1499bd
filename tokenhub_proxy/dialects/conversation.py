"""OpenAI messages in a neutral form: system texts, turns of alternating roles, parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from tokenhub_proxy.calls import Call
from tokenhub_proxy.dialects.fields import Losses
from tokenhub_proxy.dialects.replies import parse_object
from tokenhub_proxy.errors import InvalidRequest, shown

_NO_EXTRA: Mapping[str, Any] = {}
_IMAGE_TYPES = {"image/jpg": "image/jpeg"}


@dataclass(frozen=True, slots=True)
class Text:
    """Text, never empty. `extra` holds vendor fields that stood beside it, such as `cache_control`."""

    text: str
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Media:
    """An image, a file or a sound: base64 `data` with its `media_type`, or a `url`, or a `file_id`.

    `where` is the part's place in the request, for a refusal's `param`.
    """

    kind: Literal["image", "file", "audio"]
    where: str
    media_type: str = ""  # lower case; "" where only a URL or an id is known
    data: str = ""
    url: str = ""
    file_id: str = ""
    name: str = ""
    detail: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Thinking:
    """Reasoning of an earlier turn that the client sent back; without a signature it is only text.

    `redacted` is the opaque data of reasoning that the upstream encrypted. `format` names whose
    signature it is, where the client's form tells.
    """

    text: str = ""
    signature: str = ""
    redacted: str = ""
    format: str = ""

    @property
    def empty(self) -> bool:
        return not (self.text or self.signature or self.redacted)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of the assistant; `arguments` parsed. `signature` is Gemini's, where the client kept it."""

    id: str
    name: str
    arguments: Mapping[str, Any]
    signature: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool answered, with the name of the function that was called."""

    id: str
    name: str
    parts: tuple[Text | Media, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """All texts of the result, joined."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))


Part: TypeAlias = Text | Media | Thinking | ToolCall | ToolResult


@dataclass(frozen=True, slots=True)
class Turn:
    """Consecutive messages of one role. In a user turn the tool results come first."""

    role: Literal["user", "assistant"]
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Conversation:
    """All messages. Roles of turns alternate; a turn has at least one part."""

    system: tuple[Text, ...]
    turns: tuple[Turn, ...]


def read_conversation(call: Call, losses: Losses) -> Conversation:
    """The call's messages. Raises InvalidRequest, with the place as `param`, for what has no form."""
    system: list[Text] = []
    turns: list[tuple[Literal["user", "assistant"], list[Part]]] = []
    names: dict[str, str] = {}  # of the functions, by tool call id
    for index, message in enumerate(call.body["messages"]):
        where = f"messages[{index}]"
        role = message["role"]
        if role in ("system", "developer"):
            system.extend(_texts(message, where))
            continue
        if role == "assistant":
            parts = _assistant(message, where)
            names |= {part.id: part.name for part in parts if isinstance(part, ToolCall)}
        elif role == "user":
            parts = _marked(_content(message.get("content"), f"{where}.content"), message)
        elif role == "tool":
            parts = [_tool_result(message, where, names)]
        else:
            raise InvalidRequest(f"{where}.role {shown(role)} has no equivalent here.", param=f"{where}.role")
        if message.get("name") and role != "tool":
            losses.drop("messages.name")
        if not parts:
            continue
        side: Literal["user", "assistant"] = "assistant" if role == "assistant" else "user"
        if not turns or turns[-1][0] != side:
            turns.append((side, []))
        turns[-1][1].extend(parts)
    if not turns and system:
        # A prompt of system messages alone is fine at OpenAI; elsewhere somebody must have asked.
        turns, system = [("user", [*system])], []
    if not turns:
        raise InvalidRequest("messages must hold at least one that is not empty.", param="messages")
    return Conversation(tuple(system), tuple(Turn(role, _ordered(parts)) for role, parts in turns))


def _ordered(parts: list[Part]) -> tuple[Part, ...]:
    """Tool results before everything else, in their order; the rest as it came."""
    return tuple(sorted(parts, key=lambda part: not isinstance(part, ToolResult)))


def _texts(message: Mapping[str, Any], where: str) -> list[Text]:
    found: list[Text] = []
    for part in _marked(_content(message.get("content"), f"{where}.content"), message):
        if not isinstance(part, Text):
            raise InvalidRequest(f"{where}.content may hold only text.", param=f"{where}.content")
        found.append(part)
    return found


def _marked(parts: list[Part], message: Mapping[str, Any]) -> list[Part]:
    """A cache mark on a whole message stands on its last part."""
    mark = message.get("cache_control")
    if mark is not None and parts and not isinstance(parts[-1], Thinking):
        parts[-1] = replace(parts[-1], extra={**parts[-1].extra, "cache_control": mark})
    return parts


def _assistant(message: Mapping[str, Any], where: str) -> list[Part]:
    parts: list[Part] = list(_thinking(message))
    parts += _content(message.get("content"), f"{where}.content")
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal:
        parts.append(Text(refusal))
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise InvalidRequest(f"{where}.tool_calls must be a list.", param=f"{where}.tool_calls")
    for index, call in enumerate(calls):
        parts.append(_tool_call(call, f"{where}.tool_calls[{index}]"))
    if message.get("function_call"):
        raise InvalidRequest(
            f"{where}.function_call is deprecated and has no equivalent here; use tool_calls.",
            param=f"{where}.function_call",
        )
    if message.get("audio"):
        raise InvalidRequest(f"{where}.audio has no equivalent here.", param=f"{where}.audio")
    return _marked(parts, message)


def _thinking(message: Mapping[str, Any]) -> list[Thinking]:
    """Reasoning that the client echoes, in the first of the forms that clients use."""
    found: list[Thinking] = []
    for block in _mappings(message.get("thinking_blocks")):
        found.append(
            Thinking(_string(block, "thinking"), _string(block, "signature"), _string(block, "data"))
        )
    if not found:
        for block in _mappings(message.get("reasoning_details")):
            form = _string(block, "format")
            found.append(
                Thinking(_string(block, "text"), _string(block, "signature"), _string(block, "data"), form)
            )
    if not found:
        found.append(Thinking(_string(message, "reasoning_content") or _string(message, "reasoning")))
    return [block for block in found if not block.empty]


def _tool_call(call: object, where: str) -> ToolCall:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        raise InvalidRequest(f"{where} must be a call of a function.", param=where)
    id, name = _string(call, "id"), _string(function, "name")
    if not id or not name:
        raise InvalidRequest(f"{where} must have an id and a function.name.", param=where)
    google = _mapping(_mapping(call.get("extra_content")).get("google"))
    return ToolCall(
        id,
        name,
        _arguments(function.get("arguments"), f"{where}.function.arguments"),
        signature=_string(google, "thought_signature"),
        extra=_extra(call),
    )


def _arguments(given: object, where: str) -> Mapping[str, Any]:
    if given is None or given == "":
        return {}
    found = parse_object(given.encode()) if isinstance(given, str) else given
    if not isinstance(found, Mapping):
        raise InvalidRequest(f"{where} must be the JSON text of an object.", param=where)
    return found


def _tool_result(message: Mapping[str, Any], where: str, names: Mapping[str, str]) -> ToolResult:
    id = _string(message, "tool_call_id")
    if id not in names:
        raise InvalidRequest(
            f"{where}.tool_call_id {shown(id)} is no id of an earlier tool call.",
            param=f"{where}.tool_call_id",
        )
    parts = _content(message.get("content"), f"{where}.content")
    return ToolResult(
        id,
        names[id],
        tuple(part for part in parts if isinstance(part, (Text, Media))),
        extra=_extra(message),
    )


def _content(content: object, where: str) -> list[Part]:
    """Text or a list of parts; empty texts say nothing, and upstreams refuse them."""
    if isinstance(content, str):
        return [Text(content)] if content else []
    parts: list[Part] = []
    for index, part in enumerate(content if isinstance(content, list) else []):
        place = f"{where}[{index}]"
        if isinstance(part, str):
            part = {"type": "text", "text": part}
        if not isinstance(part, Mapping):
            raise InvalidRequest(f"{place} must be a part with a type.", param=place)
        found = _part(part, place)
        if found is not None:
            parts.append(found)
    return parts


def _part(part: Mapping[str, Any], where: str) -> Part | None:
    kind = part.get("type")
    if kind in ("text", "input_text", "output_text", "refusal"):
        text = part.get("refusal" if kind == "refusal" else "text")
        if not isinstance(text, str):
            raise InvalidRequest(f"{where} must hold text.", param=where)
        return Text(text, _extra(part)) if text else None
    if kind == "image_url":
        return _image(part, where)
    if kind == "file":
        return _file(part, where)
    if kind == "input_audio":
        audio = _mapping(part.get("input_audio"))
        data, form = _string(audio, "data"), _string(audio, "format")
        if not data or not form:
            raise InvalidRequest(f"{where}.input_audio must have data and format.", param=where)
        return Media("audio", where, media_type=f"audio/{form}", data=data, extra=_extra(part))
    raise InvalidRequest(f"{where}.type {shown(str(kind))} has no equivalent here.", param=f"{where}.type")


def _image(part: Mapping[str, Any], where: str) -> Media:
    image = part.get("image_url")
    if isinstance(image, str):
        image = {"url": image}
    url = _string(_mapping(image), "url")
    if not url:
        raise InvalidRequest(f"{where}.image_url must have a url.", param=where)
    detail = _string(_mapping(image), "detail")
    return _located(Media("image", where, detail=detail, extra=_extra(part)), url)


def _file(part: Mapping[str, Any], where: str) -> Media:
    file = _mapping(part.get("file"))
    name = _string(file, "filename")
    found = Media("file", where, name=name, file_id=_string(file, "file_id"), extra=_extra(part))
    if found.file_id:
        return found
    return _located(found, _string(file, "file_data") or _string(file, "file_url"))


def _located(media: Media, url: str) -> Media:
    """The same with its bytes or its address: a data URL is taken apart, an http one is kept."""
    if url[:8].lower().startswith(("http://", "https://")):
        return replace(media, url=url)
    head, comma, data = url.partition(",")
    media_type, _, encoding = head[len("data:") :].partition(";")
    if not (comma and data and head[:5].lower() == "data:" and encoding.lower().endswith("base64")):
        raise InvalidRequest(
            f"{media.where} must be an http URL or a data URL with base64 data.", param=media.where
        )
    media_type = media_type.strip().lower()
    return replace(media, media_type=_IMAGE_TYPES.get(media_type, media_type), data=data)


def _extra(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """The vendor fields beside a part: today only the cache mark has a meaning anywhere."""
    mark = part.get("cache_control")
    return _NO_EXTRA if mark is None else {"cache_control": mark}


def _string(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    return value if isinstance(value, str) else ""


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _mappings(value: object) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
