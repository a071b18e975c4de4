//! What a status line shows: on which machine the program is, or for how long it has been looking for one.
//!
//!     cargo run -p tanist-client --example observer -- 127.0.0.1:8080,127.0.0.1:8081
//!
//! Kill the master, or stop it (`kill -STOP`), and watch.

use std::time::Duration;

use tanist_client::{
    Client, Consistency, Error, Need,
    api::{QueryRequest, Statement},
};

/// Polls the cluster; an outage is no error, only a longer wait.
pub async fn poll(client: Client, every: Duration) -> Result<(), Error> {
    loop {
        let request =
            QueryRequest { statements: vec![Statement::new("SELECT count(*) FROM tanist_v_nodes")] };
        match client.query(request, Consistency::Strong, None).await {
            Ok(_) | Err(Error::Unavailable { .. }) => tokio::time::sleep(every).await,
            Err(error) => return Err(error),
        }
    }
}

/// Tells each change of the link, until the client is gone.
pub async fn follow(client: &Client, mut tell: impl FnMut(String)) {
    let mut observer = client.observe(Need::Master);
    while let Some(link) = observer.changed().await {
        tell(link.to_string());
    }
}

#[tokio::main(flavor = "current_thread")]
#[allow(dead_code, reason = "the tests call the story")]
async fn main() -> Result<(), Error> {
    let hosts = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let client = Client::new(&hosts)?;
    tokio::select! {
        ended = poll(client.clone(), Duration::from_millis(100)) => ended,
        () = follow(&client, |line| println!("{line}")) => Ok(()),
    }
}
