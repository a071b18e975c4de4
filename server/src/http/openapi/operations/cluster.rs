//! The cluster, its members and tokens, and the machine itself.

use serde_json::json;
use tanist_api::{
    AuditRecord, Cluster, ClusterMember, HandoverRequest, HandoverResponse, MadeToken, MemberPatch,
    MembersResponse, NewMember, NewToken, Ready, Removed, TokenInfo, Upgrade, code,
};

use super::{CLUSTER, MACHINE, delete, get, patch, post};
use crate::http::openapi::{
    operation::Operation,
    parameters::{NAME, cursor, number, object, text},
};

pub(in crate::http) fn cluster() -> Operation {
    get("/v1/cluster", "getCluster", CLUSTER, "How this machine sees the cluster")
        .describe("Any machine answers, always. Ask every machine of a list in turn to find the master.")
        .json::<Cluster>(200, "Its view; the master's is the fullest.")
}

pub(in crate::http) fn promote() -> Operation {
    handover("/v1/cluster/promote", "promote", "Hand the throne to a member")
        .describe(
            "`force` with `accept_data_loss` (role `admin`), asked of the machine itself, makes it reign where nobody can by \
             himself: what only the lost machines hold is given up.",
        )
        .body::<HandoverRequest>(json!({ "member": "pc-2" }))
}

pub(in crate::http) fn demote() -> Operation {
    handover("/v1/cluster/demote", "demote", "Let a member reign no longer")
        .body::<HandoverRequest>(json!({ "member": "pc-1" }))
}

fn handover(path: &'static str, id: &'static str, summary: &'static str) -> Operation {
    post(path, id, CLUSTER, summary)
        .describe("May be repeated: what is so already is answered as done. No acknowledged write is lost.")
        .at_master()
        .problems(&[(409, code::HANDOVER_FAILED), (503, code::OVERLOADED)])
        .json::<HandoverResponse>(200, "The next master serves.")
}

pub(in crate::http) fn members() -> Operation {
    get("/v1/cluster/members", "listMembers", CLUSTER, "All members")
        .json::<MembersResponse>(200, "As this machine sees them.")
}

pub(in crate::http) fn member() -> Operation {
    get("/v1/cluster/members/{id}", "getMember", CLUSTER, "A member")
        .problems(&[(400, code::BAD_REQUEST), (404, code::NOT_FOUND)])
        .json::<ClusterMember>(200, "As this machine sees it.")
}

pub(in crate::http) fn add_member() -> Operation {
    changes_members(post("/v1/cluster/members", "addMember", CLUSTER, "Take a machine in"))
        .body::<NewMember>(json!({
            "id": "pc-4", "rank": 4, "peer_addresses": ["10.0.0.4:7450"], "urls": ["http://10.0.0.4:8080"],
        }))
        .json::<MembersResponse>(200, "It is a member already, with the same properties.")
        .json::<MembersResponse>(201, "It is a member.")
}

pub(in crate::http) fn set_member() -> Operation {
    changes_members(patch("/v1/cluster/members/{id}", "setMember", CLUSTER, "Change a member"))
        .body::<MemberPatch>(json!({ "rank": 2 }))
        .problems(&[(404, code::NOT_FOUND)])
        .json::<MembersResponse>(200, "All members then.")
}

pub(in crate::http) fn remove_member() -> Operation {
    changes_members(delete("/v1/cluster/members/{id}", "removeMember", CLUSTER, "Dismiss a member"))
        .problems(&[(400, code::BAD_REQUEST), (404, code::NOT_FOUND)])
        .json::<MembersResponse>(200, "The members left.")
}

fn changes_members(operation: Operation) -> Operation {
    operation
        .describe("One change at a time; it holds when a majority has it.")
        .at_master()
        .problems(&[(409, code::MEMBERS_UNCHANGED), (503, code::OVERLOADED)])
}

pub(in crate::http) fn audit() -> Operation {
    get("/v1/audit", "listAudit", CLUSTER, "Who has changed what by SQL, the oldest first")
        .describe("Also requests that were refused because nobody may do that.")
        .page::<AuditRecord>(cursor("after", number(0, None)))
}

pub(in crate::http) fn tokens() -> Operation {
    get("/v1/tokens", "listTokens", CLUSTER, "Tokens that there are")
        .page::<TokenInfo>(cursor("after", text(NAME)))
}

pub(in crate::http) fn make_token() -> Operation {
    post("/v1/tokens", "makeToken", CLUSTER, "Make a token")
        .describe(
            "It is shown in this answer and never again; only its hash is kept. An `agent` speaks for the one node that is named.",
        )
        .body::<NewToken>(json!({ "name": "wall-ui", "role": "write" }))
        .changes::<MadeToken>(&[201], "The token.")
}

pub(in crate::http) fn revoke_token() -> Operation {
    delete("/v1/tokens/{name}", "revokeToken", CLUSTER, "Revoke a token")
        .changes::<Removed>(&[200], "It is refused from now on; by a backup within a second.")
}

pub(in crate::http) fn hold_upgrade() -> Operation {
    post("/v1/cluster/upgrade/hold", "holdUpgrade", CLUSTER, "Keep the cluster's level where it is")
        .describe("Every program can be taken back until `go`. May be repeated.")
        .changes::<Upgrade>(&[200], "It is held.")
}

pub(in crate::http) fn release_upgrade() -> Operation {
    post("/v1/cluster/upgrade/go", "releaseUpgrade", CLUSTER, "Let the cluster's level be raised")
        .describe("It is, once all members have run a program that knows the next one for `upgrade.calm`. May be repeated.")
        .changes::<Upgrade>(&[200], "It isn't held.")
}

pub(in crate::http) fn live() -> Operation {
    get("/healthz", "live", MACHINE, "Whether the process lives").media(
        "text/plain",
        Some(text("").into()),
        "`ok`.",
        &[],
    )
}

pub(in crate::http) fn ready() -> Operation {
    get("/readyz", "ready", MACHINE, "Whether this machine can serve, and as what")
        .problems(&[(503, code::NOT_FRESH)])
        .json::<Ready>(200, "It can.")
}

pub(in crate::http) fn metrics() -> Operation {
    get("/metrics", "metrics", MACHINE, "Numbers for Prometheus").media(
        "application/openmetrics-text",
        Some(text("").into()),
        "OpenMetrics text.",
        &[],
    )
}

pub(in crate::http) fn dashboard() -> Operation {
    get("/", "dashboard", MACHINE, "The status page").media(
        "text/html",
        Some(text("").into()),
        "A page for people.",
        &[],
    )
}

pub(in crate::http) fn document() -> Operation {
    get("/openapi.json", "getDocument", MACHINE, "This document").media(
        "application/json",
        Some(object()),
        "OpenAPI 3.1.",
        &["Cache-Control"],
    )
}

pub(in crate::http) fn docs() -> Operation {
    get("/docs", "docs", MACHINE, "This document as a page").media(
        "text/html",
        Some(text("").into()),
        "It needs no network but this machine.",
        &[],
    )
}
