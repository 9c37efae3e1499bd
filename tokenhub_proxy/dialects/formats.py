"""Structured answers at upstreams that know a part of them: a hint, a forced tool, a schema's words."""

from __future__ import annotations

from tokenhub_proxy.calls import Call
from tokenhub_proxy.dialects.settings import read_format, read_tools

JSON_HINT = "Answer with one JSON object and nothing else."

# What Claude's structured output knows no rule for, wherever it is served; the model is told in words.
UNSUPPORTED_KEYWORDS = frozenset(
    {
        "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
        "minLength", "maxLength", "maxItems",
    }
)  # fmt: skip


def format_tool(call: Call, *, json_schema: bool) -> str | None:
    """The name of the tool that stands for the response format; None where `json_schema` is native."""
    wanted = read_format(call)
    if wanted is None or wanted.kind != "json_schema" or json_schema:
        return None
    name = "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in wanted.name)
    name = name[:60] or "answer"
    taken = {tool.name for tool in read_tools(call)}
    while name in taken:
        name += "_"
    return name
