"""A real nginx in a folder of its own."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.served import ROOT

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
START_S = 20.0
# One process in the foreground, which keeps all it writes in its folder.
PREAMBLE = """
daemon off;
master_process off;
pid nginx.pid;
error_log error.log warn;
events { worker_connections 4096; }
"""
FOLDERS = "".join(
    f"{name}_temp_path {name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
)


def documented_nginx(proxied: int, port: int) -> str:
    """The server of deploy/nginx.conf between these ports, without its certificate."""
    server = (ROOT / "deploy/nginx.conf").read_text()
    assert server.count("127.0.0.1:8900") == 1
    assert server.count("listen 443 ssl;") == 1
    server = server.replace("127.0.0.1:8900", f"127.0.0.1:{proxied}")
    server = server.replace("listen 443 ssl;", f"listen 127.0.0.1:{port} backlog=2048;")
    return "access_log off;\n" + re.sub(r"^ *ssl_.*\n", "", server, flags=re.MULTILINE)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@asynccontextmanager
async def listening(process: asyncio.subprocess.Process, port: int, log: Path) -> AsyncIterator[None]:
    """A server from the moment it listens, ended behind that; its log tells why it does not."""
    try:
        async with asyncio.timeout(START_S):
            while True:
                try:
                    (await asyncio.open_connection("127.0.0.1", port))[1].close()
                    break
                except ConnectionError:
                    assert process.returncode is None, log.read_text()
                    await asyncio.sleep(0.02)
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@asynccontextmanager
async def nginx_running(folder: Path, http: str, port: int) -> AsyncIterator[None]:
    """nginx with this inside its `http` block, once it listens on the port; skips where there is none."""
    if NGINX is None:
        pytest.skip("nginx is not installed here (Debian: nginx-light)")
    (folder / "nginx.conf").write_text(f"{PREAMBLE}http {{\n{FOLDERS}\n{http}\n}}\n")
    process = await asyncio.create_subprocess_exec(
        NGINX, "-p", str(folder), "-c", "nginx.conf", "-e", "error.log"
    )
    async with listening(process, port, folder / "error.log"):
        yield
