-- Who has changed what by SQL over HTTP: a row for each request that has changed something, rows or schema, written in its own
-- transaction; and for each that was refused because nobody may do that. Pruned by age, and by number only into files. Never the
-- values of parameters. Users' SQL over HTTP sees it with the role admin alone, or where there are no tokens. Without a rowid of
-- its own: an insert here must not be what last_insert_rowid() tells a user.

CREATE TABLE tanist_audit (
    id         INTEGER NOT NULL PRIMARY KEY,      -- grows from request to request
    txid       INTEGER NOT NULL,                  -- the transaction; requests that come together share one
    at         TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')), -- by the master's wall clock, which may be wrong
    actor      TEXT,                              -- the token's name; NULL where there are no tokens
    statements INTEGER NOT NULL,                  -- how many the request had
    refused    TEXT,                              -- why nothing was done; NULL: it was done
    sql        TEXT    NOT NULL,                  -- their text, one after the other; of a long one its beginning and its end
    sql_bytes  INTEGER NOT NULL,                  -- of the whole text
    sql_hash   TEXT    NOT NULL,                  -- BLAKE3 of the whole text, in hexadecimal
    served_ms  INTEGER NOT NULL                   -- tanist_served.ms of that moment: its age goes by it
) STRICT, WITHOUT ROWID;

-- The newest first, with the whole position.
CREATE VIEW tanist_v_audit AS
SELECT a.id,
       (SELECT max(t.term) FROM tanist_terms AS t WHERE t.first_txid <= a.txid) || '.' || a.txid AS position,
       a.at,
       coalesce(a.actor, '(nobody known)') AS actor,
       a.statements,
       a.refused,
       a.sql,
       a.sql_bytes,
       a.sql_hash
FROM tanist_audit AS a
ORDER BY a.id DESC;
