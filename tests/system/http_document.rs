//! Every route that the served OpenAPI document names gets bad input: the answer is one that the document has, and nothing
//! changes.

use serde_json::Value;

use crate::{
    cluster::{Cluster, Layout},
    http_input::raw,
    workload::create_ledger,
};

/// Sends a request as it stands; its status, its problem's code if it is one, and the whole answer.
async fn send(
    ip: &str,
    method: &str,
    path: &str,
    headers: &[u8],
    body: &[u8],
) -> (u16, Option<String>, String) {
    let head = format!(
        "{} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n",
        method.to_uppercase(),
        body.len()
    );
    let (status, answer) = raw(ip, [head.as_bytes(), headers, b"\r\n", body].concat()).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let problem = head.contains("application/problem+json");
    let code =
        problem.then(|| serde_json::from_str::<Value>(body).unwrap()["code"].as_str().unwrap().to_owned());
    (status, code, answer)
}

/// One route, as the document has it.
struct Route {
    path: String,
    method: &'static str,
    parameters: Vec<Value>,
    operation: Value,
}

impl Route {
    fn all(document: &Value) -> Vec<Route> {
        let mut routes = vec![];
        for (path, item) in document["paths"].as_object().unwrap() {
            for method in ["get", "post", "put", "patch", "delete"] {
                let Some(operation) = item.get(method).cloned() else { continue };
                let whole = |parameter: &Value| match parameter["$ref"].as_str() {
                    Some(target) => document.pointer(&target[1..]).unwrap().clone(),
                    None => parameter.clone(),
                };
                let parameters =
                    operation["parameters"].as_array().into_iter().flatten().map(whole).collect();
                routes.push(Route { path: path.clone(), method, parameters, operation });
            }
        }
        routes
    }

    fn of(&self, place: &str) -> impl Iterator<Item = &str> {
        self.parameters
            .iter()
            .filter(move |parameter| parameter["in"] == place)
            .map(|parameter| parameter["name"].as_str().unwrap())
    }

    /// With what the document shows in place of its parameters.
    fn example(&self) -> String {
        self.of("path").fold(self.path.clone(), |path, name| {
            let parameter = self.parameters.iter().find(|parameter| parameter["name"] == name).unwrap();
            let example = parameter["example"].to_string().trim_matches('"').replace('/', "%2F");
            path.replace(&format!("{{{name}}}"), &example)
        })
    }

    /// The media type of its body, and the body that the document shows.
    fn body(&self) -> Option<(&str, Vec<u8>)> {
        let content = self.operation["requestBody"]["content"].as_object()?;
        let (media, shown) = content.iter().next()?;
        Some((media, shown["example"].to_string().into_bytes()))
    }

    /// All that is wrong in one place: path, headers, body, and whether it must be refused.
    fn bad_requests(&self) -> Vec<(String, Vec<u8>, Vec<u8>, bool)> {
        let example = self.example();
        let (media, body) = self.body().unwrap_or(("", vec![]));
        let content =
            if media.is_empty() { vec![] } else { format!("content-type: {media}\r\n").into_bytes() };
        let mut bad =
            vec![(format!("{example}?nonsense=%ff&nonsense"), content.clone(), b"{".to_vec(), false)];
        for name in self.of("path") {
            for value in ["%00", "%ff", "a%20b", "-", "%2E%2E%2Fx", &"a".repeat(300)] {
                let path = self.path.replace(&format!("{{{name}}}"), value).replace(['{', '}'], "");
                bad.push((path, content.clone(), body.clone(), true));
            }
        }
        for name in self.of("query") {
            // These may be any text, and no text is like none.
            let free = ["subject_prefix", "tables"].contains(&name);
            let may_be_empty = ["prefix", "kinds", "after"].contains(&name);
            let is_number = ["limit", "before", "level"].contains(&name);
            for value in ["", "%00", "%ff", "-1", "99999999999999999999", &"a,".repeat(200)] {
                let good = value.is_empty() && may_be_empty || value.starts_with('9') && !is_number;
                if !free && !good {
                    bad.push((format!("{example}?{name}={value}"), content.clone(), body.clone(), true));
                }
            }
        }
        for name in self.of("header") {
            for value in [&b"\xe9"[..], b"a b", b"\"5", &[b'x'; 300]] {
                let headers = [&content, name.as_bytes(), b": ", value, b"\r\n"].concat();
                // Any visible text is a key.
                if name != "idempotency-key" || value != b"\"5" {
                    bad.push((example.clone(), headers, body.clone(), true));
                }
            }
        }
        if !media.is_empty() {
            let deep = [vec![b'['; 5000], vec![b']'; 5000]].concat();
            let bodies: [&[u8]; 9] = [
                b"",
                b"{",
                b"[]",
                b"null",
                b"{\"unknown\":1}",
                b"{\"\xff\":1}",
                b"{\"a\":1}{\"a\":2}",
                &deep,
                &vec![b' '; 2 << 20],
            ];
            for body in bodies {
                bad.push((example.clone(), content.clone(), body.to_vec(), true));
            }
            bad.push((example.clone(), b"content-type: text/plain\r\n".to_vec(), body.clone(), true));
            bad.push((example, vec![], body, true));
        }
        bad
    }
}

async fn try_every_route(cluster: &Cluster, token: &str) -> usize {
    let ip = &cluster.machines[0].ip;
    let (_, _, answer) = send(ip, "get", "/openapi.json", b"", b"").await;
    let document: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    let mut count = 0;
    for route in Route::all(&document) {
        for (path, mut headers, body, must_be_refused) in route.bad_requests() {
            headers.extend_from_slice(token.as_bytes());
            let (status, code, answer) = send(ip, route.method, &path, &headers, &body).await;
            let asked = String::from_utf8_lossy(&headers);
            let what = format!(
                "{} {path} {asked:?} {:.80}: {answer:.900}",
                route.method,
                String::from_utf8_lossy(&body)
            );
            // The path may have become another one's, which is for that one to say.
            let found = route.operation["responses"].get(status.to_string());
            let found = found.unwrap_or_else(|| panic!("status isn't documented: {what}"));
            let codes: Vec<_> =
                found["x-problem-codes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            match &code {
                Some(code) => assert!(codes.contains(&code.as_str()), "code isn't documented: {what}"),
                None => assert!(codes.is_empty(), "no problem: {what}"),
            }
            assert!(status < 500, "{what}");
            if must_be_refused {
                assert!((400..500).contains(&status), "{what}");
            }
            count += 1;
        }
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_on_every_route_gets_a_documented_answer_and_changes_nothing() {
    let cluster = Cluster::of(1).await;
    create_ledger(&cluster.client()).await;
    let before = cluster.view(0).await.unwrap().position;
    let count = try_every_route(&cluster, "").await;
    assert!(count > 500, "{count}");
    assert_eq!(cluster.view(0).await.unwrap().position, before, "nothing was changed");
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_token_every_route_is_closed_but_those_that_say_so() {
    let cluster = Cluster::start(&Layout { tokens: true, ..Layout::of(1) }).await;
    let ip = &cluster.machines[0].ip;
    let (status, _, answer) = send(ip, "get", "/openapi.json", b"", b"").await;
    assert_eq!(status, 200, "{answer:.300}");
    let document: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    let made = cluster.client().make_token("reader", tanist_api::Access::Read).await.unwrap();
    let reader = format!("authorization: Bearer {}\r\n", made.token);
    let mut open = vec![];
    for route in Route::all(&document) {
        let path = route.example();
        let role = route.operation["security"][0]["token"][0].as_str();
        let (status, _, answer) = send(ip, route.method, &path, b"", b"").await;
        assert_eq!(status == 401, role.is_some(), "{} {path}: {answer:.300}", route.method);
        if role.is_none() {
            open.push(path);
        } else if role != Some("read") {
            let (status, _, answer) = send(ip, route.method, &path, reader.as_bytes(), b"").await;
            assert_eq!(status, 403, "{} {path}: {answer:.300}", route.method);
        }
    }
    assert_eq!(open, ["/", "/docs", "/healthz", "/openapi.json", "/readyz"]);
    cluster.assert_no_panic();
}
