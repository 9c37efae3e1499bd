"""What a browser asks and what it is answered, without a socket in sight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tokenhub_proxy.errors import InvalidRequest, ProxyError

# The largest form is a key's scope with a list of addresses.
FORM_BYTES_MAX = 64 * 2**10
FIELDS_MAX = 500
# A cookie header of ours has three names and a session of 64 characters.
COOKIE_LENGTH_MAX = 8192


class Forbidden(ProxyError):
    """403: a request from another site, or one that this person may not make."""

    status = 403
    code = "permission_denied"
    type = "permission_error"


class SignInFirst(ProxyError):
    """401: nobody is signed in."""

    status = 401
    code = "sign_in_required"
    type = "authentication_error"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. `address` is the client's, behind trusted proxies too; `secure` that it came by TLS."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    cookies: Mapping[str, str]
    form: Mapping[str, Sequence[str]]
    body: bytes
    address: str
    secure: bool
    id: str

    def field(self, name: str, default: str = "") -> str:
        """A form field, without the blanks around it."""
        return self.form[name][0].strip() if name in self.form else default

    def fields(self, name: str) -> Sequence[str]:
        """All values of a form field that are not empty."""
        return [value.strip() for value in self.form.get(name, ()) if value.strip()]

    @property
    def from_htmx(self) -> bool:
        """A part of a page is wanted, not a page."""
        return self.headers.get("HX-Request") == "true"


@dataclass(slots=True)
class Answer:
    """What is answered. A cookie has a place of its own, because there is never more than one."""

    body: bytes = b""
    status: int = 200
    content_type: str = "text/html; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)


def see_other(path: str, **headers: str) -> Answer:
    """After a change: look there. A reload then repeats nothing."""
    return Answer(status=303, headers={"location": path, **headers})


def cookies_of(header: str) -> Mapping[str, str]:
    """The cookies of a request; none where the header is no cookies at all."""
    jar: SimpleCookie = SimpleCookie()
    try:
        jar.load(header[:COOKIE_LENGTH_MAX])
    except CookieError:
        return {}
    return {name: morsel.value for name, morsel in jar.items()}


def query_of(text: str) -> Mapping[str, str]:
    """The parameters of a query; of a repeated one the first."""
    found: dict[str, str] = {}
    for name, value in _pairs(text):
        found.setdefault(name, value)
    return found


def form_of(body: bytes, content_type: str) -> Mapping[str, Sequence[str]]:
    """The fields of a posted form. Raises InvalidRequest for what is none."""
    if not body:
        return {}
    if content_type.partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise InvalidRequest("Forms come as application/x-www-form-urlencoded.")
    found: dict[str, list[str]] = {}
    try:
        pairs = _pairs(body.decode())
    except UnicodeDecodeError:
        raise InvalidRequest("The form is not UTF-8.") from None
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return found


def _pairs(text: str) -> Sequence[tuple[str, str]]:
    try:
        return parse_qsl(text, keep_blank_values=True, max_num_fields=FIELDS_MAX)
    except ValueError:
        raise InvalidRequest(f"There are more than {FIELDS_MAX} fields.") from None


def same_origin(headers: Mapping[str, Any]) -> bool:
    """Whether a change was asked for by a page of this very host.

    Browsers say so twice, in Sec-Fetch-Site and in Origin; a request that says neither is from no
    browser that has our cookies, and is refused as well.
    """
    site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
    if site is None and origin is None:
        return False
    if site is not None and site != "same-origin":
        return False
    return origin is None or urlsplit(origin).netloc.lower() == str(headers.get("Host", "")).lower() != ""


def local_path(text: str) -> str:
    """A place of ours to go to after signing in, whatever somebody wrote there."""
    safe = text.startswith("/dashboard") and "\\" not in text and text.isprintable()
    parts = urlsplit(text) if safe else None
    if parts is None or parts.scheme or parts.netloc or "//" in parts.path:
        return "/dashboard"
    return text


def named(path: str) -> str:
    """A part of a path as the name that it stands for."""
    return unquote(path)
