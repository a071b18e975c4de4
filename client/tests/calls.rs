//! The client against machines that play real situations.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use common::{Played, Reply, cluster, problem, refusing, stored, write};
use tanist_api::{QueryRequest, Role, Statement, code};
use tanist_client::{Client, Consistency, Error, ExecuteOptions, LinkStatus, Need};

const MS: Duration = Duration::from_millis(1);

fn client(hosts: &[&str], deadline: Duration) -> Client {
    let builder = Client::builder().hosts(&hosts.join(",")).deadline(deadline);
    builder.attempt_timeout(Duration::from_millis(300)).build().unwrap()
}

fn read() -> QueryRequest {
    QueryRequest { statements: vec![Statement::new("SELECT 1")] }
}

#[tokio::test]
async fn redirect_is_followed_and_the_master_is_remembered() {
    let master = Played::start(|_, _| stored()).await;
    let backup = Played::redirecting(&master.url).await;
    let client = client(&[&backup.url], 5000 * MS);
    for _ in 0..3 {
        assert_eq!(client.execute(write()).await.unwrap().position, "3.7");
    }
    assert_eq!((backup.work().len(), master.work().len()), (1, 3));
    let keys = master.keys();
    assert!(keys[0] != keys[1] && keys[1] != keys[2], "each write has a key of its own: {keys:?}");
    assert_eq!(backup.keys()[0], keys[0]);
    assert_eq!(master.work()[0].body, serde_json::to_value(write()).unwrap());
}

#[tokio::test]
async fn machines_that_redirect_to_each_other_are_asked_with_pauses_until_the_deadline() {
    let first = Played::start(|_, _| Reply::Silence).await;
    let second = Played::redirecting(&first.url).await;
    first.crash().await;
    let started = Instant::now();
    let error = client(&[&second.url], 600 * MS).execute(write()).await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable { .. }), "nothing was ever sent to a master: {error}");
    assert!(started.elapsed() < 900 * MS, "{:?}", started.elapsed());
    assert!(second.work().len() < 40, "{} attempts in 600 ms", second.work().len());
}

#[tokio::test]
async fn refused_connection_goes_to_the_next_host_at_once() {
    let dead = [refusing().await, refusing().await];
    let master = Played::start(|_, _| stored()).await;
    let started = Instant::now();
    client(&[&dead[0], &dead[1], &master.url], 5000 * MS).execute(write()).await.unwrap();
    assert!(started.elapsed() < 150 * MS, "{:?}", started.elapsed());
}

#[tokio::test]
async fn master_that_is_being_elected_is_found_soon_whatever_retry_after_says() {
    let electing = Played::start(|_, before| {
        if before < 6 { problem(503, code::NO_MASTER, &[("retry-after", "30".to_owned())]) } else { stored() }
    })
    .await;
    let started = Instant::now();
    client(&[&electing.url], 5000 * MS).execute(write()).await.unwrap();
    assert!(started.elapsed() < 1000 * MS, "{:?}", started.elapsed());
    let keys = electing.keys();
    assert_eq!(keys.len(), 7);
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
}

#[tokio::test]
async fn busy_master_is_asked_again_and_nobody_else() {
    let backup = Played::redirecting("http://127.0.0.1:9").await;
    let master =
        Played::start(|_, before| if before == 1 { problem(503, code::OVERLOADED, &[]) } else { stored() })
            .await;
    let client = client(&[&master.url, &backup.url], 5000 * MS);
    client.execute(write()).await.unwrap();
    client.execute(write()).await.unwrap();
    assert_eq!((master.work().len(), backup.work().len()), (3, 0));
}

#[tokio::test]
async fn request_beyond_the_rate_is_sent_again_with_its_key() {
    let limited = Played::start(|_, before| match before {
        0 => problem(429, code::RATE_LIMITED, &[("retry-after", "1".to_owned())]),
        // Something in between, which knows no problems.
        1 => Reply::Answer { status: 429, headers: vec![], body: serde_json::json!("slower") },
        _ => stored(),
    })
    .await;
    client(&[&limited.url], 5000 * MS).execute(write()).await.unwrap();
    let keys = limited.keys();
    assert_eq!(keys.len(), 3);
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
}

#[tokio::test]
async fn write_whose_answer_breaks_off_is_repeated_elsewhere_with_its_key() {
    for last_act in [|| Reply::BreakOff, || Reply::Close, || problem(503, code::OUTCOME_UNKNOWN, &[])] {
        let dying = Played::start(move |_, _| last_act()).await;
        let heir = Played::start(|_, _| stored()).await;
        client(&[&dying.url, &heir.url], 5000 * MS).execute(write()).await.unwrap();
        assert_eq!((dying.keys().len(), heir.keys()), (1, dying.keys()));
    }
}

#[tokio::test]
async fn kept_connection_that_died_in_the_meantime_costs_nothing_but_a_retry() {
    let restarted = Played::start(|_, before| if before == 1 { Reply::Close } else { stored() }).await;
    let client = client(&[&restarted.url], 5000 * MS);
    client.execute(write()).await.unwrap();
    client.execute(write()).await.unwrap();
    let keys = restarted.keys();
    assert_eq!(keys.len(), 3);
    assert_eq!(keys[1], keys[2]);
}

#[tokio::test]
async fn write_that_may_have_arrived_ends_as_outcome_unknown_with_its_key() {
    let silent = Played::start(|_, _| Reply::Silence).await;
    let started = Instant::now();
    let error = client(&[&silent.url], 700 * MS).execute(write()).await.unwrap_err();
    assert!((600 * MS..1000 * MS).contains(&started.elapsed()), "{:?}", started.elapsed());
    let Error::OutcomeUnknown { key, last, .. } = &error else { panic!("{error}") };
    assert!(silent.keys().iter().all(|seen| seen == key), "{key}");
    assert!(last.contains(&silent.url), "{last}");
}

#[tokio::test]
async fn outcome_stays_unknown_when_later_attempts_are_surely_refused() {
    let unsure = Played::start(|_, before| {
        if before == 0 {
            problem(503, code::OUTCOME_UNKNOWN, &[])
        } else {
            problem(503, code::NO_MASTER, &[])
        }
    })
    .await;
    let error = client(&[&unsure.url], 300 * MS).execute(write()).await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
}

#[tokio::test]
async fn write_that_reached_nobody_and_any_read_end_as_unavailable() {
    let dead = refusing().await;
    let error = client(&[&dead], 200 * MS).execute(write()).await.unwrap_err();
    let Error::Unavailable { tried, last, .. } = &error else { panic!("{error}") };
    assert!(tried.contains(&dead) && last.contains("refused"), "{error}");
    let silent = Played::start(|_, _| Reply::Silence).await;
    let error = client(&[&silent.url], 200 * MS).query(read(), Consistency::Strong, None).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn change_of_the_cluster_that_may_have_arrived_is_not_called_undone() {
    let silent = Played::start(|_, _| Reply::Silence).await;
    let error = client(&[&silent.url], 300 * MS).promote("pc-2").await.unwrap_err();
    assert!(matches!(error, Error::Unconfirmed { .. }) && error.to_string().contains("may"), "{error}");
    let dead = refusing().await;
    let error = client(&[&dead], 200 * MS).demote("pc-2").await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn refusal_is_final_and_carries_the_problem() {
    for (status, code) in
        [(400, code::SQL_ERROR), (409, code::CONSTRAINT), (422, "idempotency-mismatch"), (507, "storage")]
    {
        let master = Played::start(move |_, _| problem(status, code, &[])).await;
        let error = client(&[&master.url], 2000 * MS).execute(write()).await.unwrap_err();
        assert!(matches!(&error, Error::Problem(problem) if problem.code == code), "{error}");
        assert_eq!(master.work().len(), 1);
    }
}

#[tokio::test]
async fn callers_key_and_deadline_are_used() {
    let silent = Played::start(|_, _| Reply::Silence).await;
    let options = ExecuteOptions { idempotency_key: Some("order-17".into()), deadline: Some(150 * MS) };
    let started = Instant::now();
    let error = client(&[&silent.url], 30_000 * MS).execute_with(write(), options).await.unwrap_err();
    assert!(matches!(&error, Error::OutcomeUnknown { key, .. } if key == "order-17"), "{error}");
    assert!(started.elapsed() < 400 * MS);
    let options = ExecuteOptions { idempotency_key: Some("two words".into()), deadline: None };
    let error = client(&[&silent.url], 100 * MS).execute_with(write(), options).await.unwrap_err();
    assert!(matches!(error, Error::Key(_)), "{error}");
    assert_eq!(silent.work().len(), 1);
}

#[tokio::test]
async fn deadline_includes_an_answer_that_comes_too_slowly() {
    let slow = Played::start(|_, _| Reply::Late(5000 * MS, Box::new(stored()))).await;
    let started = Instant::now();
    let error = client(&[&slow.url], 250 * MS).execute(write()).await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
    assert!(started.elapsed() < 500 * MS, "{:?}", started.elapsed());
}

#[tokio::test]
async fn silent_machine_is_left_as_soon_as_another_reigns() {
    let heir = Played::start(|seen, _| match seen.line.as_str() {
        "GET /v1/cluster" => cluster("pc-2", "pc-2", &[]),
        _ => stored(),
    })
    .await;
    let silent = Played::start(|_, _| Reply::Silence).await;
    let client = Client::builder()
        .hosts(&[silent.url.as_str(), &heir.url].join(","))
        .attempt_timeout(20_000 * MS)
        .build()
        .unwrap();
    let started = Instant::now();
    client.execute(write()).await.unwrap();
    assert!(started.elapsed() < 2500 * MS, "{:?}", started.elapsed());
    assert_eq!(silent.keys(), heir.keys());
}

#[tokio::test]
async fn silent_machine_is_asked_once_whether_it_serves_while_another_is_awaited() {
    let began = Instant::now();
    let heir = Played::start(move |seen, _| match seen.line.as_str() {
        // Takes over late: a few rounds are made.
        "GET /v1/cluster" if began.elapsed() < 2200 * MS => problem(503, code::NO_MASTER, &[]),
        "GET /v1/cluster" => cluster("pc-2", "pc-2", &[]),
        _ => stored(),
    })
    .await;
    let silent = Played::start(|_, _| Reply::Silence).await;
    let client = Client::builder()
        .hosts(&[silent.url.as_str(), &heir.url].join(","))
        .attempt_timeout(20_000 * MS)
        .build()
        .unwrap();
    let mut observer = client.observe(Need::Master);
    client.execute(write()).await.unwrap();
    // 500 ms alone, 500 ms for its silence, then a round each 500 ms.
    assert!(began.elapsed() < 3000 * MS, "{:?}", began.elapsed());
    assert_eq!(silent.looks(), 1);
    assert!(heir.looks() >= 3, "{}", heir.looks());
    let link = observer.changed().await.unwrap();
    assert_eq!((link.status(), link.host()), (LinkStatus::Connected, Some(heir.url.as_str())));
}

#[tokio::test]
async fn observer_sees_since_when_and_why_nobody_serves_while_the_call_goes_on() {
    let electing =
        Played::start(|_, before| if before < 8 { problem(503, code::NO_MASTER, &[]) } else { stored() })
            .await;
    let client = client(&[&electing.url], 5000 * MS);
    assert_eq!(client.link(Need::Master).status(), LinkStatus::Idle);
    let mut observer = client.observe(Need::Master);
    let (done, seen) = tokio::join!(client.execute(write()), async {
        (observer.changed().await.unwrap(), observer.changed().await.unwrap())
    });
    done.unwrap();
    assert_eq!(seen.0.status(), LinkStatus::Reconnecting);
    assert!(seen.0.reason().unwrap().contains("played no-master"), "{:?}", seen.0);
    assert!(seen.0.to_string().starts_with("reconnecting for "), "{}", seen.0);
    assert_eq!((seen.1.status(), seen.1.host()), (LinkStatus::Connected, Some(electing.url.as_str())));
    assert_eq!(seen.1.to_string(), format!("on {}", electing.url));
    assert!(seen.1.since() >= seen.0.since());
    drop(client);
    assert!(observer.changed().await.is_none(), "the client is gone");
}

#[tokio::test]
async fn slow_statement_on_a_machine_that_reigns_is_waited_for() {
    let master = Played::start(|seen, _| match seen.line.as_str() {
        "GET /v1/cluster" => cluster("pc-1", "pc-1", &[]),
        _ => Reply::Late(1300 * MS, Box::new(stored())),
    })
    .await;
    let other = Played::start(|seen, _| match seen.line.as_str() {
        "GET /v1/cluster" => cluster("pc-2", "pc-2", &[]),
        _ => stored(),
    })
    .await;
    let client = Client::new(&[master.url.as_str(), &other.url].join(",")).unwrap();
    client.execute(write()).await.unwrap();
    assert_eq!((master.work().len(), other.work().len()), (1, 0));
}

#[tokio::test]
async fn forced_machine_is_asked_once_and_given_the_time_that_it_takes_to_say_no() {
    let own = Arc::new(OnceLock::<String>::new());
    let url = Arc::clone(&own);
    let machine = Played::start(move |seen, _| match seen.line.as_str() {
        "GET /v1/cluster" => cluster("pc-1", "pc-2", &[url.get().unwrap()]),
        _ => Reply::Late(700 * MS, Box::new(problem(409, code::HANDOVER_FAILED, &[]))),
    })
    .await;
    own.set(machine.url.clone()).unwrap();
    let error = client(&[&machine.url], 5000 * MS).force("pc-1").await.unwrap_err();
    assert!(matches!(&error, Error::Problem(why) if why.code == code::HANDOVER_FAILED), "{error}");
    assert_eq!(machine.work().len(), 1);
}

#[tokio::test]
async fn member_list_is_learned_beside_the_first_request_and_survives_the_given_host() {
    let heir = Played::start(|_, _| stored()).await;
    let heir_url = heir.url.clone();
    let first = Played::start(move |seen, _| match seen.line.as_str() {
        "GET /v1/cluster" => cluster("pc-1", "pc-1", &[&heir_url, "https://not-for-us:1", "nonsense"]),
        _ => stored(),
    })
    .await;
    let client = client(&[&first.url], 5000 * MS);
    client.execute(write()).await.unwrap();
    let until = Instant::now() + 3000 * MS;
    while client.known_hosts().len() < 2 {
        assert!(Instant::now() < until, "{:?}", client.known_hosts());
        tokio::time::sleep(5 * MS).await;
    }
    assert_eq!(client.known_hosts(), [first.url.clone(), heir.url.clone()]);
    first.crash().await;
    client.execute(write()).await.unwrap();
    assert_eq!(heir.work().len(), 1);
}

#[tokio::test]
async fn local_reads_go_to_the_nearest_host_and_strong_ones_to_the_master() {
    let master = Played::start(|_, _| stored()).await;
    let near = Played::start({
        let master = master.url.clone();
        move |seen, _| match seen.line.as_str() {
            "POST /v1/query?consistency=local" | "POST /v1/query?consistency=bounded&max_staleness=500ms" => {
                stored()
            }
            "POST /v1/query" => problem(307, "not-master", &[("location", format!("{master}/v1/query"))]),
            line => panic!("{line}"),
        }
    })
    .await;
    let client = client(&[&near.url, &master.url], 2000 * MS);
    client.query(read(), Consistency::Strong, None).await.unwrap();
    tokio::time::sleep(30 * MS).await;
    client.query(read(), Consistency::Local, Some("3.7")).await.unwrap();
    client.query(read(), Consistency::Bounded { max_staleness: 500 * MS }, None).await.unwrap();
    assert_eq!((near.work().len(), master.work().len()), (3, 1));
}

#[tokio::test]
async fn readiness_tells_the_role_or_the_reason() {
    let machine = Played::start(|seen, before| match (seen.line.as_str(), before) {
        ("GET /readyz", 0) => Reply::Answer {
            status: 200,
            headers: vec![],
            body: serde_json::json!({ "role": "backup", "position": "3.7" }),
        },
        _ => problem(503, code::NOT_FRESH, &[]),
    })
    .await;
    let client = client(&[&machine.url], 500 * MS);
    assert_eq!(client.ready(&machine.url).await.unwrap(), Role::Backup);
    let error = client.ready(&machine.url).await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable { last, .. } if last.contains("not-fresh")), "{error}");
    assert!(matches!(client.ready("a:1,b:2").await, Err(Error::Hosts(_))));
}
