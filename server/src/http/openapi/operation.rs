//! One route as the document shows it: what it takes, and every answer that it can give.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::Method;
use serde_json::{Value, json};
use tanist_api::{Access, MERGE_PATCH_JSON, PROBLEM_JSON, Problem, code};
use utoipa::{
    ToSchema,
    openapi::{
        Content, Ref, RefOr, Required, Response, ResponseBuilder, Schema,
        extensions::ExtensionsBuilder,
        path::{self, OperationBuilder, Parameter, ParameterBuilder, ParameterIn},
        request_body::RequestBodyBuilder,
        security::SecurityRequirement,
    },
};

use super::{SECURITY, parameters};
use crate::http::authorize::needed;

/// Names and schemas of types.
pub(super) type Schemas = Vec<(String, RefOr<Schema>)>;

/// A status and the code of the problem that comes with it.
pub(super) type Problems = [(u16, &'static str)];

/// Whatever is asked for.
const ANY: &Problems =
    &[(400, code::BAD_REQUEST), (421, code::FOREIGN_HOST), (421, code::OTHER_CLUSTER), (500, code::INTERNAL)];
/// Of what isn't only read.
const CHANGES: &Problems = &[(403, code::FOREIGN_ORIGIN), (415, code::UNSUPPORTED_MEDIA_TYPE)];
/// Where a token is looked for.
const BY_TOKEN: &Problems = &[
    (401, code::UNAUTHORIZED),
    (403, code::FORBIDDEN),
    (500, code::STORAGE),
    (503, code::OVERLOADED),
    (503, code::STORAGE),
];
/// What only the master does.
const AT_MASTER: &Problems = &[(307, code::NOT_MASTER), (503, code::NO_MASTER)];
const WITH_BODY: &Problems = &[
    (400, code::BAD_REQUEST),
    (408, code::BAD_REQUEST),
    (413, code::BODY_TOO_LARGE),
    (415, code::UNSUPPORTED_MEDIA_TYPE),
];
const READ: &Problems = &[
    (400, code::BAD_REQUEST),
    (408, code::STATEMENT_TIMEOUT),
    (413, code::RESULT_TOO_LARGE),
    (413, code::SQL_MEMORY),
    (500, code::STORAGE),
    (503, code::NOT_FRESH),
    (503, code::OVERLOADED),
    (503, code::STORAGE),
];
const WRITTEN: &Problems = &[
    (400, code::BAD_REQUEST),
    (408, code::STATEMENT_TIMEOUT),
    (413, code::TRANSACTION_TOO_LARGE),
    (503, code::DATABASE_LOCKED),
    (503, code::OUTSIDE_WRITE),
    (413, code::SQL_MEMORY),
    (503, code::NOT_ENOUGH_BACKUPS),
    (503, code::OUTCOME_UNKNOWN),
    (503, code::OVERLOADED),
    (507, code::DISK_FULL),
    (507, code::STORAGE),
];
const CHANGE: &Problems = &[
    (404, code::NOT_FOUND),
    (409, code::CONFLICT),
    (412, code::PRECONDITION_FAILED),
    (422, code::IDEMPOTENCY_MISMATCH),
];
/// What users' SQL can be told.
pub(super) const SQL: &Problems = &[
    (400, code::SQL_ERROR),
    (403, code::SQL_DENIED),
    (408, code::STATEMENT_TIMEOUT),
    (413, code::SQL_MEMORY),
];

/// See the module.
pub(in crate::http) struct Operation {
    pub(super) method: Method,
    pub(super) path: &'static str,
    id: &'static str,
    tag: &'static str,
    summary: &'static str,
    description: Vec<String>,
    parameters: Vec<Parameter>,
    shared: BTreeSet<&'static str>,
    body: Option<(&'static str, Content)>,
    answers: BTreeMap<u16, ResponseBuilder>,
    problems: BTreeMap<u16, BTreeSet<&'static str>>,
    pub(super) schemas: Schemas,
}

impl Operation {
    pub(super) fn new(
        method: Method,
        path: &'static str,
        id: &'static str,
        tag: &'static str,
        summary: &'static str,
    ) -> Operation {
        let operation = Operation {
            method,
            path,
            id,
            tag,
            summary,
            description: Vec::new(),
            parameters: Vec::new(),
            shared: BTreeSet::new(),
            body: None,
            answers: BTreeMap::new(),
            problems: BTreeMap::new(),
            schemas: Schemas::new(),
        };
        let operation = path
            .split('/')
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
            .fold(operation, |operation, name| operation.parameter(parameters::in_path(path, name)));
        let reads = operation.method == Method::GET;
        let operation = operation.problems(ANY);
        let operation = if reads { operation } else { operation.problems(CHANGES) };
        if operation.needs().is_some() { operation.problems(BY_TOKEN) } else { operation }
    }

    /// What its caller's token must allow.
    fn needs(&self) -> Option<Access> {
        needed(&self.method, self.path)
    }

    /// More words on it.
    pub(super) fn describe(mut self, text: impl Into<String>) -> Operation {
        self.description.push(text.into());
        self
    }

    pub(super) fn parameter(mut self, parameter: ParameterBuilder) -> Operation {
        self.parameters.push(parameter.build());
        self
    }

    /// A parameter of the query.
    pub(super) fn query(self, name: &str, description: &str, schema: impl Into<RefOr<Schema>>) -> Operation {
        self.parameter(
            ParameterBuilder::new()
                .name(name)
                .parameter_in(ParameterIn::Query)
                .required(Required::False)
                .description(Some(description))
                .schema(Some(schema.into())),
        )
    }

    /// The names of what it takes in its query.
    pub(super) fn query_names(&self) -> Vec<String> {
        let own =
            self.parameters.iter().filter(|parameter| matches!(parameter.parameter_in, ParameterIn::Query));
        let shared = parameters::SHARED_IN_QUERY.iter().filter(|name| self.shared.contains(**name));
        own.map(|parameter| parameter.name.clone()).chain(shared.map(|name| (*name).to_owned())).collect()
    }

    /// Parameters that stand in the document's components.
    pub(super) fn takes(mut self, names: &[&'static str]) -> Operation {
        self.shared.extend(names);
        self
    }

    pub(super) fn problems(mut self, problems: &Problems) -> Operation {
        for (status, code) in problems {
            self.problems.entry(*status).or_default().insert(code);
        }
        self
    }

    fn reference<T: ToSchema>(&mut self) -> Ref {
        T::schemas(&mut self.schemas);
        self.schemas.push((T::name().into_owned(), T::schema()));
        Ref::from_schema_name(T::name())
    }

    /// A JSON body of this type.
    pub(super) fn body<T: ToSchema>(mut self, example: Value) -> Operation {
        let schema = self.reference::<T>();
        let content = Content::builder().schema(Some(schema)).example(Some(example)).build();
        self.body = Some(("application/json", content));
        self.problems(WITH_BODY)
    }

    /// A JSON Merge Patch of this type.
    pub(super) fn patch<T: ToSchema>(mut self, example: Value) -> Operation {
        // A field may be null, to be removed: what is allowed is said by the type, not by its schema.
        T::schemas(&mut self.schemas);
        self.schemas.push((T::name().into_owned(), T::schema()));
        let content = Content::builder().schema(Some(parameters::object())).example(Some(example)).build();
        self.body = Some((MERGE_PATCH_JSON, content));
        let patched = format!("The body is a JSON Merge Patch (RFC 7396) of `{}`.", T::name());
        self.describe(patched).problems(WITH_BODY)
    }

    /// Answers so.
    fn answer(mut self, status: u16, response: ResponseBuilder) -> Operation {
        self.answers.insert(status, response.header_ref("Tanist-Position", header_ref("Tanist-Position")));
        self
    }

    /// Answers with a media type that isn't JSON, and these headers from the document's components.
    pub(super) fn media(
        self,
        media: &str,
        schema: Option<Schema>,
        description: &str,
        headers: &[&str],
    ) -> Operation {
        let response = ResponseBuilder::new().description(description).content(media, Content::new(schema));
        self.answer(200, with_headers(response, headers))
    }

    /// Answers with this type.
    pub(super) fn json<T: ToSchema>(self, status: u16, description: &str) -> Operation {
        self.json_with::<T>(status, description, &[])
    }

    /// The same, with these headers from the document's components.
    pub(super) fn json_with<T: ToSchema>(
        mut self,
        status: u16,
        description: &str,
        headers: &[&str],
    ) -> Operation {
        let content = Content::new(Some(self.reference::<T>()));
        let response = ResponseBuilder::new().description(description).content("application/json", content);
        self.answer(status, with_headers(response, headers))
    }

    /// Only the master does it.
    pub(super) fn at_master(self) -> Operation {
        self.problems(AT_MASTER)
    }

    /// A read of the database.
    pub(super) fn reads(self) -> Operation {
        self.problems(READ).at_master().takes(&["consistency", "max_staleness", "Tanist-Min-Position"])
    }

    /// A read at the master that takes no other consistency, nor a tag.
    pub(super) fn reads_strongly(self) -> Operation {
        self.problems(READ).at_master().takes(&["Tanist-Min-Position"])
    }

    /// One entry with its revision.
    pub(super) fn entry<T: ToSchema>(self, description: &str) -> Operation {
        let revision = ["ETag", "Cache-Control"];
        let known = ResponseBuilder::new().description("The client has this revision already.");
        self.reads()
            .takes(&["If-None-Match", "If-Match"])
            .problems(&[(404, code::NOT_FOUND)])
            .json_with::<T>(200, description, &revision)
            .answer(304, with_headers(known, &revision))
    }

    /// A page of a list, which goes on behind `cursor`.
    pub(super) fn page<T: ToSchema>(mut self, cursor: ParameterBuilder) -> Operation {
        let entry = self.reference::<T>();
        let name = format!("{}Page", T::name());
        let schema = parameters::page(entry);
        self.schemas.push((name.clone(), schema));
        let content = Content::new(Some(Ref::from_schema_name(name)));
        let response = ResponseBuilder::new()
            .description("A page of the list; ask again behind `next` while there is one.")
            .content("application/json", content);
        self.reads().takes(&["limit", "If-None-Match", "If-Match"]).parameter(cursor).answer(200, response)
    }

    /// A write: at the master, stored by the sync set before it is answered.
    pub(super) fn writes(self) -> Operation {
        self.at_master().problems(WRITTEN)
    }

    /// A change of state: it takes a condition and a key.
    pub(super) fn changes<T: ToSchema>(self, statuses: &[u16], description: &str) -> Operation {
        let operation = self.writes().problems(WITH_BODY).problems(CHANGE).takes(&[
            "Idempotency-Key",
            "If-Match",
            "If-None-Match",
        ]);
        statuses.iter().fold(operation, |operation, status| {
            let headers = ["ETag", "Cache-Control", "Idempotency-Replayed"];
            operation.json_with::<T>(*status, description, &headers)
        })
    }

    /// As the document has it.
    pub(super) fn build(mut self) -> (path::Operation, Schemas) {
        let mut building = OperationBuilder::new()
            .tag(self.tag)
            .operation_id(Some(self.id))
            .summary(Some(self.summary.to_owned()));
        match self.needs() {
            None => building = building.securities(Some([SecurityRequirement::default()])),
            Some(role) => {
                let needed = format!("Needs a token with the role `{role}`, unless tokens are off.");
                self.description.push(needed);
                building = building.security(SecurityRequirement::new(SECURITY, [role.as_str()]));
            }
        }
        if !self.description.is_empty() {
            building = building.description(Some(self.description.join("\n\n")));
        }
        if let Some((media, content)) = self.body {
            let body = RequestBodyBuilder::new().content(media, content).required(Some(Required::True));
            building = building.request_body(Some(body.build()));
        }
        for parameter in self.parameters {
            building = building.parameter(parameter);
        }
        for name in self.shared {
            building = building.parameter_ref(Ref::new(format!("#/components/parameters/{name}")));
        }
        for (status, response) in self.answers {
            building = building.response(status.to_string(), response.build());
        }
        for (status, codes) in self.problems {
            building = building.response(status.to_string(), problem(status, &codes));
        }
        (building.build(), self.schemas)
    }
}

fn header_ref(name: &str) -> Ref {
    Ref::new(format!("#/components/headers/{name}"))
}

fn with_headers(response: ResponseBuilder, names: &[&str]) -> ResponseBuilder {
    names.iter().fold(response, |response, name| response.header_ref(*name, header_ref(name)))
}

fn problem(status: u16, codes: &BTreeSet<&str>) -> Response {
    let words: Vec<_> = codes.iter().map(|code| format!("`{code}`")).collect();
    let extensions = ExtensionsBuilder::new().add("x-problem-codes", json!(codes));
    let response = ResponseBuilder::new()
        .description(words.join(", "))
        .content(PROBLEM_JSON, Content::new(Some(Ref::from_schema_name(Problem::name()))))
        .header_ref("Tanist-Position", header_ref("Tanist-Position"))
        .extensions(Some(extensions.build()));
    let more: &[&str] = match status {
        307 => &["Location", "Tanist-Master"],
        401 => &["WWW-Authenticate"],
        429 | 503 => &["Retry-After"],
        _ => &[],
    };
    with_headers(response, more).build()
}
