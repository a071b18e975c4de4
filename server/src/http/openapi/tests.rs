use std::collections::BTreeSet;

use serde_json::Value;
use tanist_api::code;

use crate::http::tests::Machine;

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

fn document() -> Value {
    serde_json::to_value(super::all_routes().document()).unwrap()
}

/// Path, method and operation of each.
fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, item)| {
            METHODS.into_iter().filter_map(move |method| Some((path.as_str(), method, item.get(method)?)))
        })
        .collect()
}

fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(target) if name == "$ref" => drop(found.insert(target)),
                    value => references(value, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn document_is_sound_openapi_3_1() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    for target in &found {
        let pointer = target.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{target} leads nowhere");
    }
    for (part, things) in document["components"].as_object().unwrap() {
        for name in things.as_object().unwrap().keys() {
            let target = format!("#/components/{part}/{name}");
            let by_itself = part == "securitySchemes" || name == "WatchEvent";
            assert!(by_itself || found.contains(target.as_str()), "{target} is used nowhere");
        }
    }
    let tags: BTreeSet<_> =
        document["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).map(Value::to_string).collect();
    let mut ids = BTreeSet::new();
    for (path, method, operation) in operations(&document) {
        let what = format!("{method} {path}");
        assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{what}: operationId twice");
        assert!(tags.contains(&operation["tags"][0].to_string()), "{what}");
        assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{what}");
        assert!(operation["security"].is_array(), "{what}");
        let declared: BTreeSet<_> = operation["parameters"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|parameter| parameter["in"] == "path")
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect();
        let in_path: BTreeSet<_> =
            path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
        assert_eq!(declared, in_path, "{what}");
        let answers = operation["responses"].as_object().unwrap();
        assert!(answers.keys().any(|status| status.starts_with('2')), "{what}");
        for (status, answer) in answers {
            assert!(answer["description"].as_str().is_some_and(|text| !text.is_empty()), "{what} {status}");
            let problem = answer["content"]["application/problem+json"].is_object();
            assert_eq!(problem, answer["x-problem-codes"].is_array(), "{what} {status}");
            assert_eq!(problem, status.as_str() >= "305", "{what} {status}");
        }
    }
    assert!(ids.len() > 40, "{}", ids.len());
}

#[test]
fn every_code_is_documented_and_none_besides() {
    let document = document();
    let mut found: BTreeSet<_> = operations(&document)
        .into_iter()
        .flat_map(|(_, _, operation)| operation["responses"].as_object().unwrap().values())
        .filter_map(|answer| answer["x-problem-codes"].as_array())
        .flatten()
        .map(|code| code.as_str().unwrap())
        .collect();
    // The first comes where there is no operation, the others end a stream.
    found.extend([code::METHOD_NOT_ALLOWED, code::EVENTS_LOST, code::STOPPING]);
    assert_eq!(found, BTreeSet::from(code::ALL));
    let source = include_str!("../../../../client/api/src/lib.rs");
    let constants =
        source.lines().filter(|line| line.starts_with("    pub const ") && line.contains(": &str = \""));
    assert_eq!(constants.count(), code::ALL.len(), "code::ALL names every constant");
}

#[test]
fn pages_and_names_are_described_as_they_are() {
    use crate::state::{is_key, is_name};
    let document = document();
    let page = &document["components"]["schemas"]["TokenInfoPage"]["properties"];
    let full = tanist_api::Page::<u8> { entries: vec![], next: Some("x".to_owned()) };
    let full = serde_json::to_value(full).unwrap();
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(page), names(&full));
    // What the patterns say, without an engine for them: the ends of their ranges.
    let longest = |length: usize| "a".repeat(length);
    assert!(super::parameters::KEY.contains("{0,254}") && is_key(&longest(255)) && !is_key(&longest(256)));
    assert!(super::parameters::NAME.contains("{0,62}") && is_name(&longest(63)) && !is_name(&longest(64)));
    for char in (0..=127u8).map(char::from) {
        let in_class = |pattern: &str| {
            let class = pattern.split(['[', ']']).nth(3).unwrap();
            char.is_ascii_alphanumeric() || class.strip_prefix("A-Za-z0-9").unwrap().contains(char)
        };
        assert_eq!(is_key(&format!("a{char}")), in_class(super::parameters::KEY), "{char:?}");
        assert_eq!(is_name(&format!("a{char}")), in_class(super::parameters::NAME), "{char:?}");
    }
}

/// A route made past [`super::Routes`] would not be in the document.
#[test]
fn routes_are_made_in_one_place() {
    fn files(directory: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { files(&path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    files(std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut found);
    let makes_routes = |text: &str| {
        [".route(", ".route_service(", ".nest(", ".nest_service(", ".fallback_service("]
            .iter()
            .map(|call| text.matches(call).count())
            .sum::<usize>()
    };
    let sources = found.iter().filter(|path| path.extension().is_some_and(|end| end == "rs"));
    let calls: Vec<_> = sources
        .filter(|path| !path.ends_with("openapi/tests.rs"))
        .map(|path| (path, makes_routes(&std::fs::read_to_string(path).unwrap())))
        .filter(|(_, count)| *count > 0)
        .collect();
    assert!(matches!(&calls[..], [(path, 1)] if path.ends_with("openapi/mod.rs")), "{calls:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn served_document_and_router_agree_on_every_method() {
    let machine = Machine::master("").await;
    let ask = async |method: &str, path: &str| {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\nlast-event-id: x\r\n\r\n"
        );
        machine.send(request.as_bytes()).await
    };
    let (status, answer) = ask("GET", "/openapi.json").await;
    assert_eq!(status, 200);
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    let served: Value = serde_json::from_str(body).unwrap();
    assert_eq!(served, document());
    for (path, item) in served["paths"].as_object().unwrap() {
        for method in METHODS {
            let concrete = path.replace(['{', '}'], "");
            let (status, answer) = ask(&method.to_uppercase(), &concrete).await;
            let known = item.get(method).is_some();
            assert_eq!(status != 405, known, "{method} {path}: {answer}");
            assert!(!answer.contains("no resource at"), "{method} {path}: {answer}");
        }
    }
    let (status, page) = ask("GET", "/docs").await;
    assert_eq!(status, 200);
    assert!(page.contains("content-security-policy: default-src 'none'") && !page.contains("src=\"http"));
}
