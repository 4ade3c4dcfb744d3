//! What the READMEs tell people on call to do, word for word: what failed since yesterday and why, again, and who did it.

use std::path::Path;

use postbell::sandbox::Settings;
use serde_json::json;
use tokio::process::Command;
use uuid::Uuid;

use super::{dead_letter, statuses};
use crate::harness::process::{Env, Postbell};
use crate::harness::stage::Stage;
use crate::harness::{SOON, eventually};

/// Two events whose template was missing, and is there by now; one that failed for another reason, one that failed long ago.
struct Night {
    stage: Stage,
    _postbell: Postbell,
    /// As an operator.
    env: Env,
    operator: String,
    template: [Uuid; 2],
    others: [Uuid; 2],
    folder: std::path::PathBuf,
}

impl Night {
    async fn new() -> Night {
        let stage = Stage::with(Settings { rate: None, ..Settings::default() }).await;
        let folder = std::env::temp_dir().join(format!("postbell-night-{:016x}", fastrand::u64(..)));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("plain.md"), "${text}").unwrap();
        let run = || {
            let env = stage.env.clone().with("NOTIFICATION_TEMPLATES_DIR", folder.display());
            Postbell::start(&["run"], &env)
        };
        let mut postbell = run();
        let world = &stage.world;
        let template = [
            world.publish("order.paid", json!({"text": "first"})).await,
            world.publish("order.paid", json!({"text": "second"})).await,
        ];
        let others = [
            stage.publish_to("nobody", "plain", json!({"text": "to nobody"})).await,
            dead_letter(world, "order.paid", "template order.paid: long ago", 100).await,
        ];
        stage.settled().await;
        postbell.sigterm();
        assert!(postbell.exit_status(SOON).await.success());
        std::fs::write(folder.join("order.paid.md"), "${text}").unwrap();
        let postbell = run();

        let operator = format!("operator_{:016x}", fastrand::u64(..));
        let client = world.client();
        client.batch_execute(&format!("create role {operator} login")).await.unwrap();
        client.query_one("select notification_grant($1::text::name, 'operator')", &[&operator]).await.unwrap();
        let env = Env::default().with("DATABASE_URL", world.database.url_as(&operator));
        Night { stage, _postbell: postbell, env, operator, template, others, folder }
    }

    /// What was found, and why; what was sent again; who did it.
    async fn judge(&self, shown: &str) {
        let [first, second] = self.template.map(|id| id.to_string());
        for part in ["unknown template \"order.paid\"", "unknown target \"nobody\"", "li.lei", &self.operator] {
            assert!(shown.contains(part), "no {part:?} in {shown}");
        }
        assert!(!shown.contains(&self.others[1].to_string()), "it failed long before yesterday: {shown}");
        for id in [&first, &second] {
            assert!(shown.matches(id.as_str()).count() >= 3, "{id} is found, would be replayed, and was: {shown}");
        }
        let world = &self.stage.world;
        eventually(SOON, "what was replayed to be delivered", async || {
            let all = [self.template, self.others].concat();
            (statuses(world, &all).await == ["delivered", "delivered", "failed", "failed"]).then_some(())
        })
        .await;
        let audit = "select event_id, actor, database_user from notification_audit where action = 'replay' order by id";
        let rows = world.client().query(audit, &[]).await.unwrap();
        let rows: Vec<(Uuid, String, String)> = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
        let expected = self.template.map(|id| (id, "li.lei".to_owned(), self.operator.clone()));
        assert_eq!(rows, expected);
    }
}

impl Drop for Night {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn path(file: &str) -> String {
    format!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snippets/on_call/{}"), file)
}

/// What a program prints to standard output, where it succeeds.
async fn run(program: &str, arguments: &[&str], env: &Env) -> String {
    let binary = Path::new(env!("CARGO_BIN_EXE_postbell")).parent().unwrap();
    let output = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(env.variables())
        .env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", binary.display()))
        .output()
        .await
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program}: {stdout} {stderr}");
    stdout.into_owned()
}

#[tokio::test]
async fn with_the_command_line_alone_what_failed_is_found_replayed_and_audited() {
    let night = Night::new().await;
    let shown = run("/bin/sh", &["-e", "-u", &path("on_call.sh")], &night.env).await;
    assert!(shown.contains("2 would be replayed") && shown.contains("\n2 replayed\n"), "{shown}");
    night.judge(&shown).await;
    // The whole history of one.
    let id = night.template[0].to_string();
    let history = super::done(&format!("status {id}"), &night.env).await;
    for part in ["delivered", "replay", "li.lei"] {
        assert!(history.contains(part), "no {part:?} in {history}");
    }
}

#[tokio::test]
async fn with_psql_alone_what_failed_is_found_replayed_and_audited() {
    let night = Night::new().await;
    let url = night.stage.world.database.url_as(&night.operator);
    let file = path("on_call.sql");
    let shown =
        run("psql", &["-X", "-v", "ON_ERROR_STOP=1", "-P", "pager=off", "-d", &url, "-f", &file], &night.env).await;
    assert!(shown.contains("would be replayed: order.paid, unknown template"), "{shown}");
    assert!(shown.contains("replayed: the event was failed and is sent again now"), "{shown}");
    night.judge(&shown).await;
}
