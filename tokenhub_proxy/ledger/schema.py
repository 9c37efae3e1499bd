"""The tables of the SQLite ledger, and the numbered steps from each released form to the next."""

from __future__ import annotations

from tokenhub_proxy.ledger import schema_orders, schema_people, schema_usage

# ruff: noqa: S608 - the parts of the statements are table names of this file

# "thub": what makes a file ours, whatever its name.
APPLICATION_ID = 0x74687562

# A list of lists: MIGRATIONS[n] leads from version n to n + 1. A released step never changes.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # (Checks say OR, not IN: SQLite builds the list of an IN anew for every row, 7 us each.)
        # One row. `batch` counts transactions, so that one with an unknown outcome can be found;
        # every hold below `open_from` has ended; rows of calls below `purge_below` may be deleted.
        """CREATE TABLE meta (
            one INTEGER PRIMARY KEY CHECK (one = 1),
            batch INTEGER NOT NULL,
            open_from INTEGER NOT NULL,
            purge_below INTEGER NOT NULL,
            boot TEXT NOT NULL
        ) STRICT""",
        "INSERT INTO meta VALUES (1, 0, 1, 0, '')",
        # The second view of what memory guards: a row that breaks it fails its whole transaction.
        """CREATE TABLE accounts (
            name TEXT PRIMARY KEY,
            unlimited INTEGER NOT NULL CHECK (unlimited = 0 OR unlimited = 1),
            posted INTEGER NOT NULL,
            held INTEGER NOT NULL CHECK (held >= 0),
            CHECK (unlimited OR posted >= held)
        ) STRICT, WITHOUT ROWID""",
        "INSERT INTO accounts VALUES ('default', 1, 0, 0)",
        """CREATE TABLE windows (
            name TEXT PRIMARY KEY,
            posted INTEGER NOT NULL CHECK (posted >= 0),
            held INTEGER NOT NULL CHECK (held >= 0),
            at REAL NOT NULL
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE keys (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL UNIQUE,
            account TEXT NOT NULL REFERENCES accounts (name),
            digest BLOB NOT NULL UNIQUE,
            previous_digest BLOB,
            previous_until REAL,
            scope TEXT NOT NULL,
            created_at REAL NOT NULL,
            revoked_at REAL,
            from_config INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE holds (
            id INTEGER PRIMARY KEY,
            request_id TEXT NOT NULL UNIQUE,
            account TEXT NOT NULL REFERENCES accounts (name),
            key_id TEXT NOT NULL,
            key TEXT NOT NULL,
            model TEXT NOT NULL,
            amount INTEGER NOT NULL CHECK (amount >= 0),
            at REAL NOT NULL,
            window_name TEXT,
            stream INTEGER NOT NULL,
            price_input INTEGER NOT NULL,
            price_cached INTEGER NOT NULL,
            price_cache_write INTEGER NOT NULL,
            price_output INTEGER NOT NULL
        ) STRICT""",
        "CREATE INDEX holds_by_account ON holds (account, id)",
        # The primary key is the promise that a hold ends once.
        """CREATE TABLE endings (
            hold INTEGER PRIMARY KEY REFERENCES holds (id),
            status TEXT NOT NULL CHECK (status = 'settled' OR status = 'released' OR status = 'expired'),
            at REAL NOT NULL,
            cost INTEGER NOT NULL CHECK (cost >= 0 AND (cost = 0 OR status = 'settled')),
            input INTEGER NOT NULL,
            cached INTEGER NOT NULL,
            cache_write INTEGER NOT NULL,
            output INTEGER NOT NULL,
            reasoning INTEGER NOT NULL,
            reported INTEGER NOT NULL,
            upstream TEXT NOT NULL,
            reason TEXT NOT NULL,
            http_status INTEGER NOT NULL,
            first_byte_ms INTEGER,
            attempts TEXT
        ) STRICT""",
        """CREATE TABLE entries (
            id INTEGER PRIMARY KEY,
            at REAL NOT NULL,
            kind TEXT NOT NULL
                CHECK (kind = 'charge' OR kind = 'credit' OR kind = 'debit' OR kind = 'writeoff'),
            debit TEXT NOT NULL,
            credit TEXT NOT NULL CHECK (credit <> debit),
            amount INTEGER NOT NULL CHECK (amount > 0),
            request_id TEXT,
            window_name TEXT,
            reference TEXT,
            note TEXT NOT NULL
        ) STRICT""",
        "CREATE UNIQUE INDEX entries_by_reference ON entries (reference) WHERE reference IS NOT NULL",
        """CREATE TABLE idempotency (
            key_id TEXT NOT NULL,
            text TEXT NOT NULL,
            digest BLOB NOT NULL,
            hold INTEGER NOT NULL,
            at REAL NOT NULL,
            PRIMARY KEY (key_id, text)
        ) STRICT, WITHOUT ROWID""",
        "CREATE INDEX idempotency_by_at ON idempotency (at)",
        # Settled calls by day (days since 1970, UTC): reports stay fast however many calls there were.
        """CREATE TABLE rollups (
            day INTEGER NOT NULL,
            key TEXT NOT NULL,
            model TEXT NOT NULL,
            upstream TEXT NOT NULL,
            requests INTEGER NOT NULL,
            input INTEGER NOT NULL,
            cached INTEGER NOT NULL,
            cache_write INTEGER NOT NULL,
            output INTEGER NOT NULL,
            reasoning INTEGER NOT NULL,
            estimated INTEGER NOT NULL,
            cost INTEGER NOT NULL,
            PRIMARY KEY (day, key, model, upstream)
        ) STRICT, WITHOUT ROWID""",
        # What is written is never edited: a correction is an entry of its own.
        *(
            f"""CREATE TRIGGER {table}_are_never_edited BEFORE UPDATE ON {table}
                BEGIN SELECT RAISE(ABORT, '{table} are never edited'); END"""
            for table in ("holds", "endings", "entries")
        ),
        """CREATE TRIGGER entries_are_never_deleted BEFORE DELETE ON entries
            BEGIN SELECT RAISE(ABORT, 'entries are never deleted'); END""",
        # Old calls may go, their entries stay. Only a transaction that says how far may do it.
        *(
            f"""CREATE TRIGGER {table}_are_deleted_by_purge_alone BEFORE DELETE ON {table}
                WHEN OLD.{column} >= (SELECT purge_below FROM meta)
                BEGIN SELECT RAISE(ABORT, '{table} are deleted by purge alone'); END"""
            for table, column in (("holds", "id"), ("endings", "hold"))
        ),
    ),
    schema_orders.STEP,
    schema_people.STEP,
    schema_usage.STEP,
)

VERSION = len(MIGRATIONS)
