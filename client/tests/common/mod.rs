//! Machines that only play: each answers requests as its script says, byte by byte on a real socket, and remembers them.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use tanist_api::{ExecuteRequest, Statement};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

/// A request that came in.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Method and path.
    pub(crate) line: String,
    pub(crate) key: Option<String>,
    pub(crate) body: Value,
}

/// What a played machine does with a request.
pub(crate) enum Reply {
    Answer {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: Value,
    },
    Late(Duration, Box<Reply>),
    /// Half an answer, then the end of the connection.
    BreakOff,
    /// The end of the connection.
    Close,
    /// Never an answer.
    Silence,
}

pub(crate) struct Played {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
    end: oneshot::Sender<()>,
}

impl Played {
    /// The script gets the request and how many came before it on the same path.
    pub(crate) async fn start(script: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) -> Played {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(vec![]));
        let (script, log) = (Arc::new(script), Arc::clone(&seen));
        let (end, mut ended) = oneshot::channel();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        connections.spawn(serve(accepted.unwrap().0, Arc::clone(&script), Arc::clone(&log)));
                    }
                    _ = &mut ended => break,
                }
            }
            drop(listener);
            connections.shutdown().await;
        });
        Played { url, seen, task, end }
    }

    /// Crashes: afterwards its connections are closed, and nobody listens.
    pub(crate) async fn crash(self) {
        self.end.send(()).unwrap();
        self.task.await.unwrap();
    }

    /// A machine that redirects everything but `/v1/cluster`.
    pub(crate) async fn redirecting(to: &str) -> Played {
        let to = to.to_owned();
        Played::start(move |seen, _| match seen.line.as_str() {
            "GET /v1/cluster" => problem(503, "no-master", &[]),
            line => {
                let path = line.split(' ').nth(1).unwrap_or_default();
                problem(307, "not-master", &[("location", format!("{to}{path}"))])
            }
        })
        .await
    }

    /// Requests to execute or query, without those that learn about the cluster.
    pub(crate) fn work(&self) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|seen| seen.line.starts_with("POST")).cloned().collect()
    }

    /// How often it was asked for the cluster.
    pub(crate) fn looks(&self) -> usize {
        self.seen.lock().unwrap().iter().filter(|seen| seen.line == "GET /v1/cluster").count()
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        self.work().into_iter().map(|seen| seen.key.expect("every write carries a key")).collect()
    }
}

/// An address on which nobody listens.
pub(crate) async fn refusing() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

async fn serve<S>(mut stream: TcpStream, script: Arc<S>, log: Arc<Mutex<Vec<Seen>>>)
where
    S: Fn(&Seen, usize) -> Reply,
{
    while let Some(seen) = request(&mut stream).await {
        let before = {
            let mut log = log.lock().unwrap();
            let before = log.iter().filter(|earlier| earlier.line == seen.line).count();
            log.push(seen.clone());
            before
        };
        let mut reply = script(&seen, before);
        if let Reply::Late(time, then) = reply {
            tokio::time::sleep(time).await;
            reply = *then;
        }
        match reply {
            Reply::Answer { status, headers, body } => {
                let body = body.to_string();
                let mut text = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n", body.len());
                for (name, value) in headers {
                    text += &format!("{name}: {value}\r\n");
                }
                if stream.write_all(format!("{text}\r\n{body}").as_bytes()).await.is_err() {
                    return;
                }
            }
            Reply::BreakOff => {
                let half = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"position\":\"1.";
                let _ = stream.write_all(half).await;
                return;
            }
            Reply::Close => return,
            Reply::Silence | Reply::Late(..) => std::future::pending().await,
        }
    }
}

async fn request(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = vec![];
    let head_end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
    let header = |name: &str| {
        let fields = head.lines().filter_map(|line| line.split_once(": "));
        fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).next()
    };
    let length: usize = header("content-length").map_or(0, |length| length.parse().unwrap());
    while bytes.len() < head_end + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let line = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
    let body = serde_json::from_slice(&bytes[head_end..]).unwrap_or(Value::Null);
    Some(Seen { line, key: header("idempotency-key"), body })
}

pub(crate) fn stored() -> Reply {
    let body = json!({ "position": "3.7", "results": [{ "rows_affected": 1, "last_insert_id": 5 }] });
    Reply::Answer { status: 200, headers: vec![], body }
}

pub(crate) fn problem(status: u16, code: &str, headers: &[(&'static str, String)]) -> Reply {
    let body = json!({
        "type": format!("urn:tanist:problem:{code}"), "title": code, "status": status, "code": code,
        "detail": format!("played {code}"),
    });
    Reply::Answer { status, headers: headers.to_vec(), body }
}

/// The cluster as `member` sees it.
pub(crate) fn cluster(member: &str, master: &str, urls: &[&str]) -> Reply {
    let role = |id: &str| if id == master { "master" } else { "backup" };
    let members: Vec<Value> = urls
        .iter()
        .enumerate()
        .map(|(i, url)| {
            let id = format!("pc-{}", i + 1);
            json!({
                "id": id, "rank": i + 1, "role": role(&id), "position": null, "lag": null, "reachable": true,
                "in_sync": true, "progress": null, "peer_addresses": [], "urls": [url],
            })
        })
        .collect();
    let body = json!({
        "cluster": "played", "member": member, "role": role(member), "term": 3, "master": master, "master_urls": [],
        "suggested_host": null, "position": "3.7", "acknowledged": "3.7", "writable": true, "notice": null,
        "sync_set": [], "chain": [], "members": members,
    });
    Reply::Answer { status: 200, headers: vec![], body }
}

pub(crate) fn write() -> ExecuteRequest {
    let insert = Statement::with("INSERT INTO note(text) VALUES (?)", vec!["hello".into()]);
    ExecuteRequest { statements: vec![insert], transaction: true }
}
