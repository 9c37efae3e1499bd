"""The keys in memory: those of the config, and over them those of the ledger."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from tokenhub_proxy.errors import InvalidRequest
from tokenhub_proxy.keys import Key

# Secrets lent at a time; the oldest goes for a new one.
LENT_MAX = 1000


class Keyring:
    """Finds a key by the digest of its secret.

    A name belongs to one key. A key of the ledger under a name of the config stays in force over
    it: that is how a key of the config is revoked or limited without editing the file.
    """

    def __init__(self, stored: Iterable[Key] = ()) -> None:
        self._stored = {key.name: key for key in stored}
        self._declared: dict[str, Key] = {}
        self._claims: list[Key] = []  # not durable yet; their names and digests are taken
        self._by_digest: dict[bytes, Key] = {}
        self._lent: dict[bytes, tuple[str, float]] = {}
        self._index()

    def find(self, digest: bytes) -> Key | None:
        """The key of this digest or previous digest, whatever its state."""
        return self._by_digest.get(digest) or self._borrowed(digest)

    def lend(self, name: str, digest: bytes, until: float) -> None:
        """Let one more secret open this key until that time, as its previous one would."""
        if len(self._lent) >= LENT_MAX:
            del self._lent[next(iter(self._lent))]
        self._lent[digest] = (name, until)

    def _borrowed(self, digest: bytes) -> Key | None:
        name, until = self._lent.get(digest, ("", 0.0))
        key = self._stored.get(name) or self._declared.get(name)
        return None if key is None else replace(key, previous_digest=digest, previous_until=until)

    def all(self) -> Sequence[Key]:
        """Every key, by name."""
        keys = {**self._declared, **self._stored}
        return [keys[name] for name in sorted(keys)]

    def stored(self) -> Sequence[Key]:
        """The keys that the file holds."""
        return list(self._stored.values())

    def check_declared(self, keys: Iterable[Key], accounts: Collection[str]) -> tuple[Key, ...]:
        """The config's keys as given. Raises InvalidRequest for a name or a secret used twice."""
        declared = tuple(keys)
        names: set[str] = set()
        digests = {key.digest: key.name for key in (*self._stored.values(), *self._claims)}
        for key in declared:
            if key.account not in accounts:
                raise InvalidRequest(f"key {key.name!r}: there is no account {key.account!r}.")
            if key.name in names:
                raise InvalidRequest(f"two keys are named {key.name!r}.")
            names.add(key.name)
            if digests.setdefault(key.digest, key.name) != key.name:
                raise InvalidRequest(f"keys {digests[key.digest]!r} and {key.name!r} have the same secret.")
        return declared

    def declare(self, keys: Iterable[Key]) -> None:
        """Take the config's keys in place of those declared before."""
        self._declared = {key.name: key for key in keys}
        self._index()

    def claim(self, key: Key) -> None:
        """Take the name and the digest for a key that is being written. Raises InvalidRequest."""
        for other in (*self._stored.values(), *self._claims):
            if (other.id == key.id) != (other.name == key.name):
                raise InvalidRequest(f"The name {key.name!r} or the id of this key is another key's.")
        for other in (*self.all(), *self._claims):
            if other.name != key.name and {key.digest, key.previous_digest} & {
                other.digest,
                other.previous_digest,
            } - {None}:
                raise InvalidRequest(f"Key {other.name!r} has the same secret.")
        self._claims.append(key)

    def disclaim(self, key: Key) -> None:
        """The key was not written."""
        self._claims.remove(key)

    def put(self, key: Key) -> None:
        """The key was written."""
        self._claims.remove(key)
        self._stored[key.name] = key
        self._index()

    def _index(self) -> None:
        self._by_digest.clear()
        for key in self.all():
            # A name's older secret never hides another key's present one.
            if key.previous_digest is not None:
                self._by_digest.setdefault(key.previous_digest, key)
            self._by_digest[key.digest] = key
