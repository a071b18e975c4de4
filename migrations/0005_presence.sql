-- Whether a node's agent is heard of. Written by the master when that changes, not with each sign of life.

CREATE TABLE tanist_node_presence (
    node   TEXT NOT NULL PRIMARY KEY,
    status TEXT NOT NULL CHECK (status IN ('present', 'silent')),
    since  TEXT NOT NULL DEFAULT '' -- by the master's wall clock, which may be wrong
) STRICT;

CREATE TRIGGER tanist_presence_added AFTER INSERT ON tanist_node_presence BEGIN
    INSERT INTO tanist_events (kind, subject, actor, data)
    VALUES ('node', NEW.node, (SELECT name FROM tanist_actor), json_object('presence', NEW.status));
    UPDATE tanist_node_presence SET since = (SELECT at FROM tanist_events ORDER BY id DESC LIMIT 1) WHERE node = NEW.node;
END;

CREATE TRIGGER tanist_presence_changed AFTER UPDATE OF status ON tanist_node_presence WHEN NEW.status IS NOT OLD.status BEGIN
    INSERT INTO tanist_events (kind, subject, actor, data)
    VALUES ('node', NEW.node, (SELECT name FROM tanist_actor), json_object('presence', NEW.status));
    UPDATE tanist_node_presence SET since = (SELECT at FROM tanist_events ORDER BY id DESC LIMIT 1) WHERE node = NEW.node;
END;

CREATE TRIGGER tanist_presence_of_node BEFORE INSERT ON tanist_node_presence
WHEN NOT EXISTS (SELECT 1 FROM tanist_nodes WHERE name = NEW.node) BEGIN
    SELECT RAISE(ABORT, 'tanist_node_presence.node: there is no such node');
END;

CREATE TRIGGER tanist_presence_of_removed_node AFTER DELETE ON tanist_nodes BEGIN
    DELETE FROM tanist_node_presence WHERE node = OLD.name;
END;

-- Desired beside reported. in_step: 1 or 0, NULL when nothing is desired. presence: NULL when no agent was ever heard of.
DROP VIEW tanist_v_nodes;
CREATE VIEW tanist_v_nodes AS
SELECT n.name,
       n.address,
       n.grid_row,
       n.grid_column,
       n.labels,
       p.status AS presence,
       p.since AS presence_since,
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
LEFT JOIN tanist_node_presence AS p ON p.node = n.name
ORDER BY n.name;
