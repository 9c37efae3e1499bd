"""What a call asks for besides its messages, in a neutral form: tools, choice, format, effort, limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from tokenhub_proxy.calls import Call
from tokenhub_proxy.dialects import Asking
from tokenhub_proxy.errors import InvalidRequest, shown

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

_ANY_OBJECT: Mapping[str, Any] = {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call; `schema` is whole, as the client wrote it."""

    name: str
    description: str
    schema: Mapping[str, Any]
    strict: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`names` are the only functions that may be called; empty means all of them.

    A named function is `required` with one name; OpenAI's `allowed_tools` gives several.
    """

    mode: Literal["auto", "none", "required"]
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Format:
    """The form of the answer: any JSON object, or JSON of this schema."""

    kind: Literal["json_object", "json_schema"]
    name: str = ""
    description: str = ""
    schema: Mapping[str, Any] = field(default_factory=dict)


def read_tools(call: Call) -> tuple[Tool, ...]:
    """The call's tools. Raises InvalidRequest for tools that are no functions."""
    found: list[Tool] = []
    for index, tool in enumerate(call.body.get("tools") or []):
        where = f"tools[{index}]"
        function = tool.get("function")
        if tool.get("type", "function") != "function" or not isinstance(function, Mapping):
            raise InvalidRequest(f"{where} must be a function; no other tools are served.", param=where)
        name, schema = function.get("name"), function.get("parameters")
        if not isinstance(name, str) or not name:
            raise InvalidRequest(f"{where}.function.name must be a non-empty string.", param=where)
        if schema is not None and not isinstance(schema, Mapping):
            raise InvalidRequest(f"{where}.function.parameters must be a JSON schema.", param=where)
        mark = tool.get("cache_control") or function.get("cache_control")
        found.append(
            Tool(
                name,
                str(function.get("description") or ""),
                {"type": "object", **schema} if schema else _ANY_OBJECT,
                strict=function.get("strict") is True,
                extra={"cache_control": mark} if mark is not None else {},
            )
        )
    return tuple(found)


def read_tool_choice(call: Call, tools: tuple[Tool, ...]) -> ToolChoice | None:
    """The call's tool choice, None where it has none. Raises InvalidRequest for an unknown form."""
    given = call.body.get("tool_choice")
    if given is None:
        return None
    choice: ToolChoice | None = None
    if given == "auto" or given == "none" or given == "required":
        choice = ToolChoice(given)
    elif isinstance(given, Mapping) and given.get("type") == "function":
        choice = ToolChoice("required", (_function_name(given),))
    elif isinstance(given, Mapping) and given.get("type") == "allowed_tools":
        allowed = given.get("allowed_tools")
        allowed = allowed if isinstance(allowed, Mapping) else given
        listed, mode = allowed.get("tools"), allowed.get("mode", "auto")
        if isinstance(listed, list) and listed and mode in ("auto", "required"):
            choice = ToolChoice(mode, tuple(_function_name(tool) for tool in listed))
    if choice is None:
        raise InvalidRequest("tool_choice has an unknown form.", param="tool_choice")
    known = {tool.name for tool in tools}
    for name in choice.names:
        if name not in known:
            raise InvalidRequest(f"tool_choice names {shown(name)}, which is no tool.", param="tool_choice")
    if choice.mode == "required" and not tools:
        raise InvalidRequest("tool_choice needs tools.", param="tool_choice")
    return choice


def _function_name(given: object) -> str:
    function = given.get("function") if isinstance(given, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        raise InvalidRequest("tool_choice must name a function.", param="tool_choice")
    return name


def read_format(call: Call) -> Format | None:
    """The form that the call asks for, None for plain text. Raises InvalidRequest for an unknown one."""
    given = call.body.get("response_format")
    if given is None or given == {"type": "text"}:
        return None
    kind = given.get("type") if isinstance(given, Mapping) else None
    if kind == "json_object":
        return Format("json_object")
    described = given.get("json_schema") if kind == "json_schema" else None
    schema = described.get("schema") if isinstance(described, Mapping) else None
    if not isinstance(described, Mapping) or not isinstance(schema, Mapping):
        raise InvalidRequest("response_format has an unknown form.", param="response_format")
    name = described.get("name")
    return Format(
        "json_schema",
        name if isinstance(name, str) else "",
        str(described.get("description") or ""),
        schema,
    )


def read_effort(call: Call) -> Effort | None:
    """How much the model shall reason, None where the call doesn't say. Raises InvalidRequest."""
    given = call.body.get("reasoning_effort")
    if given is None or given in get_args(Effort):
        return given
    raise InvalidRequest(
        f"reasoning_effort must be one of {', '.join(get_args(Effort))}.", param="reasoning_effort"
    )


def read_stops(call: Call) -> tuple[str, ...]:
    """The stop sequences. Raises InvalidRequest for what is neither text nor a list of texts."""
    given = call.body.get("stop")
    listed = [given] if isinstance(given, str) else given or []
    if not isinstance(listed, list) or not all(isinstance(stop, str) for stop in listed):
        raise InvalidRequest("stop must be text or a list of texts.", param="stop")
    return tuple(stop for stop in listed if stop)


def read_number(call: Call, name: str) -> float | None:
    """A number of the body. Raises InvalidRequest for what is none."""
    given = call.body.get(name)
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        raise InvalidRequest(f"{name} must be a number.", param=name)
    return given


def read_integer(call: Call, name: str) -> int | None:
    """A whole number of the body. Raises InvalidRequest for what is none."""
    given = call.body.get(name)
    if given is None:
        return None
    if type(given) is not int:
        raise InvalidRequest(f"{name} must be a whole number.", param=name)
    return given


def output_limit(call: Call, asking: Asking) -> int | None:
    """The most tokens to write: what the hold was made on, else the client's own limit."""
    return asking.output_max if asking.output_max is not None else call.output_max
