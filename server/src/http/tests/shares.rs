//! What one client may have of connections, requests and watchers, and that an operator always gets in.

use super::*;
use crate::http::shares;

/// Headers of a user interface, and of an operator.
fn tokens() -> (String, String) {
    let bearer = |name| format!("authorization: Bearer tanist_{name}\r\n");
    (bearer("ui"), bearer("boss"))
}

/// Sends a request on a connection of its own and waits for the first line of the answer.
async fn begin(machine: &Machine, request: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(machine.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).await.unwrap();
    (stream, String::from_utf8_lossy(&start).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_one_address_leave_room_and_an_operator_gets_in() {
    let machine = Machine::master("[limits]\nconnections = 100\nconnections_per_address = 3\n").await;
    let get = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut open = vec![];
    for _ in 0..3 {
        let (stream, answer) = begin(&machine, get).await;
        assert_eq!(answer, "HTTP/1.1 200");
        open.push(stream);
    }
    let refused = machine.query("", "", "SELECT 1").await;
    assert_problem("over its share", &refused, 503, &["limits.connections_per_address"]);
    let (status, answer) = machine.get("/v1/cluster").await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(machine.get("/healthz").await.0, 200);
    // Nobody keeps the reserve for himself: who says nothing there is cut off.
    let mut silent = vec![];
    for _ in 0..2 * shares::RESERVE_EACH {
        silent.push(TcpStream::connect(machine.address).await.unwrap());
    }
    let began = Instant::now();
    while machine.get("/v1/cluster").await.0 != 200 {
        assert!(began.elapsed() < Duration::from_secs(10));
    }
    drop(open);
    while machine.query("", "", "SELECT 1").await.0 != 200 {
        assert!(began.elapsed() < Duration::from_secs(10));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_connections_taken_leave_an_operator_his_own() {
    let machine = Machine::master("[limits]\nconnections = 3\nwatchers = 2\n").await;
    let mut open = vec![];
    for _ in 0..3 {
        open.push(begin(&machine, "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await);
    }
    let refused = machine.query("", "", "SELECT 1").await;
    assert_problem("no more", &refused, 503, &["limits.connections"]);
    let (status, answer) = machine.get("/v1/cluster").await;
    assert_eq!(status, 200, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_of_one_client_leave_room_and_an_operator_gets_in() {
    let machine =
        Machine::master("[auth]\ntokens = true\n[limits]\nwatchers = 3\nwatchers_per_client = 2\n").await;
    let (ui, operator) = tokens();
    let watch = |headers: &str| format!("GET /v1/events HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n");
    let _streams = [begin(&machine, &watch(&ui)).await, begin(&machine, &watch(&ui)).await];
    let refused = machine.get_with("/v1/events", &ui).await;
    assert_problem("over its share", &refused, 503, &["limits.watchers_per_client"]);
    let _operators = {
        let (first, second) =
            (begin(&machine, &watch(&operator)).await, begin(&machine, &watch(&operator)).await);
        assert_eq!(
            (first.1.as_str(), second.1.as_str()),
            ("HTTP/1.1 200", "HTTP/1.1 200"),
            "one is in the reserve"
        );
        (first, second)
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_one_client_leave_room_and_an_operator_gets_in() {
    let extra =
        "[auth]\ntokens = true\n[limits]\nconcurrent_requests = 2\nconcurrent_requests_per_client = 1\n";
    let machine = Machine::master(extra).await;
    let (ui, operator) = tokens();
    let head = "POST /v1/execute HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n";
    let slow = |headers: String| {
        let request = format!("{head}{headers}\r\n{{");
        let address = machine.address;
        async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            stream
        }
    };
    let holds = |left: usize| {
        let state = machine.state.clone();
        async move {
            while state.0.requests.available_permits() != left {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    let _first = slow(ui.clone()).await;
    tokio::time::timeout(Duration::from_secs(20), holds(1)).await.unwrap();
    let as_ui = format!("content-type: application/json\r\n{ui}");
    let refused = machine.post("/v1/execute", &as_ui, br#"{"statements":[{"sql":"SELECT 1"}]}"#).await;
    assert_problem("over its share", &refused, 503, &["limits.concurrent_requests_per_client"]);
    let _second = slow(operator.clone()).await;
    tokio::time::timeout(Duration::from_secs(20), holds(0)).await.unwrap();
    let headers = format!("content-type: application/json\r\n{operator}");
    let (status, answer) =
        machine.post("/v1/execute", &headers, br#"{"statements":[{"sql":"SELECT 1"}]}"#).await;
    assert_eq!(status, 200, "{answer}");
}
