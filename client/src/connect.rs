//! The connector: TCP, with as much patience as the host deserves.
//!
//! Owns nothing but the way from a URL to the policy in `hosts.rs`.

use std::{
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use tower_service::Service;

use crate::hosts::Hosts;

/// Connects, and waits as long as [`Hosts::connect_patience`] says. Looking up a name isn't counted.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    tcp: HttpConnector,
    hosts: Arc<Mutex<Hosts>>,
    longest: Duration,
}

impl Connector {
    pub(crate) fn new(hosts: Arc<Mutex<Hosts>>, longest: Duration) -> Connector {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        Connector { tcp, hosts, longest }
    }
}

impl Service<Uri> for Connector {
    type Response = <HttpConnector as Service<Uri>>::Response;
    type Error = <HttpConnector as Service<Uri>>::Error;
    type Future = <HttpConnector as Service<Uri>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.tcp.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let host = match (uri.scheme(), uri.authority()) {
            (Some(scheme), Some(authority)) => format!("{scheme}://{authority}"),
            _ => String::new(),
        };
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let patience = hosts.connect_patience(&host, self.longest, Instant::now());
        drop(hosts);
        self.tcp.set_connect_timeout(Some(patience));
        self.tcp.call(uri)
    }
}
