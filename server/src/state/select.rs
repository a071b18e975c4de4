//! How configuration, nodes, states and commands are shown: SQL that makes the JSON of `tanist-api`.
//!
//! The same for reads of any replica and for the answer of a change, so that both say the same.

/// A record of a request by SQL as JSON: the same in answers and in files.
macro_rules! audit_object {
    () => {
        "json_object('id', a.id, 'position', (SELECT max(t.term) FROM tanist_terms AS t WHERE t.first_txid <= a.txid) || '.' || a.txid, \
         'at', a.at, 'actor', a.actor, 'statements', a.statements, 'refused', a.refused, 'sql', a.sql, \
         'sql_bytes', a.sql_bytes, 'sql_hash', a.sql_hash)"
    };
}
pub(crate) use audit_object;

/// Revision and entry of a key.
pub(crate) const CONFIG: &str = "SELECT revision, json_object('key', key, 'value', json(value), 'revision', revision, \
    'changed_at', changed_at, 'changed_by', changed_by) FROM tanist_config WHERE key = ?1";

/// Revision and entry of a node.
pub(crate) const NODE: &str = "SELECT revision, json_object('name', name, 'address', address, 'row', grid_row, \
    'column', grid_column, 'labels', json(labels), 'revision', revision, 'changed_at', changed_at, \
    'changed_by', changed_by) FROM tanist_nodes WHERE name = ?1";

/// Revision and desired state of a node; both NULL when it has none.
pub(crate) const DESIRED: &str = "SELECT d.revision, CASE WHEN d.node IS NOT NULL THEN json_object('node', d.node, \
    'state', json(d.state), 'revision', d.revision, 'changed_at', d.changed_at, 'changed_by', d.changed_by) END \
    FROM tanist_nodes AS n LEFT JOIN tanist_desired_state AS d ON d.node = n.name WHERE n.name = ?1";

/// Revision and reported state of a node; both NULL when it has none.
pub(crate) const REPORTED: &str = "SELECT r.revision, CASE WHEN r.node IS NOT NULL THEN json_object('node', r.node, \
    'state', json(r.state), 'desired_revision', r.desired_revision, 'error', r.error, 'revision', r.revision, \
    'reported_at', r.reported_at) END \
    FROM tanist_nodes AS n LEFT JOIN tanist_reported_state AS r ON r.node = n.name WHERE n.name = ?1";

/// What a node's agent must know; of a node that there is.
pub(crate) const SEEN: &str = "SELECT n.revision, json_object('node', n.name, 'desired_revision', d.revision, \
    'reported_for', r.desired_revision, 'pending_commands', \
    (SELECT count(*) FROM tanist_command_outcomes WHERE node = n.name AND status = 'pending')) \
    FROM tanist_nodes AS n LEFT JOIN tanist_desired_state AS d ON d.node = n.name LEFT JOIN tanist_reported_state AS r ON r.node = n.name \
    WHERE n.name = ?1";

/// Revision and entry of a command. An ordered aggregate is text to SQLite 3.54, hence `json()`.
pub(crate) const COMMAND: &str = "SELECT revision, json_object('id', id, 'name', name, 'arguments', json(arguments), \
    'nodes', json(nodes), 'revision', revision, 'sent_at', sent_at, 'sent_by', sent_by, 'outcomes', \
    json((SELECT json_group_array(json_object('node', node, 'status', status, 'detail', json(detail), \
    'changed_at', changed_at) ORDER BY node) FROM tanist_command_outcomes WHERE command = tanist_commands.id))) \
    FROM tanist_commands WHERE id = CAST(?1 AS INTEGER)";

/// Revision and entry of a token; never its hash.
pub(crate) const TOKEN: &str = "SELECT revision, json_object('name', name, 'role', role, 'node', node, \
    'expires_at', expires_at, 'made_at', made_at, 'made_by', made_by) FROM tanist_tokens WHERE name = ?1";

/// The level, and whether it is held; there is one of it, so its name says nothing.
pub(crate) const UPGRADE: &str = "SELECT (SELECT coalesce(max(id), 0) FROM tanist_events), json_object( \
    'level', (SELECT max(version) FROM tanist_schema), \
    'held', json(iif((SELECT count(*) FROM tanist_upgrade_hold), 'true', 'false')), \
    'held_by', (SELECT held_by FROM tanist_upgrade_hold), \
    'held_at', (SELECT held_at FROM tanist_upgrade_hold)) WHERE ?1 IS NOT NULL";

/// A list that comes in pages.
pub(crate) struct List {
    /// Finds `cursor` and `size` (bytes, about) of all that belong to it, in its order. ?1 is what the page comes behind.
    find: &'static str,
    descending: bool,
    /// Columns and table of an entry, for `b.cursor`.
    show: &'static str,
}

/// ?1: where the page begins, inclusive; ?4: what no such key reaches.
pub(crate) const CONFIGS: List = List {
    find: "SELECT key AS cursor, octet_length(value) AS size FROM tanist_config \
        WHERE key >= ?1 AND key < ?4 ORDER BY key",
    descending: false,
    show: "json_object('key', key, 'value', json(value), 'revision', revision, 'changed_at', changed_at, \
        'changed_by', changed_by) FROM b JOIN tanist_config ON key = b.cursor",
};

/// ?4: the key.
pub(crate) const HISTORY: List = List {
    find: "SELECT revision AS cursor, octet_length(coalesce(old_value, '')) + octet_length(coalesce(new_value, '')) AS size \
        FROM tanist_config_history WHERE key = ?4 AND revision < coalesce(?1, 9223372036854775807) ORDER BY revision DESC",
    descending: true,
    // Only a field that isn't there means that there is no value.
    show: "json_remove(json_object('revision', revision, 'old', json(old_value), 'new', json(new_value), \
        'changed_at', changed_at, 'changed_by', changed_by), \
        iif(old_value IS NULL, '$.old', '$.none'), iif(new_value IS NULL, '$.new', '$.none')) \
        FROM b JOIN tanist_config_history ON key = ?4 AND revision = b.cursor",
};

pub(crate) const NODES: List = List {
    find: "SELECT name AS cursor, octet_length(labels) AS size FROM tanist_nodes WHERE name > coalesce(?1, '') ORDER BY name",
    descending: false,
    show: "json_object('name', v.name, 'address', v.address, 'row', v.grid_row, 'column', v.grid_column, \
        'labels', json(v.labels), 'revision', n.revision, 'changed_at', n.changed_at, 'changed_by', n.changed_by, \
        'in_step', json(CASE v.in_step WHEN 1 THEN 'true' WHEN 0 THEN 'false' END), \
        'desired_revision', v.desired_revision, 'reported_for', v.reported_for, 'error', v.error, \
        'reported_at', v.reported_at, 'presence', v.presence, 'presence_since', v.presence_since) \
        FROM b JOIN tanist_nodes AS n ON n.name = b.cursor JOIN tanist_v_nodes AS v ON v.name = n.name",
};

pub(crate) const TOKENS: List = List {
    find: "SELECT name AS cursor, 0 AS size FROM tanist_tokens WHERE name > coalesce(?1, '') ORDER BY name",
    descending: false,
    show: "json_object('name', name, 'role', role, 'node', node, 'expires_at', expires_at, 'made_at', made_at, \
        'made_by', made_by) FROM b JOIN tanist_tokens ON name = b.cursor",
};

/// Who has changed what by SQL, the oldest first.
pub(crate) const AUDIT: List = List {
    find: "SELECT id AS cursor, octet_length(sql) AS size FROM tanist_audit WHERE id > coalesce(?1, -1) ORDER BY id",
    descending: false,
    show: concat!(audit_object!(), " FROM b JOIN tanist_audit AS a ON a.id = b.cursor"),
};

/// ?4: only those of which an outcome is such, or NULL.
pub(crate) const COMMANDS: List = List {
    find: "SELECT id AS cursor, octet_length(arguments) + octet_length(nodes) + (SELECT \
        coalesce(sum(octet_length(detail) + 150), 0) FROM tanist_command_outcomes WHERE command = id) AS size FROM tanist_commands \
        WHERE id < coalesce(?1, 9223372036854775807) AND (?4 IS NULL OR EXISTS (SELECT 1 FROM tanist_command_outcomes \
        WHERE command = id AND status = ?4)) ORDER BY id DESC",
    descending: true,
    show: COMMAND_ROW,
};

/// ?4: to this node; ?5: JSON array of how far it is there.
pub(crate) const COMMANDS_TO: List = List {
    find: "SELECT id AS cursor, octet_length(arguments) + octet_length(nodes) + (SELECT \
        coalesce(sum(octet_length(detail) + 150), 0) FROM tanist_command_outcomes WHERE command = id) AS size FROM (\
        SELECT command FROM tanist_command_outcomes WHERE node = ?4 AND status IN (SELECT value FROM json_each(?5)) \
        AND command < coalesce(?1, 9223372036854775807) ORDER BY command DESC LIMIT ?2 + 1) JOIN tanist_commands ON id = command \
        ORDER BY id DESC",
    descending: true,
    show: COMMAND_ROW,
};

const COMMAND_ROW: &str = "json_object('id', id, 'name', name, 'arguments', json(arguments), 'nodes', json(nodes), \
    'revision', revision, 'sent_at', sent_at, 'sent_by', sent_by, 'outcomes', json((SELECT json_group_array(json_object( \
    'node', node, 'status', status, 'detail', json(detail), 'changed_at', changed_at) ORDER BY node) \
    FROM tanist_command_outcomes WHERE command = tanist_commands.id))) FROM b JOIN tanist_commands ON id = b.cursor";

impl List {
    /// One page: cursor, whether more follow, entry. ?2 is how many entries at most, ?3 how many bytes, about; one entry
    /// comes whatever its size. Only the entries of the page are read.
    pub(crate) fn page(&self) -> String {
        let order = if self.descending { "DESC" } else { "ASC" };
        format!(
            "WITH k AS MATERIALIZED ({find} LIMIT ?2 + 1), \
             b AS MATERIALIZED (SELECT cursor, row_number() OVER w AS n, sum(size + 400) OVER w AS bytes, \
             (SELECT count(*) FROM k) AS found FROM k \
             WINDOW w AS (ORDER BY cursor {order} ROWS UNBOUNDED PRECEDING)) \
             SELECT CAST(b.cursor AS TEXT), b.found > b.n, {show} \
             WHERE b.n <= ?2 AND (b.n = 1 OR b.bytes <= ?3) ORDER BY b.n",
            find = self.find,
            show = self.show,
        )
    }
}
