"""The API's description: it names what the server has, and the server does only what it says."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.conftest import Running
from tests.served import ROOT, Served, run
from tests.test_server import ask
from tokenhub_proxy import __version__, errors
from tokenhub_proxy.dashboard import api

DOCUMENT = orjson.loads((ROOT / "tokenhub_proxy" / "openapi.json").read_bytes())
KEY = "sk-th-describeddescribed"
CONFIG = f"""
listen: 127.0.0.1:0
ledger: sqlite:///books.db
upstreams: {{demo: {{dialect: demo}}}}
models:
  demo: {{targets: [{{upstream: demo}}], price: free}}
keys: [{{name: laptop, key: {KEY}}}]
payments: {{operator: {{instructions: at the counter}}}}
"""


async def test_the_description_is_served_without_a_key(proxy: Running) -> None:
    status, headers, body = await ask(proxy, "GET", "/openapi.json", key=None)

    assert (status, headers["content-type"]) == (200, "application/json")
    assert orjson.loads(body) == DOCUMENT


async def test_the_guide_for_programs_is_served_without_a_key_and_names_what_there_is(proxy: Running) -> None:
    status, headers, body = await ask(proxy, "GET", "/llms.txt", key=None)

    assert (status, headers["content-type"]) == (200, "text/plain; charset=utf-8")
    told = body.decode()
    assert told.startswith("# tokenhub-proxy\n\n> ")
    assert set(re.findall(r"`(?:GET|POST) (/v1/[^`]+)`", told)) == {
        path for path in DOCUMENT["paths"] if path.startswith("/v1/") and path != "/v1/models/{id}"
    }
    for code, status_told in re.findall(r"`(\w+)` \((\d{3})", told):
        refusal = next(each for each in vars(errors).values() if getattr(each, "code", None) == code)
        assert refusal.status == int(status_told)
    assert not set(re.findall(r"no `(/v1/\w+)`", told)) & set(DOCUMENT["paths"])


async def test_it_describes_the_servers_routes_and_no_others(proxy: Running) -> None:
    described = {
        (method.upper(), re.sub(r"\{\w+\}", "{}", path))
        for path, operations in DOCUMENT["paths"].items()
        for method in operations
        if method != "parameters"
    }

    assert described == proxy.proxy.application.routes() | api.routes()


async def test_what_it_says_of_keys_is_so(proxy: Running) -> None:
    for path, operations in DOCUMENT["paths"].items():
        for method, operation in operations.items():
            if method == "parameters":
                continue
            status, _, _ = await ask(proxy, method, path.replace("{", "").replace("}", ""), key=None)

            assert (status == 401) == (operation.get("security") != []), path


def test_it_is_of_this_version_and_knows_every_error() -> None:
    def below(kind: type[errors.ProxyError]) -> Iterator[type[errors.ProxyError]]:
        for each in kind.__subclasses__():
            yield each
            yield from below(each)

    named = [each for each in below(errors.ProxyError) if each.__module__ == errors.__name__]
    error = DOCUMENT["components"]["schemas"]["Error"]["properties"]["error"]["properties"]
    statuses = {
        status
        for operations in DOCUMENT["paths"].values()
        for method, operation in operations.items()
        if method != "parameters"
        for status in operation["responses"]
    }

    assert DOCUMENT["info"]["version"] == __version__
    assert error["code"]["enum"] == sorted({each.code for each in named})
    assert {str(each.status) for each in named} <= statuses


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "config.yaml").write_text(CONFIG)
    one = Served(tmp_path)
    yield one
    assert one.stop() == 0
    assert "Traceback" not in one.log.read_text()


@pytest.mark.parametrize("cases", [400, pytest.param(20_000, marks=pytest.mark.long)])
def test_whatever_is_asked_the_answer_is_one_that_is_described(served: Served, cases: int) -> None:
    """Requests made from the description, right and wrong ones: no 5xx, documented shapes only."""
    schemathesis = pytest.importorskip("schemathesis")
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    wanted = [
        not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_headers_conformance,
        checks.response_schema_conformance,
    ]
    schema = schemathesis.openapi.from_dict(DOCUMENT)
    operations = [found.ok() for found in schema.get_all_operations()]
    # Where nothing is taken in there is nothing to vary.
    sought = [operation for operation in operations if operation.body or operation.path_parameters]
    modes = list(schemathesis.GenerationMode)
    answered: Counter[int] = Counter()
    token = orjson.loads(run(served.folder, "tokens", "create", "fuzz", "--json").stdout)["secret"]

    for operation in sought:
        for mode in modes:
            strategy = operation.as_strategy(generation_mode=mode)

            @settings(
                max_examples=cases // (len(sought) * len(modes)),
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(strategy, st.booleans())
            def check(case: Any, known: bool) -> None:
                if known and isinstance(case.body, dict) and "model" in case.body:
                    case.body["model"] = "demo"
                response = case.call(
                    base_url=served.base_url.removesuffix("/v1"),
                    headers={"Authorization": f"Bearer {token if '/api/' in case.path else KEY}"},
                )
                answered[response.status_code] += 1
                case.validate_response(response, checks=wanted)

            check()

    print(f"\n{answered}")
    assert {200, 400, 404} <= answered.keys()
