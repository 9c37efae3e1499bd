"""Azure in the contract suite: OpenAI's format, with Azure's errors."""

from __future__ import annotations

from dataclasses import replace

import orjson

from tests.dialects.contract import Failing, sse
from tests.dialects.rows import openai
from tokenhub_proxy.errors import InvalidRequest, UpstreamUnavailable

BLOCKED = {
    "message": "The response was filtered due to the prompt triggering the content management policy.",
    "type": None,
    "param": "prompt",
    "code": "content_filter",
    "status": 400,
    "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {}},
}
_BLOCKED = orjson.dumps({"error": BLOCKED})

ROW = replace(
    openai.ROW,
    name="azure",
    failures={
        "blocked prompt": Failing(400, _BLOCKED, InvalidRequest, says="content management policy"),
        "wrong key": Failing(
            401, b'{"error":{"code":"401","message":"Access denied"}}', UpstreamUnavailable, hides="denied"
        ),
        "no deployment": Failing(
            404,
            b'{"error":{"code":"DeploymentNotFound","message":"no x"}}',
            UpstreamUnavailable,
            hides="no x",
        ),
        "limited": Failing(
            429,
            b'{"error":{"code":"429","message":"Requests to resource r"}}',
            UpstreamUnavailable,
            hides="r ",
        ),
    },
    early_errors={
        **openai.ROW.early_errors,
        "blocked inside a 200": (_BLOCKED, InvalidRequest),
        "blocked as an event": (sse({"error": BLOCKED}), InvalidRequest),
    },
)
