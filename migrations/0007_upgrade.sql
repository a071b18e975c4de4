-- Whether an operator holds the cluster at its level, so that the programs can still be taken back (`tanist upgrade hold`). One row: it
-- is held; none: it isn't. Also made by the first hold on a database that hasn't come to this file: so it is written to be run twice.

CREATE TABLE IF NOT EXISTS tanist_upgrade_hold (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    held_at TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')), -- by the master's wall clock, which may be wrong
    held_by TEXT                                  -- the token's name; NULL where there are no tokens
) STRICT;

CREATE TRIGGER IF NOT EXISTS tanist_upgrade_held AFTER INSERT ON tanist_upgrade_hold BEGIN
    UPDATE tanist_upgrade_hold SET held_by = (SELECT name FROM tanist_actor);
    INSERT INTO tanist_events (kind, subject, actor, data)
    VALUES ('cluster', 'level', (SELECT name FROM tanist_actor), json_object('what', 'hold'));
END;

CREATE TRIGGER IF NOT EXISTS tanist_upgrade_released AFTER DELETE ON tanist_upgrade_hold BEGIN
    INSERT INTO tanist_events (kind, subject, actor, data)
    VALUES ('cluster', 'level', (SELECT name FROM tanist_actor), json_object('what', 'go'));
END;
