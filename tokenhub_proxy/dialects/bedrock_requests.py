"""OpenAI chat requests as bodies of Bedrock's Converse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from tokenhub_proxy.calls import Call
from tokenhub_proxy.dialects import Asking
from tokenhub_proxy.dialects.bedrock_fields import FIELDS
from tokenhub_proxy.dialects.bedrock_messages import Blocks
from tokenhub_proxy.dialects.conversation import Conversation, ToolCall, read_conversation
from tokenhub_proxy.dialects.fields import Losses, sort_fields
from tokenhub_proxy.dialects.formats import JSON_HINT, UNSUPPORTED_KEYWORDS, format_tool
from tokenhub_proxy.dialects.gates import Claude, Family
from tokenhub_proxy.dialects.memory import Memory
from tokenhub_proxy.dialects.schemas import adapted
from tokenhub_proxy.dialects.settings import (
    Effort,
    Tool,
    ToolChoice,
    output_limit,
    read_effort,
    read_format,
    read_integer,
    read_number,
    read_stops,
    read_tool_choice,
    read_tools,
)
from tokenhub_proxy.dialects.thinking import choose_thinking, fit_sampling, thinks
from tokenhub_proxy.errors import InvalidRequest

SERVICE_TIERS = ("default", "priority", "flex", "reserved")
_NOVA_EFFORTS: Mapping[Effort, str] = {
    "minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high",
}  # fmt: skip
_QWEN_EFFORTS: Mapping[Effort, str] = {
    "minimal": "low", "low": "low", "medium": "high", "high": "high", "xhigh": "high", "max": "high",
}  # fmt: skip


class Request:
    """One chat call on its way to a body; `losses` tell what did not fit in."""

    def __init__(self, call: Call, asking: Asking, family: Family, memory: Memory) -> None:
        self.losses = Losses(call)
        self._call = call
        self._family = family
        self._blocks = Blocks(call.owner, family, memory, self.losses)
        self._limit = output_limit(call, asking)
        self._output_default = asking.output_default
        self._body: dict[str, Any] = {}
        self._inference: dict[str, Any] = {}
        self._additional: dict[str, Any] = {}

    def body(self) -> dict[str, Any]:
        """The whole body. Raises InvalidRequest for what can't be said."""
        self._body = sort_fields(self._call, FIELDS, self.losses)
        conversation = read_conversation(self._call, self.losses)
        tools = read_tools(self._call)
        choice = read_tool_choice(self._call, tools)
        messages = [{"role": turn.role, "content": self._blocks.content(turn)} for turn in conversation.turns]
        self._body["messages"] = [message for message in messages if message["content"]]
        hints = self._add_format()
        self._add_tools(tools, choice, conversation)
        self._add_reasoning(conversation)
        self._add_sampling()
        self._add_rest()
        system = [block for text in conversation.system for block in self._blocks.text(text)] + hints
        if system:
            self._body["system"] = system
        if self._inference:
            self._body["inferenceConfig"] = self._inference
        own = self._call.body.get("additionalModelRequestFields") or {}
        if not isinstance(own, Mapping):
            raise InvalidRequest(
                "additionalModelRequestFields must be an object.", param="additionalModelRequestFields"
            )
        if self._additional or own:
            self._body["additionalModelRequestFields"] = {**self._additional, **own}
        return self._body

    def _add_format(self) -> list[dict[str, Any]]:
        """The response format; returns what the system must say in its place."""
        wanted = read_format(self._call)
        if wanted is None:
            return []
        if wanted.kind == "json_object":
            self.losses.drop("response_format")
            return [{"text": JSON_HINT}]
        if self._family.json_schema:
            schema = self._strict(wanted.schema, "response_format")
            described = {"description": wanted.description} if wanted.description else {}
            form = {"name": wanted.name or "answer", "schema": orjson.dumps(schema).decode(), **described}
            self._body["outputConfig"] = {
                "textFormat": {"type": "json_schema", "structure": {"jsonSchema": form}}
            }
        elif "any" not in self._family.choices or wanted.schema.get("type") != "object":
            raise InvalidRequest("This model has no structured output of that form.", param="response_format")
        return []

    def _add_tools(
        self, tools: tuple[Tool, ...], choice: ToolChoice | None, conversation: Conversation
    ) -> None:
        mode = choice.mode if choice else "auto"
        names = choice.names if choice else ()
        used = _tools_used(conversation)
        if len(names) == 1 and mode == "required" and "tool" in self._family.choices:
            chosen: dict[str, Any] = {"tool": {"name": names[0]}}
        else:
            # Of several that are allowed, or one that can't be named, the others are left out.
            tools = tuple(tool for tool in tools if not names or tool.name in names)
            chosen = {"any": {}} if mode == "required" else {"auto": {}}
        if mode == "none":
            # Nothing says it; without tools there is nothing to choose, but calls of the past need some.
            if used and tools:
                self.losses.drop("tool_choice")
            tools = () if not used else tools
        offered = [block for tool in tools for block in self._tool(tool)]
        form = format_tool(self._call, json_schema=self._family.json_schema)
        if form is not None:
            wanted = read_format(self._call)
            assert wanted is not None
            described = wanted.description or "Give the answer with this tool."
            offered.append(_specified(form, described, wanted.schema))
            alone = not tools or mode == "none"
            chosen = {"tool": {"name": form}} if alone and "tool" in self._family.choices else {"any": {}}
        elif not offered:
            # Bedrock refuses calls of the past without any tools of today.
            offered = [_specified(name, name, {"type": "object", "properties": {}}) for name in used]
        if not offered:
            return
        self._body["toolConfig"] = {"tools": offered}
        kind = next(iter(chosen))
        if kind in self._family.choices and (kind != "auto" or (choice is not None and mode == "auto")):
            self._body["toolConfig"]["toolChoice"] = chosen
        elif kind not in self._family.choices and kind != "auto":
            self.losses.drop("tool_choice")
        if self._forced() and self._family.claude is not None and not self._family.claude.forced_tools:
            self.losses.drop("tool_choice")
            del self._body["toolConfig"]["toolChoice"]

    def _tool(self, tool: Tool) -> list[dict[str, Any]]:
        schema: Mapping[str, Any] = tool.schema
        if tool.strict and self._family.json_schema:
            schema = self._strict(tool.schema, "tools")
        elif tool.strict:
            self.losses.drop("tools.strict")
        # A description is required to say something.
        spec = _specified(tool.name, tool.description if tool.description.strip() else tool.name, schema)
        if tool.strict and self._family.json_schema:
            spec["toolSpec"]["strict"] = True
        return [spec, *self._blocks.cache_point(tool.extra)]

    def _strict(self, schema: Mapping[str, Any], field: str) -> dict[str, Any]:
        return adapted(
            schema,
            unsupported=UNSUPPORTED_KEYWORDS,
            closed=True,
            moved=lambda keyword: self.losses.drop(f"{field}.{keyword}"),
        )

    def _forced(self) -> bool:
        return not self._body.get("toolConfig", {}).get("toolChoice", {}).keys().isdisjoint(("any", "tool"))

    def _add_reasoning(self, conversation: Conversation) -> None:
        """Anthropic's own `thinking` as the client wrote it, else what the effort means to the family."""
        effort, own = read_effort(self._call), self._call.body.get("thinking")
        kind = self._family.reasoning
        if own is not None and not isinstance(own, Mapping):
            raise InvalidRequest("thinking must be an object.", param="thinking")
        if own is not None and (effort is not None or kind != "claude"):
            self.losses.drop("reasoning_effort" if kind == "claude" else "thinking")
        if kind == "claude":
            self._add_thinking(own, effort, conversation)
        elif effort is None or (effort == "none" and kind != "effort"):
            return
        elif kind == "effort":
            self._additional["reasoning_effort"] = {"minimal": "low", "xhigh": "high", "max": "high"}.get(
                effort, effort
            )
        elif kind == "qwen":
            self._additional["reasoning_config"] = _QWEN_EFFORTS[effort]
        elif kind == "nova":
            self._additional["reasoningConfig"] = {
                "type": "enabled", "maxReasoningEffort": _NOVA_EFFORTS[effort],
            }  # fmt: skip
        else:
            self.losses.drop("reasoning_effort")

    def _add_thinking(
        self, own: Mapping[str, Any] | None, effort: Effort | None, conversation: Conversation
    ) -> None:
        limit = self._limit or self._output_default or 0
        thinking, name = choose_thinking(
            own,
            effort,
            self._family.claude or Claude(thinking="none"),
            limit,
            self.losses,
            takes_budget=lambda: not self._forced() and _replayable(self._body["messages"]),
        )
        if thinking is None:
            return
        self._additional["thinking"] = thinking
        if name is not None:
            self._additional["output_config"] = {"effort": name}
        if own is None and thinking["type"] == "enabled":
            self._limit = limit  # a budget must stay below the limit, so that one is stated

    def _add_sampling(self) -> None:
        claude = self._family.claude
        thinking = thinks(self._additional.get("thinking"))
        temperature, top_p = read_number(self._call, "temperature"), read_number(self._call, "top_p")
        top_k = read_integer(self._call, "top_k")
        if temperature is not None and temperature > 1:
            self.losses.drop("temperature")
            temperature = 1
        if claude is not None:
            temperature, top_p = fit_sampling(temperature, top_p, claude, thinking, self.losses)
        if top_k is not None and (
            not self._family.top_k or (claude is not None and (thinking or not claude.sampling))
        ):
            self.losses.drop("top_k")
        elif top_k is not None:
            *path, name = self._family.top_k
            holder = self._additional
            for step in path:
                holder = holder.setdefault(step, {})
            holder[name] = top_k
        given = {"maxTokens": self._limit, "temperature": temperature, "topP": top_p}
        self._inference = {name: value for name, value in given.items() if value is not None}

    def _add_rest(self) -> None:
        stops = read_stops(self._call)
        told = [stop for stop in stops if stop.strip()]
        if len(told) < len(stops):
            self.losses.drop("stop")
        if told:
            self._inference["stopSequences"] = told
        tier = self._call.body.get("service_tier")
        if tier in SERVICE_TIERS:
            self._body["serviceTier"] = {"type": tier}
        elif tier not in (None, "auto"):
            self.losses.drop("service_tier")
        if self._call.body.get("cache_control") is not None:
            self._mark_all()

    def _mark_all(self) -> None:
        """A mark on the whole request means its longest prefix: all that the messages hold."""
        point = self._blocks.cache_point({"cache_control": self._call.body["cache_control"]})
        messages = self._body["messages"]
        if point and messages and "cachePoint" not in messages[-1]["content"][-1]:
            messages[-1]["content"] += point


def _specified(name: str, description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    spec = {"name": name, "description": description, "inputSchema": {"json": dict(schema)}}
    return {"toolSpec": spec}


def _tools_used(conversation: Conversation) -> list[str]:
    """The names of the tools that were called in the conversation, in their order."""
    calls = (part for turn in conversation.turns for part in turn.parts if isinstance(part, ToolCall))
    return list(dict.fromkeys(call.name for call in calls))


def _replayable(messages: list[dict[str, Any]]) -> bool:
    """Whether the tool loop that is open, if one is, began with reasoning that we still have."""
    opening = None
    for message in reversed(messages):
        if message["role"] == "user" and not all(
            "toolResult" in block or "cachePoint" in block for block in message["content"]
        ):
            break
        opening = message if message["role"] == "assistant" else opening
    return opening is None or "reasoningContent" in opening["content"][0]
