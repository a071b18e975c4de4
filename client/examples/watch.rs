//! A copy of the configuration that follows the cluster: read once, then watched, through any failure.
//!
//!     cargo run -p tanist-client --example watch -- 127.0.0.1:8080,127.0.0.1:8081
//!
//! Kill the machine that it names: it goes on at another with the event that follows the last one.

use std::collections::BTreeMap;

use serde_json::Value;
use tanist_client::{
    Client, Consistency, Error, Part, ReadOptions, Watch, WatchOptions,
    api::{WatchEvent, code},
};

/// All keys with a prefix, as they are now. A program may keep [`Copy::position`] and go on after it when it starts again.
pub struct Copy {
    client: Client,
    prefix: String,
    watch: Watch,
    /// What each key has.
    pub values: BTreeMap<String, Value>,
}

impl Copy {
    /// Reads all there is, and follows it from there.
    pub async fn begin(client: Client, prefix: &str) -> Result<Copy, Error> {
        let mut copy = Copy {
            watch: watch(&client, prefix),
            client,
            prefix: prefix.to_owned(),
            values: BTreeMap::new(),
        };
        copy.read_anew().await?;
        Ok(copy)
    }

    /// First the watch, then the values: what changes in between is told, and telling it twice would do no harm.
    async fn read_anew(&mut self) -> Result<(), Error> {
        self.watch = watch(&self.client, &self.prefix);
        self.watch.begin().await?;
        self.values.clear();
        let mut part = Part::default();
        let options = ReadOptions { consistency: Consistency::Strong, ..ReadOptions::default() };
        loop {
            let page = self.client.config_list(&self.prefix, &part, &options).await?.value;
            self.values.extend(page.entries.into_iter().map(|entry| (entry.key, entry.value)));
            part.next = page.next;
            if part.next.is_none() {
                return Ok(());
            }
        }
    }

    /// The next change, which stands in `values` already. `None`: so much was missed that all was read anew.
    pub async fn next(&mut self) -> Result<Option<WatchEvent>, Error> {
        let event = match self.watch.next().await {
            Ok(event) => event,
            Err(Error::Problem(why))
                if [code::EVENTS_PRUNED, code::EVENTS_LOST].contains(&why.code.as_str()) =>
            {
                self.read_anew().await?;
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        // The event of a key that was removed has none.
        match event.data.get("value") {
            Some(value) => self.values.insert(event.subject.clone(), value.clone()),
            None => self.values.remove(&event.subject),
        };
        Ok(Some(event))
    }

    /// The machine that tells now.
    pub fn host(&self) -> Option<&str> {
        self.watch.host()
    }
}

fn watch(client: &Client, prefix: &str) -> Watch {
    let (kinds, subject_prefix) = (vec!["config".to_owned()], prefix.to_owned());
    client.watch(WatchOptions { kinds, subject_prefix, ..WatchOptions::default() })
}

#[tokio::main(flavor = "current_thread")]
#[allow(dead_code, reason = "the tests call the story")]
async fn main() -> Result<(), Error> {
    let hosts = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let mut copy = Copy::begin(Client::new(&hosts)?, "").await?;
    println!("{} keys; told by {}", copy.values.len(), copy.host().unwrap_or("nobody yet"));
    loop {
        match copy.next().await {
            Ok(Some(event)) => {
                let who = event.actor.as_deref().unwrap_or("somebody");
                println!("{} {} by {who}: {}", event.at, event.subject, event.data);
            }
            Ok(None) => println!("read anew: {} keys", copy.values.len()),
            // No machine for the whole deadline: say so and go on trying.
            Err(error @ Error::Unavailable { .. }) => eprintln!("{error}"),
            Err(error) => return Err(error),
        }
    }
}
