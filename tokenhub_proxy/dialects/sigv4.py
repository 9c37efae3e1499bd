"""AWS Signature Version 4: the headers that sign one request. Pure: the time is an argument.

Source: "Create a signed AWS API request" of the IAM user guide.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from urllib.parse import parse_qsl, quote, urlsplit

ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class Signer:
    """Whose signature it is, and for which service where. Secrets are in no repr."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    region: str
    service: str
    session_token: str | None = field(default=None, repr=False)

    def sign(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, at_s: float
    ) -> dict[str, str]:
        """The given headers, names in lower case, with those that sign them: all of them are signed.

        `url` is what is requested, encoded as it is sent; `at_s` the time in Unix seconds.
        """
        at = datetime.fromtimestamp(at_s, UTC).strftime("%Y%m%dT%H%M%SZ")
        parts = urlsplit(url)
        signed = {name.lower(): " ".join(value.split()) for name, value in headers.items()}
        default_port = ":443" if parts.scheme == "https" else ":80"
        signed |= {"host": parts.netloc.removesuffix(default_port), "x-amz-date": at}
        if self.session_token is not None:
            signed["x-amz-security-token"] = self.session_token
        names = ";".join(sorted(signed))
        canonical = "\n".join(
            [
                method,
                canonical_path(parts.path),
                canonical_query(parts.query),
                *(f"{name}:{signed[name]}" for name in sorted(signed)),
                "",
                names,
                sha256(body).hexdigest(),
            ]
        )
        scope = f"{at[:8]}/{self.region}/{self.service}/aws4_request"
        text = "\n".join([ALGORITHM, at, scope, sha256(canonical.encode()).hexdigest()])
        key = signing_key(self.secret_access_key, at[:8], self.region, self.service)
        signature = hmac.new(key, text.encode(), sha256).hexdigest()
        signed["authorization"] = (
            f"{ALGORITHM} Credential={self.access_key_id}/{scope}, "
            f"SignedHeaders={names}, Signature={signature}"
        )
        return signed


def signing_key(secret: str, date: str, region: str, service: str) -> bytes:
    """The key of one day (`YYYYMMDD`), region and service."""
    key = f"AWS4{secret}".encode()
    for word in (date, region, service, "aws4_request"):
        key = hmac.new(key, word.encode(), sha256).digest()
    return key


def canonical_path(path: str) -> str:
    """The path without `.`, `..` and doubled slashes, each part encoded once more than it is sent."""
    kept: list[str] = []
    for part in path.split("/"):
        if part == "..":
            kept = kept[:-1]
        elif part not in ("", "."):
            kept.append(quote(part, safe="-_.~"))
    closing = "/" if kept and path.endswith("/") else ""
    return "/" + "/".join(kept) + closing


def canonical_query(query: str) -> str:
    """The parameters sorted by name and value, strictly encoded."""
    pairs = parse_qsl(query, keep_blank_values=True)
    encoded = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in pairs)
    return "&".join(f"{name}={value}" for name, value in encoded)
