//! Parameters and headers that many routes have.

use serde_json::{Value, json};
use tanist_api::{
    HEADER_IDEMPOTENCY_KEY, HEADER_LAST_EVENT_ID, HEADER_MASTER, HEADER_MIN_POSITION, HEADER_POSITION,
    HEADER_REPLAYED,
};
use utoipa::openapi::{
    Array, ComponentsBuilder, HeaderBuilder, KnownFormat, Object, ObjectBuilder, Ref, RefOr, Required,
    Schema, SchemaFormat, Type,
    path::{ParameterBuilder, ParameterIn},
    schema::AdditionalProperties,
};

/// `state/limits.rs` says the same in words, and its tests that both agree.
pub(super) const KEY: &str = "^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,254}$";
pub(super) const NAME: &str = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$";

/// Of those in the components, the ones that stand in the query.
pub(super) const SHARED_IN_QUERY: [&str; 3] = ["consistency", "max_staleness", "limit"];

pub(super) fn text(pattern: &str) -> Object {
    let pattern = Some(pattern).filter(|pattern| !pattern.is_empty());
    ObjectBuilder::new().schema_type(Type::String).pattern(pattern).build()
}

pub(super) fn one_of(values: &[&str]) -> Object {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(values.iter().copied())).build()
}

pub(super) fn number(least: i64, most: Option<i64>) -> Object {
    let object = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
        .minimum(Some(least));
    match most {
        Some(most) => object.maximum(Some(most)).build(),
        None => object.build(),
    }
}

pub(super) fn object() -> Schema {
    Object::with_type(Type::Object).into()
}

/// A page of such entries: [`tanist_api::Page`], which the tests compare.
pub(super) fn page(entry: Ref) -> RefOr<Schema> {
    ObjectBuilder::new()
        .property("entries", Array::new(entry))
        .required("entries")
        .property("next", text(""))
        .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false)))
        .into()
}

/// What the parts of paths in braces are.
pub(super) fn in_path(path: &str, name: &str) -> ParameterBuilder {
    let (schema, description, example) = match name {
        "key" => (text(KEY), "The key; a `/` in it is written `%2F`.", json!("wall/title")),
        "id" if path.contains("commands") => (number(1, None), "The command's number.", json!(7)),
        "id" => (text(NAME), "The member's name.", json!("pc-2")),
        "table" => (text("^.+$"), "The table's name.", json!("parts")),
        "node" => (text(NAME), "The node's name.", json!("n1")),
        _ => (text(NAME), "Its name.", json!("n1")),
    };
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some(description))
        .schema(Some(schema))
        .example(Some(example))
}

/// Where a list goes on.
pub(super) fn cursor(name: &str, schema: Object) -> ParameterBuilder {
    let order = if name == "before" { "before" } else { "behind" };
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Query)
        .required(Required::False)
        .description(Some(format!("The page begins {order} this: `next` of the page before.")))
        .schema(Some(schema))
}

fn parameter(
    name: &str,
    place: ParameterIn,
    schema: Object,
    example: Value,
    description: &str,
) -> ParameterBuilder {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(Required::False)
        .schema(Some(schema))
        .example(Some(example))
        .description(Some(description))
}

/// Those that stand in the components, by name.
pub(super) fn shared(components: ComponentsBuilder) -> ComponentsBuilder {
    let header = |name, pattern, example: &str, description| {
        parameter(name, ParameterIn::Header, text(pattern), json!(example), description)
    };
    let tags = "^(\\*|(W/)?\"[!#-~]*\"( *, *(W/)?\"[!#-~]*\")*)$";
    let all = [
        (
            "consistency",
            parameter(
                "consistency",
                ParameterIn::Query,
                one_of(&["strong", "local", "bounded"]),
                json!("local"),
                "`strong` (default): the master, under its lease, nothing that isn't acknowledged. `local`: this \
                 replica, now. `bounded`: this replica, if it is known to be fresh enough.",
            ),
        ),
        (
            "max_staleness",
            parameter(
                "max_staleness",
                ParameterIn::Query,
                text("^[0-9]{1,9}(ms|s)$"),
                json!("500ms"),
                "For `bounded`: how old the replica's state may be. Default: the lease's length.",
            ),
        ),
        (
            "limit",
            parameter(
                "limit",
                ParameterIn::Query,
                number(1, Some(1000)),
                json!(100),
                "So many entries at most; default 100. Large entries make shorter pages.",
            ),
        ),
        (
            "Tanist-Min-Position",
            header(
                HEADER_MIN_POSITION,
                "^[0-9]{1,18}\\.[0-9]{1,18}$",
                "1.1",
                "The replica that answers must have this position: it waits for it up to 5 s, then says 503. The \
                 `Tanist-Position` of an earlier answer here keeps a client from going back in time.",
            ),
        ),
        (
            "Idempotency-Key",
            header(
                HEADER_IDEMPOTENCY_KEY,
                "^[!-~]{1,200}$",
                "8c0f5e1a-once",
                "Repeated with the same key within `limits.request_retention`, a write returns its first answer and \
                 changes nothing, also after another machine has become master.",
            ),
        ),
        (
            "If-Match",
            header("if-match", tags, "*", "Only if it has one of these revisions; `*`: if it is there."),
        ),
        (
            "If-None-Match",
            header(
                "if-none-match",
                tags,
                "\"812\"",
                "A read answers 304 if it has this revision. A change is made only if it has none of them; `*`: if it \
                 isn't there.",
            ),
        ),
        (
            "Last-Event-ID",
            header(
                HEADER_LAST_EVENT_ID,
                "^[0-9]{1,18}$",
                "0",
                "The newest event that was seen; wins over `after`.",
            ),
        ),
    ];
    all.into_iter()
        .fold(components, |components, (name, parameter)| components.parameter(name, parameter.build()))
}

/// Headers of answers, by name.
pub(super) fn headers(components: ComponentsBuilder) -> ComponentsBuilder {
    let all = [
        (
            HEADER_POSITION,
            text("^[0-9]+\\.[0-9]+$"),
            "Up to which position (`term.txid`) the answer is current, or where the write stands.",
        ),
        (HEADER_MASTER, text(""), "The master's name."),
        (
            HEADER_REPLAYED,
            one_of(&["true"]),
            "The answer is the first one to this key; nothing was changed now.",
        ),
        ("Location", text(""), "Where to send the same request, with its body and headers."),
        (
            "Retry-After",
            ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)).build(),
            "After so many seconds; sooner at another machine.",
        ),
        ("ETag", text("^\"[0-9]+\"$"), "The revision, in quotes; the same on every machine."),
        ("Cache-Control", one_of(&["no-cache"]), "Ask again before using it."),
        ("Content-Disposition", text(""), "The copy's file name."),
        ("WWW-Authenticate", one_of(&["Bearer"]), "A token is needed."),
        (
            "Tanist-Database-Bytes",
            ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)).build(),
            "Bytes of the database in the copy, unpacked.",
        ),
    ];
    let name = |name: &str| match name {
        HEADER_POSITION => "Tanist-Position".to_owned(),
        HEADER_MASTER => "Tanist-Master".to_owned(),
        HEADER_REPLAYED => "Idempotency-Replayed".to_owned(),
        other => other.to_owned(),
    };
    all.into_iter().fold(components, |components, (header, schema, description)| {
        let built = HeaderBuilder::new().schema(Some(schema)).description(Some(description));
        components.header(name(header), built.build())
    })
}
