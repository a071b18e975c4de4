//! The commands of `docs/http.md` do what it says.

use std::{path::Path, process::Command};

use tanist_api::Access;

use crate::cluster::{Cluster, Layout};

/// Commands with the output that the document shows for them.
fn recipes(document: &str) -> Vec<(&str, &str)> {
    let mut recipes = vec![];
    let mut rest = document;
    while let Some((_, after)) = rest.split_once("\n```sh\n") {
        let (command, after) = after.split_once("\n```\n").unwrap();
        rest = after;
        if let Some((shown, after)) =
            after.strip_prefix("```text\n").and_then(|after| after.split_once("\n```\n"))
        {
            recipes.push((command, shown));
            rest = after;
        }
    }
    recipes
}

/// Whether the text is the shown one, in which `…` stands for anything.
fn is_as_shown(text: &str, shown: &str) -> bool {
    let mut parts = shown.split('…');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut last = None;
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else { return false };
        (rest, last) = (after, Some(part));
    }
    match last {
        None | Some("") => last.is_some() || rest.is_empty(),
        Some(part) => rest.is_empty() || rest.ends_with(part),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_the_http_recipe_answer_as_it_says() {
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!("this computer has no curl: left out");
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/http.md");
    let document = std::fs::read_to_string(path).unwrap();
    let recipes = recipes(&document);
    assert!(recipes.len() >= 11, "{}", recipes.len());
    // The throne mustn't move between two commands, however busy this computer is.
    let extra = "[timing]\nlease = \"5s\"\n".to_owned();
    let cluster = Cluster::start(&Layout { tokens: true, extra, ..Layout::of(3) }).await;
    let token = cluster.client().make_token("recipe", Access::Admin).await.unwrap().token;
    let master = cluster.wait_master().await;
    let backup = cluster.url((master + 1) % 3);
    // A machine that is off comes first.
    let hosts = format!("http://127.0.0.1:9 {backup} {}", cluster.url(master));
    let work = tempfile::tempdir().unwrap();
    for (command, shown) in recipes {
        let output = Command::new("bash")
            .args(["-c", command])
            .current_dir(work.path())
            .envs([("HOST", &backup), ("TOKEN", &token), ("HOSTS", &hosts)])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let said = String::from_utf8_lossy(&output.stderr);
        let as_shown = is_as_shown(text.trim_end_matches('\n'), shown);
        assert!(as_shown, "{command}\nsays\n{text}\n{said}\nbut is shown as\n{shown}");
    }
    cluster.assert_no_panic();
}

#[test]
fn shown_output_is_compared_but_for_what_is_left_out() {
    for (text, shown, same) in [
        ("a", "a", true),
        ("ab", "a", false),
        ("ba", "a", false),
        ("a1b2c", "a…b…c", true),
        ("a1b2cd", "a…b…c", false),
        ("a1b", "a…", true),
        ("xa1b", "a…b", false),
    ] {
        assert_eq!(is_as_shown(text, shown), same, "{text} {shown}");
    }
}
