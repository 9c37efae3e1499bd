"""Metrics: exact, bounded, in the format that Prometheus reads, and cheap."""

from __future__ import annotations

import asyncio
import re
import runpy
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import Running, load
from tests.served import ROOT
from tests.test_observers import KEY, noted, served
from tests.upstream import STREAM, FakeUpstream, stream_says
from tokenhub_proxy import cli
from tokenhub_proxy.calls import parse
from tokenhub_proxy.errors import UpstreamUnavailable
from tokenhub_proxy.exchange import Exchange
from tokenhub_proxy.ledger import Ending, Hold
from tokenhub_proxy.metrics import FAMILIES, Histogram, sample
from tokenhub_proxy.metrics import counters as counting
from tokenhub_proxy.metrics.counters import OUTCOMES_MAX, PLACES_MAX, Counters
from tokenhub_proxy.prices import Usage

Sample = tuple[str, frozenset[tuple[str, str]]]

COST_NS_MAX = 3000


def parsed(text: str) -> dict[Sample, float]:
    """All samples as the official parser reads them; every family has its help and kind."""
    found: dict[Sample, float] = {}
    for family in text_string_to_metric_families(text):
        name = family.name if family.name in FAMILIES else f"{family.name}_total"
        assert name in FAMILIES, family.name
        assert (family.type, family.documentation) == (FAMILIES[name].kind, FAMILIES[name].help)
        for one in family.samples:
            at = (one.name, frozenset(one.labels.items()))
            assert at not in found, f"told twice: {at}"
            assert set(one.labels) - {"le"} == set(FAMILIES[name].labels)
            found[at] = one.value
    return found


def at(name: str, **labels: str) -> Sample:
    return name, frozenset(labels.items())


def told(counters: Counters) -> dict[Sample, float]:
    return parsed("".join(counters.render()))


async def scraped(proxy: Running) -> tuple[str, str]:
    """The text, and its media type."""
    async with aiohttp.ClientSession() as session, session.get(f"{proxy.url}/metrics") as answer:
        return await answer.text(), answer.headers["content-type"]


async def chat(proxy: Running, model: str = "demo", **more: Any) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], **more}
    async with (
        aiohttp.ClientSession(headers=proxy.headers) as session,
        session.post(f"{proxy.base_url}/chat/completions", json=body) as answer,
    ):
        return await answer.read()


def held(model: str = "m", **more: Any) -> Hold:
    return Hold("req_1", KEY, model, 5000, 1000.0, id=1, ending=Ending("settled", 1002.0), **more)


def test_the_counters_add_up() -> None:
    counters = Counters()
    counters(served())
    counters(served())
    counters(served(error=UpstreamUnavailable(kind="refused"), status=502, cost=0, usage=Usage()))
    counters(served(gone="ttfb", status=0, cost=0, usage=Usage()))
    found = told(counters)
    place = {"model": "m", "upstream": "up"}
    requests = {key: count for key, count in found.items() if key[0] == "tokenhub_requests_total"}
    assert requests == {
        at("tokenhub_requests_total", **place, status="200", code=""): 2,
        at("tokenhub_requests_total", **place, status="499", code="client_gone"): 1,
        at("tokenhub_requests_total", **place, status="502", code="upstream_unavailable"): 1,
    }
    classes = {
        each: found[at("tokenhub_tokens_total", **place, **{"class": each})]
        for each in ("input", "cached", "cache_write", "output")
    }
    assert classes == {"input": 20, "cached": 10, "cache_write": 0, "output": 40}
    assert found[at("tokenhub_billing_total", **place, billing="usage")] == 2
    assert found[at("tokenhub_request_duration_seconds_count", **place)] == 4
    assert found[at("tokenhub_upstream_attempts_total", upstream="up", outcome="200")] == 4


def test_spend_is_exact_however_large() -> None:
    counters = Counters()
    hold = Hold("req_1", KEY, "m", 9 * 10**18, 1.0)
    counters(served(hold=hold, cost=9 * 10**18 - 1))
    counters(served(hold=hold, cost=2))
    text = "".join(counters.render())
    assert 'tokenhub_spend_usd_total{model="m",upstream="up"} 9000000000.000000001\n' in text


def test_what_is_written_off_is_not_spend() -> None:
    counters = Counters()
    counters(served(cost=10**12))
    text = "".join(counters.render())
    assert 'tokenhub_spend_usd_total{model="m",upstream="up"} 0.000005\n' in text
    assert 'tokenhub_writeoff_usd_total{model="m",upstream="up"} 999.999995\n' in text


def test_the_first_byte_is_timed_of_streams_alone() -> None:
    """The first byte of a whole answer is its last one too, and says nothing of the model's start."""
    counters = Counters()
    counters(served(hold=held(stream=False)))
    counters(served(hold=held(stream=True)))
    found = told(counters)
    assert found[at("tokenhub_first_byte_seconds_count", model="m", upstream="up")] == 1
    assert found[at("tokenhub_first_byte_seconds_bucket", model="m", upstream="up", le="0.35")] == 1
    assert found[at("tokenhub_first_byte_seconds_bucket", model="m", upstream="up", le="0.2")] == 0


def test_retries_and_fallbacks_are_told_apart() -> None:
    counters = Counters()
    counters(served(attempts=["up:429", "up:200"]))
    counters(served(attempts=["other:refused", "up:200"]))
    found = told(counters)
    assert found[at("tokenhub_retries_total", model="m", upstream="up")] == 2
    assert found[at("tokenhub_fallbacks_total", model="m", upstream="up")] == 1
    assert found[at("tokenhub_upstream_attempts_total", upstream="other", outcome="refused")] == 1


@pytest.mark.parametrize(
    ("value", "bucket"), [(0.0, "0.5"), (0.5, "0.5"), (0.50001, "1.0"), (1.0, "1.0"), (7.0, "+Inf")]
)
def test_a_value_at_a_bound_is_within_it(value: float, bucket: str) -> None:
    found = Histogram((0.5, 1.0))
    found.observe(value)
    bounds = ("0.5", "1.0", "+Inf")
    assert dict(zip(bounds, found.counts, strict=True)) == {each: int(each == bucket) for each in bounds}
    assert found.sum == value


# --- bounds


def test_a_client_s_invention_never_becomes_a_label() -> None:
    counters = Counters()
    for number in range(100):
        body = orjson.dumps({"model": f"invented-{number}", "messages": [{"role": "user", "content": "x"}]})
        counters(noted(Exchange("r", "chat", 1.0, 0.0), call=parse(body, "chat"), status=404))
        counters(served(attempts=[f"up:messages[{number}].invented", "up:200"]))
    text = "".join(counters.render())
    assert "invented" not in text
    assert len(counters.places) == 2
    assert told(counters)[at("tokenhub_upstream_attempts_total", upstream="up", outcome="refused")] == 100


def test_what_is_beyond_the_bounds_is_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models and upstreams are the config's; but reloads may bring new names for ever."""
    most = 20  # the parser takes its time for all that the real bound allows
    monkeypatch.setattr(counting, "PLACES_MAX", most)
    counters = Counters()
    for number in range(most + 50):
        counters(served(hold=held(f"m{number}"), upstream=f"up{number}", attempts=[f"up{number}:200"]))
    for status in range(200, 300):
        counters(served(hold=held("m0"), upstream="up0", attempts=[f"up0:{status}"]))
    assert len(counters.places) == most + 1
    found = told(counters)
    assert found[at("tokenhub_request_duration_seconds_count", model="other", upstream="other")] == 50
    assert sum(each.startswith("up0:") for each in counters.attempts) <= OUTCOMES_MAX + 1
    assert len(counters.attempts) <= most + OUTCOMES_MAX
    requests = [count for (name, _), count in found.items() if name == "tokenhub_requests_total"]
    assert sum(requests) == most + 150
    attempts = [count for (name, _), count in found.items() if name == "tokenhub_upstream_attempts_total"]
    assert sum(attempts) == most + 150


@pytest.mark.parametrize("name", ['a"b\\c\nd', "модель", "\ud800 half a pair", "a{b}=c, d"])
def test_labels_are_escaped(name: str) -> None:
    text = sample("tokenhub_credentials_cooling", 1, name)
    (family,) = text_string_to_metric_families(text)
    (one,) = family.samples
    assert one.labels["upstream"] == name.encode("utf-8", "backslashreplace").decode()
    assert text.count("\n") == 1


# --- a running proxy


async def test_a_running_proxy_tells_every_family_as_prometheus_reads_it(proxy: Running) -> None:
    await chat(proxy, stream=True)
    await chat(proxy, "nosuch")
    text, media_type = await scraped(proxy)
    assert media_type == "text/plain; version=0.0.4; charset=utf-8"
    found = parsed(text)
    told = set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))
    assert told == set(FAMILIES) - {"tokenhub_traced_requests_total"}
    assert found[at("tokenhub_requests_total", model="demo", upstream="demo", status="200", code="")] == 1
    refused = {"model": "", "upstream": "", "status": "404", "code": "model_not_found"}
    assert found[at("tokenhub_requests_total", **refused)] == 1
    assert found[at("tokenhub_breaker_open", upstream="up", upstream_model="real-m")] == 0
    assert found[at("tokenhub_holds_open")] == 0
    assert found[at("tokenhub_ledger_writable")] == 1
    assert found[at("tokenhub_ledger_changes_total")] >= 2
    assert 10**7 < found[at("process_resident_memory_bytes")] < 10**10
    assert 3 < found[at("process_open_fds")] <= found[at("process_max_fds")]
    assert abs(time.time() - found[at("process_start_time_seconds")]) < 60


async def test_histograms_are_cumulative_and_end_in_their_count(proxy: Running) -> None:
    for _ in range(3):
        await chat(proxy, stream=True)
    found = parsed((await scraped(proxy))[0])
    series: dict[tuple[str, Any], dict[float, float]] = {}
    for (name, labels), count in found.items():
        if name.endswith("_bucket"):
            rest = frozenset(each for each in labels if each[0] != "le")
            bound = float(dict(labels)["le"])
            series.setdefault((name.removesuffix("_bucket"), rest), {})[bound] = count
    assert {name for name, _ in series} == {name for name, each in FAMILIES.items() if each.buckets}
    for (name, rest), buckets in series.items():
        counts = [buckets[bound] for bound in sorted(buckets)]
        assert counts == sorted(counts)
        assert buckets[float("inf")] == found[f"{name}_count", rest]
        assert (found[f"{name}_sum", rest] > 0) == (counts[-1] > 0) or "lag" in name


async def test_a_call_under_way_is_in_flight_and_holds(proxy: Running, upstream: FakeUpstream) -> None:
    gate = asyncio.Event()
    upstream.says = lambda asked: stream_says(STREAM, waits=gate)
    asking = asyncio.create_task(chat(proxy, "m", stream=True))
    while not upstream.asked:
        await asyncio.sleep(0.01)
    found = parsed((await scraped(proxy))[0])
    assert found[at("tokenhub_in_flight")] == 1
    assert found[at("tokenhub_streams")] == 0
    assert found[at("tokenhub_holds_open")] == 1
    assert found[at("tokenhub_held_usd")] > 0
    gate.set()
    await asking
    after = parsed((await scraped(proxy))[0])
    assert after[at("tokenhub_in_flight")] == after[at("tokenhub_held_usd")] == 0
    assert after[at("tokenhub_spend_usd_total", model="m", upstream="up")] == 0.00006


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
async def test_promtool_finds_nothing_to_complain_of(proxy: Running) -> None:
    await chat(proxy, stream=True)
    text = (await scraped(proxy))[0].encode()
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


# --- what it costs


def test_counting_a_request_costs_less_than_3_microseconds() -> None:
    counters, exchange = Counters(), served(hold=held(stream=True))
    took_ns = []
    for _ in range(5):
        begun = time.thread_time_ns()
        for _ in range(5_000):
            counters(exchange)
        took_ns.append((time.thread_time_ns() - begun) / 5_000)
    assert min(took_ns) < COST_NS_MAX


def test_a_scrape_of_as_much_as_there_can_be_comes_in_short_pieces() -> None:
    counters = Counters()
    for number in range(PLACES_MAX):
        counters(served(hold=held(f"model-{number}", stream=True), upstream="up"))
    least_ms: list[float] = []
    for _ in range(3):  # the machine may do something else for a moment
        pieces = counters.render()
        took_ms, begun = [], time.thread_time_ns()
        while next(pieces, None) is not None:
            took_ms.append((time.thread_time_ns() - begun) / 1e6)
            begun = time.thread_time_ns()
        least_ms = took_ms if not least_ms else list(map(min, least_ms, took_ms))
    assert max(least_ms) < 5.0


def test_the_page_has_the_table_as_it_is() -> None:
    script = runpy.run_path(str(ROOT / "scripts/metrics_docs.py"))
    text = script["PAGE"].read_text()
    assert script["table"]() in text, "run scripts/docs_metrics"
    assert script["page"](text) == text


def test_the_page_shows_what_can_be_typed(tmp_path: Path) -> None:
    text = (ROOT / "docs/observability.md").read_text()
    blocks = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", text, re.M | re.S)]
    (traces,) = [block for block in blocks if "traces" in block]
    config = load(yaml.safe_dump(traces).replace("env:COLLECTOR_TOKEN", "token"), tmp_path)
    assert config.traces is not None
    assert config.traces.headers == (("Authorization", "token"),)
    for command in re.findall(r"`tokenhub-proxy ([^`]+)`", text):
        cli.parser().parse_args(command.split())
    for path in re.findall(r"\]\(([^)]+)\)|`(scripts/[\w.]+)`", text):
        assert (ROOT / "docs" / path[0]).exists() if path[0] else (ROOT / path[1]).exists(), path
