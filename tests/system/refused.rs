//! Connections that are refused and reset for a master that lives: by a port forwarder that dies, by a firewall. That proves
//! nothing, and nobody reads the past.

use crate::{
    cluster::{Cluster, Layout, PEER_PORT},
    cut_off::cuttable,
    own_network::{inside, shell},
    stale::{StrongReads, make_register, write_elsewhere},
};

/// Long enough that a master of which the others think too early that it is dead is caught answering, on a busy computer too.
const LEASE: &str = "[timing]\nlease = \"3s\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn forwarder_that_dies_in_front_of_the_master_lets_nobody_read_the_past() {
    let (cluster, mut links) = cuttable(LEASE).await;
    let old = make_register(&cluster).await;
    let reads = StrongReads::start(&cluster, old).await;
    links.forwarder_dies(old);
    write_elsewhere(&cluster, old, &reads).await;
    reads.finish().await;
    cluster.assert_no_panic();
}

/// All that the others send to the master's peer port is rejected with a reset, as by `iptables -p tcp --dport 7450 -j REJECT
/// --reject-with tcp-reset` on it. The master sees nothing of that.
#[test]
fn firewall_that_rejects_with_resets_lets_nobody_read_the_past() {
    if !inside("refused::firewall_that_rejects_with_resets_lets_nobody_read_the_past") {
        return;
    }
    let table = "ip link set lo up; nft add table inet tanist; \
                 nft add chain inet tanist output '{ type filter hook output priority 0; }'";
    if !shell(table) {
        eprintln!("nftables isn't installed, or this kernel filters no packets: left out");
        return;
    }
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let cluster = Cluster::start(&Layout { extra: LEASE.to_owned(), ..Layout::of(3) }).await;
        let old = make_register(&cluster).await;
        let reads = StrongReads::start(&cluster, old).await;
        let ip = &cluster.machines[old].ip;
        let rule = format!(
            "nft add rule inet tanist output ip daddr {ip} tcp dport {PEER_PORT} reject with tcp reset"
        );
        assert!(shell(&rule));
        write_elsewhere(&cluster, old, &reads).await;
        reads.finish().await;
        cluster.assert_no_panic();
    });
}
