-- The state of the control room: configuration, the managed nodes, what each shall have and says it has, and commands.
-- Changed through the API, or on the master by `sqlite3`: the triggers number, date and record either way.
-- A row's revision is the id of the event that told of its newest change: it grows and never comes back.

-- Who makes the changes of the transaction that runs. Empty outside of it; whoever leaves it so stays unknown (NULL).
CREATE TABLE tanist_actor (
    id   INTEGER PRIMARY KEY CHECK (id = 1),
    name TEXT    NOT NULL
) STRICT;

CREATE TABLE tanist_config (
    key        TEXT    NOT NULL PRIMARY KEY
        CHECK (length(key) <= 255 AND key GLOB '[A-Za-z0-9]*' AND key NOT GLOB '*[^-A-Za-z0-9_.:/]*'),
    value      TEXT    NOT NULL CHECK (json_valid(value)), -- any JSON
    revision   INTEGER NOT NULL DEFAULT 0,
    changed_at TEXT    NOT NULL DEFAULT '',       -- by the master's wall clock, which may be wrong; all times here
    changed_by TEXT                               -- NULL: unknown
) STRICT;

-- Every change of every key, removals too. Kept until somebody deletes rows.
CREATE TABLE tanist_config_history (
    key        TEXT    NOT NULL,
    revision   INTEGER NOT NULL,
    old_value  TEXT,                              -- NULL: there was none
    new_value  TEXT,                              -- NULL: removed
    changed_at TEXT    NOT NULL,
    changed_by TEXT,
    PRIMARY KEY (key, revision)
) STRICT;

-- The managed machines and where they belong.
CREATE TABLE tanist_nodes (
    name        TEXT    NOT NULL PRIMARY KEY
        CHECK (length(name) <= 63 AND name GLOB '[A-Za-z0-9]*' AND name NOT GLOB '*[^-A-Za-z0-9_.]*'),
    address     TEXT    CHECK (length(address) BETWEEN 1 AND 255), -- as whoever needs it understands it
    grid_row    INTEGER CHECK (grid_row BETWEEN 0 AND 1000000),
    grid_column INTEGER CHECK (grid_column BETWEEN 0 AND 1000000),
    labels      TEXT    NOT NULL DEFAULT '{}' CHECK (json_valid(labels) AND json_type(labels) = 'object'),
    revision    INTEGER NOT NULL DEFAULT 0,
    changed_at  TEXT    NOT NULL DEFAULT '',
    changed_by  TEXT
) STRICT;

-- What a node shall have.
CREATE TABLE tanist_desired_state (
    node       TEXT    NOT NULL PRIMARY KEY,
    state      TEXT    NOT NULL CHECK (json_valid(state) AND json_type(state) = 'object'),
    revision   INTEGER NOT NULL DEFAULT 0,
    changed_at TEXT    NOT NULL DEFAULT '',
    changed_by TEXT
) STRICT;

-- What a node says it has. The same said again changes nothing.
CREATE TABLE tanist_reported_state (
    node             TEXT    NOT NULL PRIMARY KEY,
    state            TEXT    NOT NULL CHECK (json_valid(state) AND json_type(state) = 'object'),
    desired_revision INTEGER,                     -- the desired state that it answers; NULL: none
    error            TEXT,                        -- why it couldn't be reached; NULL: it was
    revision         INTEGER NOT NULL DEFAULT 0,
    reported_at      TEXT    NOT NULL DEFAULT ''  -- when it first said so
) STRICT;

-- Commands to nodes, recorded before they act. Kept until somebody deletes rows.
CREATE TABLE tanist_commands (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    name      TEXT    NOT NULL
        CHECK (length(name) <= 63 AND name GLOB '[A-Za-z0-9]*' AND name NOT GLOB '*[^-A-Za-z0-9_.]*'),
    arguments TEXT    NOT NULL DEFAULT 'null' CHECK (json_valid(arguments)), -- any JSON
    nodes     TEXT    NOT NULL CHECK (json_valid(nodes) AND json_type(nodes) = 'array'), -- to whom: JSON array of names
    revision  INTEGER NOT NULL DEFAULT 0,         -- changes with each outcome
    sent_at   TEXT    NOT NULL DEFAULT '',
    sent_by   TEXT
) STRICT;

-- What became of a command at each of its nodes.
CREATE TABLE tanist_command_outcomes (
    command    INTEGER NOT NULL,
    node       TEXT    NOT NULL,
    status     TEXT    NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'done', 'failed')),
    detail     TEXT    NOT NULL DEFAULT 'null' CHECK (json_valid(detail)), -- any JSON, from the node
    changed_at TEXT,                              -- NULL: not heard of yet
    PRIMARY KEY (command, node)
) STRICT, WITHOUT ROWID;
CREATE INDEX tanist_command_outcomes_by_node ON tanist_command_outcomes (node, status);

-- Desired beside reported. in_step: 1 or 0, NULL when nothing is desired.
CREATE VIEW tanist_v_nodes AS
SELECT n.name,
       n.address,
       n.grid_row,
       n.grid_column,
       n.labels,
       CASE WHEN d.node IS NOT NULL THEN r.desired_revision IS d.revision AND r.error IS NULL END AS in_step,
       d.state AS desired,
       d.revision AS desired_revision,
       d.changed_at AS desired_at,
       r.state AS reported,
       r.desired_revision AS reported_for,
       r.error,
       r.reported_at
FROM tanist_nodes AS n
LEFT JOIN tanist_desired_state AS d ON d.node = n.name
LEFT JOIN tanist_reported_state AS r ON r.node = n.name
ORDER BY n.name;

CREATE TRIGGER tanist_config_added AFTER INSERT ON tanist_config BEGIN
    INSERT INTO tanist_events (kind, subject, actor, data)
    VALUES ('config', NEW.key, (SELECT name FROM tanist_actor), json_object('value', json(NEW.value)));
    UPDATE tanist_config SET (revision, changed_at, changed_by) = (SELECT id, at, actor FROM tanist_events ORDER BY id DESC LIMIT 1)
    WHERE key = NEW.key;
    -- After a REPLACE the old value is known only here.
    INSERT INTO tanist_config_history (key, revision, old_value, new_value, changed_at, changed_by)
    SELECT NEW.key, id, (SELECT new_value FROM tanist_config_history WHERE key = NEW.key ORDER BY revision DESC LIMIT 1),
           NEW.value, at, actor
    FROM tanist_events ORDER BY id DESC LIMIT 1;
END;

CREATE TRIGGER tanist_config_changed AFTER UPDATE OF value ON tanist_config WHEN NEW.value IS NOT OLD.value BEGIN
    INSERT INTO tanist_events (kind, subject, actor, data)
    VALUES ('config', NEW.key, (SELECT name FROM tanist_actor), json_object('value', json(NEW.value)));
    UPDATE tanist_config SET (revision, changed_at, changed_by) = (SELECT id, at, actor FROM tanist_events ORDER BY id DESC LIMIT 1)
    WHERE key = NEW.key;
    INSERT INTO tanist_config_history (key, revision, old_value, new_value, changed_at, changed_by)
    SELECT NEW.key, id, OLD.value, NEW.value, at, actor FROM tanist_events ORDER BY id DESC LIMIT 1;
END;

CREATE TRIGGER tanist_config_removed AFTER DELETE ON tanist_config BEGIN
    INSERT INTO tanist_events (kind, subject, actor) VALUES ('config', OLD.key, (SELECT name FROM tanist_actor));
    INSERT INTO tanist_config_history (key, revision, old_value, new_value, changed_at, changed_by)
    SELECT OLD.key, id, OLD.value, NULL, at, actor FROM tanist_events ORDER BY id DESC LIMIT 1;
END;

CREATE TRIGGER tanist_config_renamed BEFORE UPDATE OF key ON tanist_config WHEN NEW.key IS NOT OLD.key BEGIN
    SELECT RAISE(ABORT, 'a key keeps its name: add the new one and delete the old one');
END;

CREATE TRIGGER tanist_node_added AFTER INSERT ON tanist_nodes BEGIN
    INSERT INTO tanist_events (kind, subject, actor, data)
    VALUES ('node', NEW.name, (SELECT name FROM tanist_actor),
            json_object('address', NEW.address, 'row', NEW.grid_row, 'column', NEW.grid_column, 'labels', json(NEW.labels)));
    UPDATE tanist_nodes SET (revision, changed_at, changed_by) = (SELECT id, at, actor FROM tanist_events ORDER BY id DESC LIMIT 1)
    WHERE name = NEW.name;
END;

CREATE TRIGGER tanist_node_changed AFTER UPDATE OF address, grid_row, grid_column, labels ON tanist_nodes
WHEN (NEW.address, NEW.grid_row, NEW.grid_column, NEW.labels) IS NOT (OLD.address, OLD.grid_row, OLD.grid_column, OLD.labels)
BEGIN
    INSERT INTO tanist_events (kind, subject, actor, data)
    VALUES ('node', NEW.name, (SELECT name FROM tanist_actor),
            json_object('address', NEW.address, 'row', NEW.grid_row, 'column', NEW.grid_column, 'labels', json(NEW.labels)));
    UPDATE tanist_nodes SET (revision, changed_at, changed_by) = (SELECT id, at, actor FROM tanist_events ORDER BY id DESC LIMIT 1)
    WHERE name = NEW.name;
END;

-- What belonged to the node goes with it; nobody waits for its outcomes any more.
CREATE TRIGGER tanist_node_removed AFTER DELETE ON tanist_nodes BEGIN
    DELETE FROM tanist_desired_state WHERE node = OLD.name;
    DELETE FROM tanist_reported_state WHERE node = OLD.name;
    UPDATE tanist_command_outcomes SET status = 'failed', detail = '"the node was removed"'
    WHERE node = OLD.name AND status = 'pending';
    INSERT INTO tanist_events (kind, subject, actor) VALUES ('node', OLD.name, (SELECT name FROM tanist_actor));
END;

CREATE TRIGGER tanist_node_renamed BEFORE UPDATE OF name ON tanist_nodes WHEN NEW.name IS NOT OLD.name BEGIN
    SELECT RAISE(ABORT, 'a node keeps its name: add the new one and delete the old one');
END;

CREATE TRIGGER tanist_desired_of_node BEFORE INSERT ON tanist_desired_state
WHEN NOT EXISTS (SELECT 1 FROM tanist_nodes WHERE name = NEW.node) BEGIN
    SELECT RAISE(ABORT, 'tanist_desired_state.node: there is no such node');
END;

CREATE TRIGGER tanist_desired_added AFTER INSERT ON tanist_desired_state BEGIN
    INSERT INTO tanist_events (kind, subject, actor, data)
    VALUES ('desired', NEW.node, (SELECT name FROM tanist_actor), json_object('state', json(NEW.state)));
    UPDATE tanist_desired_state SET (revision, changed_at, changed_by) = (SELECT id, at, actor FROM tanist_events ORDER BY id DESC LIMIT 1)
    WHERE node = NEW.node;
END;

CREATE TRIGGER tanist_desired_changed AFTER UPDATE OF state ON tanist_desired_state WHEN NEW.state IS NOT OLD.state BEGIN
    INSERT INTO tanist_events (kind, subject, actor, data)
    VALUES ('desired', NEW.node, (SELECT name FROM tanist_actor), json_object('state', json(NEW.state)));
    UPDATE tanist_desired_state SET (revision, changed_at, changed_by) = (SELECT id, at, actor FROM tanist_events ORDER BY id DESC LIMIT 1)
    WHERE node = NEW.node;
END;

CREATE TRIGGER tanist_desired_removed AFTER DELETE ON tanist_desired_state BEGIN
    INSERT INTO tanist_events (kind, subject, actor) VALUES ('desired', OLD.node, (SELECT name FROM tanist_actor));
END;

CREATE TRIGGER tanist_desired_renamed BEFORE UPDATE OF node ON tanist_desired_state WHEN NEW.node IS NOT OLD.node BEGIN
    SELECT RAISE(ABORT, 'a state stays with its node');
END;

CREATE TRIGGER tanist_reported_of_node BEFORE INSERT ON tanist_reported_state
WHEN NOT EXISTS (SELECT 1 FROM tanist_nodes WHERE name = NEW.node) BEGIN
    SELECT RAISE(ABORT, 'tanist_reported_state.node: there is no such node');
END;

CREATE TRIGGER tanist_reported_added AFTER INSERT ON tanist_reported_state BEGIN
    INSERT INTO tanist_events (kind, subject, actor, data)
    VALUES ('reported', NEW.node, (SELECT name FROM tanist_actor),
            json_object('state', json(NEW.state), 'desired_revision', NEW.desired_revision, 'error', NEW.error));
    UPDATE tanist_reported_state SET (revision, reported_at) = (SELECT id, at FROM tanist_events ORDER BY id DESC LIMIT 1)
    WHERE node = NEW.node;
END;

CREATE TRIGGER tanist_reported_changed AFTER UPDATE OF state, desired_revision, error ON tanist_reported_state
WHEN (NEW.state, NEW.desired_revision, NEW.error) IS NOT (OLD.state, OLD.desired_revision, OLD.error) BEGIN
    INSERT INTO tanist_events (kind, subject, actor, data)
    VALUES ('reported', NEW.node, (SELECT name FROM tanist_actor),
            json_object('state', json(NEW.state), 'desired_revision', NEW.desired_revision, 'error', NEW.error));
    UPDATE tanist_reported_state SET (revision, reported_at) = (SELECT id, at FROM tanist_events ORDER BY id DESC LIMIT 1)
    WHERE node = NEW.node;
END;

CREATE TRIGGER tanist_reported_removed AFTER DELETE ON tanist_reported_state BEGIN
    INSERT INTO tanist_events (kind, subject, actor) VALUES ('reported', OLD.node, (SELECT name FROM tanist_actor));
END;

CREATE TRIGGER tanist_reported_renamed BEFORE UPDATE OF node ON tanist_reported_state WHEN NEW.node IS NOT OLD.node BEGIN
    SELECT RAISE(ABORT, 'a state stays with its node');
END;

CREATE TRIGGER tanist_command_sent AFTER INSERT ON tanist_commands BEGIN
    INSERT INTO tanist_events (kind, subject, actor, data)
    VALUES ('command', CAST(NEW.id AS TEXT), (SELECT name FROM tanist_actor),
            json_object('name', NEW.name, 'arguments', json(NEW.arguments), 'nodes', json(NEW.nodes)));
    UPDATE tanist_commands SET (revision, sent_at, sent_by) = (SELECT id, at, actor FROM tanist_events ORDER BY id DESC LIMIT 1)
    WHERE id = NEW.id;
    INSERT INTO tanist_command_outcomes (command, node) SELECT NEW.id, value FROM json_each(NEW.nodes);
END;

CREATE TRIGGER tanist_command_changed BEFORE UPDATE OF id, name, arguments, nodes ON tanist_commands BEGIN
    SELECT RAISE(ABORT, 'a command stays as it was sent: send another');
END;

CREATE TRIGGER tanist_command_removed AFTER DELETE ON tanist_commands BEGIN
    DELETE FROM tanist_command_outcomes WHERE command = OLD.id;
END;

CREATE TRIGGER tanist_outcome_of_node BEFORE INSERT ON tanist_command_outcomes
WHEN NOT EXISTS (SELECT 1 FROM tanist_nodes WHERE name = NEW.node) BEGIN
    SELECT RAISE(ABORT, 'commands.nodes: there is no such node');
END;

CREATE TRIGGER tanist_outcome_changed AFTER UPDATE OF status, detail ON tanist_command_outcomes
WHEN (NEW.status, NEW.detail) IS NOT (OLD.status, OLD.detail) BEGIN
    INSERT INTO tanist_events (kind, subject, actor, data)
    SELECT 'command', CAST(NEW.command AS TEXT), (SELECT name FROM tanist_actor),
           json_object('name', (SELECT name FROM tanist_commands WHERE id = NEW.command),
                       'node', NEW.node, 'status', NEW.status, 'detail', json(NEW.detail));
    UPDATE tanist_commands SET revision = (SELECT max(id) FROM tanist_events) WHERE id = NEW.command;
    UPDATE tanist_command_outcomes SET changed_at = (SELECT at FROM tanist_events ORDER BY id DESC LIMIT 1)
    WHERE command = NEW.command AND node = NEW.node;
END;
