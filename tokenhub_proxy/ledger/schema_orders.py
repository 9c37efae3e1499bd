"""The tables of orders, payments and redemption codes: a step of the schema, and what must hold in them."""

from __future__ import annotations

# ruff: noqa: S608 - the parts of the statements are names of this file

# Columns of an order, in the order of `Order`'s fields.
ORDER_COLUMNS = (
    "id, account, provider, method, amount, currency, nanos, created_at, expires_at, fee, rate, test,"
    " customer, state, payment, redirect_url, credited, refunding, refunded, returned, updated_at, note"
)
_FIXED = (
    "id", "account", "provider", "method", "amount", "currency", "nanos", "created_at", "fee", "rate", "test",
)  # fmt: skip

STEP: tuple[str, ...] = (
    # What refunds took is told apart, so that the rule for all other money still stands: without
    # them no prepaid balance is below what is held of it. (A check can't be altered: the table is
    # made anew, with foreign keys off, as SQLite's own manual has it.)
    """CREATE TABLE accounts_anew (
        name TEXT PRIMARY KEY,
        unlimited INTEGER NOT NULL CHECK (unlimited = 0 OR unlimited = 1),
        posted INTEGER NOT NULL,
        held INTEGER NOT NULL CHECK (held >= 0),
        refunded INTEGER NOT NULL DEFAULT 0 CHECK (refunded >= 0),
        CHECK (unlimited OR posted + refunded >= held)
    ) STRICT, WITHOUT ROWID""",
    """INSERT INTO accounts_anew (name, unlimited, posted, held)
        SELECT name, unlimited, posted, held FROM accounts""",
    "DROP TABLE accounts",
    "ALTER TABLE accounts_anew RENAME TO accounts",
    """CREATE TABLE orders (
        id TEXT PRIMARY KEY,
        account TEXT NOT NULL REFERENCES accounts (name),
        provider TEXT NOT NULL,
        method TEXT NOT NULL,
        amount INTEGER NOT NULL CHECK (amount > 0),
        currency TEXT NOT NULL,
        nanos INTEGER NOT NULL CHECK (nanos > 0),
        created_at REAL NOT NULL,
        expires_at REAL NOT NULL,
        fee INTEGER NOT NULL CHECK (fee >= 0 AND fee < amount),
        rate INTEGER CHECK (rate > 0),
        test INTEGER NOT NULL CHECK (test = 0 OR test = 1),
        customer TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state = 'created' OR state = 'pending' OR state = 'paid'
            OR state = 'refunded' OR state = 'canceled' OR state = 'expired' OR state = 'needs_review'),
        payment TEXT,
        redirect_url TEXT,
        credited INTEGER NOT NULL CHECK (credited = 0 OR credited = nanos),
        refunding INTEGER NOT NULL CHECK (refunding >= 0 AND refunding <= amount),
        refunded INTEGER NOT NULL CHECK (refunded >= 0 AND refunded <= amount),
        returned INTEGER NOT NULL CHECK (returned >= 0 AND returned <= credited),
        updated_at REAL NOT NULL,
        note TEXT NOT NULL,
        CHECK (state <> 'paid' OR credited > 0),
        CHECK (state <> 'refunded' OR refunded = amount)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX orders_by_account ON orders (account, created_at)",
    "CREATE INDEX orders_by_time ON orders (created_at)",
    "CREATE INDEX orders_by_payment ON orders (provider, payment)",
    "CREATE INDEX orders_by_amount ON orders (provider, amount)",
    """CREATE INDEX orders_open ON orders (created_at)
        WHERE state = 'created' OR state = 'pending' OR refunding > refunded""",
    """CREATE TABLE order_events (
        id INTEGER PRIMARY KEY,
        at REAL NOT NULL,
        order_id TEXT NOT NULL REFERENCES orders (id),
        provider TEXT NOT NULL,
        payment TEXT NOT NULL,
        kind TEXT NOT NULL,
        amount INTEGER NOT NULL CHECK (amount >= 0),
        entry INTEGER UNIQUE REFERENCES entries (id) DEFERRABLE INITIALLY DEFERRED,
        note TEXT NOT NULL,
        UNIQUE (provider, payment, kind)
    ) STRICT""",
    "CREATE INDEX order_events_by_order ON order_events (order_id, id)",
    """CREATE TABLE codes (
        digest BLOB PRIMARY KEY,
        nanos INTEGER NOT NULL CHECK (nanos > 0),
        created_at REAL NOT NULL,
        expires_at REAL,
        note TEXT NOT NULL,
        order_id TEXT UNIQUE REFERENCES orders (id),
        used_at REAL,
        CHECK ((order_id IS NULL) = (used_at IS NULL))
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE webhooks (
        id INTEGER PRIMARY KEY,
        at REAL NOT NULL,
        provider TEXT NOT NULL,
        peer TEXT NOT NULL,
        length INTEGER NOT NULL,
        event TEXT NOT NULL,
        payment TEXT NOT NULL,
        order_id TEXT NOT NULL,
        verdict TEXT NOT NULL
    ) STRICT""",
    # What was agreed on stays; only how far an order has come may change.
    f"""CREATE TRIGGER orders_keep_what_was_agreed BEFORE UPDATE ON orders
        WHEN {" OR ".join(f"OLD.{name} IS NOT NEW.{name}" for name in _FIXED)}
            OR NEW.credited < OLD.credited OR NEW.refunded < OLD.refunded OR NEW.returned < OLD.returned
        BEGIN SELECT RAISE(ABORT, 'an order keeps what was agreed'); END""",
    *(
        f"""CREATE TRIGGER {table}_are_never_deleted BEFORE DELETE ON {table}
            BEGIN SELECT RAISE(ABORT, '{table} are never deleted'); END"""
        for table in ("orders", "order_events", "codes")
    ),
    """CREATE TRIGGER order_events_are_never_edited BEFORE UPDATE ON order_events
        BEGIN SELECT RAISE(ABORT, 'order_events are never edited'); END""",
    """CREATE TRIGGER codes_are_used_once BEFORE UPDATE ON codes
        WHEN OLD.used_at IS NOT NULL OR OLD.digest IS NOT NEW.digest OR OLD.nanos IS NOT NEW.nanos
        BEGIN SELECT RAISE(ABORT, 'codes are used once'); END""",
)

# What makes an entry a payment's. (A range, which the index on references answers.)
_OURS = "reference BETWEEN 'payment:' AND 'payment;'"

# Each has rows only where something is wrong: the line for people, and the query.
CHECKS: tuple[tuple[str, str], ...] = (
    (
        "order {} was credited {} and gave back {}, its entries say {} and {}",
        """SELECT o.id, o.credited, o.returned, coalesce(n.credited, 0), coalesce(n.returned, 0)
           FROM orders o
           LEFT JOIN (SELECT e.order_id AS id, sum(n.amount * (n.kind = 'credit')) AS credited,
                             sum(n.amount * (n.kind = 'debit')) AS returned
                      FROM order_events e JOIN entries n ON n.id = e.entry GROUP BY 1) n USING (id)
           WHERE o.credited <> coalesce(n.credited, 0) OR o.returned <> coalesce(n.returned, 0)""",
    ),
    (
        "order {} is {}, of {} minor units {} were paid back and {} returned of {}",
        """SELECT id, state, amount, refunded, returned, credited FROM orders
           WHERE (state = 'paid' AND credited = 0) OR (refunded = 0 AND returned > 0)
              OR (refunded = amount AND returned <> credited)
              OR (credited > 0 AND state <> 'paid' AND state <> 'refunded' AND state <> 'needs_review')""",
    ),
    (
        "entry {} of a payment belongs to no order",
        f"""SELECT n.id FROM entries n LEFT JOIN order_events e ON e.entry = n.id
           WHERE n.{_OURS} AND e.id IS NULL""",
    ),
    (
        "event {} of order {} has entry {}, which is of another account or no payment's",
        f"""SELECT e.id, e.order_id, e.entry FROM order_events e JOIN orders o ON o.id = e.order_id
           LEFT JOIN entries n ON n.id = e.entry
           WHERE e.entry IS NOT NULL AND (n.reference IS NULL OR NOT (n.{_OURS})
              OR (n.kind = 'credit' AND n.credit <> o.account)
              OR (n.kind = 'debit' AND n.debit <> o.account))""",
    ),
    (
        "account {} was refunded {}, its entries say {}",
        f"""SELECT a.name, a.refunded, coalesce(r.amount, 0) FROM accounts a
           LEFT JOIN (SELECT debit AS name, sum(amount) AS amount FROM entries
                      WHERE kind = 'debit' AND {_OURS} GROUP BY 1) r USING (name)
           WHERE a.refunded <> coalesce(r.amount, 0)""",
    ),
    (
        "code of order {} was worth {}, the order credited {}",
        """SELECT c.order_id, c.nanos, o.credited FROM codes c JOIN orders o ON o.id = c.order_id
           WHERE c.nanos <> o.credited OR o.provider <> 'codes'""",
    ),
)
