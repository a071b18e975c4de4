//! Configuration, nodes, states and commands.

use serde_json::json;
use tanist_api::{
    Command, ConfigChange, ConfigEntry, DesiredState, NewCommand, NewConfig, NewDesired, NewOutcome, Node,
    NodeSpec, NodeSummary, Removed, Report, ReportedState, Seen, code,
};

use super::{COMMANDS, CONFIG, NODES, delete, get, patch, post, put};
use crate::http::openapi::{
    operation::Operation,
    parameters::{KEY, NAME, cursor, number, one_of, text},
};

const SET: &str = "What is so now; it was there before.";
const REMOVED: &str = "It is there no longer.";

pub(in crate::http) fn configs() -> Operation {
    get("/v1/config", "listConfig", CONFIG, "Values in the order of their keys")
        .query("prefix", "Only keys that begin so.", text(KEY))
        .page::<ConfigEntry>(cursor("after", text(KEY)))
}

pub(in crate::http) fn config() -> Operation {
    get("/v1/config/{key}", "getConfig", CONFIG, "A value").entry::<ConfigEntry>("The value.")
}

pub(in crate::http) fn set_config() -> Operation {
    put("/v1/config/{key}", "setConfig", CONFIG, "Set a value")
        .describe("The same value again makes no revision and no event.")
        .body::<NewConfig>(json!({ "value": { "title": "Hall 1", "columns": 4 } }))
        .changes::<ConfigEntry>(&[200, 201], SET)
}

pub(in crate::http) fn remove_config() -> Operation {
    delete("/v1/config/{key}", "removeConfig", CONFIG, "Remove a value").changes::<Removed>(&[200], REMOVED)
}

pub(in crate::http) fn config_history() -> Operation {
    get("/v1/config/{key}/history", "getConfigHistory", CONFIG, "What a value was, the newest change first")
        .page::<ConfigChange>(cursor("before", number(0, None)))
}

pub(in crate::http) fn nodes() -> Operation {
    get("/v1/nodes", "listNodes", NODES, "All nodes, and whether each is in step")
        .page::<NodeSummary>(cursor("after", text(NAME)))
}

pub(in crate::http) fn node() -> Operation {
    get("/v1/nodes/{name}", "getNode", NODES, "A node").entry::<Node>("The node.")
}

pub(in crate::http) fn set_node() -> Operation {
    put("/v1/nodes/{name}", "setNode", NODES, "Say where a node belongs")
        .body::<NodeSpec>(
            json!({ "address": "10.0.0.1", "row": 1, "column": 2, "labels": { "side": "left" } }),
        )
        .changes::<Node>(&[200, 201], SET)
}

pub(in crate::http) fn patch_node() -> Operation {
    patch("/v1/nodes/{name}", "patchNode", NODES, "Change some of a node's properties")
        .patch::<NodeSpec>(json!({ "row": 2, "labels": { "side": null } }))
        .changes::<Node>(&[200], "What is so now.")
}

pub(in crate::http) fn remove_node() -> Operation {
    delete("/v1/nodes/{name}", "removeNode", NODES, "Remove a node")
        .describe("Its states go with it, and its pending outcomes become `failed`.")
        .changes::<Removed>(&[200], REMOVED)
}

pub(in crate::http) fn desired() -> Operation {
    get("/v1/nodes/{name}/desired", "getDesired", NODES, "What a node shall have")
        .entry::<DesiredState>("The desired state.")
}

pub(in crate::http) fn set_desired() -> Operation {
    put("/v1/nodes/{name}/desired", "setDesired", NODES, "Say what a node shall have")
        .body::<NewDesired>(json!({ "state": { "show": "clock", "brightness": 80 } }))
        .changes::<DesiredState>(&[200, 201], SET)
}

pub(in crate::http) fn patch_desired() -> Operation {
    patch("/v1/nodes/{name}/desired", "patchDesired", NODES, "Change some of what a node shall have")
        .describe("Begins with `{}` where there is none.")
        .patch::<NewDesired>(json!({ "state": { "brightness": 40, "show": null } }))
        .changes::<DesiredState>(&[200, 201], SET)
}

pub(in crate::http) fn reported() -> Operation {
    get("/v1/nodes/{name}/reported", "getReported", NODES, "What a node says it has")
        .entry::<ReportedState>("The reported state.")
}

pub(in crate::http) fn report() -> Operation {
    put("/v1/nodes/{name}/reported", "report", NODES, "Say what a node has")
        .body::<Report>(json!({ "state": { "show": "clock", "brightness": 80 }, "desired_revision": 812 }))
        .changes::<ReportedState>(&[200, 201], SET)
}

pub(in crate::http) fn seen() -> Operation {
    post("/v1/nodes/{name}/seen", "seen", NODES, "A sign of life from a node's agent")
        .describe(
            "Makes no transaction. A node that falls silent for `nodes.silent_after` is shown as silent. It has no body, but the \
             `Content-Type` of every `POST`: `application/json`.",
        )
        .reads_strongly()
        .problems(&[(404, code::NOT_FOUND)])
        .json::<Seen>(200, "Whether there is something to do.")
}

pub(in crate::http) fn send_command() -> Operation {
    post("/v1/commands", "sendCommand", COMMANDS, "Send a command to nodes")
        .body::<NewCommand>(json!({ "name": "restart", "arguments": { "delay": 5 }, "nodes": ["n1", "n2"] }))
        .changes::<Command>(&[201], "The command with its number.")
}

pub(in crate::http) fn commands() -> Operation {
    get("/v1/commands", "listCommands", COMMANDS, "Commands, the newest first")
        .query("node", "Only those to this node.", text(NAME))
        .query(
            "status",
            "Only those of which an outcome (with `node`: its outcome) is such.",
            one_of(&["pending", "done", "failed"]),
        )
        .page::<Command>(cursor("before", number(0, None)))
}

pub(in crate::http) fn command() -> Operation {
    get("/v1/commands/{id}", "getCommand", COMMANDS, "A command with its outcomes")
        .entry::<Command>("The command.")
}

pub(in crate::http) fn report_outcome() -> Operation {
    put(
        "/v1/commands/{id}/outcomes/{node}",
        "reportOutcome",
        COMMANDS,
        "Say what became of a command at a node",
    )
    .describe("`done` and `failed` are final: another outcome after them is 409.")
    .body::<NewOutcome>(json!({ "status": "done", "detail": { "took_ms": 40 } }))
    .changes::<Command>(&[200], "The command with its outcomes.")
}
