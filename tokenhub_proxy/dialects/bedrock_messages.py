"""The turns of a conversation as Converse's content blocks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import orjson

from tokenhub_proxy.dialects.anthropic_requests import SIGNATURE_FORMAT
from tokenhub_proxy.dialects.conversation import Media, Part, Text, Thinking, ToolCall, ToolResult, Turn
from tokenhub_proxy.dialects.fields import Losses
from tokenhub_proxy.dialects.gates import Family
from tokenhub_proxy.dialects.memory import Memory
from tokenhub_proxy.errors import InvalidRequest

IMAGE_FORMATS = {"image/png": "png", "image/jpeg": "jpeg", "image/gif": "gif", "image/webp": "webp"}
DOCUMENT_FORMATS = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
}
# What Bedrock takes as the id of a tool call; other upstreams' ids may hold more.
_TOOL_ID = re.compile(r"[a-zA-Z0-9_.:-]{1,64}")


def memory_key(tool_call_id: str) -> str:
    """Where the reasoning before a tool call is kept."""
    return f"bedrock {tool_call_id}"


def tool_id(id: str) -> str:
    """A tool call's id as Bedrock takes it: itself where possible, the same other one every time."""
    return id if _TOOL_ID.fullmatch(id) else "call_" + sha256(id.encode()).hexdigest()[:40]


class Blocks:
    """Says the turns of one call to one family of models; what is lost goes to `losses`."""

    def __init__(self, owner: str, family: Family, memory: Memory, losses: Losses) -> None:
        self._owner = owner
        self._family = family
        self._memory = memory
        self._losses = losses
        self._documents = 0

    def content(self, turn: Turn) -> list[dict[str, Any]]:
        """The blocks of a turn. Raises InvalidRequest for what the model doesn't take."""
        results = [part for part in turn.parts if isinstance(part, ToolResult)]
        if self._family.results_alone and results and len(results) < len(turn.parts):
            raise InvalidRequest(
                "This model takes nothing beside a tool's result: let it answer first.", param="messages"
            )
        opening, later = self._thoughts(turn)
        blocks = [*opening]
        for part in turn.parts:
            if isinstance(part, ToolCall):
                blocks += later.get(part.id, ())
            blocks += self._blocks(part)
        return blocks

    def _thoughts(self, turn: Turn) -> tuple[list[Any], dict[str, list[Any]]]:
        """The reasoning of a turn: what opens it, and what stood before its later calls.

        What this process remembers is exact; what a client sends back is the next best.
        """
        groups: dict[str, list[Any]] = {}
        if turn.role == "user" or self._family.reasoning_back == "none":
            return [], groups
        for part in turn.parts:
            if isinstance(part, ToolCall):
                state = self._memory.get(self._owner, memory_key(part.id))
                if state is not None:
                    groups[part.id] = orjson.loads(state)
        if groups:
            return groups.pop(next(iter(groups))), groups
        echoed = (self._thinking_block(part) for part in turn.parts if isinstance(part, Thinking))
        return [block for block in echoed if block is not None], groups

    def _thinking_block(self, part: Thinking) -> dict[str, Any] | None:
        if part.format not in ("", SIGNATURE_FORMAT):
            return None
        if self._family.reasoning_back == "text":
            return {"reasoningContent": {"reasoningText": {"text": part.text}}} if part.text else None
        if part.redacted:
            return {"reasoningContent": {"redactedContent": part.redacted}}
        if part.signature:
            said = {"text": part.text, "signature": part.signature}
            return {"reasoningContent": {"reasoningText": said}}
        return None

    def _blocks(self, part: Part) -> list[dict[str, Any]]:
        if isinstance(part, Text):
            return self.text(part)
        if isinstance(part, Media):
            return [self._media(part), *self.cache_point(part.extra)]
        if isinstance(part, ToolCall):
            call = {"toolUseId": tool_id(part.id), "name": part.name, "input": part.arguments}
            return [{"toolUse": call}, *self.cache_point(part.extra)]
        if isinstance(part, ToolResult):
            marks = [part.extra, *(inner.extra for inner in part.parts)]
            content = [block for inner in part.parts for block in self._result(inner)]
            result = {"toolUseId": tool_id(part.id), "content": content}
            marked = next((mark for mark in marks if mark), {})
            return [{"toolResult": result}, *self.cache_point(marked)]
        return []

    def _result(self, part: Text | Media) -> list[dict[str, Any]]:
        """Inside a result: blank texts are refused there too, and cache points stand behind it."""
        if isinstance(part, Text):
            return [{"text": part.text}] if part.text.strip() else []
        return [self._media(part)]

    def text(self, part: Text) -> list[dict[str, Any]]:
        """The blocks of a text; none for a blank one, which Bedrock refuses."""
        return [{"text": part.text}, *self.cache_point(part.extra)] if part.text.strip() else []

    def cache_point(self, extra: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The block behind a part that bears a cache mark."""
        mark = extra.get("cache_control")
        if mark is None:
            return []
        if not self._family.cache:
            self._losses.drop("cache_control")
            return []
        ttl = mark.get("ttl") if isinstance(mark, Mapping) else None
        return [{"cachePoint": {"type": "default"} | ({"ttl": ttl} if ttl in ("5m", "1h") else {})}]

    def _media(self, media: Media) -> dict[str, Any]:
        if media.detail not in ("", "auto"):
            self._losses.drop("image_url.detail")
        if media.url:
            raise InvalidRequest(
                "Bedrock fetches nothing, and neither do we: send the bytes, as a data URL.",
                param=media.where,
            )
        if media.file_id:
            raise InvalidRequest("Files are sent as data here, not by id.", param=media.where)
        source = {"bytes": media.data}
        if media.kind == "image":
            form = IMAGE_FORMATS.get(media.media_type)
            if form is None:
                raise InvalidRequest(f"Images must be one of {', '.join(IMAGE_FORMATS)}.", param=media.where)
            return {"image": {"format": form, "source": source}}
        form = DOCUMENT_FORMATS.get(media.media_type)
        if media.kind == "audio" or form is None:
            raise InvalidRequest(
                f"Files must be one of {', '.join(DOCUMENT_FORMATS.values())}; no audio.", param=media.where
            )
        # Names of files may be refused, and may carry instructions to the model: they are numbered.
        self._documents += 1
        return {"document": {"format": form, "name": f"Document {self._documents}", "source": source}}
