-- Bearer tokens, by which clients are known. Made and revoked through the API; nothing here gives a token away. Users' SQL over
-- HTTP doesn't see the hashes.

CREATE TABLE tanist_tokens (
    name     TEXT    NOT NULL PRIMARY KEY
        CHECK (length(name) <= 63 AND name GLOB '[A-Za-z0-9]*' AND name NOT GLOB '*[^-A-Za-z0-9_.]*'
            AND lower(name) <> 'cluster-key'),    -- so are those called who prove the cluster key
    role     TEXT    NOT NULL CHECK (role IN ('agent', 'read', 'write', 'operate', 'admin')), -- from 'read' on each includes those before it
    node     TEXT    CHECK ((node IS NOT NULL) = (role = 'agent')), -- the node that an agent speaks for, whether it is there or not
    expires_at TEXT,                              -- from then on it is refused; NULL: never. By the master's clock when it was made
    hash     BLOB    NOT NULL UNIQUE CHECK (length(hash) = 32), -- of the token, which is kept nowhere
    revision INTEGER NOT NULL DEFAULT 0,
    made_at  TEXT    NOT NULL DEFAULT '',         -- by the master's wall clock, which may be wrong
    made_by  TEXT                                 -- the token that made it; 'cluster-key': whoever has the key
) STRICT;

CREATE TRIGGER tanist_token_made AFTER INSERT ON tanist_tokens BEGIN
    INSERT INTO tanist_events (kind, subject, actor, data)
    VALUES ('token', NEW.name, (SELECT name FROM tanist_actor),
            json_object('role', NEW.role, 'node', NEW.node, 'expires_at', NEW.expires_at));
    UPDATE tanist_tokens SET (revision, made_at, made_by) = (SELECT id, at, actor FROM tanist_events ORDER BY id DESC LIMIT 1)
    WHERE name = NEW.name;
END;

CREATE TRIGGER tanist_token_changed AFTER UPDATE OF role, hash, node, expires_at ON tanist_tokens BEGIN
    INSERT INTO tanist_events (kind, subject, actor, data)
    VALUES ('token', NEW.name, (SELECT name FROM tanist_actor),
            json_object('role', NEW.role, 'node', NEW.node, 'expires_at', NEW.expires_at));
END;

CREATE TRIGGER tanist_token_revoked AFTER DELETE ON tanist_tokens BEGIN
    INSERT INTO tanist_events (kind, subject, actor) VALUES ('token', OLD.name, (SELECT name FROM tanist_actor));
END;
