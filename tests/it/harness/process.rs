//! The real binary as a process: a clean environment, every line it writes, signals by its own pid.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::{SOON, eventually, tail};

/// The environment of a process: nothing but this.
#[derive(Clone, Debug, Default)]
pub(crate) struct Env(BTreeMap<String, String>);

impl Env {
    /// With one variable set, or changed.
    pub(crate) fn with(mut self, variable: &str, value: impl Display) -> Env {
        self.0.insert(variable.to_owned(), value.to_string());
        self
    }

    /// What is set.
    pub(crate) fn variables(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

/// A running `postbell`; killed when dropped. What it wrote is shown where the test fails.
pub(crate) struct Postbell {
    name: String,
    child: Child,
    pid: Pid,
    stdout: Output,
    stderr: Output,
}

#[derive(Clone)]
struct Output {
    lines: Arc<Mutex<Vec<String>>>,
    reader: Arc<JoinHandle<()>>,
}

impl Postbell {
    /// Starts `postbell` with these arguments.
    pub(crate) fn start(arguments: &[&str], env: &Env) -> Postbell {
        Postbell::spawn(env!("CARGO_BIN_EXE_postbell"), arguments, env)
    }

    /// Starts another program in its place.
    pub(crate) fn spawn(program: &str, arguments: &[&str], env: &Env) -> Postbell {
        let mut child = Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(&env.0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?)).unwrap();
        let (stdout, stderr) = (Output::of(child.stdout.take()), Output::of(child.stderr.take()));
        Postbell { name: format!("postbell {}", arguments.join(" ")), child, pid, stdout, stderr }
    }

    /// Its process id.
    #[allow(dead_code, reason = "for the benchmark")]
    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// What it wrote to stdout until now, line by line.
    pub(crate) fn stdout(&self) -> Vec<String> {
        self.stdout.lines()
    }

    /// What it wrote to stderr, its log, until now.
    pub(crate) fn stderr(&self) -> Vec<String> {
        self.stderr.lines()
    }

    /// Waits for a line of its log that contains `pattern`; panics at the deadline, or at once when it has ended without.
    pub(crate) async fn wait_for_line(&self, pattern: &str, deadline: Duration) -> String {
        let what = format!("{}: a line with {pattern:?}", self.name);
        eventually(deadline, &what, async || {
            let is_all = self.stderr.reader.is_finished();
            let line = self.stderr().into_iter().find(|line| line.contains(pattern));
            assert!(line.is_some() || !is_all, "{} has ended without a line with {pattern:?}", self.name);
            line
        })
        .await
    }

    /// Kills it without notice and waits until it is gone.
    pub(crate) async fn sigkill(&mut self) {
        self.signal(Signal::KILL);
        self.exit_status(SOON).await;
    }

    /// Asks it to finish.
    pub(crate) fn sigterm(&self) {
        self.signal(Signal::TERM);
    }

    /// Interrupts it, as Ctrl-C does.
    pub(crate) fn sigint(&self) {
        self.signal(Signal::INT);
    }

    /// Freezes it, as a paused virtual machine would be.
    pub(crate) fn sigstop(&self) {
        self.signal(Signal::STOP);
    }

    /// Ends [`Self::sigstop`].
    pub(crate) fn sigcont(&self) {
        self.signal(Signal::CONT);
    }

    /// Waits until it has ended and all it wrote is here.
    pub(crate) async fn exit_status(&mut self, deadline: Duration) -> ExitStatus {
        let waited = tokio::time::timeout(deadline, self.child.wait()).await;
        let status = waited.unwrap_or_else(|_| panic!("{} has not ended after {deadline:?}", self.name)).unwrap();
        let readers = [self.stdout.reader.clone(), self.stderr.reader.clone()];
        eventually(SOON, "the end of its output", async || readers.iter().all(|one| one.is_finished()).then_some(()))
            .await;
        status
    }

    /// How it has ended, if it has.
    pub(crate) fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    fn signal(&self, signal: Signal) {
        // Its pid is its own until it has been waited for.
        if self.child.id().is_some() {
            let _ = kill_process(self.pid, signal);
        }
    }
}

impl Drop for Postbell {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (stdout, stderr) = (self.stdout().join("\n"), self.stderr().join("\n"));
            println!("{} (pid {}) wrote:{}{}", self.name, self.pid, tail(&stdout, 50), tail(&stderr, 400));
        }
    }
}

impl Output {
    fn of(pipe: Option<impl AsyncRead + Send + Unpin + 'static>) -> Output {
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let (pipe, kept) = (pipe.unwrap(), lines.clone());
        let reader = tokio::spawn(async move {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while pipe.read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0) {
                kept.lock().unwrap().push(String::from_utf8_lossy(&line).trim_end().to_owned());
                line.clear();
            }
        });
        Output { lines, reader: Arc::new(reader) }
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }
}

mod tests {
    use super::*;

    #[tokio::test]
    async fn the_binary_says_which_version_it_is() {
        let mut postbell = Postbell::start(&["--version"], &Env::default());
        assert!(postbell.exit_status(SOON).await.success());
        assert_eq!(postbell.stdout(), [concat!("postbell ", env!("CARGO_PKG_VERSION"))]);
    }

    #[tokio::test]
    async fn bad_configuration_ends_with_64_and_says_which() {
        let env = Env::default().with("DATABASE_URL", "postgres://x").with("NOTIFICATION_LOG_FORMAT", "xml");
        let mut postbell = Postbell::start(&["relay"], &env);
        postbell.wait_for_line("NOTIFICATION_LOG_FORMAT", SOON).await;
        assert_eq!(postbell.exit_status(SOON).await.code(), Some(64));
        // Harmless by now.
        postbell.sigterm();
    }

    /// A stand-in that goes on until SIGTERM, and says so.
    fn shell() -> Postbell {
        let script = "trap 'echo asked >&2; exit 7' TERM; echo ready >&2; while :; do sleep 0.02; echo on >&2; done";
        Postbell::spawn("/bin/sh", &["-c", script], &Env::default().with("PATH", "/usr/bin:/bin"))
    }

    #[tokio::test]
    async fn a_process_is_asked_frozen_and_killed() {
        let mut asked = shell();
        asked.wait_for_line("ready", SOON).await;
        assert_eq!(asked.has_ended(), None);
        asked.sigterm();
        asked.wait_for_line("asked", SOON).await;
        assert_eq!(asked.exit_status(SOON).await.code(), Some(7));
        assert_eq!(asked.has_ended().and_then(|status| status.code()), Some(7));

        let mut frozen = shell();
        frozen.wait_for_line("on", SOON).await;
        frozen.sigstop();
        let state = format!("/proc/{}/stat", frozen.pid);
        let is_stopped =
            async || std::fs::read_to_string(&state).map_or(Some(()), |stat| stat.contains(") T ").then_some(()));
        eventually(SOON, "the process to stop", is_stopped).await;
        let lines = frozen.stderr().len();
        frozen.sigcont();
        eventually(SOON, "the process to go on", async || (frozen.stderr().len() > lines).then_some(())).await;
        frozen.sigkill().await;
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&frozen.exit_status(SOON).await), Some(9));
    }
}
