-- What has changed, in order: what watchers are told. Pruned by age, oldest first.
-- Tanist maintains this table itself; read it as you like.

CREATE TABLE events (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,    -- grows, never used twice; watchers resume after it
    at      TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')), -- by the master's wall clock, which may be wrong
    kind    TEXT    NOT NULL,                     -- 'config', 'node', 'desired', 'reported', 'command', 'token', 'cluster' or 'row'
    subject TEXT    NOT NULL,                     -- the key, node, command, token, member or table that has changed
    actor   TEXT,                                 -- who did it; NULL: the machine itself, or unknown
    data    TEXT    NOT NULL DEFAULT 'null' CHECK (json_valid(data)) -- what is so now, as JSON
) STRICT;
