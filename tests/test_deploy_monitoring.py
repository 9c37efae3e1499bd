"""The Grafana dashboard and the alerting rules ask for what a running proxy tells, and nothing else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import Running
from tests.served import ROOT
from tests.test_metrics import chat, parsed, scraped
from tokenhub_proxy.metrics import FAMILIES

DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana.json").read_text())
ALERTS = ROOT / "deploy/alerts.yml"
PANELS = DASHBOARD["panels"]
VARIABLES = DASHBOARD["templating"]["list"]
# What Prometheus itself adds to every sample, and the name of a bucket's bound.
ADDED = {"instance", "job", "le"}
WIDTH = 24
NAME = re.compile(r"\b(?:tokenhub|process)_[a-z_]+\b")
promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def queries() -> Iterator[tuple[str, str]]:
    """Every query with its place, variables put in."""
    for panel in PANELS:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in VARIABLES[1:]:
        yield variable["name"], variable["definition"]


def rules() -> Iterator[tuple[str, str]]:
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def family(name: str) -> str:
    return re.sub(r"_(?:bucket|sum|count)$", "", name) if name not in FAMILIES else name


def labels(query: str) -> set[str]:
    """The labels that a query selects or groups by."""
    selected = {
        label
        for braces in re.findall(r"\{([^}]*)\}", query)
        for label in re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"', braces)
    }
    grouped = {
        label.strip() for braces in re.findall(r"\bby \(([^)]*)\)", query) for label in braces.split(",")
    }
    chosen = set(re.findall(r"label_values\(\w+, (\w+)\)", query))
    return selected | grouped | chosen


@pytest.mark.parametrize(("place", "query"), [*queries(), *rules()], ids=lambda text: text[:40])
def test_a_query_names_metrics_that_there_are_by_labels_that_they_have(place: str, query: str) -> None:
    names = {family(name) for name in NAME.findall(query)}
    assert names <= set(FAMILIES), place
    if not names:
        assert query.startswith("up{")
        return
    known = {label for name in names for label in FAMILIES[name].labels} | ADDED
    assert labels(query) <= known, place


async def test_a_running_proxy_has_samples_of_all_that_is_asked_for(proxy: Running) -> None:
    await chat(proxy, stream=True)
    told = {name for name, _ in parsed((await scraped(proxy))[0])}
    asked = {name for _, query in (*queries(), *rules()) for name in NAME.findall(query)}
    assert asked - told == set()


def test_the_dashboard_shows_every_metric_but_what_others_say_better() -> None:
    shown = {family(name) for _, query in queries() for name in NAME.findall(query)}
    unshown = set(FAMILIES) - shown
    assert unshown == {
        "tokenhub_config_current",
        "tokenhub_draining",
        "tokenhub_traced_requests_total",
        "process_virtual_memory_bytes",
        "process_start_time_seconds",
    }


def test_the_dashboard_has_the_form_that_grafana_imports() -> None:
    assert DASHBOARD["schemaVersion"] >= 36
    assert (DASHBOARD["title"], DASHBOARD["uid"]) == ("tokenhub-proxy", "tokenhub-proxy")
    assert "id" not in DASHBOARD  # the one of a database it came from
    assert VARIABLES[0]["type"] == "datasource"
    assert VARIABLES[0]["query"] == "prometheus"
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert all(variable["datasource"] == source for variable in VARIABLES[1:])
    for panel in PANELS:
        if panel["type"] == "row":
            assert panel["panels"] == []
            continue
        assert panel["datasource"] == source
        assert panel["type"] in ("stat", "timeseries", "state-timeline")
        assert [target["refId"] for target in panel["targets"]] == sorted(
            {target["refId"] for target in panel["targets"]}
        )
        assert all(target["datasource"] == source for target in panel["targets"])
        unit = panel["fieldConfig"]["defaults"].get("unit")
        assert unit or panel["type"] == "state-timeline"


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)
    places = [panel["gridPos"] for panel in PANELS]
    assert all(at["x"] >= 0 and at["x"] + at["w"] <= WIDTH and at["h"] > 0 for at in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below


def test_queries_name_only_variables_that_there_are() -> None:
    known = {variable["name"] for variable in VARIABLES} | {"__rate_interval"}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps([query for _, query in queries()]))) <= known
    shown = {
        label
        for panel in PANELS
        for target in panel.get("targets", ())
        for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
        if label not in labels(target["expr"]) | {"instance"}
    }
    assert shown == set()


def test_every_alert_says_how_bad_and_what_to_do() -> None:
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("critical", "warning")
            assert set(rule["annotations"]) == {"summary", "description"}


@promtool
def test_prometheus_reads_all_rules_and_queries(tmp_path: Path) -> None:
    told = [
        {"record": f"query:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, (_, query) in enumerate(queries())
        if not query.startswith("label_values")
    ]
    asked = tmp_path / "queries.yml"
    asked.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": told}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", str(ALERTS), str(asked)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@promtool
def test_alerts_go_off_when_they_should(tmp_path: Path) -> None:
    def series(name: str, values: str) -> dict[str, str]:
        return {"series": name, "values": values}

    def expected(alert: str, at: str, **more: str) -> dict[str, Any]:
        return {"alertname": alert, "eval_time": at, "exp_alerts": [{"exp_labels": more}] if more else []}

    place = 'instance="a",job="tokenhub"'
    test = {
        "interval": "1m",
        "input_series": [
            series(f"tokenhub_ledger_writable{{{place}}}", "1x5 0x20"),
            series(f'tokenhub_requests_total{{{place},status="200"}}', "0+60x25"),
            series(f'tokenhub_requests_total{{{place},status="502"}}', "0x5 0+30x20"),
            series(f'tokenhub_breaker_open{{{place},upstream="up",upstream_model="m"}}', "0x5 1x20"),
        ],
        "alert_rule_test": [
            expected("TokenhubLedgerNotWritable", "5m"),
            expected("TokenhubFailures", "5m"),
            expected("TokenhubBreakerOpen", "8m"),
        ],
    }
    fired = [
        ("TokenhubLedgerNotWritable", {"instance": "a", "job": "tokenhub", "severity": "critical"}),
        ("TokenhubFailures", {"instance": "a", "severity": "critical"}),
    ]
    for alert, labels in fired:
        one = expected(alert, "25m", **labels)
        one["exp_alerts"][0]["exp_annotations"] = _annotations(alert, labels)
        test["alert_rule_test"].append(one)
    written = tmp_path / "test.yml"
    written.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "tests": [test]}))
    done = subprocess.run(
        ["promtool", "test", "rules", str(written)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _annotations(alert: str, labels: dict[str, str]) -> dict[str, str]:
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            if rule["alert"] == alert:
                return {
                    name: text.replace("{{ $labels.instance }}", labels["instance"]).replace(
                        "{{ $value | humanizePercentage }}", "33.33%"
                    )
                    for name, text in rule["annotations"].items()
                }
    raise AssertionError(alert)
