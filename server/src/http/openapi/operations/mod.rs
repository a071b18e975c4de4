//! Every route as the document shows it; the functions have the names of their handlers.

pub(in crate::http) mod cluster;
pub(in crate::http) mod data;
pub(in crate::http) mod state;

use axum::http::Method;

use super::operation::Operation;

pub(super) const TAGS: [(&str, &str); 7] = [
    (DATA, "SQL on the replicated database."),
    (CONFIG, "Configuration values by key, with the history of each."),
    (NODES, "The managed machines: what each shall have, and what it says it has."),
    (COMMANDS, "Commands to nodes, recorded before they act, with each node's outcome."),
    (EVENTS, "What changes, as it changes."),
    (CLUSTER, "Who reigns, who takes part, who may ask."),
    (MACHINE, "This machine itself."),
];

const DATA: &str = "Data";
const CONFIG: &str = "Configuration";
const NODES: &str = "Nodes";
const COMMANDS: &str = "Commands";
const EVENTS: &str = "Events";
const CLUSTER: &str = "Cluster";
const MACHINE: &str = "Machine";

type Id = &'static str;

fn get(path: &'static str, id: Id, tag: Id, summary: Id) -> Operation {
    Operation::new(Method::GET, path, id, tag, summary)
}

fn post(path: &'static str, id: Id, tag: Id, summary: Id) -> Operation {
    Operation::new(Method::POST, path, id, tag, summary)
}

fn put(path: &'static str, id: Id, tag: Id, summary: Id) -> Operation {
    Operation::new(Method::PUT, path, id, tag, summary)
}

fn patch(path: &'static str, id: Id, tag: Id, summary: Id) -> Operation {
    Operation::new(Method::PATCH, path, id, tag, summary)
}

fn delete(path: &'static str, id: Id, tag: Id, summary: Id) -> Operation {
    Operation::new(Method::DELETE, path, id, tag, summary)
}
