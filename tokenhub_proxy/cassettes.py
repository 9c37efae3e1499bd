"""Recorded answers of upstreams as JSON lines: their form, what is kept off them, how they are found."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import orjson

from tokenhub_proxy.routes import Upstream
from tokenhub_proxy.wire import CROSSING_HEADERS, Outgoing

VERSION = 1
HEAD: Mapping[str, Any] = {"tokenhub": "cassette", "version": VERSION}
# What of an answer's head the dialects read, and what clients may see; nothing else is on tape.
HEADERS = CROSSING_HEADERS | {
    "content-type", "content-encoding", "retry-after", "retry-after-ms", "x-should-retry", "request-id",
    "x-amzn-errortype", "x-amzn-requestid", "x-amzn-bedrock-input-token-count",
}  # fmt: skip
# A shorter secret, such as the "none" of a local model, is a word like others.
SECRET_LENGTH_MIN = 8
REDACTED = "[redacted]"
# What looks like a credential, whoever's: keys of providers, tokens, bearer headers.
_SECRETS = (
    r"(?<![0-9A-Za-z_/+-])(?:sk-[0-9A-Za-z_-]{16,}|AIza[0-9A-Za-z_-]{30,}|A[KS]IA[0-9A-Z]{16}"
    r"|gh[pousr]_[0-9A-Za-z]{30,}|github_pat_[0-9A-Za-z_]{30,}|glpat-[0-9A-Za-z_-]{16,}"
    r"|xox[abprs]-[0-9A-Za-z-]{16,}|(?:hf|gsk|xai)[_-][0-9A-Za-z]{30,}"
    r"|eyJ[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]{8,}"
    r"|(?i:bearer) +[0-9A-Za-z._~+/=-]{16,})"
    r"|(?<=[?&]key=)[^&]+|(?<=[?&]api_key=)[^&]+|(?<=[?&]access_token=)[^&]+"
)
# Models stand in some upstreams' paths.
_MODEL_PATH = re.compile(r"/(?:models?|deployments)/([^/:?]+)")


class CassetteError(Exception):
    """A cassette that can't be read, or can't be used so. The message is for people."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request as it is on tape: no headers, so no credential; nothing that looks like one.

    `model` is the client's name of the model, `body` the JSON that the upstream was sent. Where the
    upstream is does not count; but it can decide how a request is spelled, so it is kept.
    """

    model: str
    dialect: str
    method: str
    path: str
    body: Any
    base_url: str = field(default="", compare=False)

    @property
    def upstream_model(self) -> str:
        """The model's name at the upstream, in its body or its path."""
        if isinstance(self.body, dict) and isinstance(self.body.get("model"), str):
            return str(self.body["model"])
        found = _MODEL_PATH.search(self.path)
        return found[1] if found else self.model


@dataclass(frozen=True, slots=True)
class Read:
    """One read of the network, so many milliseconds after the request was sent."""

    at_ms: float
    data: bytes


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request and its answer. `kind` names how the body broke off; "" is a clean end."""

    ask: Ask
    status: int
    headers: Mapping[str, str]
    head_ms: float
    reads: tuple[Read, ...]
    end_ms: float
    kind: str = ""


# Variables of the environment with such names hold secrets.
_SECRET_NAMES = re.compile(r"KEY|TOKEN|SECRET|PASSW", re.IGNORECASE)


def secrets_of(upstreams: Iterable[Upstream], environ: Mapping[str, str]) -> Sequence[str]:
    """All secrets that are known here: credentials, what is sent in headers, and variables named so."""
    found = [value for name, value in environ.items() if _SECRET_NAMES.search(name)]
    for upstream in upstreams:
        found += upstream.credentials
        found += (value for _, value in upstream.headers)
        found += (value for value in upstream.options.values() if isinstance(value, str))
        found += (upstream.proxy,) if upstream.proxy else ()
    return found


class Redactor:
    """Takes secrets out: those that it is told of, and whatever looks like one."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = {
            form
            for secret in secrets
            if len(secret) >= SECRET_LENGTH_MIN
            for form in (secret, orjson.dumps(secret)[1:-1].decode(), quote(secret, safe=""))
        }
        # The longest first: a secret may begin with another one.
        alternatives = [re.escape(secret) for secret in sorted(known, key=len, reverse=True)]
        pattern = "|".join([*alternatives, _SECRETS])
        self._text = re.compile(pattern)
        self._bytes = re.compile(pattern.encode())

    def text(self, text: str) -> str:
        """The text with a mark for each secret."""
        return self._text.sub(REDACTED, text)

    def mask(self, pieces: Sequence[bytes]) -> list[bytes]:
        """The pieces with a star for each byte of a secret, also of one that two pieces share."""
        masked = self._bytes.sub(lambda found: b"*" * len(found[0]), b"".join(pieces))
        cut, places = [], 0
        for piece in pieces:
            cut.append(masked[places : places + len(piece)])
            places += len(piece)
        return cut

    def ask(self, model: str, outgoing: Outgoing) -> Ask:
        """What is compared and written of a request."""
        text = self.text(outgoing.body.decode("utf-8", "replace"))
        try:
            body = orjson.loads(text) if text else None
        except orjson.JSONDecodeError:
            body = text
        upstream = outgoing.upstream
        path, base_url = self.text(outgoing.path), self.text(upstream.base_url)
        return Ask(model, upstream.dialect, outgoing.method, path, body, base_url)

    def headers(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """What is kept of an answer's head."""
        return {name: self.text(value) for name, value in headers.items() if name in HEADERS}


# --- the lines


def dump(recorded: Recorded, number: int) -> bytes:
    """The lines of one exchange: what was asked, the head, each read, the end."""
    ask = recorded.ask
    lines: list[Mapping[str, Any]] = [
        {
            "ask": number,
            "model": ask.model,
            "dialect": ask.dialect,
            "method": ask.method,
            "path": ask.path,
            "body": ask.body,
            "base_url": ask.base_url,
        },
        {
            "head": number,
            "at_ms": recorded.head_ms,
            "status": recorded.status,
            "headers": recorded.headers,
        },
        *({"read": number, "at_ms": read.at_ms, **_written(read.data)} for read in recorded.reads),
        {"end": number, "at_ms": recorded.end_ms, **({"kind": recorded.kind} if recorded.kind else {})},
    ]
    return b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines)


def _written(data: bytes) -> Mapping[str, str]:
    """Bytes as text where they are text, so that people and their diffs can read them."""
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"base64": b64encode(data).decode()}


def load(text: bytes, name: str) -> list[Recorded]:
    """The exchanges of a cassette, in the order of its asks. Raises CassetteError with the line."""
    lines = enumerate(text.splitlines(), 1)
    head = _object(next(lines, (1, b""))[1], f"{name}:1")
    if head.get("tokenhub") != "cassette" or head.get("version") != VERSION:
        raise CassetteError(f"{name}:1: is no cassette of version {VERSION}")
    open_: dict[int, _Open] = {}
    found: dict[int, Recorded] = {}
    for number, line in lines:
        place = f"{name}:{number}"
        try:
            _take(_object(line, place), open_, found)
        except (KeyError, TypeError, ValueError) as error:
            raise CassetteError(f"{place}: is no line of a cassette ({error})") from None
    if open_:
        raise CassetteError(f"{name}: ends within exchange {min(open_)}")
    return [found[number] for number in sorted(found)]


@dataclass(slots=True)
class _Open:
    """An exchange whose end was not read yet."""

    ask: Ask
    head: Mapping[str, Any] = field(default_factory=dict)
    reads: list[Read] = field(default_factory=list)


def _object(line: bytes, place: str) -> Mapping[str, Any]:
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise CassetteError(f"{place}: is no line of JSON")
    return found


def _take(line: Mapping[str, Any], open_: dict[int, _Open], found: dict[int, Recorded]) -> None:
    if "ask" in line:
        names = ("model", "dialect", "method", "path", "body", "base_url")
        open_[line["ask"]] = _Open(Ask(*(line[name] for name in names)))
    elif "head" in line:
        open_[line["head"]].head = line
    elif "read" in line:
        data = line["text"].encode() if "text" in line else b64decode(line["base64"], validate=True)
        open_[line["read"]].reads.append(Read(line["at_ms"], data))
    else:
        one = open_.pop(line["end"])
        found[line["end"]] = Recorded(
            ask=one.ask,
            status=one.head["status"],
            headers=one.head["headers"],
            head_ms=one.head["at_ms"],
            reads=tuple(one.reads),
            end_ms=line["at_ms"],
            kind=line.get("kind", ""),
        )


# --- finding


class Cassette:
    """The exchanges of one tape. A request finds the first equal one that was not played yet.

    Once all equal ones were played, the last is played again, unless `strict`. `ignore` names
    members of bodies that don't count, as dotted paths.
    """

    def __init__(
        self, recorded: Iterable[Recorded] = (), *, strict: bool = False, ignore: Sequence[str] = ()
    ) -> None:
        self._recorded = list(recorded)
        self._played = [False] * len(self._recorded)
        self._strict = strict
        self._ignore = tuple(path.split(".") for path in ignore)

    @property
    def asks(self) -> Sequence[Ask]:
        """What was asked on this tape."""
        return [recorded.ask for recorded in self._recorded]

    @property
    def unplayed(self) -> Sequence[Ask]:
        """What was asked when the tape was made and has not been asked since."""
        return [each.ask for each, played in zip(self._recorded, self._played, strict=True) if not played]

    def take(self, ask: Ask) -> Recorded | None:
        """The answer to this request, or None."""
        wanted = self._counted(ask)
        equal = [number for number, each in enumerate(self._recorded) if self._counted(each.ask) == wanted]
        fresh = [number for number in equal if not self._played[number]]
        if not equal or (self._strict and not fresh):
            return None
        number = fresh[0] if fresh else equal[-1]
        self._played[number] = True
        return self._recorded[number]

    def keep(self, recorded: Recorded) -> int:
        """Take up a new exchange, played already; gives its number."""
        self._recorded.append(recorded)
        self._played.append(True)
        return len(self._recorded)

    def miss(self, ask: Ask) -> str:
        """Why there is no answer: the fields in which the nearest recorded request differs."""
        if not self._recorded:
            return "nothing is recorded"
        wanted = self._counted(ask)
        differing = [list(differences(self._counted(each.ask), wanted)) for each in self._recorded]
        number, fields = min(enumerate(differing, 1), key=lambda found: len(found[1]))
        if not fields:
            return f"exchange {number} is equal but was played already"
        return f"the nearest is exchange {number}, which differs in {', '.join(fields[:10])}"

    def _counted(self, ask: Ask) -> Mapping[str, Any]:
        body = ask.body
        for path in self._ignore:
            body = _without(body, path)
        names = ("model", "dialect", "method", "path")
        return {**{name: getattr(ask, name) for name in names}, "body": body}


def differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """The paths of the members in which two JSON values differ; never the values."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in {**one, **other}:
            inner = f"{path}.{name}" if path else name
            if name in one and name in other:
                yield from differences(one[name], other[name], inner)
            else:
                yield inner
    elif isinstance(one, list) and isinstance(other, list):
        for index in range(max(len(one), len(other))):
            if index < len(one) and index < len(other):
                yield from differences(one[index], other[index], f"{path}[{index}]")
            else:
                yield f"{path}[{index}]"
    elif one != other:
        yield path


def _without(body: Any, path: Sequence[str]) -> Any:
    if not isinstance(body, dict) or path[0] not in body:
        return body
    if len(path) == 1:
        return {name: value for name, value in body.items() if name != path[0]}
    return {**body, path[0]: _without(body[path[0]], path[1:])}
