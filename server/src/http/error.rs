//! Errors as RFC 9457 problems, each with a stable code.

use axum::{
    body::Body,
    http::{HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use tanist_api::{HEADER_MASTER, PROBLEM_JSON, Problem, code};

use crate::{
    reader::ReadError,
    sql::{Place, SqlError, SqlErrorKind},
    state::Refusal,
    view::View,
    watch::Unfit,
    write::WriteError,
};

/// An error answer.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    detail: String,
    statement: Option<usize>,
    sqlite_code: Option<i32>,
    /// Where in the statement's SQL.
    place: Option<Place>,
    retry_after: bool,
    /// Master's name and where the same request should go.
    redirect: Option<(String, String)>,
}

impl ApiError {
    /// An error of this status and code.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> ApiError {
        ApiError {
            status,
            code,
            detail: detail.into(),
            statement: None,
            sqlite_code: None,
            place: None,
            retry_after: matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS),
            redirect: None,
        }
    }

    /// Whether it has this code.
    pub(super) fn is(&self, code: &str) -> bool {
        self.code == code
    }

    /// 400 with what was found and what was expected.
    pub fn bad_request(detail: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, code::BAD_REQUEST, detail)
    }

    /// 401: who asks must say by which right.
    pub fn unauthorized(detail: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::UNAUTHORIZED, code::UNAUTHORIZED, detail)
    }

    /// 503: too much at once.
    pub fn overloaded(detail: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code::OVERLOADED, detail)
    }

    /// 503: this replica isn't fresh enough.
    pub fn not_fresh(detail: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code::NOT_FRESH, detail)
    }

    /// This machine isn't the serving master: to the master with the same request, or, when none is known, later again.
    pub fn not_master(view: &View, uri: &Uri) -> ApiError {
        let cluster = &view.cluster;
        let elsewhere = cluster.master.as_ref().filter(|master| **master != cluster.member);
        match (elsewhere, cluster.master_urls.first()) {
            (Some(master), Some(url)) => {
                let path = uri.path_and_query().map_or("/", |path| path.as_str());
                let detail = format!("{} is a backup; {master} is the master", cluster.member);
                let mut error = ApiError::new(StatusCode::TEMPORARY_REDIRECT, code::NOT_MASTER, detail);
                error.redirect = Some((master.clone(), format!("{url}{path}")));
                error
            }
            _ => {
                let notice = cluster.notice.as_deref().unwrap_or("the master is being found");
                let detail = format!("{} knows no serving master: {notice}", cluster.member);
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code::NO_MASTER, detail)
            }
        }
    }

    /// A body that could not be read.
    pub fn body(error: &axum::Error, limit: usize) -> ApiError {
        let too_large = std::error::Error::source(error)
            .is_some_and(|source| source.is::<http_body_util::LengthLimitError>());
        if too_large {
            let detail = format!("the body is larger than the limit of {limit} bytes (limits.body)");
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, code::BODY_TOO_LARGE, detail)
        } else {
            ApiError::bad_request(format!("body: {error}"))
        }
    }

    /// A refused statement.
    pub fn sql(error: SqlError) -> ApiError {
        let (status, code) = match error.kind {
            SqlErrorKind::Sql => (StatusCode::BAD_REQUEST, code::SQL_ERROR),
            SqlErrorKind::BadParameter => (StatusCode::BAD_REQUEST, code::BAD_REQUEST),
            SqlErrorKind::Constraint => (StatusCode::CONFLICT, code::CONSTRAINT),
            SqlErrorKind::Denied => (StatusCode::FORBIDDEN, code::SQL_DENIED),
            SqlErrorKind::Timeout => (StatusCode::REQUEST_TIMEOUT, code::STATEMENT_TIMEOUT),
            SqlErrorKind::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, code::TRANSACTION_TOO_LARGE),
            SqlErrorKind::NoRoom => (StatusCode::PAYLOAD_TOO_LARGE, code::SQL_MEMORY),
            SqlErrorKind::AuditFull => (StatusCode::INSUFFICIENT_STORAGE, code::AUDIT_FULL),
            SqlErrorKind::ResultTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, code::RESULT_TOO_LARGE),
        };
        let mut api = ApiError::new(status, code, error.to_string());
        api.statement = Some(error.index);
        api.sqlite_code = error.sqlite_code;
        api.place = error.place;
        api
    }

    /// A write without an answer.
    pub fn write(error: WriteError, view: &View, uri: &Uri) -> ApiError {
        let unavailable = |code, detail| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code, detail);
        match error {
            WriteError::NotMaster => ApiError::not_master(view, uri),
            WriteError::Overloaded => ApiError::overloaded("too many writes wait"),
            WriteError::NotEnoughBackups(why) => unavailable(code::NOT_ENOUGH_BACKUPS, why),
            WriteError::Locked(why) => {
                unavailable(code::DATABASE_LOCKED, format!("nothing was written: {why}"))
            }
            WriteError::OutsideWrite(why) => {
                unavailable(code::OUTSIDE_WRITE, format!("nothing was written: {why}"))
            }
            WriteError::Sql(error) => ApiError::sql(error),
            WriteError::Unfit(unfit) => ApiError::unfit(&unfit),
            WriteError::State(refusal) => ApiError::refused(refusal),
            WriteError::IdempotencyMismatch => ApiError::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                code::IDEMPOTENCY_MISMATCH,
                "this idempotency key was used for another request before",
            ),
            WriteError::OutcomeUnknown(why) => unavailable(
                code::OUTCOME_UNKNOWN,
                format!(
                    "the write was made on this machine, but whether it lasts isn't known ({why}); repeat it with the same Idempotency-Key"
                ),
            ),
            WriteError::NoRoom(why) => ApiError::new(
                StatusCode::INSUFFICIENT_STORAGE,
                code::DISK_FULL,
                format!("nothing was written: {why}"),
            ),
            WriteError::Storage(why) => ApiError::new(
                StatusCode::INSUFFICIENT_STORAGE,
                code::STORAGE,
                format!("nothing was written: {why}"),
            ),
        }
    }

    /// A table that can't be watched.
    pub(super) fn unfit(unfit: &Unfit) -> ApiError {
        let (status, code) = match unfit {
            Unfit::Unknown(_) => (StatusCode::NOT_FOUND, code::NOT_FOUND),
            Unfit::NotOrdinary(..) => (StatusCode::BAD_REQUEST, code::BAD_REQUEST),
        };
        ApiError::new(status, code, unfit.to_string())
    }

    /// A refused change of state.
    fn refused(refusal: Refusal) -> ApiError {
        let (status, code) = match refusal {
            Refusal::NotFound(_) => (StatusCode::NOT_FOUND, code::NOT_FOUND),
            Refusal::Condition(_) => (StatusCode::PRECONDITION_FAILED, code::PRECONDITION_FAILED),
            Refusal::Invalid(_) => (StatusCode::BAD_REQUEST, code::BAD_REQUEST),
            Refusal::Conflict(_) => (StatusCode::CONFLICT, code::CONFLICT),
        };
        ApiError::new(status, code, refusal.to_string())
    }

    /// A read without an answer.
    pub fn read(error: ReadError) -> ApiError {
        match error {
            stuck @ (ReadError::Overloaded | ReadError::Stuck) => ApiError::overloaded(stuck.to_string()),
            ReadError::Sql(error) => ApiError::sql(error),
            ReadError::Witness => ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                code::NOT_FRESH,
                "this machine is a witness and holds no data: ask another",
            ),
            // Another machine can answer, and so can this one soon.
            rotten @ ReadError::Rotten(_) => {
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code::STORAGE, rotten.to_string())
            }
            ReadError::Storage(why) => ApiError::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                code::STORAGE,
                format!("read the database: {why}"),
            ),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let problem = Problem {
            kind: format!("urn:tanist:problem:{}", self.code),
            title: self.code.replace('-', " "),
            status: self.status.as_u16(),
            code: self.code.to_owned(),
            detail: self.detail,
            statement: self.statement,
            sqlite_code: self.sqlite_code,
            sql_offset: self.place.as_ref().map(|place| place.offset),
            sql_excerpt: self.place.map(|place| place.excerpt),
        };
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = (self.status, Body::from(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Some((master, location)) = self.redirect
            && let (Ok(master), Ok(location)) =
                (HeaderValue::try_from(master), HeaderValue::try_from(location))
        {
            headers.insert(HEADER_MASTER, master);
            headers.insert(header::LOCATION, location);
        }
        response
    }
}

/// 404.
pub(super) async fn not_found(uri: Uri) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, code::NOT_FOUND, format!("no resource at {}", uri.path()))
}

/// 405.
pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    let detail = format!("{} doesn't take {method}", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, code::METHOD_NOT_ALLOWED, detail)
}

/// 500 for a handler that panicked: our bug, and only this request fails.
pub(super) fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let what = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    tracing::error!(what, "a request handler panicked");
    let detail = "an error of the server; its log says more";
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, code::INTERNAL, detail).into_response()
}
