-- What has changed, in order: what watchers are told. Pruned by age and number, oldest first.
-- Tanist maintains this table itself; read it as you like.

CREATE TABLE tanist_events (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,    -- grows, never used twice; watchers resume after it
    at      TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')), -- by the master's wall clock, which may be wrong
    kind    TEXT    NOT NULL,                     -- 'config', 'node', 'desired', 'reported', 'command', 'token', 'cluster' or 'row'
    subject TEXT    NOT NULL,                     -- the key, node, command, token, member or table that has changed
    actor   TEXT,                                 -- who did it; NULL: the machine itself, or unknown
    data    TEXT    NOT NULL DEFAULT 'null' CHECK (json_valid(data)) -- what is so now, as JSON
) STRICT;

-- The newest event that the numbered transactions up to this position have written. What somebody has written from
-- outside and nobody has numbered yet lies beyond it, and is told to no watcher.
ALTER TABLE tanist_position ADD COLUMN events INTEGER NOT NULL DEFAULT 0;

CREATE TRIGGER tanist_position_numbered AFTER UPDATE OF txid ON tanist_position BEGIN
    UPDATE tanist_position SET events = coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'tanist_events'), 0);
END;

CREATE TRIGGER tanist_position_founded AFTER INSERT ON tanist_position BEGIN
    UPDATE tanist_position SET events = coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'tanist_events'), 0);
END;

-- Succession: who reigns, and who takes part.
CREATE TRIGGER tanist_terms_event AFTER INSERT ON tanist_terms BEGIN
    -- After an accepted loss of data, numbers of events that were told and lost must not come again.
    INSERT INTO tanist_events (id, kind, subject, data) VALUES (
        CASE WHEN NEW.reason LIKE 'forced, accepting data loss%' OR NEW.reason LIKE 'recovered by an operator%'
            THEN coalesce((SELECT max(id) FROM tanist_events), 0) + 1000000 END,
        'cluster', NEW.master, json_object(
            'what', 'reign', 'term', NEW.term, 'master', NEW.master, 'first_txid', NEW.first_txid, 'reason', NEW.reason));
END;

CREATE TRIGGER tanist_members_event AFTER INSERT ON tanist_members BEGIN
    INSERT INTO tanist_events (kind, subject, data) VALUES ('cluster', NEW.id, json_object(
        'what', 'member', 'rank', NEW.rank, 'addresses', json(NEW.addresses), 'urls', json(NEW.urls),
        'absent', json(iif(NEW.absent, 'true', 'false'))));
END;

CREATE TRIGGER tanist_members_changed AFTER UPDATE ON tanist_members BEGIN
    INSERT INTO tanist_events (kind, subject, data) VALUES ('cluster', NEW.id, json_object(
        'what', 'member', 'rank', NEW.rank, 'addresses', json(NEW.addresses), 'urls', json(NEW.urls),
        'absent', json(iif(NEW.absent, 'true', 'false'))));
END;

CREATE TRIGGER tanist_members_removed AFTER DELETE ON tanist_members BEGIN
    INSERT INTO tanist_events (kind, subject, data) VALUES ('cluster', OLD.id, json_object('what', 'removed', 'rank', OLD.rank));
END;
