"""The step of the schema that brings people, their sessions, the audit trail, and statements of account."""

from __future__ import annotations

STEP: tuple[str, ...] = (
    # Who signs in to the dashboard: operators, and the owners of an account.
    """CREATE TABLE people (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        role TEXT NOT NULL CHECK (role = 'operator' OR role = 'owner'),
        account TEXT REFERENCES accounts (name),
        password TEXT,
        created_at REAL NOT NULL,
        blocked_at REAL,
        CHECK ((role = 'owner') = (account IS NOT NULL))
    ) STRICT, WITHOUT ROWID""",
    # Of what opens a door only the digest is kept.
    """CREATE TABLE sessions (
        digest BLOB PRIMARY KEY,
        person TEXT NOT NULL REFERENCES people (id),
        created_at REAL NOT NULL,
        seen_at REAL NOT NULL,
        confirmed_at REAL NOT NULL,
        address TEXT NOT NULL,
        agent TEXT NOT NULL
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE links (
        digest BLOB PRIMARY KEY,
        person TEXT NOT NULL REFERENCES people (id),
        expires_at REAL NOT NULL
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE tokens (
        digest BLOB PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        created_at REAL NOT NULL,
        revoked_at REAL
    ) STRICT, WITHOUT ROWID""",
    # Who changed what, from which door: the trail is never edited.
    """CREATE TABLE acts (
        id INTEGER PRIMARY KEY,
        at REAL NOT NULL,
        actor TEXT NOT NULL,
        door TEXT NOT NULL,
        address TEXT NOT NULL,
        verb TEXT NOT NULL,
        subject TEXT NOT NULL,
        details TEXT NOT NULL
    ) STRICT""",
    *(
        f"""CREATE TRIGGER acts_are_never_{done} BEFORE {event} ON acts
            BEGIN SELECT RAISE(ABORT, 'acts are never {done}'); END"""
        for event, done in (("UPDATE", "edited"), ("DELETE", "deleted"))
    ),
    # Accounts whose calls are refused, whatever their balance.
    """CREATE TABLE blocked (
        account TEXT PRIMARY KEY REFERENCES accounts (name),
        at REAL NOT NULL
    ) STRICT, WITHOUT ROWID""",
    # A statement of account, however many others there are.
    "CREATE INDEX entries_by_debit ON entries (debit, id)",
    "CREATE INDEX entries_by_credit ON entries (credit, id) WHERE kind = 'credit'",
)
