"""Texts of the config as values: addresses, URLs, dates, names. What is refused raises ValueError."""

from __future__ import annotations

import ipaddress
import re
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from tokenhub_proxy.calls import MODEL_LENGTH_MAX
from tokenhub_proxy.config.nodes import quoted
from tokenhub_proxy.keys import CONFIG_KEY_LENGTH_MIN, PREFIX, SECRET_LENGTH_MAX, parse_network

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HOST = re.compile(r"(?!-)[A-Za-z0-9._-]{1,253}")
_DIGEST = re.compile(r"sha256:([0-9a-fA-F]{64})")
_REGION = re.compile(r"[a-z0-9-]{1,40}")
_OPTION = re.compile(r"[A-Za-z0-9._:/-]{1,200}")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
# RFC 3339, with the zone: a time that each machine reads differently is no limit.
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")  # RFC 9110, section 5.6.2
# They belong to one connection (RFC 9110, section 7.6.1) or frame one message; a fixed value of
# them makes two readings of one request possible.
_HEADERS_OURS = frozenset(
    {
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te",
        "trailer", "transfer-encoding", "upgrade", "host", "content-length", "expect",
    }
)  # fmt: skip
# Whoever guesses it makes money; what is shorter was cut off when it was copied.
PAYMENT_SECRET_LENGTH_MIN = 32
CREDENTIAL_LENGTH_MAX = 16_384  # cloud tokens reach a few KB; servers take headers of 8 to 16 KB


def name(text: str) -> str:
    """The name of an upstream, an account or a key."""
    if not _NAME.fullmatch(text):
        raise ValueError("a name has 1 to 64 of the characters A-Z a-z 0-9 . _ -")
    return text


def model(text: str) -> str:
    """The name of a model."""
    if not text or len(text) > MODEL_LENGTH_MAX or not text.isprintable() or text != text.strip():
        raise ValueError(f"a model's name has 1 to {MODEL_LENGTH_MAX} printable characters")
    return text


def region(text: str) -> str:
    """A cloud region; it becomes a part of the host's name."""
    if not _REGION.fullmatch(text):
        raise ValueError(f"must be a region such as us-east-1, not {quoted(text)}")
    return text


def option(text: str) -> str:
    """A word that only a dialect understands, such as a version; it may become a part of a URL."""
    if not _OPTION.fullmatch(text):
        raise ValueError(f"must be one word of letters, digits and . _ : / -, not {quoted(text)}")
    return text


def path(text: str) -> str:
    """The path of a file."""
    if not text or not text.isprintable():
        raise ValueError("must be the path of a file")
    return text


def listen(text: str) -> tuple[str, int]:
    """Host and port of "127.0.0.1:8900", "[::1]:8900" or ":8900"; port 0 is any free one.

    Without a host it is every IPv4 address, "0.0.0.0".
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
        raise ValueError(f"must be HOST:PORT such as 127.0.0.1:8900, not {quoted(text)}")
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(host[1:-1])), int(port)
        except ValueError:
            raise ValueError("in its brackets stands no IPv6 address") from None
    if ":" in host:
        raise ValueError("an IPv6 address stands in brackets: [::1]:8900")
    if host and not _HOST.fullmatch(host):
        raise ValueError(f"{quoted(host)} is not the name or address of a host")
    return host or "0.0.0.0", int(port)  # noqa: S104 - asked for by leaving the host out


def ledger(text: str, folder: Path) -> str:
    """A ledger's URL with its path made relative to `folder`: sqlite:///file or sqlite:////abs/file.

    The text may hold a database's password, so no refusal shows it.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise ValueError("must be a URL: sqlite:///tokenhub.db (four slashes for an absolute path)")
    if scheme in ("postgresql", "postgres"):
        raise ValueError("PostgreSQL is not available in this build; use sqlite:///tokenhub.db")
    if scheme != "sqlite":
        raise ValueError("no such kind of ledger; there is sqlite:///tokenhub.db")
    path = rest[1:]
    if not rest.startswith("/") or not path or path.endswith("/"):
        raise ValueError("sqlite:/// (three slashes) and then a file: sqlite:///tokenhub.db")
    if path == ":memory:":
        raise ValueError("the books must outlive the process; name a file: sqlite:///tokenhub.db")
    if "?" in path or "#" in path or not path.isprintable():
        raise ValueError("the file's name holds a character that a URL can't: ? or # or a control")
    return f"sqlite:///{folder / path}"


def base_url(text: str) -> str:
    """All that stands before the endpoint, without a slash at its end. No refusal shows it."""
    parts = _url(text, ("https", "http"), "https://api.example.com/v1")
    if parts.query or parts.fragment or "?" in text or "#" in text:
        raise ValueError("must not have a query or fragment; it stands before the endpoint's path")
    return text.rstrip("/")


def rate_url(text: str) -> str:
    """Where a file of rates is read."""
    _url(text, ("https", "http"), "https://www.cbr.ru/scripts/XML_daily.asp")
    return text


def millionths(text: str) -> int:
    """Millionths of a decimal number, exact."""
    # Imported where somebody takes payments, and nowhere else.
    from tokenhub_proxy.payments.amounts import parse_millionths

    return parse_millionths(text)


def percent(text: str) -> int:
    """Millionths of a percentage from 0 to 50, with at most 4 decimals."""
    found = millionths(text)
    if found > 50 * 10**6 or found % 100:
        raise ValueError(f"must be a percentage from 0 to 50 with at most 4 decimals, not {quoted(text)}")
    return found // 100


def payment_secret(text: str) -> str:
    """A secret that payments are checked with. No refusal shows it."""
    if len(text) < PAYMENT_SECRET_LENGTH_MIN:
        raise ValueError(f"the secret has less than {PAYMENT_SECRET_LENGTH_MIN} characters; it is not whole")
    return text


def sentence(text: str) -> str:
    """A line of text for people."""
    if not text.isprintable() or len(text) > 1000:
        raise ValueError("must be a line of at most 1000 printable characters")
    return text


def proxy(text: str) -> str:
    """An HTTP proxy's URL, which may hold a user and password; no refusal shows it."""
    parts = _url(text, ("http",), "http://proxy.example.com:3128", user=True)
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("a proxy's URL is http://HOST:PORT and nothing after that")
    return text.rstrip("/")


def origin(text: str) -> str:
    """A web page's origin as browsers send it, or "*"."""
    if text == "*":
        return text
    parts = _url(text, ("https", "http"), "https://app.example.com")
    if parts.path or parts.query or parts.fragment:
        raise ValueError("an origin has no path: https://app.example.com")
    return text.lower()


def _url(text: str, schemes: tuple[str, ...], example: str, user: bool = False) -> SplitResult:
    wanted = f"must be a URL such as {example}"
    if not text.isascii() or not text.isprintable() or " " in text or "\\" in text:
        raise ValueError(wanted)
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(wanted) from None
    if parts.scheme not in schemes or not host or port == 0:
        raise ValueError(wanted)
    if ":" not in host and not _HOST.fullmatch(host):
        raise ValueError(wanted)
    if "@" in parts.netloc and not user:
        raise ValueError("must not hold a user or password; a key belongs in api_key")
    return parts


def network(text: str) -> str:
    """An address or CIDR range, as it is written."""
    if quoted(text)[0] != '"':
        raise ValueError("is not an IP address or CIDR range")
    parse_network(text)
    return text.strip()


def expires(text: str) -> float:
    """Seconds since 1970 of a date (its beginning in UTC) or of an RFC 3339 time."""
    try:
        if _DATE.fullmatch(text):
            return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
        if _TIME.fullmatch(text):
            return datetime.fromisoformat(text.upper()).timestamp()
    except ValueError:
        pass  # the thirteenth month, say
    raise ValueError(
        f"must be a date such as 2027-01-01 or a time such as 2027-01-01T12:00:00Z, not {quoted(text)}"
    )


def digest(text: str) -> bytes:
    """The SHA-256 of a key, written "sha256:" and 64 hex digits."""
    found = _DIGEST.fullmatch(text)
    if found is None:
        raise ValueError('must be "sha256:" and the 64 hex digits of the key\'s SHA-256')
    return bytes.fromhex(found[1])


def config_key(secret: str) -> str:
    """A client's key as an operator chose it. No refusal shows it."""
    if not secret.startswith(PREFIX) or not CONFIG_KEY_LENGTH_MIN <= len(secret) <= SECRET_LENGTH_MAX:
        raise ValueError(
            f"a key begins with {PREFIX} and has {CONFIG_KEY_LENGTH_MIN - len(PREFIX)} characters more"
            f" at least, {SECRET_LENGTH_MAX} in all at most"
        )
    if " " in secret:
        raise ValueError("a key has no spaces")
    return secret


def credential(secret: str) -> str:
    """What can stand in a header. No refusal shows it."""
    if not secret:
        raise ValueError("the secret is empty")
    if not secret.isascii() or not secret.isprintable() or secret != secret.strip():
        raise ValueError(
            "the secret holds a line break, a space at its end, or a character that no header takes"
        )
    if len(secret) > CREDENTIAL_LENGTH_MAX:
        raise ValueError(f"the secret is longer than {CREDENTIAL_LENGTH_MAX} characters")
    return secret


def header(text: str) -> str:
    """The name of a header that an upstream may be sent with every call."""
    if not _HEADER_NAME.fullmatch(text):
        raise ValueError("is not the name of a header")
    if text.lower() in _HEADERS_OURS:
        raise ValueError("belongs to the connection; it can't be set here")
    return text
