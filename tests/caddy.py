"""A real Caddy in a folder of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.nginx import listening

CADDY = shutil.which("caddy")
NO_CADDY = "caddy is not installed here (Debian: caddy)"


def environment(folder: Path) -> dict[str, str]:
    """It keeps what it has, such as its certificates, in this folder."""
    return {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}


@asynccontextmanager
async def caddy_running(folder: Path, sites: str, port: int) -> AsyncIterator[None]:
    """Caddy with these sites, once it listens on the port; skips where there is none."""
    if CADDY is None:
        pytest.skip(NO_CADDY)
    (folder / "Caddyfile").write_text("{\n\tadmin off\n\tauto_https off\n}\n" + sites)
    with (folder / "caddy.log").open("w") as log:
        process = await asyncio.create_subprocess_exec(
            *(CADDY, "run", "--config", "Caddyfile", "--adapter", "caddyfile"),
            cwd=folder,
            env=environment(folder),
            stdout=log,
            stderr=log,
        )
    async with listening(process, port, folder / "caddy.log"):
        yield
