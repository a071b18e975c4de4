//! Programs of different versions: they use what both know, or say clearly why they can't talk.

mod common;

use std::time::{Duration, Instant};

use common::{Member, PATIENCE, config};
use tanist_transport::{Agreed, Config, Features, Program, Range};

fn running(me: &str, version: &str, protocol: (u32, u32), features: u64) -> Config {
    let program = Program {
        version: version.to_owned(),
        protocol: Range::new(protocol.0, protocol.1),
        features: Features(features),
        levels: Range::new(6, 7),
    };
    Config { program, ..config(me) }
}

async fn wait(mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "it didn't come to that");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn members_of_different_versions_agree_on_the_highest_that_both_speak() {
    let (a, b) =
        (Member::with(running("a", "1.0", (1, 2), 0b11)), Member::with(running("b", "1.1", (2, 5), 0b10)));
    a.knows(&[(&b, b.address)]);
    b.knows(&[(&a, a.address)]);
    let agreed = Agreed { protocol: 2, features: Features(0b10) };
    wait(|| a.transport.agreed(&b.id) == agreed && b.transport.agreed(&a.id) == agreed).await;
    let version = |of: &Member, peer: &Member| of.transport.program(&peer.id).map(|program| program.version);
    assert_eq!(version(&a, &b).as_deref(), Some("1.1"));
    assert_eq!(version(&b, &a).as_deref(), Some("1.0"));
    assert_eq!(a.transport.agreed(&"c".parse().unwrap()), Agreed::LEAST, "of whom nothing is known");
}

#[tokio::test]
async fn without_a_common_version_both_sides_name_both_programs_and_who_is_to_be_upgraded() {
    let (a, b) = (Member::with(running("a", "1.0", (1, 2), 0)), Member::with(running("b", "3.0", (3, 4), 0)));
    a.knows(&[(&b, b.address)]);
    b.knows(&[(&a, a.address)]);
    let problem = a.problem(&b.id, "peer 'b' runs Tanist 3.0, which speaks the peer protocol 3 to 4").await;
    assert!(
        problem.contains("this machine runs 1.0, which speaks 1 to 2: upgrade this machine"),
        "{problem}"
    );
    let problem = b.problem(&a.id, "peer 'a' runs Tanist 1.0, which speaks the peer protocol 1 to 2").await;
    assert!(problem.contains("upgrade a"), "{problem}");
}
