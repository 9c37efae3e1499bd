"""The command `health`: what containers and balancers without an HTTP client of their own run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

UNWELL, WRONG = 1, 2
ANSWER_BYTES_MAX = 2**16
TIMEOUT_S = 5.0


def add_to(commands: Any) -> None:
    """Add the command to the tree."""
    help = "ask a running server whether it can serve; exit 1 if it can't"
    command = commands.add_parser("health", help=help, description=help)
    command.add_argument(
        "url",
        metavar="URL",
        nargs="?",
        help="such as http://127.0.0.1:8900; default where the config listens",
    )
    command.add_argument(
        "--config", metavar="FILE", help="the config; default $TOKENHUB_CONFIG, else ./config.yaml"
    )
    command.add_argument(
        "--live", action="store_true", help="ask only whether it lives, also while it drains"
    )
    command.add_argument(
        "--timeout",
        metavar="S",
        type=float,
        default=TIMEOUT_S,
        help=f"seconds to wait; default {TIMEOUT_S:g}",
    )
    command.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    path = "/healthz" if arguments.live else "/readyz"
    try:
        url = arguments.url or _configured(arguments.config)
        status, said = _get(url, path, arguments.timeout)
    except ValueError as error:
        print(f"{error}", file=sys.stderr)
        return WRONG
    except OSError as error:
        print(f"{url} does not answer: {error.strerror or error or type(error).__name__}.", file=sys.stderr)
        return UNWELL
    print(f"{url.rstrip('/')}{path} {status} {said}")
    return 0 if status == 200 else UNWELL


def _get(url: str, path: str, timeout_s: float) -> tuple[int, str]:
    """The status and the beginning of the body. Raises ValueError for what is no address, OSError."""
    import http.client

    parts = urlsplit(url if "://" in url else f"http://{url}")
    makers = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
    if parts.scheme not in makers or not parts.hostname:
        raise ValueError(f"{url} is no address such as http://127.0.0.1:8900.")
    connection = makers[parts.scheme](parts.hostname, parts.port, timeout=timeout_s)
    try:
        connection.request("GET", parts.path.rstrip("/").removesuffix("/v1") + path)
        answer = connection.getresponse()
        return answer.status, answer.read(ANSWER_BYTES_MAX).decode(errors="replace").strip()
    except http.client.HTTPException as error:
        raise OSError(f"it speaks no HTTP ({type(error).__name__})") from None
    finally:
        connection.close()


def _configured(named: str | None) -> str:
    """Where the config listens, whatever else may be wrong with it: what runs was started with another."""
    import yaml

    from tokenhub_proxy.cli import config_path
    from tokenhub_proxy.config import LISTEN, values

    path = config_path(named)
    try:
        found = None if path is None else yaml.safe_load(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{path} can't be read: {error}") from None
    text = found.get("listen") if isinstance(found, dict) else None
    try:
        host, port = values.listen(str(text or LISTEN))
    except ValueError as error:
        raise ValueError(f"{path}: listen: {error}.") from None
    if port == 0:
        raise ValueError(f"{path} listens on a port that is free at the start: say the URL.")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
