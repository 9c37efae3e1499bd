"""`tokenhub-proxy payments` as its users run it: beside a running server, and against the simulator."""

from __future__ import annotations

import json
import re
import select
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.payments.conftest import config
from tests.served import COMMAND, ROOT, START_S, STOP_S, Served, environment, run
from tokenhub_proxy import config as configs

SOON_S = 10.0


class Simulated:
    """A running `payments simulate`."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "payments", "simulate", "--listen", "127.0.0.1:0", *arguments],
            cwd=folder, env=environment(), stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], START_S)[0], "never ready"
        found = re.match(rb"ready (http://\S+)/\n", self.process.stdout.readline())
        assert found
        self.url = found[1].decode()

    def press(self, action: str, payment: str) -> None:
        request = urllib.request.Request(f"{self.url}/do/{action}/{payment}", data=b"", method="POST")
        urllib.request.urlopen(request, timeout=SOON_S).close()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(STOP_S)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def simulated(tmp_path: Path) -> Iterator[Simulated]:
    # The server's port is not known yet: without a webhook the server asks by itself.
    one = Simulated(tmp_path, "--silent", "--duplicate", "1", "--accepted-first")
    yield one
    one.stop()


@pytest.fixture
def served(tmp_path: Path, simulated: Simulated) -> Iterator[Served]:
    text = f"listen: 127.0.0.1:0\nledger: sqlite:///books.db\n{config(simulated.url)}"
    (tmp_path / "config.yaml").write_text(text)
    one = Served(tmp_path)
    yield one
    assert one.stop() == 0
    assert "Traceback" not in one.log.read_text()


def ask(folder: Path, *arguments: str, code: int = 0) -> Any:
    done = run(folder, "payments", *arguments, "--json")
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if code == 0 else done.stderr


def test_an_order_from_its_making_to_its_refund(tmp_path: Path, served: Served, simulated: Simulated) -> None:
    assert {row["provider"] for row in ask(tmp_path, "methods")} == {
        "yookassa",
        "cryptopay",
        "tron",
        "operator",
    }
    assert ask(tmp_path, "quote", "10.00", "--provider", "yookassa")["amount"] == "828.00"
    made = ask(tmp_path, "create", "main", "10.00", "--provider", "yookassa", "--method", "sbp")
    assert made["state"] == "pending"

    simulated.press("pay", made["payment"])
    assert ask(tmp_path, "look", made["id"])["state"] == "paid"
    assert served.get("/v1/key", "sk-th-testtesttesttesttest")[1]["balance_usd"] == "10.00"

    assert ask(tmp_path, "refund", made["id"], "--amount", "414.00")["returned_usd"] == "5.00"
    assert ask(tmp_path, "orders", "--account", "main")[0]["refunded"] == "414.00"
    kinds = [event["kind"] for event in ask(tmp_path, "show", made["id"])["events"]]
    assert kinds == ["created", "attached", "paid", "refund_asked", "refund:41400"]
    (code,) = ask(tmp_path, "codes", "create", "2.00", "--expires", "30d")
    assert ask(tmp_path, "redeem", "main", code["code"])["credited_usd"] == "2.00"
    assert "No such code" in ask(tmp_path, "redeem", "main", code["code"], code=2)
    assert ask(tmp_path, "codes", "list")[0]["order"] is not None
    assert ask(tmp_path, "webhooks") == []
    assert run(tmp_path, "ledger", "verify").returncode == 0
    tables = run(tmp_path, "payments", "orders").stdout
    assert made["id"] in tables


def test_where_no_server_runs_the_command_does_it_itself(tmp_path: Path, simulated: Simulated) -> None:
    (tmp_path / "config.yaml").write_text(f"ledger: sqlite:///books.db\n{config(simulated.url)}")
    assert run(tmp_path, "accounts", "list").returncode == 3, "there is no ledger yet"
    made = ask(tmp_path, "create", "main", "10.00", "--provider", "cryptopay")
    simulated.press("pay", made["payment"])
    assert ask(tmp_path, "look", made["id"])["state"] == "paid"
    done = ask(tmp_path, "create", "main", "3.00", "--provider", "operator")
    assert ask(tmp_path, "complete", done["id"], "--note", "cash")["state"] == "paid"
    assert ask(tmp_path, "cancel", done["id"])["state"] == "paid", "what was credited stays so"


def test_without_the_section_the_commands_say_so(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("ledger: sqlite:///books.db\n")
    assert "no section `payments`" in ask(tmp_path, "methods", code=2)


def test_payments_begin_when_a_reload_brings_them(tmp_path: Path, simulated: Simulated) -> None:
    whole = f"listen: 127.0.0.1:0\nledger: sqlite:///books.db\n{config(simulated.url)}"
    (tmp_path / "config.yaml").write_text(whole.partition("payments:")[0])
    served = Served(tmp_path)
    try:
        assert served.ask("POST", "/payments/webhooks/yookassa", "", {})[0] == 404
        (tmp_path / "config.yaml").write_text(whole)
        deadline = time.monotonic() + SOON_S
        while (answered := served.ask("POST", "/payments/webhooks/yookassa", "", {})[0]) == 404:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert answered == 400
    finally:
        assert served.stop() == 0


def test_a_simulator_is_not_started_with_nonsense(tmp_path: Path) -> None:
    assert run(tmp_path, "payments", "simulate", "--listen", "nowhere").returncode == 2
    assert run(tmp_path, "payments", "simulate", "--late-s", "soon").returncode == 2


def test_the_pages_config_for_trying_it_loads() -> None:
    page = (ROOT / "docs/payments.md").read_text()
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    found = configs.load(text, name="page", folder=Path(), environ={}, read_file=Path.read_text)
    assert found.payments is not None
    assert set(found.payments.providers) == set(yaml.safe_load(text)["payments"]) - {"return_url", "rate"}


@pytest.mark.parametrize("page", ["payments.md", "payments.ru.md"])
def test_the_pages_name_commands_that_there_are(page: str) -> None:
    known = (ROOT / "docs/cli.md").read_text()
    named = re.findall(r"tokenhub-proxy (payments(?: codes)? [a-z]+)", (ROOT / "docs" / page).read_text())
    assert len(named) >= 10
    for name in named:
        assert f"## {name}\n" in known, name
