//! Streams of events on real sockets.

use super::*;

pub(super) struct Stream {
    socket: TcpStream,
    /// What has come and wasn't looked at.
    text: String,
}

impl Stream {
    pub(super) async fn open(machine: &Machine, parameters: &str, headers: &str) -> Stream {
        let mut socket = TcpStream::connect(machine.address).await.unwrap();
        let request = format!("GET /v1/events{parameters} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut stream = Stream { socket, text: String::new() };
        stream.until("retry: 500\nid: ").await;
        stream
    }

    /// Reads on until this has come; gives what came before it.
    pub(super) async fn until(&mut self, text: &str) -> String {
        let read = async {
            let mut from = 0;
            loop {
                while !self.text.is_char_boundary(from) {
                    from -= 1;
                }
                if let Some(at) = self.text[from..].find(text).map(|at| from + at) {
                    let before = self.text[..at].to_owned();
                    self.text = self.text[at + text.len()..].to_owned();
                    return before;
                }
                from = self.text.len().saturating_sub(text.len());
                let mut buffer = vec![0; 65536];
                let count = self.socket.read(&mut buffer).await.unwrap();
                assert!(count > 0, "the stream ended; expected {text:?} in {}", self.text);
                self.text.push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        };
        match tokio::time::timeout(Duration::from_secs(20), read).await {
            Ok(before) => before,
            Err(_) => {
                panic!("expected {text:?}, found {:?}", self.text.chars().take(2000).collect::<String>())
            }
        }
    }
}

impl Machine {
    /// Events as nobody but the server writes them, adopted with the next write.
    async fn events(&self, values: &str) {
        {
            let outside = rusqlite::Connection::open(self.directory.path().join("state.db")).unwrap();
            outside.busy_timeout(Duration::from_secs(5)).unwrap();
            outside.execute_batch(values).unwrap();
        }
        let (status, answer) = self.execute(INSERT).await;
        assert_eq!(status, 200, "{answer}");
    }

    fn hub_is_idle(&self) -> bool {
        matches!(self.hub.newest(), Ok(None))
    }

    async fn watch(&self, parameters: &str, headers: &str) -> (u16, String) {
        let request = format!(
            "GET /v1/events{parameters} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n"
        );
        self.send(request.as_bytes()).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watcher_gets_every_event_in_order_from_where_it_asks() {
    let machine = Machine::master("").await;
    let mut all = Stream::open(&machine, "?after=0", "").await;
    let first = all.until("id: 1\nevent: cluster\ndata: ").await;
    assert!(first.starts_with("0\n: begins after event 0\n\n"), "{first}");
    all.until(r#""master":"pc-1""#).await;
    let mut now = Stream::open(&machine, "", "").await;
    now.until("1\n: begins after event 1\n\n").await;
    let mut nodes = Stream::open(&machine, "?kinds=node,config&subject_prefix=b", "").await;
    machine
        .events("INSERT INTO tanist_events (kind, subject, actor, data) VALUES ('node', 'a', NULL, '1'), ('node', 'b', 'me', '{}'), ('row', 'b', NULL, '2')")
        .await;
    for stream in [&mut all, &mut now] {
        for id in 2..=4 {
            stream.until(&format!("id: {id}\nevent: ")).await;
        }
        stream.until(r#""subject":"b","data":2}"#).await;
    }
    let before = nodes.until("id: 3\nevent: node\ndata: ").await;
    assert!(!before.contains("id: 2"), "{before}");
    assert!(nodes.until("\n\n").await.starts_with(r#"{"actor":"me","at":"#));
    // A browser that connects again sends the address it knows and the newest id it has seen.
    let mut again = Stream::open(&machine, "?after=0", "last-event-id: 3\r\n").await;
    let before = again.until("event: row").await;
    assert!(before.starts_with("3\n: begins after event 3\n\n") && before.contains("id: 4"), "{before}");
    let mut rows = Stream::open(&machine, "?after=0&tables=a,B", "").await;
    assert!(!rows.until("event: row").await.contains("event: "));
}

#[tokio::test(flavor = "multi_thread")]
async fn watcher_behind_the_ring_reads_the_database() {
    let machine = Machine::master("").await;
    let count = 3000;
    machine
        .events(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
             INSERT INTO tanist_events (kind, subject, data) SELECT 'row', 't', i FROM n"
        ))
        .await;
    let mut stream = Stream::open(&machine, "?after=0", "").await;
    for id in 1..=count + 1 {
        let before = stream.until(&format!("id: {id}\nevent: ")).await;
        assert!(id == 1 || !before.contains("\nevent: "), "before {id}: {before}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_refused_by_name() {
    let machine = Machine::master("").await;
    let cases = [
        ("?after=-1", "", "after: found"),
        ("?after=9223372036854775808", "", "after: found"),
        ("?after=x", "", "after: found"),
        ("?since=1", "", "since"),
        ("?kinds=rows", "", "kinds: found"),
        ("?after=1", "last-event-id: 1.5\r\n", "last-event-id: found"),
        ("?after=1&after=2", "", "after"),
    ];
    for (parameters, headers, name) in cases {
        assert_problem(parameters, &machine.watch(parameters, headers).await, 400, &[name]);
    }
    let tables = format!("?tables={}", "t,".repeat(101));
    assert_problem("tables", &machine.watch(&tables, "").await, 400, &["tables: found 101"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn place_that_is_not_there_yet_is_waited_for_and_then_refused_by_who_must_know_it() {
    let (master, backup) = (Machine::master("").await, Machine::start("").await);
    backup.follow("http://127.0.0.1:1");
    let both = tokio::join!(master.watch("?after=7", ""), backup.watch("?after=7", ""));
    assert_problem("master", &both.0, 400, &["found 7, expected at most 1"]);
    assert_problem("backup", &both.1, 503, &["found 7, this replica has events up to 1", "not-fresh"]);
    // It comes while it is waited for.
    let write = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        master
            .events(
                "INSERT INTO tanist_events (kind, subject) VALUES ('row', 'a'), ('row', 'b'), ('row', 'c')",
            )
            .await;
    };
    let (mut stream, ()) = tokio::join!(Stream::open(&master, "?after=3", ""), write);
    stream.until("id: 4\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_events_are_410_with_the_way_to_reload() {
    let machine = Machine::master("").await;
    machine
        .events("INSERT INTO tanist_events (kind, subject) VALUES ('row', 'a'), ('row', 'b'), ('row', 'c')")
        .await;
    machine.events("DELETE FROM tanist_events WHERE id < 3").await;
    let names = ["events-pruned", "found 1, but events before 3", "SELECT events FROM tanist_position"];
    assert_problem("pruned", &machine.watch("?after=1", "").await, 410, &names);
    Stream::open(&machine, "?after=2", "").await.until("id: 3\n").await;
    // All are gone.
    machine.events("DELETE FROM tanist_events").await;
    // As long as somebody watches, the newest are still in memory and told from there.
    let until = Instant::now() + Duration::from_secs(10);
    while !machine.hub_is_idle() {
        assert!(Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_problem("all pruned", &machine.watch("?after=3", "").await, 410, &["events before 5"]);
    Stream::open(&machine, "?after=4", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_have_a_limit_of_their_own_and_no_share_in_the_requests() {
    let machine = Machine::master("[limits]\nwatchers = 2\nconcurrent_requests = 1\n").await;
    let (first, _second) = (Stream::open(&machine, "", "").await, Stream::open(&machine, "", "").await);
    assert_problem("third", &machine.watch("", "").await, 503, &["limits.watchers"]);
    assert_eq!(machine.execute(INSERT).await.0, 200);
    drop(first);
    let until = Instant::now() + Duration::from_secs(10);
    while machine.watch("?kinds=x", "").await.0 != 400 {
        assert!(Instant::now() < until);
    }
    let mut socket = None;
    while socket.is_none() {
        assert!(Instant::now() < until, "the first one's place is free again");
        let mut tried = TcpStream::connect(machine.address).await.unwrap();
        tried.write_all(b"GET /v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut start = [0; 12];
        tried.read_exact(&mut start).await.unwrap();
        socket = (&start == b"HTTP/1.1 200").then_some(tried);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_is_told_to_watchers_and_not_held_up_by_one_that_takes_nothing() {
    let mut machine = Machine::master("").await;
    let mut stream = Stream::open(&machine, "", "").await;
    // One whose buffers are full.
    let stuck = Stream::open(&machine, "?after=0", "").await;
    socket2::SockRef::from(&stuck.socket).set_recv_buffer_size(4096).unwrap();
    let big = "INSERT INTO tanist_events (kind, subject, data) VALUES ('row', 't', json_quote(printf('%200000d', 1)))";
    for _ in 0..40 {
        machine.events(big).await;
    }
    stream.until("id: 41\n").await;
    let stopping = Instant::now();
    let _ = machine.stop.take().unwrap().send(());
    stream.until("event: end\ndata: {\"code\":\"stopping\"").await;
    (&mut machine.serving).await.unwrap();
    assert!(stopping.elapsed() < Duration::from_millis(1500), "{:?}", stopping.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn quiet_stream_is_kept_alive_and_carries_the_place_past_what_it_does_not_want() {
    let machine = Machine::master("").await;
    let mut stream = Stream::open(&machine, "?kinds=node", "").await;
    machine.events("INSERT INTO tanist_events (kind, subject) VALUES ('row', 'a'), ('row', 'b')").await;
    let before = stream.until("id: 3\n:\n\n").await;
    assert!(!before.contains("event: "), "{before}");
}
