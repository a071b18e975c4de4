//! Configuration files that change while their machine runs.

use std::path::PathBuf;

use rustix::process::Signal;
use tanist_api::Statement;

use crate::{
    cluster::{Cluster, Layout, write_secret},
    workload::{create_ledger, execute},
};

struct File {
    path: PathBuf,
    text: String,
}

impl File {
    fn of(cluster: &Cluster, machine: usize) -> File {
        let path = cluster.machines[machine].config.clone();
        File { text: std::fs::read_to_string(&path).unwrap(), path }
    }

    /// Puts a new file in the old one's place, as many editors do.
    fn replace(&self, from: &str, to: &str) {
        assert!(self.text.contains(from));
        let new = self.path.with_extension("new");
        write_secret(&new, &self.text.replace(from, to));
        std::fs::rename(&new, &self.path).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn good_change_takes_effect_and_a_bad_one_changes_nothing() {
    let dir = tempfile::TempDir::new().unwrap();
    let sick = dir.path().join("sick");
    std::fs::write(&sick, "no devices").unwrap();
    let extra = "[log]\nfilter = \"warn\"\n[limits]\nstatements = 4\n[hooks]\non_demote = [\"true\"]\n[health]\nevery = \"1h\"\n";
    let mut cluster = Cluster::lay_out(&Layout { extra: extra.to_owned(), ..Layout::of(1) });
    // The log goes by the file then.
    cluster.machines[0].environment.push(("TANIST_LOG", PathBuf::new()));
    cluster.start_all();
    cluster.wait_master().await;
    let client = cluster.client();
    create_ledger(&client).await;
    let three = || execute(vec![Statement::new("DELETE FROM ledger"); 3]);
    client.execute(three()).await.unwrap();
    assert!(!cluster.log_of(0).contains(" INFO "), "warnings only: {}", cluster.log_of(0));
    let file = File::of(&cluster, 0);
    let says = async |what: &str| {
        cluster.wait(what, || async { cluster.log_of(0).contains(what).then_some(()) }).await;
    };

    let check = format!("[health]\nprogram = [\"sh\", \"-c\", \"! cat {}\"]\nfailures = 1\n", sick.display());
    file.replace("[health]\n", &check);
    cluster
        .wait("the new check counts, at once", || async {
            let view = cluster.view(0).await.ok()?;
            (view.members[0].unhealthy.as_deref() == Some("no devices")).then_some(())
        })
        .await;

    file.replace("filter = \"warn\"", "filter = \"info\"");
    says("the configuration has changed").await;
    cluster.signal(0, Signal::HUP);
    says("asked to read the configuration: it is as it was").await;
    file.replace("statements = 4", "statements = 2");
    let refused =
        cluster.wait("the new limit counts", || async { client.execute(three()).await.err() }).await;
    assert!(refused.to_string().contains("limits.statements"), "{refused}");

    file.replace("statements = 4", "statements = 4 of them");
    says("refused, the old configuration stays in force").await;
    let log = cluster.log_of(0);
    let line = 1 + file.text.lines().position(|line| line == "statements = 4").unwrap();
    let place = format!("tanist.toml: line {line}, statements: ");
    assert!(log.contains(&place), "{place:?} in {log}");
    cluster
        .wait("everybody can see it", || async {
            cluster.view(0).await.ok()?.notice.filter(|notice| notice.contains("statements")).map(drop)
        })
        .await;
    file.replace("statements = 4", "statements = 0");
    says("limits.statements: found 0, expected a number from 1 to 100000").await;
    assert!(client.execute(three()).await.is_err(), "the last good limit still counts");

    file.replace(
        "[limits]\nstatements = 4",
        "[timing]\nheartbeat = \"90ms\"\n[limits]\nstatements = 3\nrows = 7",
    );
    says("these settings need a restart").await;
    let log = cluster.log_of(0);
    let line = log.lines().find(|line| line.contains("need a restart")).unwrap();
    assert!(line.contains("limits.rows, timing.heartbeat"), "{line}");
    cluster.wait("the rest counts", || async { client.execute(three()).await.ok() }).await;
    cluster
        .wait("nothing is refused any more", || async {
            cluster
                .view(0)
                .await
                .ok()
                .filter(|view| !view.notice.as_deref().unwrap_or_default().contains("refused"))
                .map(drop)
        })
        .await;
    cluster.assert_no_panic();
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_hook_is_the_one_that_runs() {
    let dir = tempfile::TempDir::new().unwrap();
    let told = dir.path().join("told");
    let extra = "[hooks]\non_demote = [\"false\"]\n".to_owned();
    let mut cluster = Cluster::start(&Layout { extra, ..Layout::of(1) }).await;
    let hook = format!("[\"sh\", \"-c\", \"echo $TANIST_TERM > {}\"]", told.display());
    File::of(&cluster, 0).replace("[\"false\"]", &hook);
    cluster
        .wait("it is taken over", || async {
            cluster.log_of(0).contains("the configuration has changed").then_some(())
        })
        .await;
    let term = cluster.view(0).await.unwrap().term;
    assert!(cluster.terminate(0).success());
    assert_eq!(std::fs::read_to_string(&told).unwrap(), format!("{term}\n"));
    cluster.assert_no_panic();
}
