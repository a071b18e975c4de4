//! A copy of the whole database, as it comes from one machine.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use tanist_api::{HEADER_DATABASE_BYTES, HEADER_MIN_POSITION, HEADER_POSITION};
use tokio::time::timeout;

use crate::{
    Client, Error,
    call::{Attempt, chain, refusal},
    client::one,
    hosts::Host,
    send::Sent,
};

/// Largest error answer, in bytes.
const REFUSAL_LIMIT: usize = 1 << 20;

/// A copy that is on its way. Whether it is whole only its own checksum says.
#[derive(Debug)]
pub struct Download {
    host: Host,
    position: String,
    database_bytes: Option<u64>,
    body: Incoming,
    stall: Duration,
}

impl Client {
    /// Begins to fetch a copy of the whole database from this machine, compressed by `level` of zstd (1 to 9). With a position, as
    /// answers to writes have it, the machine waits a few seconds until it holds that. One attempt: a copy that broke off is begun
    /// again, from any machine.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn backup_of(
        &self,
        host: &str,
        level: Option<u32>,
        min_position: Option<&str>,
    ) -> Result<Download, Error> {
        let host = one(host)?;
        let limit = self.attempt_timeout();
        let unavailable = |last: String| Error::Unavailable {
            deadline: limit,
            tried: host.clone(),
            last: format!("{host}: {last}"),
        };
        let level = level.map(|level| format!("?level={level}")).unwrap_or_default();
        let path = format!("/v1/backup{level}");
        let body = Bytes::new();
        let headers: Vec<_> =
            min_position.map(|position| (HEADER_MIN_POSITION, position)).into_iter().collect();
        let sent = Sent { method: &Method::GET, path: &path, headers: &headers, body: &body };
        let response = match timeout(limit, self.send(&host, sent)).await {
            Ok(Ok(response)) => response,
            Ok(Err(unsent)) => {
                return Err(match unsent.into_attempt(&host) {
                    Attempt::Final(error) => error,
                    Attempt::Refused { why, .. } | Attempt::Unknown(why) => unavailable(why),
                    _ => unavailable("no answer".to_owned()),
                });
            }
            Err(_) => return Err(unavailable(format!("no answer within {limit:?}"))),
        };
        let (head, body) = response.into_parts();
        if !head.status.is_success() {
            let body = match timeout(limit, Limited::new(body, REFUSAL_LIMIT).collect()).await {
                Ok(Ok(body)) => body.to_bytes(),
                _ => Bytes::new(),
            };
            return Err(match refusal(&host, head.status, &head.headers, &body) {
                Attempt::Final(error) => error,
                Attempt::Refused { why, .. } | Attempt::Unknown(why) => unavailable(why),
                Attempt::Done(_) | Attempt::Redirect(_) | Attempt::Superseded(_) => {
                    unavailable(format!("status {}", head.status))
                }
            });
        }
        let text = |name| text(&head.headers, name);
        let Some(position) = text(HEADER_POSITION) else {
            return Err(Error::Unexpected { host, why: format!("a copy without {HEADER_POSITION}") });
        };
        let database_bytes = text(HEADER_DATABASE_BYTES).and_then(|bytes| bytes.parse().ok());
        Ok(Download { position, database_bytes, body, stall: limit.max(Duration::from_secs(30)), host })
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

impl Download {
    /// The newest transaction in the copy.
    #[must_use]
    pub fn position(&self) -> &str {
        &self.position
    }

    /// Bytes of the database in it, unpacked, if the machine says so.
    #[must_use]
    pub fn database_bytes(&self) -> Option<u64> {
        self.database_bytes
    }

    /// Who sends it.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The next bytes of it; `None` at the end.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it broke off, or nothing came for long.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        let (host, stall) = (&self.host, self.stall);
        let broke_off = |why: String| Error::Unavailable {
            deadline: stall,
            tried: host.clone(),
            last: format!("{host}: the copy broke off: {why}"),
        };
        loop {
            match timeout(stall, self.body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(bytes) => return Ok(Some(bytes)),
                    Err(_) => continue,
                },
                Ok(Some(Err(error))) => return Err(broke_off(chain(&error))),
                Err(_) => return Err(broke_off(format!("nothing came for {stall:?}"))),
            }
        }
    }
}
