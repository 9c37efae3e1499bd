"""The step of the schema that keeps whose usage it was, and how many calls failed."""

from __future__ import annotations

# A call that ended otherwise than its client wished: `Ending.failed` in SQL, of an ending `e`.
FAILED = "(e.status <> 'settled' OR e.http_status >= 400 OR e.reason <> '')"
_NAMES = "day, account, key, model, upstream"
_SETTLED = "(e.status = 'settled')"

# ruff: noqa: S608 - the parts of the statements are constants of this file

STEP: tuple[str, ...] = (
    "ALTER TABLE rollups RENAME TO rollups_before",
    # Calls that ended, by day (days since 1970, UTC) and by whose they were then: a key that is
    # moved or revoked takes nothing with it. `ended` and `failed` count all, the rest settled ones.
    f"""CREATE TABLE rollups (
        day INTEGER NOT NULL,
        account TEXT NOT NULL,
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
        ended INTEGER NOT NULL,
        failed INTEGER NOT NULL,
        PRIMARY KEY ({_NAMES})
    ) STRICT, WITHOUT ROWID""",
    f"""INSERT INTO rollups
        SELECT CAST(e.at / 86400 AS INTEGER) AS day, h.account, h.key, h.model, e.upstream,
               sum({_SETTLED}), sum({_SETTLED} * e.input), sum({_SETTLED} * e.cached),
               sum({_SETTLED} * e.cache_write), sum({_SETTLED} * e.output), sum({_SETTLED} * e.reasoning),
               sum({_SETTLED} * (1 - e.reported)), sum({_SETTLED} * min(e.cost, h.amount)),
               count(*), sum({FAILED})
        FROM endings e JOIN holds h ON h.id = e.hold GROUP BY 1, 2, 3, 4, 5""",
    # Calls that were forgotten since left no account: that of their key is the best that is known.
    f"""INSERT INTO rollups
        SELECT b.day, coalesce(k.account, 'default'), b.key, b.model, b.upstream,
               b.requests - coalesce(s.requests, 0), b.input - coalesce(s.input, 0),
               b.cached - coalesce(s.cached, 0), b.cache_write - coalesce(s.cache_write, 0),
               b.output - coalesce(s.output, 0), b.reasoning - coalesce(s.reasoning, 0),
               b.estimated - coalesce(s.estimated, 0), b.cost - coalesce(s.cost, 0),
               b.requests - coalesce(s.requests, 0), 0
        FROM rollups_before b
        LEFT JOIN (SELECT day, key, model, upstream, sum(requests) AS requests, sum(input) AS input,
                          sum(cached) AS cached, sum(cache_write) AS cache_write, sum(output) AS output,
                          sum(reasoning) AS reasoning, sum(estimated) AS estimated, sum(cost) AS cost
                   FROM rollups GROUP BY day, key, model, upstream) s USING (day, key, model, upstream)
        LEFT JOIN keys k ON k.name = b.key
        WHERE b.requests > coalesce(s.requests, 0)
        ON CONFLICT ({_NAMES}) DO UPDATE SET requests = requests + excluded.requests,
            input = input + excluded.input, cached = cached + excluded.cached,
            cache_write = cache_write + excluded.cache_write, output = output + excluded.output,
            reasoning = reasoning + excluded.reasoning, estimated = estimated + excluded.estimated,
            cost = cost + excluded.cost, ended = ended + excluded.ended""",
    "DROP TABLE rollups_before",
)
