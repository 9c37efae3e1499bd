"""OpenAI chat requests as Anthropic Messages bodies (API version 2023-06-01)."""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from tokenhub_proxy.calls import Call
from tokenhub_proxy.dialects import Asking
from tokenhub_proxy.dialects.anthropic_fields import FIELDS
from tokenhub_proxy.dialects.conversation import (
    Conversation,
    Media,
    Part,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Turn,
    read_conversation,
)
from tokenhub_proxy.dialects.fields import Losses, sort_fields
from tokenhub_proxy.dialects.formats import JSON_HINT, UNSUPPORTED_KEYWORDS, format_tool
from tokenhub_proxy.dialects.gates import Claude
from tokenhub_proxy.dialects.memory import Memory
from tokenhub_proxy.dialects.schemas import adapted
from tokenhub_proxy.dialects.settings import (
    Format,
    Tool,
    ToolChoice,
    output_limit,
    read_effort,
    read_format,
    read_number,
    read_stops,
    read_tool_choice,
    read_tools,
)
from tokenhub_proxy.dialects.thinking import choose_thinking, fit_sampling, thinks
from tokenhub_proxy.errors import InvalidRequest

# Where nobody states a limit, neither the client nor the config: Anthropic demands one, and every
# model takes this much.
OUTPUT_DEFAULT = 4096
IMAGE_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")
# The signature format that OpenRouter's clients know, in what clients may send back.
SIGNATURE_FORMAT = "anthropic-claude-v1"


def memory_key(tool_call_id: str) -> str:
    """Where the thinking before a tool call is kept."""
    return f"anthropic {tool_call_id}"


class Request:
    """One chat call on its way to a body; `losses` tell what did not fit in."""

    def __init__(self, call: Call, asking: Asking, gate: Claude, memory: Memory) -> None:
        self.losses = Losses(call)
        self._call = call
        self._asking = asking
        self._gate = gate
        self._memory = memory
        self._limit = output_limit(call, asking) or asking.output_default or OUTPUT_DEFAULT
        self._body: dict[str, Any] = {}

    def body(self) -> dict[str, Any]:
        """The whole body. Raises InvalidRequest for what can't be said."""
        call = self._call
        passed = sort_fields(call, FIELDS, self.losses)
        conversation = read_conversation(call, self.losses)
        tools = read_tools(call)
        choice = read_tool_choice(call, tools)
        self._body = {"model": self._asking.target.model, "max_tokens": self._limit, "messages": []}
        if "cache_control" in passed:
            self._body["cache_control"] = passed["cache_control"]
        hints = self._add_format()
        self._add_tools(tools, choice)
        self._add_thinking(passed.get("thinking"), conversation)
        self._add_sampling(passed.get("top_k"))
        self._add_rest()
        system = [block for text in conversation.system for block in self._user_blocks(text)] + hints
        if system:
            self._body["system"] = system
        messages = [{"role": turn.role, "content": self._blocks(turn)} for turn in conversation.turns]
        self._body["messages"] = [message for message in messages if message["content"]]
        return self._body

    def _add_format(self) -> list[dict[str, Any]]:
        """The response format; returns what the system must say in its place."""
        wanted = read_format(self._call)
        if wanted is None:
            return []
        if wanted.kind == "json_object":
            self.losses.drop("response_format")
            return [{"type": "text", "text": JSON_HINT}]
        if self._gate.json_schema:
            form = {"type": "json_schema", "schema": self._strict(wanted.schema, "response_format")}
            self._body["output_config"] = {"format": form}
        elif wanted.schema.get("type") != "object":
            raise InvalidRequest("The schema of response_format must be an object.", param="response_format")
        return []

    def _add_tools(self, tools: tuple[Tool, ...], choice: ToolChoice | None) -> None:
        name = format_tool(self._call, json_schema=self._gate.json_schema)
        mode = choice.mode if choice else "auto"
        names = choice.names if choice else ()
        if len(names) != 1 or mode != "required":
            tools = tuple(tool for tool in tools if not names or tool.name in names)
            names = ()
        offered = [self._tool(tool) for tool in tools]
        if name is not None:
            # The answer itself is a call then: beside other tools any of them must be called.
            wanted = read_format(self._call) or Format("json_schema")
            described = wanted.description or "Give the answer with this tool."
            offered.append({"name": name, "description": described, "input_schema": dict(wanted.schema)})
            if not tools or mode == "none":
                names = (name,)
            mode = "required"
        if not offered:
            return
        self._body["tools"] = offered
        if mode == "required" and not self._gate.forced_tools:
            self.losses.drop("tool_choice")
            if names:  # the nearest that the model takes: nothing else to choose
                self._body["tools"] = [tool for tool in offered if tool["name"] in names]
            mode, names = "auto", ()
        chosen: dict[str, Any] = {"type": {"auto": "auto", "none": "none", "required": "any"}[mode]}
        if names:
            chosen = {"type": "tool", "name": names[0]}
        alone = self._call.body.get("parallel_tool_calls") is False
        if alone and mode != "none":
            chosen["disable_parallel_tool_use"] = True
        if choice is not None or alone or mode != "auto":
            self._body["tool_choice"] = chosen

    def _tool(self, tool: Tool) -> dict[str, Any]:
        found: dict[str, Any] = {"name": tool.name, "input_schema": dict(tool.schema)}
        if tool.description:
            found["description"] = tool.description
        if tool.strict and self._gate.json_schema:
            found |= {"strict": True, "input_schema": self._strict(tool.schema, "tools")}
        elif tool.strict:
            self.losses.drop("tools.strict")
        return found | dict(tool.extra)

    def _strict(self, schema: Mapping[str, Any], field: str) -> dict[str, Any]:
        return adapted(
            schema,
            unsupported=UNSUPPORTED_KEYWORDS,
            closed=True,
            moved=lambda keyword: self.losses.drop(f"{field}.{keyword}"),
        )

    def _add_thinking(self, own: Any, conversation: Conversation) -> None:
        """Anthropic's own `thinking` as the client wrote it, else what the effort means here."""
        effort = read_effort(self._call)
        if own is not None and not isinstance(own, Mapping):
            raise InvalidRequest("thinking must be an object.", param="thinking")
        if own is not None and effort is not None:
            self.losses.drop("reasoning_effort")
        thinking, name = choose_thinking(
            own,
            effort,
            self._gate,
            self._limit,
            self.losses,
            takes_budget=lambda: not self._forced() and self._replayable(conversation),
        )
        if thinking is not None:
            self._body["thinking"] = thinking
        if name is not None:
            self._body["output_config"] = {**self._body.get("output_config", {}), "effort": name}

    def _forced(self) -> bool:
        return self._body.get("tool_choice", {}).get("type") in ("any", "tool")

    def _replayable(self, conversation: Conversation) -> bool:
        """Whether the tool loop that is open, if one is, began with thinking that we still have."""
        opening: Turn | None = None
        for turn in reversed(conversation.turns):
            if turn.role == "user" and not all(isinstance(part, ToolResult) for part in turn.parts):
                break
            opening = turn if turn.role == "assistant" else opening
        return opening is None or bool(self._thoughts(opening)[0])

    def _thoughts(self, turn: Turn) -> tuple[list[Any], dict[str, list[Any]]]:
        """The thinking blocks of a turn: those that open it, and those before its later calls.

        What this process remembers is exact; what a client sends back is the next best.
        """
        groups: dict[str, list[Any]] = {}
        for part in turn.parts:
            state = (
                self._memory.get(self._call.owner, memory_key(part.id))
                if isinstance(part, ToolCall)
                else None
            )
            if state is not None and isinstance(part, ToolCall):
                groups[part.id] = orjson.loads(state)
        if groups:
            return groups.pop(next(iter(groups))), groups
        echoed = (part for part in turn.parts if isinstance(part, Thinking))
        return [block for part in echoed if (block := _thinking_block(part)) is not None], {}

    def _blocks(self, turn: Turn) -> list[dict[str, Any]]:
        if turn.role == "user":
            return [block for part in turn.parts for block in self._user_blocks(part)]
        opening, later = self._thoughts(turn)
        blocks = [*opening]
        for part in turn.parts:
            if isinstance(part, ToolCall):
                blocks += later.get(part.id, ())
                call = {"type": "tool_use", "id": part.id, "name": part.name, "input": part.arguments}
                blocks.append(call | dict(part.extra))
            elif not isinstance(part, Thinking):
                blocks += self._user_blocks(part)
        return blocks

    def _user_blocks(self, part: Part) -> Sequence[dict[str, Any]]:
        if isinstance(part, Text):
            # Blank texts are refused, and say nothing.
            return ({"type": "text", "text": part.text, **part.extra},) if part.text.strip() else ()
        if isinstance(part, Media):
            return (self._media(part),)
        if isinstance(part, ToolResult):
            found: dict[str, Any] = {"type": "tool_result", "tool_use_id": part.id}
            content = [block for inner in part.parts for block in self._user_blocks(inner)]
            if content:
                found["content"] = content
            return (found | dict(part.extra),)
        return ()

    def _media(self, media: Media) -> dict[str, Any]:
        if media.detail not in ("", "auto"):
            self.losses.drop("image_url.detail")
        if media.file_id:
            raise InvalidRequest("Files are sent as data here, not by id.", param=media.where)
        source: dict[str, Any] = {"type": "base64", "media_type": media.media_type, "data": media.data}
        if media.url:
            source = {"type": "url", "url": media.url}
        if media.kind == "image":
            if not media.url and media.media_type not in IMAGE_TYPES:
                raise InvalidRequest(f"Images must be one of {', '.join(IMAGE_TYPES)}.", param=media.where)
            return {"type": "image", "source": source, **media.extra}
        if media.kind == "audio":
            raise InvalidRequest("The upstream takes no audio.", param=media.where)
        if not media.url and media.media_type.startswith("text/"):
            source = {"type": "text", "media_type": "text/plain", "data": _decoded(media)}
        elif not media.url and media.media_type != "application/pdf":
            raise InvalidRequest("Files must be PDF or text.", param=media.where)
        titled = {"title": media.name} if media.name else {}
        return {"type": "document", "source": source, **titled, **media.extra}

    def _add_sampling(self, top_k: Any) -> None:
        gate, thinking = self._gate, thinks(self._body.get("thinking"))
        temperature, top_p = read_number(self._call, "temperature"), read_number(self._call, "top_p")
        if temperature is not None and temperature > 1:
            self.losses.drop("temperature")
            temperature = 1
        temperature, top_p = fit_sampling(temperature, top_p, gate, thinking, self.losses)
        if top_k is not None and (not gate.sampling or thinking):
            self.losses.drop("top_k")
            top_k = None
        given = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
        self._body |= {name: value for name, value in given.items() if value is not None}

    def _add_rest(self) -> None:
        body = self._call.body
        stops = read_stops(self._call)
        told = [stop for stop in stops if stop.strip()]
        if len(told) < len(stops):
            self.losses.drop("stop")
        if told:
            self._body["stop_sequences"] = told
        metadata = body.get("metadata")
        metadata = metadata if isinstance(metadata, Mapping) else {}
        user = body.get("user") or body.get("safety_identifier") or metadata.get("user_id")
        if user:
            self._body["metadata"] = {"user_id": str(user)}
        if set(metadata) - {"user_id"}:
            self.losses.drop("metadata")
        tier = {"auto": "auto", "default": "standard_only", "standard_only": "standard_only"}.get(
            str(body.get("service_tier"))
        )
        if tier is not None:
            self._body["service_tier"] = tier
        elif body.get("service_tier") is not None:
            self.losses.drop("service_tier")
        if self._call.stream:
            self._body["stream"] = True


def _thinking_block(part: Thinking) -> dict[str, Any] | None:
    """The block that a client sent back, or None for reasoning that Anthropic did not sign."""
    if part.format not in ("", SIGNATURE_FORMAT):
        return None
    if part.redacted:
        return {"type": "redacted_thinking", "data": part.redacted}
    if part.signature:
        return {"type": "thinking", "thinking": part.text, "signature": part.signature}
    return None


def _decoded(media: Media) -> str:
    try:
        return b64decode(media.data, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise InvalidRequest("The file is no base64 of UTF-8 text.", param=media.where) from None
