//! `GET /openapi.json`: the HTTP interface as an OpenAPI 3.1 document, and `GET /docs`: a page that shows it.
//!
//! A route is made from its [`Operation`], so that none stands in one place only; schemas are derived from the types of
//! `tanist-api`. Both are open: they tell of the product, nothing of the cluster. `operations/` has the routes.

mod operation;
pub(super) mod operations;
mod parameters;
#[cfg(test)]
mod tests;

use std::{convert::Infallible, sync::LazyLock};

use axum::{
    Router,
    handler::Handler,
    http::{Method, header},
    response::{Html, IntoResponse},
    routing::{MethodFilter, on},
};
use bytes::Bytes;
use tanist_api::{Problem, WatchEvent};
use utoipa::{
    ToSchema as _,
    openapi::{
        ComponentsBuilder, Info, License, OpenApi, OpenApiBuilder, PathItem, PathsBuilder,
        path::HttpMethod,
        security::{Http, HttpAuthScheme, SecurityScheme},
        tag::TagBuilder,
    },
};

pub(super) use operation::Operation;

use super::AppState;
use operation::Problems;

/// What a page of this machine may do: run what stands in it, and ask this machine. It is shown in no frame of another page.
pub(super) const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Name of the security scheme.
const SECURITY: &str = "token";

/// Routes beside what the document says about them.
pub(super) struct Routes {
    pub(super) router: Router<AppState>,
    operations: Vec<Operation>,
}

impl Routes {
    pub(super) fn new() -> Routes {
        Routes { router: Router::new(), operations: Vec::new() }
    }

    /// One more.
    pub(super) fn on<H, T>(mut self, operation: Operation, handler: H) -> Routes
    where
        H: Handler<T, AppState>,
        T: 'static,
    {
        let filter = MethodFilter::try_from(operation.method.clone()).unwrap_or(MethodFilter::GET);
        self.router = self.router.route(operation.path, on(filter, handler));
        self.operations.push(operation);
        self
    }

    pub(super) fn merge(mut self, other: Routes) -> Routes {
        self.router = self.router.merge(other.router);
        self.operations.extend(other.operations);
        self
    }

    /// All of them, by method and path.
    pub(super) fn list(&self) -> Vec<(Method, &'static str)> {
        self.operations.iter().map(|operation| (operation.method.clone(), operation.path)).collect()
    }

    /// What each of them takes in its query.
    pub(super) fn queries(&self) -> impl Iterator<Item = (Method, &'static str, Vec<String>)> {
        let all = self.operations.iter();
        all.map(|operation| (operation.method.clone(), operation.path, operation.query_names()))
    }

    /// What all of them may be answered besides.
    pub(super) fn problems(mut self, problems: &Problems) -> Routes {
        let operations = self.operations.into_iter();
        self.operations = operations.map(|operation| operation.problems(problems)).collect();
        self
    }

    fn document(self) -> OpenApi {
        let mut schemas = vec![
            (Problem::name().into_owned(), <Problem as utoipa::PartialSchema>::schema()),
            (WatchEvent::name().into_owned(), <WatchEvent as utoipa::PartialSchema>::schema()),
        ];
        let mut paths = PathsBuilder::new();
        for operation in self.operations {
            let (path, method) = (operation.path, http_method(&operation.method));
            let (operation, found) = operation.build();
            schemas.extend(found);
            paths = paths.path(path, PathItem::new(method, operation));
        }
        let token = Http::builder()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some(
                "A token made with `tanist token make`. Roles: `read` < `write` < `operate` < `admin`, and `agent` for one node alone. Without \
                 `auth.tokens` in the configuration none is needed.",
            ))
            .build();
        let components = ComponentsBuilder::new()
            .schemas_from_iter(schemas)
            .security_scheme(SECURITY, SecurityScheme::Http(token));
        let components = parameters::headers(parameters::shared(components)).build();
        let mut info = Info::new("Tanist", env!("CARGO_PKG_VERSION"));
        info.description = Some(include_str!("info.md").trim().to_owned());
        let mut license = License::new("Apache-2.0");
        license.identifier = Some("Apache-2.0".to_owned());
        info.license = Some(license);
        let tags = operations::TAGS
            .map(|(name, description)| TagBuilder::new().name(name).description(Some(description)).build());
        OpenApiBuilder::new().info(info).paths(paths).components(Some(components)).tags(Some(tags)).build()
    }
}

fn http_method(method: &Method) -> HttpMethod {
    match method.as_str() {
        "POST" => HttpMethod::Post,
        "PUT" => HttpMethod::Put,
        "PATCH" => HttpMethod::Patch,
        "DELETE" => HttpMethod::Delete,
        _ => HttpMethod::Get,
    }
}

fn all_routes() -> Routes {
    super::open_routes().merge(super::limited_routes()).merge(super::watch_routes())
}

/// The document, made when it is first asked for.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    let document = all_routes().document();
    serde_json::to_vec(&document).unwrap_or_default().into()
});

/// `GET /openapi.json`.
pub(super) async fn json() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-cache")], DOCUMENT.clone())
}

/// `GET /docs`: one file, no outside resources.
pub(super) async fn page() -> Result<impl IntoResponse, Infallible> {
    Ok(([(header::CONTENT_SECURITY_POLICY, PAGE_POLICY)], Html(include_str!("page.html"))))
}
