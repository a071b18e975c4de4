//! The examples end as they say.

use std::{path::Path, process::Command};

use crate::cluster::binary;

/// Runs an example's script to its end; what it said.
fn play(example: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(example).join("run.sh");
    let output = Command::new("timeout")
        .args(["--kill-after=10", "120", "bash"])
        .arg(script)
        .env("TANIST", binary())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{said}");
    text
}

/// The numbers in the last line.
fn numbers(text: &str) -> Vec<u64> {
    let last = text.trim_end().lines().last().unwrap_or_default();
    last.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

#[test]
fn wall_shows_what_is_wanted_whoever_dies() {
    let text = play("wall");
    assert!(text.trim_end().ends_with("== All nine panels show the alarm."), "{text}");
    // On a busy computer there may have been more than the one change that the story makes.
    let terms = text.split(" reigns in term ").skip(1);
    let terms: Vec<u64> = terms.map(|rest| rest.split(',').next().unwrap().parse().unwrap()).collect();
    assert!(terms.len() == 2 && terms[0] < terms[1], "{text}");
}

#[test]
fn controllers_lose_no_part_and_wait_for_a_person_where_they_must() {
    let text = play("controllers");
    let [made, counted] = numbers(&text)[..] else { panic!("{text}") };
    assert!(made == counted && made >= 80, "{text}");
    assert!(text.contains("ctl-2 has taken over.") && text.contains(" requests, none failed."), "{text}");
    assert!(text.contains("no master: the acknowledged data is on ctl-1, ctl-2"), "{text}");
    assert!(
        text.contains("out of sight: tanist: no majority of the voters answers")
            && text.contains("tanist recover"),
        "{text}"
    );
    assert!(text.contains("Left behind: ctl-1, witness.") && text.contains("ctl-2 has gone on."), "{text}");
}

#[test]
fn services_never_read_backwards_and_watchers_are_told_everything_whoever_reigns() {
    let text = play("configuration");
    let [changes, anna, ben] = numbers(&text)[..] else { panic!("{text}") };
    assert!((changes, anna, ben) == (25, 15, 10), "{text}");
    assert_eq!(text.matches("never back in time").count(), 6, "{text}");
    assert_eq!(text.matches("25 changes, each once and in order").count(), 3, "{text}");
}

#[test]
fn players_who_die_with_the_masters_get_what_they_earned() {
    let text = play("game");
    let [turns, gold, masters, _players] = numbers(&text)[..] else { panic!("{text}") };
    assert!((turns, gold, masters) == (144, 144, 3), "{text}");
    assert_eq!(text.matches(", the master, dies").count(), 3, "{text}");
}
