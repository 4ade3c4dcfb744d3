//! How a connection comes about: proxy or direct, which addresses, how long.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

use super::hosts::{self, Hosts};
use crate::cli::BadConfiguration;

/// For name, TCP and TLS together.
const LONGEST: Duration = Duration::from_secs(3);

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type BoxFuture<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// Connects to a robot's host within [`LONGEST`].
#[derive(Clone)]
pub(super) struct Connect(HttpsConnector<Route>);

impl Connect {
    /// # Errors
    ///
    /// A proxy that is not spoken to in plain http, or TLS that cannot be set up at all.
    pub(super) fn new(hosts: &Hosts, proxy: Matcher) -> Result<Connect, BadConfiguration> {
        let dsts = hosts.urls().filter_map(|url| url.parse::<Uri>().ok());
        if let Some(found) = dsts.filter_map(|dst| proxy.intercept(&dst)).find(|p| p.uri().scheme_str() != Some("http"))
        {
            return Err(BadConfiguration(format!(
                "HTTPS_PROXY: given a proxy that is spoken to in {}; allowed: http://[user:password@]host:port",
                found.uri().scheme_str().unwrap_or("an unknown scheme")
            )));
        }
        let provider = rustls::crypto::ring::default_provider;
        let https = HttpsConnectorBuilder::new().with_provider_and_platform_verifier(provider()).or_else(|error| {
            tracing::warn!(%error, "no certificates of this system can be used; the bundled ones are trusted instead");
            HttpsConnectorBuilder::new().with_provider_and_webpki_roots(provider())
        });
        let https =
            https.map_err(|error| BadConfiguration(format!("cannot verify the robots' certificates: {error}")))?;
        let route = Route {
            open: connector(Resolve { public_only: false }),
            public: connector(Resolve { public_only: true }),
            hosts: Arc::new(hosts.clone()),
            proxy: Arc::new(proxy),
        };
        Ok(Connect(https.https_or_http().enable_http1().wrap_connector(route)))
    }
}

fn connector(resolve: Resolve) -> HttpConnector<Resolve> {
    let mut connector = HttpConnector::new_with_resolver(resolve);
    connector.enforce_http(false);
    connector.set_nodelay(true);
    // Shared out among the addresses of a name, so that a dead first one does not use up all the time.
    connector.set_connect_timeout(Some(LONGEST));
    connector
}

impl Service<Uri> for Connect {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = BoxError;
    type Future = BoxFuture<Self::Response>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, dst: Uri) -> Self::Future {
        let connecting = self.0.call(dst);
        Box::pin(async move {
            let late = || io::Error::new(io::ErrorKind::TimedOut, format!("not connected within {LONGEST:?}"));
            tokio::time::timeout(LONGEST, connecting).await.map_err(|_| late())?
        })
    }
}

/// The way to a host, up to TLS.
#[derive(Clone)]
struct Route {
    /// To hosts that the operator named: listed ones, and the proxy.
    open: HttpConnector<Resolve>,
    /// To hosts that anybody could have named.
    public: HttpConnector<Resolve>,
    hosts: Arc<Hosts>,
    proxy: Arc<Matcher>,
}

impl Service<Uri> for Route {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = BoxFuture<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // The connectors below are always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, dst: Uri) -> Self::Future {
        let host = dst.host().unwrap_or_default();
        // This machine, seen from the proxy, would be the proxy.
        let proxy = if hosts::is_loopback(host) { None } else { self.proxy.intercept(&dst) };
        if let Some(proxy) = proxy {
            let tunnel = Tunnel::new(proxy.uri().clone(), self.open.clone());
            let mut tunnel = match proxy.basic_auth() {
                Some(auth) => tunnel.with_auth(auth.clone()),
                None => tunnel,
            };
            return Box::pin(async move { Ok(tunnel.call(dst).await?) });
        }
        let mut direct = if self.hosts.may_be_private(host) { self.open.clone() } else { self.public.clone() };
        Box::pin(async move { Ok(direct.call(dst).await?) })
    }
}

/// The system's resolver, which for a host that the operator did not list gives public addresses only: a name can be
/// made to point into the network that postbell runs in.
#[derive(Clone)]
struct Resolve {
    public_only: bool,
}

impl Service<Name> for Resolve {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = BoxFuture<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let public_only = self.public_only;
        Box::pin(async move {
            let host = name.to_string();
            let found = GaiResolver::new().call(name).await?.collect();
            Ok(if public_only { public(&host, found)? } else { found }.into_iter())
        })
    }
}

fn public(host: &str, mut found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, io::Error> {
    let refused = found.iter().find(|address| !hosts::is_public(address.ip())).map(SocketAddr::ip);
    found.retain(|address| hosts::is_public(address.ip()));
    match refused {
        Some(ip) if found.is_empty() => Err(io::Error::other(format!(
            "{host} resolves to {ip}, which is no public address; list it in NOTIFICATION_ALLOWED_HOSTS if that is meant"
        ))),
        _ => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_points_inside_is_refused_and_says_how_to_allow_it() {
        let at = |ips: &[&str]| ips.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 443)).collect::<Vec<_>>();
        assert_eq!(public("h", at(&["203.119.215.1", "10.0.0.1"])).unwrap(), at(&["203.119.215.1"]));
        let error = public("oapi.dingtalk.com", at(&["10.0.0.1"])).unwrap_err().to_string();
        assert!(error.contains("oapi.dingtalk.com resolves to 10.0.0.1"), "{error}");
        assert!(error.contains("NOTIFICATION_ALLOWED_HOSTS"), "{error}");
    }

    #[tokio::test]
    async fn the_resolver_of_unlisted_hosts_gives_no_loopback_address() {
        let name = || "localhost".parse::<Name>().unwrap();
        assert!(Resolve { public_only: false }.call(name()).await.unwrap().next().is_some());
        assert!(Resolve { public_only: true }.call(name()).await.is_err());
    }

    #[test]
    fn a_proxy_that_could_not_be_spoken_to_is_refused_at_start() {
        let proxy = Matcher::builder().https("socks5://user:hunter2@proxy.example:1080").build();
        let error = Connect::new(&Hosts::new(&Default::default()), proxy).err().unwrap().to_string();
        assert!(error.contains("HTTPS_PROXY") && error.contains("socks5") && !error.contains("hunter2"), "{error}");
    }
}
