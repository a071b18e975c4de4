//! An office application without a server: every desktop runs this program, one of them does the server's work, and which
//! one it is changes whenever somebody goes home. It embeds a machine of the cluster (`tanist_server`) and talks to the cluster as any
//! client does (`tanist_client`).
//!
//! Each line of its input is an order. The desktop whose machine reigns numbers the invoices. README.md tells the story, and
//! `run.sh` plays it.

mod join;
mod orders;

use std::{net::IpAddr, path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use tanist_client::{Client, Need};
use tanist_discovery::{Browser, Heard};
use tanist_server::{ReignObserver, Server, config::Config};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    sync::watch,
    task::JoinHandle,
};

/// The name under which the desktops of this office find each other.
const CLUSTER: &str = "office";

#[derive(Debug, Parser)]
struct Args {
    /// This desktop's name.
    #[arg(long)]
    name: String,
    /// Its address in the office's network.
    #[arg(long)]
    address: IpAddr,
    /// Where it keeps its files.
    #[arg(long)]
    dir: PathBuf,
    /// The office's secret, the same file on all desktops (`tanist init` makes one).
    #[arg(long)]
    key_file: PathBuf,
    /// This is the first desktop of all. Said once, by a person: two that both began by themselves would be two offices.
    #[arg(long)]
    found: bool,
    /// Some of the desktops, where the network carries no multicast: `10.0.0.1:8080,10.0.0.2:8080`.
    #[arg(long, conflicts_with = "found")]
    hosts: Option<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("TANIST_LOG").unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let args = Args::parse();
    let name = args.name.clone();

    // Known from the last time, or new here.
    let path = args.dir.join("tanist.toml");
    if !path.exists() {
        let text = if args.found { join::found(&args) } else { join::join(&args).await? };
        std::fs::create_dir_all(&args.dir).with_context(|| format!("make {}", args.dir.display()))?;
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    let config = Config::load(&path)?;
    // This desktop's own machine first: what it has is read without asking anybody.
    let mut hosts = config.me().urls.clone();
    hosts.extend(config.members.iter().flat_map(|member| member.urls.clone()));
    let mut server = Server::start(config).await?;
    let client = Client::new(&hosts.join(","))?;
    say(&name, "here I am");

    let listening = listen(&name)?;
    let beside = [
        tokio::spawn(tell_who_is_master(name.clone(), client.clone())),
        tokio::spawn(orders::number(name.clone(), client.clone(), server.reign())),
        tokio::spawn(tell_reigns(name.clone(), server.reign())),
    ];
    tokio::select! {
        ended = take_orders(&name, &client) => ended?,
        why = server.failed() => return Err(why).context("this desktop's machine"),
    }

    // Goodbye: whoever is next takes over, and no request of any desktop fails.
    let master = server.stop().await;
    for task in beside {
        task.abort();
    }
    say(&name, &format!("goodbye; {} carries on", master.as_deref().unwrap_or("nobody")));
    listening.stop();
    Ok(())
}

fn say(name: &str, what: &str) {
    println!("{name}: {what}");
}

/// Each line is an order; `close` or the end of the input closes the application.
async fn take_orders(name: &str, client: &Client) -> anyhow::Result<()> {
    orders::prepare(client).await?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        if line.trim() == "close" {
            break;
        }
        let id = orders::take(client, name, &line).await?;
        say(name, &format!("order {id} taken: {line}"));
    }
    Ok(())
}

/// What a status line of the window would show.
async fn tell_who_is_master(name: String, client: Client) {
    let mut observer = client.observe(Need::Master);
    let mut last = None;
    while let Some(link) = observer.changed().await {
        if link.member().is_some() && link.member() != last.as_deref() {
            last = link.member().map(str::to_owned);
            say(&name, &format!("the master is {}", last.as_deref().unwrap_or_default()));
        }
    }
}

async fn tell_reigns(name: String, mut reign: ReignObserver) {
    let mut was = None;
    while let Ok(now) = reign.changed().await {
        if now != was {
            say(
                &name,
                if now.is_some() {
                    "I number the invoices now"
                } else {
                    "somebody else numbers the invoices"
                },
            );
            was = now;
        }
    }
}

/// Hears who comes and goes.
struct Listening {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

fn listen(name: &str) -> anyhow::Result<Listening> {
    let mut browser = Browser::start(&[])?;
    let (name, (stop, stopped)) = (name.to_owned(), watch::channel(false));
    let task = tokio::task::spawn_blocking(move || {
        while !*stopped.borrow() {
            let other = |machine: &tanist_discovery::Announcement| {
                (machine.cluster() == CLUSTER && machine.member() != name)
                    .then(|| machine.member().to_owned())
            };
            match browser.next(Duration::from_millis(100)) {
                Some(Heard::Here(machine)) => {
                    if let Some(other) = other(&machine) {
                        say(&name, &format!("hears that {other} is here"));
                    }
                }
                Some(Heard::Gone(machine)) => {
                    if let Some(other) = other(&machine) {
                        say(&name, &format!("hears that {other} has left"));
                    }
                }
                None => {}
            }
        }
    });
    Ok(Listening { stop, task })
}

impl Listening {
    fn stop(self) {
        self.stop.send_replace(true);
        drop(self.task);
    }
}
