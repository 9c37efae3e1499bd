"""Who may sign in, with what, and what they did: rows beside the books, written by the same one thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import orjson

from tokenhub_proxy.errors import InvalidRequest, LedgerUnavailable
from tokenhub_proxy.ledger.reader import Reader
from tokenhub_proxy.ledger.rows import Connection, error_name
from tokenhub_proxy.ledger.writer import Writer

Role = Literal["operator", "owner"]
Door = Literal["dashboard", "command line", "api"]
ACTS_MAX = 100
# Of one person; the oldest session goes for a new one.
SESSIONS_MAX = 20

# ruff: noqa: S608 - the parts of the statements are table names and columns of this file


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who signs in. An owner has an account; `password` is a verifier, never a password."""

    id: str
    name: str
    role: Role
    account: str | None
    password: str | None
    created_at: float
    blocked_at: float | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that has signed in. `confirmed_at` is when its password was last asked for."""

    digest: bytes
    person: str
    created_at: float
    seen_at: float
    confirmed_at: float
    address: str
    agent: str


@dataclass(frozen=True, slots=True)
class Token:
    """An operator's token for the JSON API."""

    digest: bytes
    name: str
    created_at: float
    revoked_at: float | None = None


@dataclass(frozen=True, slots=True)
class Act:
    """What somebody changed. `details` hold no secret."""

    at: float
    actor: str
    door: Door
    address: str
    verb: str
    subject: str
    details: dict[str, Any]
    id: int = 0


Statement = tuple[str, Sequence[Any]]


class People:
    """All people, sessions, links and tokens, in memory; a change counts when it is durable.

    One process owns the file, so memory is the truth between two changes.
    """

    def __init__(self, writer: Writer, reader: Reader, unavailable: Callable[[], str | None]) -> None:
        self._writer = writer
        self._reader = reader
        self._unavailable = unavailable
        self._loaded = False
        self._people: dict[str, Person] = {}
        self._sessions: dict[bytes, Session] = {}
        self._links: dict[bytes, tuple[str, float]] = {}
        self._tokens: dict[bytes, Token] = {}

    async def load(self) -> None:
        """Read what the file has; once. The rest of the methods need it."""
        if self._loaded:
            return
        try:
            people, sessions, links, tokens = await self._writer.call(lambda: _read(self._writer.connection))
        except sqlite3.Error as error:
            raise LedgerUnavailable(error_name(error)) from error
        if self._loaded:  # by somebody else, meanwhile
            return
        self._people = {row[0]: Person(*row) for row in people}
        self._sessions = {row[0]: Session(*row) for row in sessions}
        self._links = {row[0]: (row[1], row[2]) for row in links}
        self._tokens = {row[0]: Token(*row) for row in tokens}
        self._loaded = True

    # --- what is so now

    def everybody(self) -> Sequence[Person]:
        return sorted(self._people.values(), key=lambda person: (person.role != "operator", person.name))

    def person(self, id_: str) -> Person | None:
        return self._people.get(id_)

    def named(self, name: str) -> Person | None:
        return next((person for person in self._people.values() if person.name == name), None)

    def session(self, digest: bytes) -> Session | None:
        return self._sessions.get(digest)

    def sessions_of(self, person: str) -> Sequence[Session]:
        """The newest first."""
        found = [session for session in self._sessions.values() if session.person == person]
        return sorted(found, key=lambda session: -session.seen_at)

    def invited(self, digest: bytes, now_s: float) -> Person | None:
        """Whom a link lets set a password; it is one person's, and ends."""
        person_id, expires_at = self._links.get(digest, ("", 0.0))
        person = self._people.get(person_id)
        return person if person is not None and now_s < expires_at and person.blocked_at is None else None

    def token(self, digest: bytes) -> Token | None:
        found = self._tokens.get(digest)
        return found if found is not None and found.revoked_at is None else None

    def tokens(self) -> Sequence[Token]:
        return sorted(self._tokens.values(), key=lambda token: token.name)

    # --- changes, each one transaction

    async def put_person(self, person: Person) -> None:
        """Write a new person, or a new state of one. Raises InvalidRequest for a name that is taken."""
        await self._write(_insert("people", 7), _row(person))
        self._people[person.id] = person

    async def set_password(self, person: Person, password: str) -> Person:
        """A new password ends every session and link of its person."""
        person = replace(person, password=password)
        await self._transact(
            (
                (_insert("people", 7), _row(person)),
                ("DELETE FROM sessions WHERE person = ?", (person.id,)),
                ("DELETE FROM links WHERE person = ?", (person.id,)),
            )
        )
        self._people[person.id] = person
        self._forget(person.id, links=True)
        return person

    async def block(self, person: Person, at: float | None) -> None:
        """Block a person, who is signed out everywhere, or (None) let them in again."""
        person = replace(person, blocked_at=at)
        await self._transact(
            ((_insert("people", 7), _row(person)), ("DELETE FROM sessions WHERE person = ?", (person.id,)))
        )
        self._people[person.id] = person
        self._forget(person.id, links=False)

    async def put_link(self, digest: bytes, person: Person, expires_at: float) -> None:
        """A link in place of all that this person had before."""
        await self._transact(
            (
                ("DELETE FROM links WHERE person = ?", (person.id,)),
                (_insert("links", 3), (digest, person.id, expires_at)),
            )
        )
        self._links = {key: link for key, link in self._links.items() if link[0] != person.id}
        self._links[digest] = (person.id, expires_at)

    async def put_session(self, session: Session) -> None:
        """Write a new session or a new state of one; too many of a person's push out the oldest."""
        others = [each for each in self.sessions_of(session.person) if each.digest != session.digest]
        for old in others[SESSIONS_MAX - 1 :]:
            await self.end_session(old.digest)
        await self._write(_insert("sessions", 7), _row(session))
        self._sessions[session.digest] = session

    async def end_session(self, digest: bytes) -> None:
        await self._write("DELETE FROM sessions WHERE digest = ?", (digest,))
        self._sessions.pop(digest, None)

    async def end_sessions(self, ended: Callable[[Session], bool]) -> None:
        """End every session of which this is true: those that are over."""
        digests = [session.digest for session in self._sessions.values() if ended(session)]
        await self._transact(tuple(("DELETE FROM sessions WHERE digest = ?", (one,)) for one in digests))
        for digest in digests:
            self._sessions.pop(digest, None)

    async def put_token(self, token: Token) -> None:
        await self._write(_insert("tokens", 4), _row(token))
        self._tokens[token.digest] = token

    async def write_blocked(self, account: str, at: float | None) -> None:
        """Write that an account is blocked, or (None) that it is not."""
        if at is None:
            await self._write("DELETE FROM blocked WHERE account = ?", (account,))
        else:
            await self._write("INSERT OR IGNORE INTO blocked VALUES (?, ?)", (account, at))

    # --- the trail

    async def note(self, act: Act) -> None:
        """Append to the trail."""
        details = orjson.dumps(act.details).decode()
        await self._write(
            "INSERT INTO acts VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)",
            (act.at, act.actor, act.door, act.address, act.verb, act.subject, details),
        )

    async def acts(self, before: int | None = None, limit: int = ACTS_MAX) -> Sequence[Act]:
        """The newest acts first; the next page is `before` the last one's id."""
        (rows,) = await self._reader.fetch(
            (
                "SELECT at, actor, door, address, verb, subject, details, id FROM acts"
                " WHERE id < ? ORDER BY id DESC LIMIT ?",
                (before if before is not None else 2**62, max(1, min(limit, ACTS_MAX))),
            )
        )
        return [_act(*row) for row in rows]

    def _forget(self, person: str, *, links: bool) -> None:
        self._sessions = {key: each for key, each in self._sessions.items() if each.person != person}
        if links:
            self._links = {key: link for key, link in self._links.items() if link[0] != person}

    async def _write(self, sql: str, values: Sequence[Any]) -> None:
        await self._transact(((sql, values),))

    async def _transact(self, statements: Sequence[Statement]) -> None:
        reason = self._unavailable()
        if reason is not None:
            raise LedgerUnavailable(reason)
        try:
            await self._writer.call(lambda: _execute(self._writer.connection, statements))
        except sqlite3.IntegrityError as error:
            raise InvalidRequest("That name is taken already.", param="name") from error
        except sqlite3.Error as error:
            raise LedgerUnavailable(error_name(error)) from error


def _read(connection: Connection) -> tuple[list[Any], ...]:
    return tuple(
        connection.execute(f"SELECT * FROM {table}").fetchall()
        for table in ("people", "sessions", "links", "tokens")
    )


def _act(at: float, actor: str, door: Door, address: str, *row: Any) -> Act:
    verb, subject, details, id_ = row
    return Act(at, actor, door, address, verb, subject, orjson.loads(details), id_)


def _insert(table: str, columns: int) -> str:
    # Not OR REPLACE: that would delete the row of another person with this name.
    key = "id" if table == "people" else "digest"
    names = {
        "people": ("name", "role", "account", "password", "created_at", "blocked_at"),
        "sessions": ("person", "created_at", "seen_at", "confirmed_at", "address", "agent"),
        "links": ("person", "expires_at"),
        "tokens": ("name", "created_at", "revoked_at"),
    }[table]
    changes = ", ".join(f"{name} = excluded.{name}" for name in names)
    return (
        f"INSERT INTO {table} VALUES ({', '.join('?' * columns)}) ON CONFLICT ({key}) DO UPDATE SET {changes}"
    )


def _row(record: Person | Session | Token) -> tuple[Any, ...]:
    return tuple(_values(record))


def _values(record: Person | Session | Token) -> Iterator[Any]:
    for name in record.__slots__:
        yield getattr(record, name)


def _execute(connection: Connection, statements: Sequence[Statement]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in statements:
            connection.execute(*statement)
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
