//! A client's request: the first byte says which route, then come its query, its headers and the body.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tanist_api::{ExecuteRequest, QueryRequest, Statement};
use tanist_server::{
    config::{Config, HttpLimits},
    http::parsers,
    write::WriteWork,
};

use crate::script::Script;

#[rustfmt::skip]
pub(crate) const WORDS: &[&[u8]] = &[
    br#"{"statements":[{"sql":"SELECT ?","params":[1]}]}"#, b"\"params\":{", b"\"base64\":", b"null", b"true", b"1e400", b"-0",
    b"1e-400", b"9223372036854775808", b"18446744073709551616", b"31.245270191439438", b"\"\\ud800\"", b"\"\\u0000\"", b"[[[[[[[[",
    b"{\"a\":", b"]", b"}", b",", b"\xff", b"application/json", b"consistency=", b"bounded", b"max_staleness=", b"99999999999999999s",
    b"&", b"=", b"\"state\":{", b"\"labels\":{\"a\":\"b\"}", b"\"nodes\":[\"n1\"]", b"\"status\":\"done\"", b"W/\"812\"", b"\"812\"", b"*", b"prefix=", b"limit=", b"%2F", b"\"transaction\":false", b"10.0.0.1:7450", b"http://",
];

/// A valid configuration's limits.
fn limits() -> HttpLimits {
    let text = "cluster = \"c\"\nid = \"a\"\nkey = \"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\"\n\
        [limits]\nstatements = 5\n[[member]]\nid = \"a\"\nrank = 1\npeer = [\"127.0.0.1:1\"]\n";
    match Config::parse(std::path::Path::new("tanist.toml"), text) {
        Ok(config) => config.limits,
        Err(error) => panic!("{error}"),
    }
}

fn header(headers: &mut HeaderMap, name: &'static str, value: &[u8]) {
    if let (false, Ok(value)) = (value.is_empty(), HeaderValue::from_bytes(value)) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

pub(crate) fn run(input: &[u8]) {
    thread_local! {
        static LIMITS: HttpLimits = limits();
    }
    let mut script = Script::new(input);
    let route = script.byte();
    let query = std::str::from_utf8(script.chunk()).ok().filter(|query| !query.is_empty());
    let mut headers = HeaderMap::new();
    header(&mut headers, "content-type", script.chunk());
    let other = script.chunk();
    header(&mut headers, tanist_api::HEADER_IDEMPOTENCY_KEY, other);
    header(&mut headers, tanist_api::HEADER_MIN_POSITION, other);
    let body = script.rest();
    for name in ["if-match", "if-none-match"] {
        header(&mut headers, name, other);
    }
    let result = LIMITS.with(|limits| match route % 8 {
        0 => parsers::write(&headers, body, limits).map(|write| {
            let WriteWork::Statements(statements) = write.work else { panic!("a change of state") };
            check(&statements, limits);
            let request = ExecuteRequest { statements, transaction: true };
            again(&request);
            if let Some(key) = write.idempotency {
                assert!((1..=200).contains(&key.key.len()), "{:?}", key.key);
            }
        }),
        1 => parsers::read(query, &headers, body, limits).map(|(request, _)| {
            check(&request.statements, limits);
            again::<QueryRequest>(&request);
        }),
        2 => parsers::new_member(&headers, body).map(|member| {
            assert!((1..=8).contains(&member.peer_addresses.len()), "{member:?}");
            assert!(member.urls.len() <= 8, "{member:?}");
            let lengths = member.peer_addresses.iter().chain(&member.urls).map(String::len);
            assert!(lengths.max().unwrap_or(0) <= 280, "{member:?}");
        }),
        3 => parsers::member_patch(&headers, body).map(|patch| again(&patch)),
        4 => parsers::handover(&headers, body).map(|request| again(&request)),
        5 => parsers::change(other.first().copied().unwrap_or(0), &headers, body).map(|understood| {
            // What is written again means the same.
            let written = understood.to_string();
            let again = parsers::change(other.first().copied().unwrap_or(0), &headers, written.as_bytes());
            assert_eq!(again.as_ref(), Ok(&understood), "{written}");
        }),
        6 => parsers::conditions(&headers, 812).map(|known| {
            let any = headers.get("if-none-match").is_some_and(|tags| tags == "*");
            assert!(!any || known, "* is every revision");
        }),
        _ => parsers::list(query.unwrap_or_default()).map(|(prefix, limit)| {
            assert!(
                prefix.len() <= 255 && prefix.is_ascii() && (1..=1000).contains(&limit),
                "{prefix:?} {limit}"
            );
        }),
    });
    let refusals = [StatusCode::BAD_REQUEST, StatusCode::UNSUPPORTED_MEDIA_TYPE];
    if let Err(status) = result {
        assert!(refusals.contains(&status), "refused with {status}");
    }
}

fn check(statements: &[Statement], limits: &HttpLimits) {
    assert!((1..=limits.statements).contains(&statements.len()), "{} statements", statements.len());
}

/// What is written and read again is the same.
fn again<T: serde::Serialize + serde::de::DeserializeOwned>(request: &T) {
    let written = serde_json::to_string(request).unwrap_or_default();
    match serde_json::from_str::<T>(&written) {
        Ok(read) => assert_eq!(serde_json::to_string(&read).ok().as_ref(), Some(&written)),
        Err(error) => panic!("{written} doesn't read again: {error}"),
    }
}
