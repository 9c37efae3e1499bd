"""Pages from templates, and the headers that keep them from doing anything but what they should."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
import orjson

from tokenhub_proxy import __version__
from tokenhub_proxy.dashboard.access import Visitor, session_id
from tokenhub_proxy.dashboard.asked import Answer, Asked
from tokenhub_proxy.dashboard.assets import Assets
from tokenhub_proxy.dashboard.words import LANGUAGES, Words, chosen
from tokenhub_proxy.receipts import timestamp

THEMES = ("auto", "light", "dark")
# Nothing inline, nothing from elsewhere, nobody's frame.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Not no-referrer: browsers then send `Origin: null` with our own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "cache-control": "no-store",
}
# Told only over TLS, where it can be kept.
HTTPS_ONLY = {"strict-transport-security": "max-age=31536000"}


class Pages:
    """The templates, and what every page knows."""

    def __init__(self, assets: Assets, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._words = {code: Words(code) for code in LANGUAGES}
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader("tokenhub_proxy.dashboard"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals.update(
            static=assets.path, version=__version__, timestamp=timestamp, session_id=session_id
        )

    @property
    def vendored(self) -> Sequence[Mapping[str, str]]:
        """What others wrote of what is served: a package once, with its version and licence."""
        text = resources.files("tokenhub_proxy.dashboard").joinpath("static/VENDORED.json").read_bytes()
        return list({each["package"]: each for each in orjson.loads(text)}.values())

    def words(self, asked: Asked) -> Words:
        """The language of a request."""
        return self._words[
            chosen(asked.cookies.get("language", ""), asked.headers.get("Accept-Language", ""))
        ]

    def page(self, asked: Asked, visitor: Visitor | None, template: str, **known: Any) -> Answer:
        """A template, filled in."""
        t, theme = self.words(asked), asked.cookies.get("theme", "")
        body = self._templates.get_template(template).render(
            t=t,
            asked=asked,
            visitor=visitor,
            csrf=visitor.form_token if visitor is not None else "",
            theme=theme if theme in THEMES else "auto",
            now=self._clock(),
            **{"here": asked.path, "problem": None, "confirmed": True, **known},
        )
        return Answer(body.encode())
