//! A Prometheus server that scrapes what a test tells it to, with a configuration of the test's own.

use std::collections::BTreeMap;
use std::fs;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::{Server, free_port, on_path};
use crate::harness::get;

/// A running Prometheus server.
pub(crate) struct Prometheus {
    address: String,
    _server: Server,
}

/// One series of an answer, and its value now.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Sample {
    /// Its labels, the name among them where it has one.
    pub(crate) metric: BTreeMap<String, String>,
    /// Seconds since 1970, and the value.
    value: (f64, String),
}

impl Sample {
    /// The value.
    pub(crate) fn value(&self) -> f64 {
        self.value.1.parse().unwrap()
    }
}

#[derive(Deserialize)]
struct Answer {
    error: Option<String>,
    data: Option<serde_json::Value>,
}

impl Prometheus {
    /// Starts one with these files in its folder; the first is its configuration. It takes about a second.
    pub(crate) async fn start(files: &[(&str, String)]) -> Prometheus {
        let binary = on_path("prometheus").expect("prometheus is not installed; ops/test installs it");
        for _ in 0..10 {
            let address = format!("127.0.0.1:{}", free_port());
            let server = Server::new("prometheus", "KILL", |folder| {
                for (name, text) in files {
                    fs::write(folder.join(name), text).unwrap();
                }
                let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
                vec![
                    binary.to_str().unwrap().to_owned(),
                    format!("--config.file={}", path(files[0].0)),
                    format!("--storage.tsdb.path={}", path("data")),
                    format!("--web.listen-address={address}"),
                ]
            });
            if server.start(|log| log.contains("Server is ready to receive web requests")).await {
                return Prometheus { address, _server: server };
            }
        }
        panic!("no port is free for Prometheus");
    }

    /// What an expression is now.
    pub(crate) async fn query(&self, expression: &str) -> Vec<Sample> {
        #[derive(Deserialize)]
        struct Vector {
            result: Vec<Sample>,
        }
        let expression = utf8_percent_encode(expression, NON_ALPHANUMERIC);
        let vector: Vector = self.ask(&format!("/api/v1/query?query={expression}")).await;
        vector.result
    }

    /// The values of a label, of all series there are.
    pub(crate) async fn label_values(&self, label: &str) -> Vec<String> {
        self.ask(&format!("/api/v1/label/{label}/values")).await
    }

    async fn ask<T: for<'a> Deserialize<'a>>(&self, path: &str) -> T {
        let (_, body) = get(&self.address, path).await;
        let Answer { error, data } = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
        assert_eq!(error, None, "{path}");
        serde_json::from_value(data.unwrap()).unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}
