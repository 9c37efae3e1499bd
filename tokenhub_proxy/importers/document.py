"""A draft as the text of a config, and its findings as people read them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokenhub_proxy.importers import Draft, DraftModel
from tokenhub_proxy.prices import format_usd

# What YAML reads as a text without quotes, whatever stands around it; the rest is quoted.
_PLAIN = re.compile(
    r"(?!(?:true|false|yes|no|on|off|null|y|n)$)[A-Za-z][\w./-]*(?::[\w./-]+)*", re.IGNORECASE
)
_URL = re.compile(r"https?://[\w.:/\[\]-]+")
_HEADINGS = {
    "lost": "Not carried over",
    "changed": "Carried over as something else: look at these",
    "unneeded": "Not needed here",
}


def config_text(draft: Draft) -> str:
    """The config in YAML; what has to be done besides stands in comments."""
    lines = [
        f"# Read from {draft.source} by `tokenhub-proxy import`, whose report tells what is missing.",
        "",
        "upstreams:" if draft.upstreams else "upstreams: {}",
    ]
    for name, options in draft.upstreams.items():
        lines.append(f"  {_text(name)}: {_flow(options)}")
    lines += [
        "",
        "models:" if any(model.price is not None for model in draft.models.values()) else "models: {}",
    ]
    for name, model in draft.models.items():
        lines += _model(name, model)
    if draft.accounts:
        lines += ["", "accounts:"]
        lines += [f"  {_text(name)}: {{balance: {balance}}}" for name, balance in draft.accounts.items()]
    if draft.commands:
        lines += ["", "# Run these once; each key's secret is shown that one time:"]
        lines += [f"#   {command}" for command in draft.commands]
    return "\n".join(lines) + "\n"


def _model(name: str, model: DraftModel) -> Iterator[str]:
    """A model's lines; commented out where it has no price."""
    mark = "  " if model.price is not None else "  # "
    if model.price is None:
        yield f"  # {_text(name)} has no price; give it one and take the # away:"
    yield f"{mark}{_text(name)}:"
    if model.description:
        yield f"{mark}  description: {_text(model.description)}"
    yield f"{mark}  targets:"
    for target in sorted(model.targets, key=lambda target: target.priority):
        options: dict[str, Any] = {"upstream": target.upstream}
        if target.model != name:
            options["model"] = target.model
        if target.weight != 1:
            options["weight"] = target.weight
        if target.priority != 1:
            options["priority"] = target.priority
        yield f"{mark}    - {_flow(options)}"
    yield f"{mark}  price: {_price(model)}"
    for option, limit in (
        ("context_length", model.context_length),
        ("max_output_tokens", model.output_max),
    ):
        if limit is not None:
            yield f"{mark}  {option}: {limit}"
    if model.defaults:
        yield f"{mark}  defaults: {_flow(model.defaults)}"


def _price(model: DraftModel) -> str:
    price = model.price
    if price is None:
        return "{input: , output: }"
    note = f"   # {model.price_note}" if model.price_note else ""
    if price.free:
        return f"free{note}"
    classes = {"input": price.input}
    if price.cached != price.input:
        classes["cached"] = price.cached
    if price.cache_write != price.input:
        classes["cache_write"] = price.cache_write
    if not model.embeddings_only:
        classes["output"] = price.output
    return "{" + ", ".join(f"{name}: {format_usd(nanos)}" for name, nanos in classes.items()) + "}" + note


def _flow(value: object) -> str:
    """A value in YAML's flow style."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_text(str(name))}: {_flow(each)}" for name, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str) and not re.fullmatch(r"-?\d+(\.\d+)?", value):
        return _text(value)
    return str(value)


def _text(text: str) -> str:
    """A text in YAML: plain where it can be, else in JSON's quotes, which are YAML's too."""
    return text if _PLAIN.fullmatch(text) or _URL.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def report_object(draft: Draft) -> dict[str, Any]:
    """The findings for programs."""
    return {
        "complete": draft.complete,
        "upstreams": list(draft.upstreams),
        "models": [name for name, model in draft.models.items() if model.price is not None],
        "models_without_price": [name for name, model in draft.models.items() if model.price is None],
        "findings": [
            {"path": finding.path, "verdict": finding.verdict, "reason": finding.reason}
            for finding in draft.findings
        ],
        "variables": sorted(_variables(draft.upstreams.values())),
        "commands": list(draft.commands),
    }


def report_text(draft: Draft) -> str:
    """The findings for people, the worst first, and what is to be done."""
    priced = sum(model.price is not None for model in draft.models.values())
    parts = [f"{len(draft.upstreams)} upstreams, {priced} models, {len(draft.commands)} commands to run."]
    for verdict, heading in _HEADINGS.items():
        found = [f"  {one.path}: {one.reason}" for one in draft.findings if one.verdict == verdict]
        if found:
            parts.append("\n".join([f"{heading} ({len(found)}):", *found]))
    variables = sorted(_variables(draft.upstreams.values()))
    if variables:
        parts.append("Set these variables where the proxy starts:\n  " + "\n  ".join(variables))
    if draft.commands:
        parts.append("Then run, once (each secret is shown that one time):\n  " + "\n  ".join(draft.commands))
    return "\n\n".join(parts)


def _variables(upstreams: Sequence[Any] | Any) -> set[str]:
    """The environment variables that the upstreams name."""
    found: set[str] = set()
    for value in upstreams:
        if isinstance(value, Mapping):
            found |= _variables(value.values())
        elif isinstance(value, (list, tuple)):
            found |= _variables(value)
        elif isinstance(value, str) and value.startswith("env:"):
            found.add(value.removeprefix("env:"))
    return found
