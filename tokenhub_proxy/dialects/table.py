"""The page that tells what becomes of each request field at each dialect, made from what the code obeys."""

from __future__ import annotations

from collections.abc import Mapping

from tokenhub_proxy.dialects import anthropic_fields, bedrock_fields, gemini_fields, quirks
from tokenhub_proxy.dialects.checks import quirk_names
from tokenhub_proxy.dialects.fields import Fate

TABLES: Mapping[str, Mapping[str, Fate]] = {
    "anthropic": anthropic_fields.FIELDS,
    "bedrock": bedrock_fields.FIELDS,
    "gemini": gemini_fields.FIELDS,
    "bedrock, embeddings": bedrock_fields.EMBEDDING_FIELDS,
    "gemini, embeddings": gemini_fields.EMBEDDING_FIELDS,
}


def _names(dialect: str) -> str:
    return ", ".join(f"`{name}`" for name in quirk_names(dialect))


_HEAD = f"""\
# Dialects: what becomes of each field

Made from the code by `scripts/docs_dialects`; a test keeps the two equal.

- **mapped**: said in the upstream's own words.
- **passed**: sent as it is.
- **dropped**: left out, and named in the answer's header `x-tokenhub-dropped`; with the request
  header `x-tokenhub-strict: 1` the call is a 400 instead.
- **refused**: a 400 that names the field.

A field that is null, or has the value in brackets, asks for nothing and is never reported. Fields
that a table does not name are dropped and reported.

The openai and azure dialects relay a request as it is, but for the model's name and for what the
upstreams of the last table are known to take otherwise; fields that it does not name are sent on.

What single models take differs; the gates are data with the date {quirks.AS_OF}, and `quirks` in an
upstream's row of the config stands over them. It may set, at

- openai and azure: `like`, the name of a row of the last table, and {_names("openai")};
- anthropic: {_names("anthropic")};
- gemini: {_names("gemini")};
- bedrock: {_names("bedrock")}.

Some upstreams refuse the second turn of a tool loop without the reasoning that came with the tool
calls, and a plain client does not send it back. It is kept in memory for the account and put back:
the signed thinking of anthropic, gemini and bedrock, and the field that a row's `keeps` names.
What a client sends back in that field itself stands.
"""


def page() -> str:
    """The whole page in Markdown."""
    parts = [_HEAD]
    for title, fields in TABLES.items():
        parts.append(f"\n## {title}\n\n| field | fate | how |\n|---|---|---|\n")
        for name, fate in fields.items():
            neutral = "".join(f" [`{value}`]" for value in fate.neutral)
            parts.append(f"| `{name}` | {fate.kind} | {fate.note}{neutral} |\n")
    return "".join(parts) + _quirks()


def _quirks() -> str:
    """What OpenAI-compatible upstreams take otherwise, a row for each and for the models that differ."""
    parts = [f"\n## openai and azure: upstreams that differ, as of {quirks.AS_OF}\n"]
    parts.append("\n| upstream or model | what it takes otherwise |\n|---|---|\n")
    for name, row in quirks.ROWS.items():
        facts = {fact: value for fact, value in row.items() if fact != "models"}
        parts.append(f"| **{name}** | {_facts(facts)} |\n")
        parts += [
            f"| {name}: `{pattern}` | {_facts(laid_over)} |\n" for pattern, laid_over in row.get("models", ())
        ]
    return "".join(parts)


def _facts(facts: Mapping[str, object]) -> str:
    return "; ".join(f"{fact}: {_said(value)}" for fact, value in facts.items())


def _said(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} → {_said(inner)}" for name, inner in value.items())
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "nothing"
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)
