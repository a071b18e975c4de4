//! Any machine answers what only the master can do, to clients that follow no redirect and know one machine alone.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::{Value, json};
use tanist_api::HEADER_REDIRECT;

use crate::{
    cluster::{Cluster, KEY, Layout, read},
    cut_off::cuttable_of,
    http_input::{raw, request},
    plain::{Plain, Told, rows},
};

fn insert(number: i64) -> Vec<(String, Value)> {
    vec![("INSERT INTO numbers VALUES (?)".into(), json!([number]))]
}

async fn create(plain: &Plain) {
    let table = "CREATE TABLE numbers (number INTEGER PRIMARY KEY)".to_owned();
    assert!(matches!(plain.execute(&[(table, json!([]))]).await, Told::Done(_)));
}

/// Clients of one machine, which isn't the master, while masters are killed, stopped and cut off behind it.
#[tokio::test(flavor = "multi_thread")]
async fn one_url_is_enough_while_masters_die_behind_it() {
    // The clients' machine can't be master, so that it forwards all the time.
    let (mut cluster, links) = cuttable_of(&[1, 2, 0], "").await;
    let door = Arc::new(Plain::new(&cluster.url(2), 0));
    create(&door).await;
    let stop = Arc::<AtomicBool>::default();
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (door, stop) = (Arc::clone(&door), Arc::clone(&stop));
            tokio::spawn(async move {
                let (mut done, mut number) = (vec![], writer);
                while !stop.load(Ordering::Relaxed) {
                    number += 4;
                    match door.execute(&insert(number)).await {
                        Told::Done(_) => done.push(number),
                        told => panic!("{number}: {told:?}"),
                    }
                    let count = [("SELECT count(*) FROM numbers".to_owned(), json!([]))];
                    let Told::Done(answer) = door.query("strong", &count).await else { panic!("no read") };
                    assert!(rows(&answer, 0)[0][0].as_u64().unwrap() >= done.len() as u64, "{answer}");
                }
                done
            })
        })
        .collect();
    let cut = |machine: usize, links: &crate::cut_off::Links| {
        links
            .iter()
            .filter(|(from, to, _)| *from == machine || *to == machine)
            .for_each(|(.., link)| link.cut());
    };
    for fault in 0..3 {
        let master = cluster.wait_master().await;
        match fault {
            0 => cluster.kill(master),
            1 => cluster.signal(master, rustix::process::Signal::STOP),
            _ => cut(master, &links),
        }
        cluster
            .wait("another is the master", || async {
                let now = cluster.view(2).await.ok()?;
                (now.master.is_some() && now.master.as_deref() != Some(cluster.machines[master].id.as_str()))
                    .then_some(())
            })
            .await;
        match fault {
            0 => cluster.start_machine(master),
            1 => cluster.signal(master, rustix::process::Signal::CONT),
            _ => crate::cut_off::mend(&links),
        }
        cluster
            .wait("the sync set is whole again", || async {
                let now = cluster.master().await?;
                (cluster.view(now).await.ok()?.sync_set.len() == 2).then_some(())
            })
            .await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut done = vec![];
    for writer in writers {
        done.extend(writer.await.unwrap());
    }
    done.sort_unstable();
    cluster.settle().await;
    for i in 0..2 {
        let found: String =
            read(&cluster.data_dir(i), "SELECT json_group_array(number ORDER BY number) FROM numbers");
        assert_eq!(serde_json::from_str::<Vec<i64>>(&found).unwrap(), done, "each once, and none other");
    }
    cluster.assert_no_panic();
    println!("{} writes through a witness", done.len());
}

/// Without a key a write isn't sent again: if the master is lost with it, that is said.
#[tokio::test(flavor = "multi_thread")]
async fn write_without_a_key_is_never_sent_twice() {
    let mut cluster = Cluster::of(3).await;
    let door = Plain::new(&cluster.url(2), 0);
    create(&door).await;
    cluster.crown(0).await;
    let ip = cluster.machines[2].ip.clone();
    let mut unknown = 0;
    for round in 0..6 {
        let master = cluster.wait_master().await;
        if master == 2 {
            cluster.crown(0).await;
            continue;
        }
        let writes = (0..24).map(|i| {
            let body =
                json!({"statements": [{"sql": format!("INSERT INTO numbers VALUES ({})", round * 100 + i)}]});
            let ip = ip.clone();
            tokio::spawn(async move {
                raw(&ip, request("POST", "/v1/execute", body.to_string().as_bytes())).await
            })
        });
        let writes: Vec<_> = writes.collect();
        cluster.kill(master);
        for write in writes {
            let (status, text) = write.await.unwrap();
            match status {
                200 => {}
                // A key that stands already would be 409: the write would have been sent twice.
                503 if text.contains("outcome-unknown") => unknown += 1,
                503 if text.contains("no-master") => {}
                _ => panic!("{status}: {text}\n{}", cluster.logs()),
            }
        }
        cluster.start_machine(master);
        cluster.wait_back(master).await;
    }
    println!("{unknown} outcomes unknown");
}

/// Tokens, TLS, the operator's proof, redirects for who asks for them, large bodies and answers, a stranger's headers.
#[tokio::test(flavor = "multi_thread")]
async fn forwarded_requests_are_who_they_were() {
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!("no curl here: left out");
        return;
    }
    let cluster = Cluster::start(&Layout { tls: true, tokens: true, ..Layout::of(3) }).await;
    cluster.crown(0).await;
    cluster.wait_both_keep_up().await;
    let token = |role: &str| {
        let (code, made) = crate::cluster::tanist(&[
            "token",
            "make",
            &format!("t-{role}"),
            "--role",
            role,
            "--config",
            cluster.machines[0].config.to_str().unwrap(),
            "--json",
        ]);
        assert_eq!(code, Some(0), "{made}");
        let made: Value = serde_json::from_str(&made).unwrap();
        made["token"].as_str().unwrap().to_owned()
    };
    let (write, reads) = (token("write"), token("read"));
    let ask = |token: &str, more: &[&str], body: &str| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), body).unwrap();
        let output = Command::new("curl")
            .args(["-sk", "-i", "--max-time", "20", "-H", &format!("Authorization: Bearer {token}")])
            .args([
                "-H",
                "Content-Type: application/json",
                "--data-binary",
                &format!("@{}", file.path().display()),
            ])
            .args(more)
            .arg(format!("{}/v1/execute", cluster.url(2)))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (text.split(' ').nth(1).and_then(|code| code.parse::<u16>().ok()).unwrap_or(0), text)
    };
    let statement = |sql: &str| json!({"statements": [{"sql": sql}]}).to_string();
    let (code, text) =
        ask(&write, &[], &statement("CREATE TABLE numbers (number INTEGER PRIMARY KEY, text)"));
    assert_eq!(code, 200, "{text}");
    assert!(text.to_lowercase().contains("via: 1.1 pc-1"), "{text}");
    // Larger than what is kept for another try, both ways.
    let large = "x".repeat(900 << 10);
    let (code, text) = ask(
        &write,
        &[],
        &json!({"statements": [{"sql": "INSERT INTO numbers VALUES (1, ?) RETURNING text", "params": [large]}]})
            .to_string(),
    );
    assert_eq!(code, 200, "{}", &text[..text.len().min(400)]);
    assert!(text.contains(&large));
    // Errors come as they are, rights are what they were.
    let (code, text) = ask(&write, &[], &statement("INSERT INTO numbers VALUES (1, '')"));
    assert_eq!((code, text.contains("constraint")), (409, true), "{text}");
    let one = statement("INSERT INTO numbers VALUES (2, '')");
    assert_eq!(ask(&reads, &[], &one).0, 403);
    assert_eq!(ask("tanist_no", &[], &one).0, 401);
    // Nobody becomes the operator by a header.
    for (token, expected) in [(&reads[..], 403), ("tanist_no", 401)] {
        let forged = ["-H", "Tanist-Forwarded-Operator: 1", "-H", "Tanist-Forwarded-For: 127.0.0.1"];
        assert_eq!(ask(token, &forged, &one).0, expected);
    }
    let redirect = format!("{HEADER_REDIRECT}: 1");
    let (code, text) = ask(&write, &["-H", &redirect], &one);
    assert_eq!(code, 307, "{text}");
    assert!(text.to_lowercase().contains(&format!("location: {}/v1/execute", cluster.url(0))), "{text}");
    // Who proves the cluster key at a backup is the operator at the master.
    assert!(!KEY.is_empty());
    let (code, said) = crate::cluster::tanist(&[
        "promote",
        "pc-2",
        "--config",
        cluster.machines[2].config.to_str().unwrap(),
        "--hosts",
        &cluster.url(2),
    ]);
    assert_eq!(code, Some(0), "{said}");
    cluster.assert_no_panic();
}
