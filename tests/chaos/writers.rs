//! Business: writers that commit, roll back, commit late, hang up in the middle, and note down how each ended.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_postgres::error::{DbError, Severity};
use tokio_postgres::{Client, Error, NoTls};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::ledger::{End, Ledger};

/// Writers at the same time.
const WRITERS: [Habit; 6] = [Habit::Usual, Habit::Usual, Habit::Usual, Habit::Usual, Habit::Late, Habit::Bursts];

/// How a writer writes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Habit {
    /// A few events a transaction, often only one.
    Usual,
    /// Its transactions stay open for a while.
    Late,
    /// Many events a transaction, more than are sent at once, so that hints pile up; then a longer pause.
    Bursts,
}

/// With more committed events than this on their way, a writer pauses: on a machine that is busy with something else the
/// run would be about its speed.
const MOST_BEHIND: usize = 300;

/// The same for bursts.
const MOST_BEHIND_A_BURST: usize = 30;

/// Pause of a writer that cannot connect, or is not to write.
const AGAIN: Duration = Duration::from_millis(25);

const INSERT: &str = "insert into notification_events (id, event_type, payload, options, scheduled_at)
    select id, 'plain', payload, options, now() + delay * interval '1 second'
    from unnest($1::uuid[], $2::jsonb[], $3::jsonb[], $4::double precision[]) as draft (id, payload, options, delay)";

/// All writers.
pub(crate) struct Writers {
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Writers {
    /// Starts them; `url` leads through the proxy that the schedule cuts.
    pub(crate) fn start(url: &str, ledger: &Arc<Ledger>, seed: u64) -> Writers {
        let stop = CancellationToken::new();
        let mut rng = Rng::with_seed(seed);
        let tasks = WRITERS.map(|habit| {
            let writer = Writer { url: url.to_owned(), ledger: ledger.clone(), rng: rng.fork(), habit };
            tokio::spawn(writer.run(stop.clone()))
        });
        Writers { tasks: tasks.into(), stop }
    }

    /// Ends them after the transactions they are in.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

struct Writer {
    url: String,
    ledger: Arc<Ledger>,
    rng: Rng,
    habit: Habit,
}

/// One event to be written.
struct Draft {
    id: Uuid,
    payload: Value,
    options: Value,
    delay: Duration,
}

/// How a writer means to end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Intent {
    Commit,
    CommitAtOnce,
    RollBack,
    /// Ends the connection without a word.
    HangUp,
}

impl Writer {
    async fn run(mut self, stop: CancellationToken) {
        let mut connected = None;
        let most_behind = if self.habit == Habit::Bursts { MOST_BEHIND_A_BURST } else { MOST_BEHIND };
        while !stop.is_cancelled() {
            if self.ledger.behind() > most_behind {
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            let client = match connected.take() {
                Some(client) => client,
                None => match connect(&self.url).await {
                    Ok(client) => client,
                    Err(_) => {
                        tokio::time::sleep(AGAIN).await;
                        continue;
                    }
                },
            };
            let think = match self.habit {
                Habit::Usual | Habit::Late => self.rng.u64(10..150),
                Habit::Bursts => self.rng.u64(600..1_500),
            };
            let (end, client) = self.transact(client).await;
            connected = client;
            if end != End::Unknown {
                tokio::time::sleep(Duration::from_millis(think)).await;
            }
        }
    }

    /// One transaction. The connection comes back where it may still be good.
    async fn transact(&mut self, client: Client) -> (End, Option<Client>) {
        let count = match self.habit {
            Habit::Usual | Habit::Late => self.rng.usize(1..=4),
            Habit::Bursts => self.rng.usize(60..=120),
        };
        let drafts: Vec<Draft> = (0..count).map(|_| self.draft()).collect();
        let ids: Vec<Uuid> = drafts.iter().map(|draft| draft.id).collect();
        for Draft { id, options, delay, .. } in &drafts {
            self.ledger.begin(*id, *delay, options["delivery"] == "at_most_once", options["urgent"] == true);
        }
        let intent = match self.rng.u8(0..100) {
            // One statement is a transaction of its own, as most business code writes it.
            _ if drafts.len() == 1 && self.rng.bool() => Intent::CommitAtOnce,
            0..15 => Intent::RollBack,
            15..18 => Intent::HangUp,
            _ => Intent::Commit,
        };
        let end = match intent {
            Intent::CommitAtOnce => end_of(insert(&client, &drafts).await),
            _ => self.several(&client, &drafts, intent).await,
        };
        self.ledger.end(&ids, end);
        // A transaction that was broken off would take the next one with it.
        let is_good = intent != Intent::HangUp && end != End::Unknown;
        let is_good = is_good && (end == End::Committed || client.batch_execute("rollback").await.is_ok());
        (end, is_good.then_some(client))
    }

    async fn several(&mut self, client: &Client, drafts: &[Draft], intent: Intent) -> End {
        let isolation = ["read committed", "repeatable read", "serializable"][self.rng.usize(0..3)];
        let late = if self.habit == Habit::Late { self.rng.u64(300..2_500) } else { 0 };
        let written = async {
            client.batch_execute(&format!("begin isolation level {isolation}")).await?;
            insert(client, drafts).await?;
            tokio::time::sleep(Duration::from_millis(late)).await;
            Ok::<_, Error>(())
        };
        match written.await {
            Ok(()) if intent == Intent::Commit => end_of(client.batch_execute("commit").await),
            // Nobody has asked for a commit.
            Ok(()) | Err(_) => End::RolledBack,
        }
    }

    fn draft(&mut self) -> Draft {
        let mut options = json!({});
        if self.rng.u8(0..100) < 12 {
            options["delivery"] = json!("at_most_once");
        }
        if self.rng.u8(0..100) < 12 {
            options["urgent"] = json!(true);
        }
        Draft {
            id: uuid::Builder::from_random_bytes(self.rng.u128(..).to_be_bytes()).into_uuid(),
            payload: json!({ "text": "x".repeat(self.rng.usize(1..400)) }),
            options,
            delay: Duration::from_secs((self.rng.u8(0..100) < 12).into()),
        }
    }
}

async fn connect(url: &str) -> Result<Client, Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // Its errors are the client's as well.
    tokio::spawn(connection);
    Ok(client)
}

async fn insert(client: &Client, drafts: &[Draft]) -> Result<(), Error> {
    let ids: Vec<Uuid> = drafts.iter().map(|draft| draft.id).collect();
    let payloads: Vec<&Value> = drafts.iter().map(|draft| &draft.payload).collect();
    let options: Vec<&Value> = drafts.iter().map(|draft| &draft.options).collect();
    let delays: Vec<f64> = drafts.iter().map(|draft| draft.delay.as_secs_f64()).collect();
    client.execute(INSERT, &[&ids, &payloads, &options, &delays]).await.map(drop)
}

/// What the answer to a commit, or to a statement that commits itself, says.
fn end_of<T>(answer: Result<T, Error>) -> End {
    match answer {
        Ok(_) => End::Committed,
        // An error is an answer; a server that says farewell, or nothing, may have committed.
        Err(error) if error.as_db_error().and_then(DbError::parsed_severity) == Some(Severity::Error) => {
            End::RolledBack
        }
        Err(_) => End::Unknown,
    }
}
