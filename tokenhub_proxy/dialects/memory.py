"""What a plain OpenAI client can't carry between two turns, kept for it: bounded, in memory."""

from __future__ import annotations

from collections import OrderedDict

# Signatures are a few KB each. A tool loop asks again within minutes; the oldest go first.
ENTRIES_MAX = 10_000
BYTES_MAX = 64 * 2**20


class Memory:
    """Opaque bytes by (owner, id), least recently used first to go.

    The owner is the account, so that nobody's state is ever used for another's call.
    """

    __slots__ = ("_bytes", "_entries", "bytes_max", "entries_max")

    def __init__(self, entries_max: int = ENTRIES_MAX, bytes_max: int = BYTES_MAX) -> None:
        self._entries: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._bytes = 0
        self.entries_max = entries_max
        self.bytes_max = bytes_max

    def put(self, owner: str, id: str, state: bytes) -> None:
        """Remember the state in place of an older one; too large a one is not kept."""
        older = self._entries.pop((owner, id), None)
        if older is not None:
            self._bytes -= _size(owner, id, older)
        size = _size(owner, id, state)
        if size > self.bytes_max:
            return
        self._entries[owner, id] = state
        self._bytes += size
        while len(self._entries) > self.entries_max or self._bytes > self.bytes_max:
            names, dropped = self._entries.popitem(last=False)
            self._bytes -= _size(*names, dropped)

    def get(self, owner: str, id: str) -> bytes | None:
        """The state, or None when it was never there or is gone."""
        state = self._entries.get((owner, id))
        if state is not None:
            self._entries.move_to_end((owner, id))
        return state


def _size(owner: str, id: str, state: bytes) -> int:
    """What an entry counts for: ids are the upstream's words, and may be long too."""
    return len(owner) + len(id) + len(state)
