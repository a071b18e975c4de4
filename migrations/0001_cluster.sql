-- Where this copy of the database stands, who has reigned, and who takes part.
-- Tanist maintains these tables itself; read them as you like.

-- One row: the newest transaction in this copy. Written by every transaction, so it can't part from the data.
CREATE TABLE tanist_position (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    term  INTEGER NOT NULL CHECK (term >= 0),     -- reign in which the transaction was numbered
    txid  INTEGER NOT NULL CHECK (txid > 0),      -- its number: grows by one, over all reigns
    chain BLOB    NOT NULL CHECK (length(chain) = 16) -- ties it to all transactions before it
) STRICT;

-- Term history: one row per reign, written by the reign's first transaction.
CREATE TABLE tanist_terms (
    term       INTEGER PRIMARY KEY CHECK (term > 0),
    master     TEXT    NOT NULL,                  -- member id of who reigned
    first_txid INTEGER NOT NULL UNIQUE CHECK (first_txid > 0),
    reason     TEXT    NOT NULL,                  -- why the reign began, in words
    began_at   TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')) -- by the master's wall clock, which may be wrong
) STRICT;

-- The members as the succession record last named them; for people, nothing is decided by it.
CREATE TABLE tanist_members (
    id        TEXT    PRIMARY KEY,
    rank      INTEGER NOT NULL CHECK (rank >= 0), -- 1 is nearest to the throne; 0: a witness, which holds no data
    addresses TEXT    NOT NULL DEFAULT '[]' CHECK (json_valid(addresses)), -- JSON array of "host:port", for machines
    urls      TEXT    NOT NULL DEFAULT '[]' CHECK (json_valid(urls)), -- JSON array of base URLs, for clients
    absent    INTEGER NOT NULL DEFAULT 0 CHECK (absent IN (0, 1)) -- 1: doesn't count as a voter until it answers
) STRICT, WITHOUT ROWID;

-- One row, once it is needed: for how long the cluster has had a master, as the masters' monotonic clocks have measured it. Only
-- differences mean anything. Requests and records of changes are aged by it, so that a wrong wall clock removes none.
CREATE TABLE tanist_served (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    ms INTEGER NOT NULL CHECK (ms >= 0)           -- milliseconds
) STRICT;

-- Idempotency keys of write requests with their answers, pruned by age. Users' SQL over HTTP doesn't see them: an answer is
-- for who has asked.
CREATE TABLE tanist_requests (
    token       TEXT    NOT NULL,                 -- the name of who sent it; empty where there are no tokens
    key         TEXT    NOT NULL,                 -- as the client sent it
    fingerprint BLOB    NOT NULL,                 -- hash of the request; the same key with another request is refused
    answer      BLOB    NOT NULL,                 -- what was answered the first time
    served_ms   INTEGER NOT NULL,                 -- when: tanist_served.ms of that moment
    PRIMARY KEY (token, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX tanist_requests_by_age ON tanist_requests (served_ms);

-- The cluster at a glance, nearest to the throne first, witnesses last.
CREATE VIEW tanist_v_cluster AS
SELECT m.id AS member,
       m.rank,
       CASE WHEN m.id = t.master THEN 'master' WHEN m.rank = 0 THEN 'witness' ELSE 'backup' END AS role,
       m.addresses,
       m.urls,
       m.absent,
       p.term,
       p.txid
FROM tanist_members AS m
LEFT JOIN tanist_position AS p ON true
LEFT JOIN tanist_terms AS t ON t.term = p.term
ORDER BY m.rank = 0, m.rank, m.id;
