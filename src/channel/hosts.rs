//! Which hosts a webhook may name: a URL comes with an event, and must not reach into the operator's network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

use crate::config::HostList;

/// DingTalk's own, for China and for international tenants.
const OWN: [&str; 2] = ["oapi.dingtalk.com", "oapi.dingtalk.io"];

/// The hosts that requests may go to.
#[derive(Clone, Debug)]
pub(super) struct Hosts {
    listed: Vec<Listed>,
}

/// A host as the operator listed it.
#[derive(Clone, Debug)]
struct Listed {
    host: Host,
    /// Without one, only the scheme's own.
    port: Option<u16>,
}

impl Hosts {
    pub(super) fn new(list: &HostList) -> Hosts {
        Hosts { listed: list.0.iter().filter_map(|entry| Listed::read(entry)).collect() }
    }

    /// Checks everything about a webhook but whether the robot exists.
    ///
    /// # Errors
    ///
    /// Why it is refused. Names the host at most.
    pub(super) fn check(&self, url: &Url) -> Result<(), String> {
        let Some(host) = url.host() else { return Err("the URL has no host".to_owned()) };
        if !url.username().is_empty() || url.password().is_some() {
            return Err("credentials before the host are not allowed in a webhook URL".to_owned());
        }
        if url.fragment().is_some() {
            return Err("a fragment (#…) is not allowed in a webhook URL".to_owned());
        }
        let listed = self.listed.iter().any(|listed| listed.covers(url));
        let own = own(url);
        if !listed && !own {
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            return Err(format!(
                "host {host}{port} is not allowed (allowed: {}, and what NOTIFICATION_ALLOWED_HOSTS lists)",
                OWN.join(", ")
            ));
        }
        match url.scheme() {
            "https" => {}
            "http" if listed && is_loopback(&host.to_string()) => {}
            _ => {
                return Err(format!(
                    "{host} must be reached by https (http is for loopback hosts the operator listed)"
                ));
            }
        }
        let has = |name: &str| url.query_pairs().any(|(key, value)| key == name && !value.is_empty());
        if own && !has("access_token") {
            return Err("the URL has no access_token; copy it whole from the robot's settings".to_owned());
        }
        if has("sign") || has("timestamp") {
            return Err("the URL carries a signature, which would expire; leave out timestamp and sign".to_owned());
        }
        Ok(())
    }

    /// Whether this host may be at a private address, because the operator listed it.
    pub(super) fn may_be_private(&self, host: &str) -> bool {
        self.listed.iter().any(|listed| listed.host.to_string() == host)
    }

    /// Every host, as the URL of its front page.
    pub(super) fn urls(&self) -> impl Iterator<Item = String> {
        let own = OWN.iter().map(|host| format!("https://{host}/"));
        own.chain(self.listed.iter().map(|listed| format!("https://{}/", listed.host)))
    }
}

impl Listed {
    fn read(entry: &str) -> Option<Listed> {
        // A URL forgets its scheme's own port; of two schemes, one remembers it.
        let https = Url::parse(&format!("https://{entry}/")).ok()?;
        let http = Url::parse(&format!("http://{entry}/")).ok()?;
        Some(Listed { host: https.host()?.to_owned(), port: https.port().or(http.port()) })
    }

    fn covers(&self, url: &Url) -> bool {
        url.host().is_some_and(|host| host.to_owned() == self.host)
            && match self.port {
                Some(port) => url.port_or_known_default() == Some(port),
                None => url.port().is_none(),
            }
    }
}

fn own(url: &Url) -> bool {
    url.port().is_none() && url.host_str().is_some_and(|host| OWN.contains(&host))
}

/// Whether a host, as a URL writes it, is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether an address is of the open internet, rather than of a machine or network that only insiders reach.
///
/// 198.18.0.0/15 counts as open: transparent proxies answer with it for every name.
pub(super) fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => match embedded(ip) {
            Some(v4) => is_public_v4(v4),
            None => {
                // What unique local addresses replaced, and a NAT64 prefix of the network's own.
                let site_local = ip.segments()[0] & 0xffc0 == 0xfec0;
                let own_nat64 = ip.segments()[..3] == [0x64, 0xff9b, 1];
                !(site_local
                    || own_nat64
                    || ip.is_loopback()
                    || ip.is_unspecified()
                    || ip.is_unique_local()
                    || ip.is_unicast_link_local()
                    || ip.is_multicast())
            }
        },
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [first, second, ..] = ip.octets();
    // Carrier-grade NAT: some clouds put their metadata service there.
    let shared = first == 100 && (64..128).contains(&second);
    // Protocol assignments, and what was never given out.
    let special = ip.octets()[..3] == [192, 0, 0] || first >= 240;
    !(first == 0 || shared || special || ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_multicast())
}

/// The IPv4 address that an IPv6 address stands for: mapped, translated by NAT64, reached by 6to4, or (of old) the same.
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match ip.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => v4(high, low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(list: &str, url: &str) -> bool {
        Hosts::new(&list.parse().unwrap()).check(&Url::parse(url).unwrap()).is_ok()
    }

    #[test]
    fn a_listed_host_is_allowed_on_its_own_port_only() {
        assert!(allowed("robots.example", "https://robots.example/x"));
        assert!(allowed("robots.example", "https://ROBOTS.example:443/x"));
        assert!(!allowed("robots.example", "https://robots.example:8443/x"));
        assert!(allowed("robots.example:8443", "https://robots.example:8443/x"));
        assert!(!allowed("robots.example:8443", "https://robots.example/x"));
        assert!(allowed("robots.example:443", "https://robots.example/x"));
        assert!(!allowed("127.0.0.1:443", "http://127.0.0.1/x"));
        for near in ["https://sub.robots.example/x", "https://robots.example.evil/x", "https://robots.example./x"] {
            assert!(!allowed("robots.example", near), "{near}");
        }
    }

    #[test]
    fn plain_http_is_for_listed_loopback_hosts() {
        assert!(allowed("127.0.0.1:8099", "http://127.0.0.1:8099/x"));
        assert!(allowed("127.0.0.1:8099", "http://127.1:8099/x"), "the same address, written shorter");
        assert!(allowed("[::1]:80", "http://[::1]/x"));
        assert!(allowed("localhost:80", "http://localhost/x"));
        assert!(!allowed("", "http://127.0.0.1:8099/x"));
        assert!(!allowed("robots.example:80", "http://robots.example/x"));
        assert!(!allowed("10.0.0.1:80", "http://10.0.0.1/x"));
    }

    #[test]
    fn dingtalks_own_hosts_need_a_token_and_no_list() {
        assert!(allowed("", "https://oapi.dingtalk.com/robot/send?access_token=x"));
        assert!(allowed("", "https://oapi.dingtalk.io/robot/send?access_token=x"));
        assert!(!allowed("", "https://oapi.dingtalk.com/robot/send"));
        assert!(!allowed("", "https://api.dingtalk.com/robot/send?access_token=x"));
    }

    #[test]
    fn addresses_of_insiders_are_not_public() {
        for inside in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.100.100.200",
            "0.0.0.0",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
            "::",
            "::10.0.0.1",
            "2002:a00:1::1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "fec0::1",
            "ff02::1",
            "192.0.0.192",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
        ] {
            assert!(!is_public(inside.parse().unwrap()), "{inside}");
        }
        for open in ["203.119.215.1", "2401:b180::1", "198.18.0.9", "::ffff:203.119.215.1", "64:ff9b::cb77:d701"] {
            assert!(is_public(open.parse().unwrap()), "{open}");
        }
    }
}
