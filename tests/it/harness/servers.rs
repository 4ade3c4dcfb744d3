//! Private servers, from the binaries of the machine.
//!
//! Each server is the child of a small shell that waits on its stdin. Only the test process holds the other end of that
//! pipe, so the shell notices its death, even by SIGKILL, stops the server and removes its folder.

mod postgres;
mod prometheus;
mod redis;

#[allow(unused_imports, reason = "for the benchmark")]
pub(crate) use postgres::bin_dir;
pub(crate) use postgres::{Database, Postgres, connect, connect_listening};
#[allow(unused_imports, reason = "for the tests, and not for what else stands on this")]
pub(crate) use prometheus::Prometheus;
pub(crate) use redis::{Redis, connect as connect_redis};

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::tail;

/// Reads `start` and `stop SIGNAL` from stdin, and `fill` and `empty` where there is a disk, answers each with a line, and
/// cleans up when stdin ends. A disk is made smaller rather than filled: that takes no memory.
const SUPERVISOR: &str = r#"
folder=$1 last_signal=$2 disk=$3 server=
shift 3
disk() { mount -t tmpfs -o "$1" postbell-test "$folder/data"; }
if [ -n "$disk" ]; then
    mkdir "$folder/data" && disk "size=$disk" || exit 1
fi
end() {
    [ -z "$server" ] && return
    kill -s "$1" "$server"
    wait "$server"
    server=
}
while read -r verb signal; do
    case $verb in
    start)
        : >"$folder/log"
        "$@" >>"$folder/log" 2>&1 </dev/null &
        server=$!
        ;;
    stop) end "$signal" ;;
    fill)
        for _ in 1 2 3 4 5 6 7 8 9 10; do
            used=$(df -k "$folder/data" | awk 'NR == 2 { print $3 }')
            # It is refused where more has been written in between.
            disk "remount,size=${used}k" && break
        done
        ;;
    empty) disk "remount,size=$disk" ;;
    esac
    echo done
done
end "$last_signal"
[ -z "$disk" ] || umount "$folder/data"
rm -rf -- "$folder"
"#;

/// A server process and its folder; both end with this value, or with the test process.
struct Server {
    folder: PathBuf,
    shell: Option<Child>,
    pipes: Arc<Mutex<Option<Pipes>>>,
}

struct Pipes {
    to_shell: ChildStdin,
    from_shell: BufReader<ChildStdout>,
}

impl Server {
    /// Prepares a server with a folder of its own; `command` gets that folder and says what to run.
    fn new(kind: &str, last_signal: &str, command: impl FnOnce(&Path) -> Vec<String>) -> Server {
        Server::with(kind, last_signal, None, command)
    }

    /// The same with a disk of its own under `data` in that folder, of so many megabytes, see [`own_disk`].
    fn with(kind: &str, last_signal: &str, disk: Option<u64>, command: impl FnOnce(&Path) -> Vec<String>) -> Server {
        let user = unprivileged_user();
        let folder = new_folder(kind, user);
        let (outer, inner): (&[&str], &[&str]) = if disk.is_some() { (&MOUNTING, &SERVING) } else { (&[], &[]) };
        let words = outer.iter().chain(&["/bin/sh", "-c", SUPERVISOR, "postbell-test-server"]);
        let mut words = words.copied();
        let mut shell = Command::new(words.next().unwrap());
        shell
            .args(words)
            .arg(&folder)
            .arg(last_signal)
            .arg(disk.map(|megabytes| format!("{megabytes}m")).unwrap_or_default())
            .args(inner)
            .args(command(&folder))
            .current_dir("/")
            // A group of its own: Ctrl-C must end the test, not the shell that cleans up after it.
            .process_group(0)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        for variable in ["PGDATA", "PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGOPTIONS", "PGTZ"] {
            shell.env_remove(variable);
        }
        if let Some((uid, gid)) = user {
            shell.uid(uid).gid(gid);
        }
        let mut shell = shell.spawn().expect("/bin/sh starts");
        let pipes =
            Pipes { to_shell: shell.stdin.take().unwrap(), from_shell: BufReader::new(shell.stdout.take().unwrap()) };
        Server { folder, shell: Some(shell), pipes: Arc::new(Mutex::new(Some(pipes))) }
    }

    /// Starts the server and waits until `ready`; false where another process has its port.
    async fn start(&self, ready: impl Fn(&str) -> bool) -> bool {
        self.tell("start").await;
        let start = Instant::now();
        loop {
            let log = self.log();
            if ready(&log) {
                return true;
            }
            if ["Address already in use", "address already in use", "Failed listening on port"]
                .iter()
                .any(|line| log.contains(line))
            {
                self.tell("stop KILL").await;
                return false;
            }
            let failed = [
                "FATAL:  could not",
                "initdb: error",
                "not found",
                "Permission denied",
                "Fatal config",
                "error loading config",
            ];
            let hopeless = failed.iter().any(|word| log.contains(word)) || start.elapsed() > Duration::from_secs(60);
            assert!(!hopeless, "a test server does not start; the end of its log:{}", tail(&log, 20));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends the server with a signal and waits until it is gone.
    async fn stop(&self, signal: &str) {
        self.tell(&format!("stop {signal}")).await;
    }

    /// Leaves no room on its disk.
    async fn fill_disk(&self) {
        self.tell("fill").await;
    }

    /// Ends [`Self::fill_disk`].
    async fn empty_disk(&self) {
        self.tell("empty").await;
    }

    fn log(&self) -> String {
        let bytes = fs::read(self.folder.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    async fn tell(&self, what: &str) {
        let (pipes, line) = (self.pipes.clone(), format!("{what}\n"));
        let told = tokio::task::spawn_blocking(move || {
            let mut pipes = pipes.lock().unwrap();
            let pipes = pipes.as_mut().unwrap();
            pipes.to_shell.write_all(line.as_bytes()).unwrap();
            pipes.from_shell.read_line(&mut String::new()).unwrap()
        });
        assert_ne!(told.await.unwrap(), 0, "the shell of a test server is gone");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The end of its stdin is the shell's sign to clean up.
        if let Ok(mut pipes) = self.pipes.lock() {
            pipes.take();
        }
        if let Some(mut shell) = self.shell.take() {
            std::thread::spawn(move || shell.wait());
        }
    }
}

/// A namespace in which one may mount, without any privilege outside of it, …
const MOUNTING: [&str; 5] = ["unshare", "--user", "--map-root-user", "--mount", "--"];

/// … and one in it for the server, to which it must not look as if it were root.
const SERVING: [&str; 5] = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "--"];

/// Whether a server can have a disk of its own here. Not every system lets an unprivileged user mount one.
fn own_disk() -> bool {
    let mut trial = Command::new(MOUNTING[0]);
    trial.args(&MOUNTING[1..]).args(["/bin/sh", "-c", r#"mount -t tmpfs -o size=1m none /tmp && "$@""#, "trial"]);
    trial.args(SERVING).arg("true").stdout(Stdio::null()).stderr(Stdio::null());
    if let Some((uid, gid)) = unprivileged_user() {
        trial.uid(uid).gid(gid);
    }
    trial.status().is_ok_and(|status| status.success())
}

/// Whom to run servers as: PostgreSQL refuses to run as root.
fn unprivileged_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let id = |flag: &str, name: &str| output("id", &[flag, name])?.parse().ok();
    let user = ["postgres", "nobody"].iter().find_map(|name| Some((id("-u", name)?, id("-g", name)?)));
    Some(user.expect("as root, there must be a user postgres or nobody to run PostgreSQL as"))
}

fn new_folder(kind: &str, user: Option<(u32, u32)>) -> PathBuf {
    // A folder of root's own, as TMPDIR may be, is closed to the user who runs the servers.
    let parent = if user.is_some() { PathBuf::from("/tmp") } else { std::env::temp_dir() };
    let folder = parent.join(format!("postbell-test-{kind}-{}-{:08x}", std::process::id(), fastrand::u32(..)));
    fs::DirBuilder::new().mode(0o700).create(&folder).unwrap();
    if let Some((uid, gid)) = user {
        chown(&folder, Some(uid), Some(gid)).unwrap();
    }
    folder
}

/// A port that nobody listens on, below the range from which outgoing connections get theirs: a server that is down for
/// a while finds it free again.
pub(crate) fn free_port() -> u16 {
    std::iter::repeat_with(|| fastrand::u16(15_000..32_000))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .unwrap()
}

/// What a program prints, where it succeeds.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Where a program is, by PATH.
fn on_path(program: &str) -> Option<PathBuf> {
    output("/bin/sh", &["-c", &format!("command -v {program}")]).map(PathBuf::from)
}
