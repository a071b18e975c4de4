//! An HTTP client that knows nothing of this project but `docs/http.md`: it goes round a list of machines, follows `307` and
//! repeats with the same key. What the project's own clients do wrong it doesn't do.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};

/// How often the whole list is asked before a call gives up.
const ROUNDS: usize = 40;

/// How a call ended.
#[derive(Debug)]
pub enum Told {
    Done(Value),
    /// A client error: nothing was changed.
    Refused(StatusCode, Value),
    /// Nobody has answered: a write may have been done.
    Unknown,
}

#[derive(Clone)]
pub struct Plain {
    hosts: Arc<Vec<String>>,
    /// Which host is asked first.
    first: usize,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Plain {
    /// Asks `hosts` (comma separated, as clients are given them), beginning with the one numbered `first`.
    pub fn new(hosts: &str, first: usize) -> Plain {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(Duration::from_millis(500)));
        connector.set_nodelay(true);
        let hosts = Arc::new(hosts.split(',').map(str::to_owned).collect());
        Plain { hosts, first, client: Client::builder(TokioExecutor::new()).build(connector) }
    }

    /// One write transaction, done at most once: repeated with one key until somebody answers.
    pub async fn execute(&self, statements: &[(String, Value)]) -> Told {
        let key = uuid::Uuid::new_v4().to_string();
        self.call("/v1/execute", statements, Some(&key)).await
    }

    /// A read; `consistency` is `strong`, `bounded` or `local`.
    pub async fn query(&self, consistency: &str, statements: &[(String, Value)]) -> Told {
        self.call(&format!("/v1/query?consistency={consistency}"), statements, None).await
    }

    async fn call(&self, path: &str, statements: &[(String, Value)], key: Option<&str>) -> Told {
        let statements: Vec<_> =
            statements.iter().map(|(sql, params)| json!({"sql": sql, "params": params})).collect();
        let body = Bytes::from(json!({"statements": statements}).to_string());
        for round in 0..ROUNDS {
            for host in 0..self.hosts.len() {
                let host = &self.hosts[(self.first + host) % self.hosts.len()];
                match self.at(format!("{host}{path}"), &body, key).await {
                    Some((status, answer)) if status.is_success() => return Told::Done(answer),
                    Some((StatusCode::TOO_MANY_REQUESTS, _)) | None => {}
                    Some((status, _)) if status.is_server_error() => {}
                    Some((status, answer)) => return Told::Refused(status, answer),
                }
            }
            tokio::time::sleep(Duration::from_millis(5 * (round as u64 + 1).min(20))).await;
        }
        Told::Unknown
    }

    /// Asks one machine, or the master that it names.
    async fn at(&self, mut url: String, body: &Bytes, key: Option<&str>) -> Option<(StatusCode, Value)> {
        for _ in 0..3 {
            let mut request = Request::builder()
                .method(Method::POST)
                .uri(&url)
                .header(header::CONTENT_TYPE, "application/json");
            if let Some(key) = key {
                request = request.header("Idempotency-Key", key);
            }
            let request = request.body(Full::new(body.clone())).unwrap();
            let exchange = async {
                let answer = self.client.request(request).await.ok()?;
                let (head, body) = answer.into_parts();
                Some((head, body.collect().await.ok()?.to_bytes()))
            };
            let (head, text) = tokio::time::timeout(Duration::from_secs(3), exchange).await.ok()??;
            if head.status != StatusCode::TEMPORARY_REDIRECT {
                return Some((head.status, serde_json::from_slice(&text).unwrap_or(Value::Null)));
            }
            url = head.headers.get(header::LOCATION)?.to_str().ok()?.to_owned();
        }
        None
    }
}

/// The rows of a statement's result.
pub fn rows(answer: &Value, statement: usize) -> &[Value] {
    answer["results"][statement]["rows"].as_array().map_or(&[], Vec::as_slice)
}
