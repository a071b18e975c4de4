//! Machines whose `timing.lease` differs, because an administrator changes it file by file: leases are as long as each voter has
//! promised, nobody reads the past, and the difference is shown.

use std::path::Path;

use crate::{
    cluster::{tanist, write_secret},
    cut_off::{isolate, laid_out, mend},
    stale::{StrongReads, make_register, write_elsewhere},
};

fn lease(text: &str) -> String {
    format!("[timing]\nlease = \"{text}\"\n")
}

fn change(config: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(config).unwrap();
    assert!(text.contains(&lease(from)));
    write_secret(config, &text.replace(&lease(from), &lease(to)));
}

#[tokio::test(flavor = "multi_thread")]
async fn master_with_a_longer_lease_counts_on_what_the_others_promise() {
    let (mut cluster, links) = laid_out(&[1, 2, 3], &|i| lease(if i == 0 { "5s" } else { "1s" }));
    cluster.start_all();
    let (mut old, id) = (make_register(&cluster).await, cluster.machines[0].id.clone());
    while old != 0 {
        let _ = cluster.client().promote(&id).await;
        old = cluster.wait_master().await;
    }
    cluster
        .wait("the difference is shown", || async {
            let view = cluster.view(0).await.ok()?;
            let differ = view.members.iter().filter(|member| member.timing_differs.is_some()).count();
            (differ == 2).then_some(())?;
            let notice = cluster.view(1).await.ok()?.notice?;
            notice.contains("pc-1's timing.lease is 5s there, 1s here").then_some(())
        })
        .await;
    for i in 0..3 {
        let log = cluster.log_of(i);
        let told =
            log.lines().filter(|line| line.contains("WARN") && line.contains("timing differs")).count();
        assert!(
            (1..=2).contains(&told),
            "once for each machine that it hears of, not for each heartbeat:\n{log}"
        );
    }
    let config = cluster.machines[1].config.display().to_string();
    let (_, doctor) = tanist(&["doctor", "--config", &config]);
    assert!(doctor.contains("pc-1 runs with timing.lease 5000 ms, 1000 ms in this file"), "{doctor}");
    let (_, status) = tanist(&["status", "--hosts", &cluster.hosts()]);
    assert!(
        status.contains("pc-2's times differ from pc-1's: timing.lease is 1s there, 5s here"),
        "{status}"
    );

    let reads = StrongReads::start(&cluster, old).await;
    isolate(&links, old);
    write_elsewhere(&cluster, old, &reads).await;
    reads.finish().await;
    mend(&links);
    cluster.assert_identical().await;
    // As an administrator puts it right: one after the other.
    for i in [1, 2] {
        change(&cluster.machines[i].config.clone(), "1s", "5s");
        assert!(cluster.terminate(i).success());
        cluster.start_machine(i);
        cluster.wait_back(i).await;
    }
    cluster
        .wait("nothing differs any more", || async {
            let view = cluster.view(cluster.master().await?).await.ok()?;
            view.members.iter().all(|member| member.timing_differs.is_none()).then_some(())
        })
        .await;
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn voters_restarted_with_a_shorter_lease_wait_for_what_they_promised_before() {
    let (mut cluster, links) = laid_out(&[1, 2, 3], &|_| lease("5s"));
    cluster.start_all();
    let old = make_register(&cluster).await;
    let reads = StrongReads::start(&cluster, old).await;
    isolate(&links, old);
    for i in (0..3).filter(|i| *i != old) {
        cluster.kill(i);
        change(&cluster.machines[i].config.clone(), "5s", "300ms");
        cluster.start_machine(i);
    }
    write_elsewhere(&cluster, old, &reads).await;
    reads.finish().await;
    cluster.assert_no_panic();
}
