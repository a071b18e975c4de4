//! Prints how fast packets move between two members on this machine, and how long a small one takes there and back.
//!
//! `cargo run --release -p tanist-transport --example throughput [body bytes] [packets]`

use std::time::Instant;

use bytes::Bytes;
use tanist_replication::MemberId;
use tanist_transport::{
    Channel, ClusterId, ClusterKey, Config, Limits, Packet, Program, SendError, Transport, TransportEvent,
};
use tokio::sync::mpsc;

const ROUND_TRIPS: usize = 20_000;

type Outcome = Result<(), Box<dyn std::error::Error>>;

struct End {
    id: MemberId,
    transport: Transport,
    events: mpsc::Receiver<TransportEvent>,
}

fn end(id: &str, key: &ClusterKey) -> Result<End, Box<dyn std::error::Error>> {
    let id: MemberId = id.parse()?;
    let cluster: ClusterId = "throughput".parse()?;
    let mut incarnation = [0; 16];
    getrandom::fill(&mut incarnation).map_err(|error| error.to_string())?;
    let config = Config {
        cluster,
        me: id.clone(),
        incarnation,
        keys: key.clone().into(),
        addresses: vec![],
        admit_strangers: false,
        program: Program::silent(),
        names: tanist_transport::Names::default(),
        lives: tanist_transport::Lives::default(),
        limits: Limits::default(),
    };
    let (sender, events) = mpsc::channel(256);
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    Ok(End { id, transport: Transport::start(config, vec![listener], sender), events })
}

impl End {
    async fn connected(&mut self, wanted: Channel) -> Outcome {
        loop {
            match self.events.recv().await.ok_or("the transport ended")? {
                TransportEvent::Connected { channel, .. } if channel == wanted => return Ok(()),
                _ => {}
            }
        }
    }

    async fn received(&mut self) -> Result<Packet, Box<dyn std::error::Error>> {
        loop {
            match self.events.recv().await.ok_or("the transport ended")? {
                TransportEvent::Received { packet, .. } => return Ok(packet),
                TransportEvent::Closed { reason, .. } => return Err(reason.into()),
                _ => {}
            }
        }
    }
}

async fn run(body: usize, packets: usize) -> Outcome {
    let key = ClusterKey::generate();
    let (mut a, mut b) = (end("a", &key)?, end("b", &key)?);
    let address = |end: &End| end.transport.local_addr().map(|a| vec![a.to_string()]).unwrap_or_default();
    a.transport.set_peers(vec![(b.id.clone(), address(&b))]);
    b.transport.set_peers(vec![(a.id.clone(), address(&a))]);
    a.connected(Channel::Control).await?;
    b.connected(Channel::Control).await?;

    let small = Packet { head: Bytes::from_static(&[7; 64]), body: Bytes::new() };
    let mut times = Vec::with_capacity(ROUND_TRIPS);
    for _ in 0..ROUND_TRIPS {
        let start = Instant::now();
        a.transport.send(&b.id, Channel::Control, small.clone())?;
        let there = b.received().await?;
        b.transport.send(&a.id, Channel::Control, there)?;
        a.received().await?;
        times.push(start.elapsed());
    }
    times.sort();
    let at = |share: usize| times[ROUND_TRIPS * share / 100];
    println!("control round trip: p50 {:?}, p99 {:?}", at(50), at(99));

    let large = Packet { head: Bytes::from_static(&[7; 64]), body: vec![42; body].into() };
    let peer = b.id.clone();
    let start = Instant::now();
    let receive = async {
        for _ in 0..packets {
            b.received().await?;
        }
        Outcome::Ok(())
    };
    let send = async {
        let mut sent = 0;
        while sent < packets {
            match a.transport.send(&peer, Channel::Bulk, large.clone()) {
                Ok(()) => sent += 1,
                Err(SendError::Full) => tokio::task::yield_now().await,
                Err(error) => return Err(error.into()),
            }
        }
        Outcome::Ok(())
    };
    tokio::try_join!(send, receive)?;
    let seconds = start.elapsed().as_secs_f64();
    let bytes = (packets * large.len()) as f64;
    println!(
        "bulk, bodies of {body} bytes: {:.0} MB/s, {:.0} packets/s",
        bytes / seconds / 1e6,
        packets as f64 / seconds
    );
    Ok(())
}

fn main() -> Outcome {
    let mut numbers = std::env::args().skip(1);
    let mut number = |default| numbers.next().map_or(Ok(default), |text| text.parse());
    let (body, packets) = (number(64 << 10)?, number(40_000)?);
    for (name, mut builder) in [
        ("one thread for both ends", tokio::runtime::Builder::new_current_thread()),
        ("two threads", tokio::runtime::Builder::new_multi_thread()),
    ] {
        println!("{name}:");
        builder.worker_threads(2).enable_all().build()?.block_on(run(body, packets))?;
    }
    Ok(())
}
