//! A configuration file.

use std::{net::IpAddr, path::Path};

use tanist_server::config::{Config, ConfigError};

#[rustfmt::skip]
pub(crate) const WORDS: &[&[u8]] = &[
    b"\n", b" = ", b"\"", b"[[member]]\n", b"[timing]\n", b"[limits]\n", b"[replication]\n", b"[store]\n", b"[listen]\n", b"[log]\n",
    b"heartbeat = \"100ms\"\n", b"lease = \"1s\"\n", b"failback = \"off\"\n", b"insecure = true\n", b"rank = 0\n", b"18446744073709551615",
    b"99999999999999999999h", b"307445734561825861m", b"GiB", b"4294967296", b"-1", b"0", b"5124095576030431h", b"sync_backups = ",
    b"min_sync_backups = ", b"'''", b"\"\"\"", b"{", b"[", b"# ", b"voter_timeout = ", "é".as_bytes(),
];

/// The secret in the corpus: whatever is wrong with a file's form, no error may show it.
const SECRET: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

pub(crate) fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if reaches_out(text) {
        return;
    }
    let config = match Config::parse(Path::new("no/such/folder/tanist.toml"), text) {
        Ok(config) => config,
        Err(error) => {
            let shown = format!("{error} {error:?}");
            // A key that stands as another field's value is shown with that field.
            let other_field = matches!(&error, ConfigError::Field { field, .. } if !field.starts_with("key"));
            assert!(other_field || !shown.contains(SECRET), "the key is shown: {shown}");
            assert!(shown.contains("tanist.toml"), "no file is named: {shown}");
            return;
        }
    };
    assert!(!format!("{config:?}").contains(SECRET), "the key is shown");
    assert_eq!(config.me().id, config.id);
    let data = config.members.iter().filter(|member| !member.rank.is_witness()).count();
    assert!(data > 0 && config.members.len() < 64, "{data} data members of {}", config.members.len());
    assert!(config.min_sync_backups <= config.sync_backups, "{config:?}");
    let timing = &config.timing;
    assert!(timing.lease >= timing.heartbeat * 3 && timing.drift_margin * 2 < timing.lease, "{timing:?}");
    assert!(timing.sync_timeout >= timing.heartbeat * 2, "{timing:?}");
    let (node, store) = (config.node(), config.store_options());
    assert!(node.inflight_bytes <= node.buffer_bytes, "{node:?}");
    let link = config.transport([0; 16]).limits.bulk_message as u64;
    assert!(link > store.payload_limit(), "a backup refuses what the master may send: {link}");
    drop((config.warnings(), config.read_pool(), config.sql_limits()));
}

/// Whether checking the file would ask the network for a name, or read another file.
fn reaches_out(text: &str) -> bool {
    let Ok(file) = toml::from_str::<toml::Table>(text) else { return false };
    let listen = file.get("listen").and_then(toml::Value::as_table);
    let addresses = listen.into_iter().flat_map(|listen| listen.values()).filter_map(toml::Value::as_str);
    let mut hosts = addresses.filter_map(|address| address.rsplit_once(':')).map(|(host, _)| host);
    file.contains_key("key_file")
        || hosts.any(|host| host.trim_matches(['[', ']']).parse::<IpAddr>().is_err())
}
