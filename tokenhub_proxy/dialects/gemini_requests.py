"""OpenAI chat and embedding requests as bodies for Gemini's generateContent and batchEmbedContents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from tokenhub_proxy.calls import Call
from tokenhub_proxy.dialects import Asking
from tokenhub_proxy.dialects.conversation import (
    Media,
    Text,
    ToolCall,
    ToolResult,
    Turn,
    read_conversation,
)
from tokenhub_proxy.dialects.fields import Losses, sort_fields
from tokenhub_proxy.dialects.gates import Gemini
from tokenhub_proxy.dialects.gemini_fields import EMBEDDING_FIELDS, FIELDS
from tokenhub_proxy.dialects.memory import Memory
from tokenhub_proxy.dialects.replies import parse_object
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
from tokenhub_proxy.dialects.vectors import read_dimensions, read_texts, wants_base64
from tokenhub_proxy.errors import InvalidRequest

# Accepted where a call was made by another model, or by one whose signature is lost.
FOREIGN_SIGNATURE = "skip_thought_signature_validator"
THINKING_BUDGETS: Mapping[Effort, int] = {
    "minimal": 1024, "low": 1024, "medium": 8192, "high": 24_576, "xhigh": 32_768, "max": 32_768,
}  # fmt: skip
_LEVELS = ("minimal", "low", "medium", "high")
_MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY"}
# `const` is said as an enum; these only have words.
UNSUPPORTED_KEYWORDS = frozenset({"exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
_SILENT_KEYWORDS = frozenset({"$schema", "discriminator", "examples"})  # they rule nothing
# The hold was made on these; a client's own generationConfig does not stand over it.
_LIMITS = frozenset({"maxOutputTokens", "max_output_tokens", "candidateCount", "candidate_count"})


def memory_key(tool_call_id: str) -> str:
    """Where the thought signature of a tool call is kept."""
    return f"gemini {tool_call_id}"


def model_path(asking: Asking) -> str:
    """The model's place in the API: `models/…`, whether the config says that part or not."""
    model = asking.target.model
    return f"/{quote(model)}" if "/" in model else f"/models/{quote(model)}"


class Request:
    """One chat call on its way to a body; `losses` tell what did not fit in."""

    def __init__(self, call: Call, asking: Asking, gate: Gemini, memory: Memory) -> None:
        self.losses = Losses(call)
        self._call = call
        self._asking = asking
        self._gate = gate
        self._memory = memory

    def body(self) -> dict[str, Any]:
        """The whole body. Raises InvalidRequest for what can't be said."""
        call = self._call
        sort_fields(call, FIELDS, self.losses)
        conversation = read_conversation(call, self.losses)
        tools = read_tools(call)
        choice = read_tool_choice(call, tools)
        contents = [self._content(turn) for turn in conversation.turns]
        body: dict[str, Any] = {"contents": [content for content in contents if content["parts"]]}
        if conversation.system:
            body["systemInstruction"] = {"parts": list(self._parts(conversation.system))}
        body |= self._tools(tools, choice)
        config = self._own_config() | self._sampling() | self._format(bool(tools)) | self._thinking()
        if config:
            body["generationConfig"] = config
        for ours, theirs in (("safety_settings", "safetySettings"), ("cached_content", "cachedContent")):
            own = call.body.get(theirs, call.body.get(ours))
            if own is not None:
                body[theirs] = own
        return body

    def _content(self, turn: Turn) -> dict[str, Any]:
        role = "user" if turn.role == "user" else "model"
        return {"role": role, "parts": list(self._parts(turn.parts))}

    def _parts(self, parts: Iterable[object]) -> Iterable[dict[str, Any]]:
        """The parts; pictures out of tool results stand after all of the results."""
        shown: list[Media] = []
        first = True
        for part in parts:
            if isinstance(part, (Text, Media, ToolCall, ToolResult)) and part.extra:
                self.losses.drop("cache_control")
            if isinstance(part, Text):
                yield {"text": part.text}
            elif isinstance(part, Media):
                yield self._media(part)
            elif isinstance(part, ToolCall):
                yield self._call_part(part, first)
                first = False
            elif isinstance(part, ToolResult):
                shown += [inner for inner in part.parts if isinstance(inner, Media)]
                answer = parse_object(part.text.encode())
                response = {"output": part.text} if answer is None else answer
                yield {"functionResponse": {"id": part.id, "name": part.name, "response": response}}
        for media in shown:
            yield self._media(media)

    def _call_part(self, call: ToolCall, first: bool) -> dict[str, Any]:
        found: dict[str, Any] = {"functionCall": {"id": call.id, "name": call.name, "args": call.arguments}}
        state = self._memory.get(self._call.owner, memory_key(call.id))
        signature = call.signature or (state.decode() if state is not None else "")
        # Of parallel calls only the first carries a signature.
        if not signature and first and self._gate.signatures:
            signature = FOREIGN_SIGNATURE
        if signature:
            found["thoughtSignature"] = signature
        return found

    def _media(self, media: Media) -> dict[str, Any]:
        if media.file_id:
            raise InvalidRequest("Files are sent as data here, not by id.", param=media.where)
        found: dict[str, Any] = {"inlineData": {"mimeType": media.media_type, "data": media.data}}
        if media.url:
            found = {"fileData": {"fileUri": media.url}}
        elif not media.media_type:
            raise InvalidRequest("The data URL must name its media type.", param=media.where)
        if media.detail in ("low", "high") and self._gate.media_resolution:
            found["mediaResolution"] = {"level": f"MEDIA_RESOLUTION_{media.detail.upper()}"}
        elif media.detail not in ("", "auto"):
            self.losses.drop("image_url.detail")
        return found

    def _tools(self, tools: tuple[Tool, ...], choice: ToolChoice | None) -> dict[str, Any]:
        mode = choice.mode if choice else "auto"
        names = choice.names if choice else ()
        if names and mode == "auto":
            tools = tuple(tool for tool in tools if tool.name in names)
        if not tools:
            return {}
        config: dict[str, Any] = {"mode": _MODES[mode]}
        if names and mode == "required":
            config["allowedFunctionNames"] = list(names)
        strict = [tool.strict for tool in tools]
        if all(strict) and mode == "auto" and self._gate.thinking != "none":
            config["mode"] = "VALIDATED"
        elif any(strict) and mode == "auto":
            self.losses.drop("tools.strict")
        found: dict[str, Any] = {"tools": [{"functionDeclarations": [self._tool(tool) for tool in tools]}]}
        if choice is not None or config["mode"] != "AUTO":
            found["toolConfig"] = {"functionCallingConfig": config}
        return found

    def _tool(self, tool: Tool) -> dict[str, Any]:
        if tool.extra:
            self.losses.drop("cache_control")
        described = {"description": tool.description} if tool.description else {}
        return {
            "name": tool.name,
            **described,
            "parametersJsonSchema": self._schema(tool.schema, "tools"),
        }

    def _schema(self, schema: Mapping[str, Any], field: str) -> dict[str, Any]:
        return adapted(
            schema,
            unsupported=UNSUPPORTED_KEYWORDS,
            silent=_SILENT_KEYWORDS,
            const_as_enum=True,
            moved=lambda keyword: self.losses.drop(f"{field}.{keyword}"),
        )

    def _own_config(self) -> dict[str, Any]:
        """The client's own generationConfig, without what decides over money."""
        own = self._call.body.get("generationConfig", self._call.body.get("generation_config"))
        if own is None:
            return {}
        if not isinstance(own, Mapping):
            raise InvalidRequest("generationConfig must be an object.", param="generationConfig")
        for name in _LIMITS.intersection(own):
            self.losses.drop(f"generationConfig.{name}")
        return {name: value for name, value in own.items() if name not in _LIMITS}

    def _sampling(self) -> dict[str, Any]:
        call = self._call
        logprobs = call.body.get("logprobs") is True
        count = read_integer(call, "n")
        given = {
            "maxOutputTokens": output_limit(call, self._asking),
            "temperature": read_number(call, "temperature"),
            "topP": read_number(call, "top_p"),
            "topK": read_number(call, "top_k"),
            "stopSequences": list(read_stops(call)) or None,
            "candidateCount": count if count != 1 else None,
            "seed": read_integer(call, "seed"),
            "presencePenalty": read_number(call, "presence_penalty"),
            "frequencyPenalty": read_number(call, "frequency_penalty"),
            "responseLogprobs": logprobs or None,
            "logprobs": (read_integer(call, "top_logprobs") or None) if logprobs else None,
        }
        return {name: value for name, value in given.items() if value is not None}

    def _format(self, tools: bool) -> dict[str, Any]:
        wanted = read_format(self._call)
        if wanted is None:
            return {}
        if tools and not self._gate.json_with_tools:
            raise InvalidRequest(
                f"The model {self._call.model!r} can't have a response_format beside tools.",
                param="response_format",
            )
        found: dict[str, Any] = {"responseMimeType": "application/json"}
        if wanted.kind == "json_schema":
            found["responseJsonSchema"] = self._schema(wanted.schema, "response_format")
        return found

    def _thinking(self) -> dict[str, Any]:
        effort, gate = read_effort(self._call), self._gate
        if effort is None:
            return {}
        if gate.thinking == "none":
            if effort != "none":
                self.losses.drop("reasoning_effort")
            return {}
        config: dict[str, Any]
        if gate.thinking == "budget":
            budget = THINKING_BUDGETS.get(effort, 0)
            config = {"thinkingBudget": min(max(budget, gate.budget_min), gate.budget_max)}
            off = gate.budget_min == 0
        else:
            # The nearest level at or above what is asked; these models always think.
            wanted = {"none": "minimal", "xhigh": "high", "max": "high"}.get(effort, effort)
            above = _LEVELS[_LEVELS.index(wanted) :]
            config = {"thinkingLevel": next(level for level in gate.levels if level in above).upper()}
            off = False
        if effort == "none" and not off:
            self.losses.drop("reasoning_effort")
        elif effort != "none":
            config["includeThoughts"] = True
        return {"thinkingConfig": config}


def embedding_body(call: Call, asking: Asking) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The body of batchEmbedContents, one request for each text; and what was dropped."""
    losses = Losses(call)
    sort_fields(call, EMBEDDING_FIELDS, losses)
    wants_base64(call)  # a wrong encoding is refused before anybody works
    dimensions = read_dimensions(call)
    task = call.body.get("taskType", call.body.get("task_type"))
    settings = {"outputDimensionality": dimensions, "taskType": task}
    told = {name: value for name, value in settings.items() if value is not None}
    name = model_path(asking)[1:]
    requests = [{"model": name, "content": {"parts": [{"text": text}]}, **told} for text in read_texts(call)]
    return {"requests": requests}, losses.names()
