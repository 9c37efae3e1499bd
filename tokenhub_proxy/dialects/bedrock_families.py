"""Which family of models behind Bedrock's Converse a name belongs to."""

from __future__ import annotations

import re
from dataclasses import replace

from tokenhub_proxy.dialects.gates import Family, gate
from tokenhub_proxy.dialects.quirks import CLAUDE, FAMILIES
from tokenhub_proxy.routes import Upstream

# An inference profile is a model with the regions that may serve it before its name.
_PROFILE = re.compile(r"^(?:global|us|eu|apac|ap|jp|au|ca|us-gov)\.(?=[a-z0-9-]+\.)")
_MAKER = "anthropic."


def model_name(model: str) -> str:
    """The model's own name, without the regions of an inference profile."""
    return _PROFILE.sub("", model.rpartition("/")[2] if model.startswith("arn:") else model)


def family(model: str, upstream: Upstream) -> Family:
    """What is known of a model, with the upstream's own `quirks` over it."""
    name = model_name(model)
    found = gate(FAMILIES, name, upstream)
    if found.reasoning == "claude":
        found = replace(found, claude=gate(CLAUDE, name.removeprefix(_MAKER), upstream))
    return found
