-- Who has changed what by SQL over HTTP. A row for each request that has changed something, written in its own transaction and
-- pruned by age and number. Never the values of parameters. Without a rowid of its own: an insert here must not be what
-- last_insert_rowid() tells a user.

CREATE TABLE tanist_audit (
    id         INTEGER NOT NULL PRIMARY KEY,      -- grows from request to request
    txid       INTEGER NOT NULL,                  -- the transaction; requests that come together share one
    at         TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')), -- by the master's wall clock, which may be wrong
    actor      TEXT,                              -- the token's name; NULL where there are no tokens
    statements INTEGER NOT NULL,                  -- how many the request had
    sql        TEXT    NOT NULL                   -- their text, one after the other, shortened
) STRICT, WITHOUT ROWID;

-- The newest first, with the whole position.
CREATE VIEW tanist_v_audit AS
SELECT a.id,
       (SELECT max(t.term) FROM tanist_terms AS t WHERE t.first_txid <= a.txid) || '.' || a.txid AS position,
       a.at,
       coalesce(a.actor, '(nobody known)') AS actor,
       a.statements,
       a.sql
FROM tanist_audit AS a
ORDER BY a.id DESC;
