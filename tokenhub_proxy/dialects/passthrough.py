"""A stream that is OpenAI's format already: relayed byte for byte, and understood beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from tokenhub_proxy import sse
from tokenhub_proxy.calls import MODEL_LENGTH_MAX, Call
from tokenhub_proxy.dialects.answers import raise_error_in_200, usage_member, usage_told
from tokenhub_proxy.dialects.facts import PLAIN, Facts
from tokenhub_proxy.dialects.pattern import NOTHING, Texts
from tokenhub_proxy.dialects.reasoning import Keeper
from tokenhub_proxy.dialects.replies import STREAM_HEADERS, cleaned, error_event, parse_object
from tokenhub_proxy.errors import ProxyError, UpstreamUnavailable
from tokenhub_proxy.prices import Usage, estimate_tokens

# An event that may turn out to be the usage event is held back until it is whole. One longer than
# this is none: the longest seen, with every detail, are a few KB.
HELD_BYTES_MAX = 64 * 2**10
# Before the first data event is whole nothing is committed. One larger than this is content; as
# many bytes of comments before it are no stream at all.
FIRST_EVENT_BYTES_MAX = 2**20
# An event larger than this (an image, as a rule) is relayed without being understood or kept.
EVENT_BYTES_MAX = 4 * 2**20
# An event without data, which some upstreams send as a ping, is as long as this or counts as such.
PING_BYTES = len(b"data: \n\n")
# So much at once is more than a few events, and cutting it costs as much as looking into two.
MUCH_BYTES: Final = 512
# What may follow [DONE] and still be relayed with it.
ENDING_BYTES_MAX = 64 * 2**10

# A code is a word or a number; anything else may hold what belongs in no log.
_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_NO_CHOICES: Final[frozenset[object]] = frozenset()


class Stream(Texts):
    """A stream relayed as it comes.

    The client's bytes are the upstream's, but for the usage event that only we asked for, and for
    `[DONE]`, which waits for the books. Looking inside is done by byte searches; an event is
    parsed only where it says something other than more text. Neither what is said in all nor the
    usage depends on where the network cut the bytes.
    """

    __slots__ = (
        "_ahead", "_call", "_ending", "_envelope", "_facts", "_failed", "_finished_choices", "_hide_usage",
        "_keeper", "_model", "_open", "_reported", "_rest_said", "_skipping", "_splitter", "begun", "done",
        "finished", "headers", "notes", "status",
    )  # fmt: skip

    def __init__(
        self,
        call: Call,
        *,
        model: str,
        hide_usage: bool,
        facts: Facts = PLAIN,
        keeper: Keeper | None = None,
    ) -> None:
        """`model` was asked for. With a `keeper` every event is parsed, and shown to it."""
        super().__init__()
        self.status = 200
        self.headers = STREAM_HEADERS
        self.finished = False
        self.begun = False
        self.done = False
        self.notes: dict[str, object] = {}
        self._call = call
        self._model = model
        self._hide_usage = hide_usage
        self._facts = facts
        self._keeper = keeper
        self._splitter = sse.Splitter()
        self._rest_said = 0  # how much of the unfinished event the client has already
        self._open = b""  # what closes the last event, if the body ended before its blank line
        self._skipping = False  # the unfinished event is too large to be kept
        self._ahead = b""  # comments from before the first data event
        self._ending = b""  # [DONE] and what follows it
        self._failed = False
        self._finished_choices = _NO_CHOICES
        self._reported: Usage | None = None
        self._envelope = 0  # what of an event is no content, for the estimate of a stream without usage

    @property
    def usage(self) -> Usage:
        if self._reported is not None:
            return self._reported
        if not self.begun:
            return Usage()
        events, length = self._events, self._length
        if self._rest_said:
            events, length = events + 1, length + self._rest_said
        text = max(0, length - events * self._envelope)
        output = max(events - 1, estimate_tokens(text))
        if self._call.output_max is not None:
            output = min(output, self._call.output_max * self._call.choices)
        return Usage(input=self._call.input_estimate(0), output=output)

    @property
    def progress(self) -> int:
        # Made of what is counted for the estimate anyway; events without data leave it as it is.
        return self._length - self._events * PING_BYTES + self._rest_said

    @property
    def between_events(self) -> bool:
        return self.begun and not self.done and not self._rest_said

    def feed(self, data: bytes) -> bytes:
        if self._are_text(data):
            return data
        if not data:
            return self._end()
        if len(data) < MUCH_BYTES or self._keeper is not None:
            return self._look_into(data)
        return self._feed_apart(data)

    def _feed_apart(self, data: bytes) -> bytes:
        """Feed much, or all, of a stream in pieces, so that what is text alone is one of them.

        What is said does not depend on where the bytes were cut.
        """
        said: list[bytes] = []
        start = 0
        # The end of an open event, or the stream's first; then one that shows what the others look like.
        while not self._at_event or self._pattern is NOTHING:
            end = data.find(b"\n\n", start) + 2
            if end < 2 or len(said) == 2:
                break
            said.append(self._feed_piece(data[start:end]))
            start = end
        # Text ends before the event that says how the answer finished.
        finish = data.rfind(self._null_finish.removesuffix(b"null") + b'"', start)
        end = data.rfind(b"\n\n", start, finish if finish >= 0 else len(data)) + 2
        if end >= 2:
            said.append(self._feed_piece(data[start:end]))
            start = end
        if start < len(data):
            said.append(self._look_into(data[start:]))
        return b"".join(said)

    def _feed_piece(self, data: bytes) -> bytes:
        return data if self._are_text(data) else self._look_into(data)

    def _look_into(self, data: bytes) -> bytes:
        if self.done:
            self._end_with(data)
            return b""
        said: list[bytes] = []
        for event in self._splitter.feed(data):
            said.append(self._event(event))
            self._rest_said = 0
            self._skipping = False
        if self.done:
            self._end_with(self._splitter.rest)
            self._splitter = sse.Splitter()
        else:
            said.append(self._early())
        self._at_event = self.begun and not self.done and not self._splitter.rest and self._keeper is None
        return self._committed(b"".join(said))

    def close(self, error: ProxyError | None = None, request_id: str = "") -> bytes:
        if self.finished and self.done:
            return self._ending
        if self.finished:
            return (b"\n\n" if self._rest_said else self._open) + sse.DONE
        if error is not None:
            self.notes["events"] = self._events
        if self._rest_said:
            self.notes["mid_event"] = 1
        elif self.begun and not self._failed and error is not None:
            return self._open + error_event(error, request_id)
        return b""

    def _committed(self, said: bytes) -> bytes:
        """Comments that come before the first data event wait for it."""
        if not self.begun:
            self._ahead += said
            if len(self._ahead) > FIRST_EVENT_BYTES_MAX:
                raise UpstreamUnavailable(kind="too_large", executed=True)
            return b""
        if self._ahead:
            said, self._ahead = self._ahead + said, b""
        return said

    def _event(self, event: bytes) -> bytes:
        """One whole event → what of it the client gets now."""
        left = event[self._rest_said :]
        if self.done:
            self._end_with(left)
            return b""
        if self._skipping or len(event) > EVENT_BYTES_MAX:
            self.notes["big_event"] = 1
            self.begun = True
            self._events += 1
            self._length += len(event)
            if self._keeper is not None:
                self._keeper.forget()
                self.notes["reasoning"] = "lost"
            return left
        payload = sse.data(event)
        if payload is None or not (payload or self.begun):
            if not event.isspace():
                self._note("pings")
            return left
        if payload == b"[DONE]":
            if not self.begun:
                raise UpstreamUnavailable(kind="empty", executed=True)
            self.done = True
            self.finished = not self._failed
            self._ending = left
            self._note_usage()
            return b""
        self._events += 1
        self._length += len(event) if payload else PING_BYTES
        if not self.begun:
            self._first(payload, event)
        if self._keeper is None and self._only_text(event):
            return left
        return b"" if self._learn(payload, event) else left

    def _first(self, payload: bytes, event: bytes) -> None:
        """The first data event decides whether anything is committed."""
        found = parse_object(payload)
        if found is not None:
            self._check(found)
        if b'"finish_reason": null' in event or b'"usage": null' in event:
            self._null_finish, self._null_usage = b'"finish_reason": null', b'"usage": null'
        self._envelope = len(event) if len(event) <= FIRST_EVENT_BYTES_MAX else 0
        self.begun = True

    def _check(self, found: Mapping[str, Any]) -> None:
        """Raise for an error, which leaves another target possible; note a model that was not asked for."""
        try:
            raise_error_in_200(found)
        except UpstreamUnavailable as error:
            error.notes = {"error_first_event": 1}
            raise
        model = found.get("model")
        # Providers answer with the dated name of what was asked for.
        if isinstance(model, str) and model and self._model not in model and model not in self._model:
            self.notes["model_mismatch"] = cleaned(model)[:MODEL_LENGTH_MAX]

    def _learn(self, payload: bytes, event: bytes) -> bool:
        """Look inside an event; True when it is the usage event that the client did not ask for."""
        found = parse_object(payload)
        if found is None:
            self._note("bad_events")
            return False
        choices = found.get("choices")
        if found.get("error") or found.get("object") == "error":
            self._fail(found.get("error") or found)
        elif isinstance(choices, list):
            for choice in choices:
                if isinstance(choice, Mapping) and choice.get("finish_reason"):
                    self._finish(choice)
        if self._keeper is not None and not self._failed:
            self._keeper.chunk(found)
            if not self._keeper.complete:
                self.notes["reasoning"] = "lost"
        usage = usage_member(found, self._facts)
        if usage is None:
            return False
        self._note("usage_chunks")
        read = usage_told(usage, self._facts)
        if read is None:
            self.notes["usage"] = "invalid"
        else:
            self._reported = read  # cumulative wherever it comes more than once: the last one counts
        return self._hide_usage and not choices and not self._failed and not _may_be_said(event)

    def _finish(self, choice: Mapping[str, Any]) -> None:
        if choice["finish_reason"] == "error":
            self._fail()
        elif not self._failed:
            index = choice.get("index")
            self._finished_choices |= {index if isinstance(index, int) else 0}
            self.finished = len(self._finished_choices) >= self._call.choices

    def _fail(self, error: object = None) -> None:
        """The upstream's own error event is relayed; after it nothing counts as finished."""
        self._failed = True
        self.finished = False
        self.notes["error_event"] = 1
        code = error.get("code") if isinstance(error, Mapping) else None
        if isinstance(code, (int, str)) and _CODE.fullmatch(str(code)):
            self.notes["error_code"] = code

    def _early(self) -> bytes:
        """What of the unfinished event can be said before its end.

        Nothing after the finish: what is cut there is left out, and the answer is still whole.
        """
        rest = self._splitter.rest
        if not rest:
            return b""
        if not self.begun:
            if len(rest) <= FIRST_EVENT_BYTES_MAX:
                return b""
            if sse.data(rest) is None:
                raise UpstreamUnavailable(kind="too_large", executed=True)
            self.begun = True
        if not self._rest_said and not (len(rest) > HELD_BYTES_MAX if self.finished else _may_be_said(rest)):
            return b""
        said = rest[self._rest_said :]
        self._rest_said = len(rest)
        if len(rest) > EVENT_BYTES_MAX:
            self._skip(rest)
        return said

    def _skip(self, rest: bytes) -> None:
        """Keep of a giant event only what its boundary may begin with."""
        self._skipping = True
        self._length += len(rest) - 3
        self._splitter = sse.Splitter()
        self._splitter.feed(rest[-3:])
        self._rest_said = 3

    def _end_with(self, data: bytes) -> None:
        if data.strip():
            self.notes["after_done"] = 1
        self._ending += data[: max(0, ENDING_BYTES_MAX - len(self._ending))]

    def _end(self) -> bytes:
        """The upstream's body ended; its last event may lack the blank line, or be cut."""
        rest, said = self._splitter.rest, b""
        payload = None if self._skipping else sse.data(rest)
        if payload == b"[DONE]":
            self._event(rest)
            self._ending = self._ending.rstrip(b"\r\n") + b"\n\n"
        elif payload is not None and parse_object(payload) is not None:
            said = self._event(rest)
            if said or self._rest_said:
                self._open = b"\n" if rest.endswith((b"\n", b"\r")) else b"\n\n"
            self._rest_said = 0
        if not self.begun:
            found = parse_object(self._ahead + rest)
            if found is not None:
                raise_error_in_200(found)  # a JSON error under the label of a stream
            raise UpstreamUnavailable(kind="empty", executed=True)
        self._note_usage()
        if self.finished and not self.done:
            self.notes["missing_done"] = 1
        elif not self.finished and not self._failed:
            self.notes["kind"] = "no_finish"
        return self._committed(said)

    def _note_usage(self) -> None:
        if self._reported is None:
            self.notes.setdefault("usage", "missing")
        elif not self._reported.total:
            self.notes["usage_zero"] = 1  # kept: what was said is not replaced by a guess

    def _note(self, name: str) -> None:
        self.notes[name] = int(str(self.notes.get(name, 0))) + 1


def _may_be_said(event: bytes) -> bool:
    """True when an event can't be the usage event or [DONE], as far as it is known."""
    return b'"delta"' in event or len(event) > HELD_BYTES_MAX
