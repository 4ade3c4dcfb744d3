//! The operations robot: the one that postbell itself rings, beside all that events go through.

use std::time::Duration;

use super::robot::{self, Robot, Setting};
use super::{Leave, MaySend, Parcel, Proxy, Report, Tries, Try, dingtalk, hosts, http};
use crate::cli::BadConfiguration;
use crate::config;
use crate::message::Message;

/// The operations robot. It has no row, no budget of its own and no pause: what is rung is seldom.
pub struct OpsRobot {
    robot: Robot,
    http: http::Http,
}

/// Nobody else sends this message: there is no lease to look at.
struct Freely;

impl MaySend for Freely {
    async fn may_send(&self, _needs: Duration, _request: Try) -> Leave {
        Leave::Granted
    }
}

impl OpsRobot {
    /// The robot, where one is configured; connects to nothing yet.
    ///
    /// # Errors
    ///
    /// A webhook, a proxy or a trust store that could never work; the variable is named, no token is shown.
    pub fn new(
        alerts: &config::Alerts,
        requests: &config::Requests,
        proxy: Proxy,
    ) -> Result<Option<OpsRobot>, BadConfiguration> {
        let hosts = hosts::Hosts::new(&requests.allowed_hosts);
        let named = "NOTIFICATION_OPS_WEBHOOK (--ops-webhook)";
        let setting = Setting { named, webhook: alerts.webhook(), secret: alerts.secret() };
        let Some(robot) = robot::in_environment(&setting, &hosts)? else { return Ok(None) };
        Ok(Some(OpsRobot { robot: robot.named("ops"), http: http::Http::new(&hosts, proxy, requests.send_timeout)? }))
    }

    /// Whether all of it arrives, and is not cut.
    pub fn fits(&self, message: &Message) -> bool {
        dingtalk::fits(message)
    }

    /// Sends one message, in one try but for what its answer calls for: who rings tries again at its next look.
    pub async fn ring(&self, message: &Message, key: &str) -> Report {
        let tries = Tries { most: 1, pause: Duration::ZERO };
        let parcel = Parcel { message, key, may_lose_links: true };
        let report = dingtalk::send(&self.http, tries, &self.robot, parcel, &Freely).await;
        // What to mend is called otherwise than that of the robot of events.
        Report { reason: report.reason.replace("DINGTALK_NOTIFICATION_", "NOTIFICATION_OPS_"), ..report }
    }
}
