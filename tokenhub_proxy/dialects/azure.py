"""Azure OpenAI: OpenAI's format on Azure's two surfaces, with its deployments and its keys."""

from __future__ import annotations

from typing import ClassVar
from urllib.parse import quote

from tokenhub_proxy.calls import Call
from tokenhub_proxy.dialects import Asking
from tokenhub_proxy.dialects.openai import PATHS, OpenAI

# The surface without versions, where a deployment is a model. People paste it as the base URL too.
V1 = "/openai/v1"


class Azure(OpenAI):
    """The v1 surface, or with `api_version` the classic one of deployments.

    Azure's own words arrive as OpenAI's: a first chunk without choices, `content_filter` errors,
    errors inside a 200. Source: Azure OpenAI "API version lifecycle" and its REST reference.
    """

    row: ClassVar[str | None] = "azure"

    def path(self, call: Call, asking: Asking) -> str:
        upstream = asking.target.upstream
        version = upstream.options.get("api_version")
        if version:
            deployment = quote(asking.target.model, safe="")
            return f"/openai/deployments/{deployment}{PATHS[call.endpoint]}?api-version={quote(str(version))}"
        surface = "" if upstream.base_url.rstrip("/").endswith(V1) else V1
        return surface + PATHS[call.endpoint]

    def authorization(self, asking: Asking) -> dict[str, str]:
        """A resource's key, or a token of Entra ID, which is a JWT and so begins with `eyJ`."""
        if asking.credential is not None and asking.credential.startswith("eyJ"):
            return super().authorization(asking)
        return {} if asking.credential is None else {"api-key": asking.credential}
