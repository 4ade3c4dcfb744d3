//! Just enough of the wire protocols of PostgreSQL and Redis to see requests and replies go by, and which step of
//! postbell's protocol each belongs to.

use std::collections::{HashMap, VecDeque};

/// What goes through a proxy.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Statements are named by the comment they begin with, `-- take: …`; others by their first word in lower case.
    Postgres,
    /// Commands are named in upper case, with their arguments.
    Redis,
}

/// One request, by name. A PostgreSQL step is one word; a Redis one is the command and its arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Step(Vec<String>);

impl Step {
    fn of_sql(sql: &str) -> Step {
        let first = sql.trim_start().split('\n').next().unwrap_or_default();
        let commented = first.strip_prefix("-- ").and_then(|comment| Some(comment.split_once(':')?.0.trim()));
        let name = commented.unwrap_or_else(|| first.split([' ', ';']).next().unwrap_or_default());
        Step(vec![name.to_ascii_lowercase()])
    }

    /// Whether a test that asks for `pattern` means this one: `take`; `XADD`; `XADD notification:events`, where the
    /// second word may be any argument.
    pub(crate) fn matches(&self, pattern: &str) -> bool {
        let mut words = pattern.split(' ');
        self.0.first().map(String::as_str) == words.next()
            && words.all(|word| self.0.iter().skip(1).any(|argument| argument == word))
    }
}

/// A complete piece of one direction: so many bytes, and what they mean.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) length: usize,
    /// In a request: the step that begins with this frame.
    pub(crate) begins: Option<Step>,
    /// In a reply: the steps that this frame completes, successfully and (a read of a stream) with something to do.
    pub(crate) completes: Vec<Step>,
    /// In a reply: nothing more belongs to it.
    pub(crate) ends_reply: bool,
}

/// What a proxy knows of one connection.
pub(crate) struct Wire {
    protocol: Protocol,
    startup_done: bool,
    /// Answers of one byte that the server owes before the startup packet.
    single_bytes: usize,
    statements: HashMap<Vec<u8>, Step>,
    /// Begun and not yet followed by a Sync.
    open: Vec<Step>,
    /// One entry a ReadyForQuery, or a Redis reply, that is still to come.
    owed: VecDeque<Vec<Step>>,
    failed: bool,
}

impl Wire {
    pub(crate) fn new(protocol: Protocol) -> Wire {
        Wire {
            protocol,
            startup_done: false,
            single_bytes: 0,
            statements: HashMap::new(),
            open: Vec::new(),
            owed: VecDeque::new(),
            failed: false,
        }
    }

    /// The first request frame of these bytes, if it is there to its end. Each frame must be passed once.
    pub(crate) fn request(&mut self, bytes: &[u8]) -> Option<Frame> {
        match self.protocol {
            Protocol::Postgres if self.startup_done => self.postgres_request(bytes),
            Protocol::Postgres => self.postgres_startup(bytes),
            Protocol::Redis => {
                let (length, step) = redis_request(bytes)?;
                self.owed.push_back(vec![step.clone()]);
                Some(Frame { length, begins: Some(step), ..Frame::default() })
            }
        }
    }

    /// The first reply frame of these bytes, likewise.
    pub(crate) fn reply(&mut self, bytes: &[u8]) -> Option<Frame> {
        match self.protocol {
            Protocol::Postgres => self.postgres_reply(bytes),
            Protocol::Redis => {
                let length = redis_length(bytes)?;
                let steps = if bytes[0] == b'>' { None } else { self.owed.pop_front() };
                let mut completes = steps.unwrap_or_default();
                completes.retain(|step| redis_has_something(step, &bytes[..length]));
                Some(Frame { length, completes, ends_reply: true, ..Frame::default() })
            }
        }
    }

    /// The steps whose reply is on its way or comes next.
    pub(crate) fn answering(&self) -> &[Step] {
        self.owed.front().map_or(&self.open, |steps| steps)
    }

    fn postgres_startup(&mut self, bytes: &[u8]) -> Option<Frame> {
        const SSL_REQUEST: u32 = 80_877_103;
        const GSSENC_REQUEST: u32 = 80_877_104;
        let length = be_u32(bytes, 0)? as usize;
        let code = be_u32(bytes.get(..length)?, 4)?;
        if matches!(code, SSL_REQUEST | GSSENC_REQUEST) {
            self.single_bytes += 1;
        } else {
            self.startup_done = true;
        }
        Some(Frame { length, ..Frame::default() })
    }

    fn postgres_request(&mut self, bytes: &[u8]) -> Option<Frame> {
        let length = 1 + be_u32(bytes, 1)? as usize;
        let body = bytes.get(5..length)?;
        let mut begins = None;
        match bytes[0] {
            b'P' => {
                let (name, rest) = c_string(body);
                self.statements.insert(name.to_vec(), Step::of_sql(&String::from_utf8_lossy(c_string(rest).0)));
            }
            b'B' => {
                let (_portal, rest) = c_string(body);
                begins = self.statements.get(c_string(rest).0).cloned();
                self.open.extend(begins.clone());
            }
            b'Q' => {
                let step = Step::of_sql(&String::from_utf8_lossy(c_string(body).0));
                self.owed.push_back(vec![step.clone()]);
                begins = Some(step);
            }
            b'S' => self.owed.push_back(std::mem::take(&mut self.open)),
            _ => {}
        }
        Some(Frame { length, begins, ..Frame::default() })
    }

    fn postgres_reply(&mut self, bytes: &[u8]) -> Option<Frame> {
        if self.single_bytes > 0 && !bytes.is_empty() {
            self.single_bytes -= 1;
            return Some(Frame { length: 1, ..Frame::default() });
        }
        let length = 1 + be_u32(bytes, 1)? as usize;
        bytes.get(..length)?;
        let mut completes = Vec::new();
        match bytes[0] {
            b'E' => self.failed = true,
            b'Z' => {
                // Nothing is owed for the one that ends the log-in.
                let answered = self.owed.pop_front().unwrap_or_default();
                if !std::mem::take(&mut self.failed) {
                    completes = answered;
                }
            }
            _ => {}
        }
        Some(Frame { length, completes, ends_reply: bytes[0] == b'Z', ..Frame::default() })
    }
}

fn be_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn c_string(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    (&bytes[..end], bytes.get(end + 1..).unwrap_or_default())
}

/// A line of the Redis protocol and what follows it.
fn line(bytes: &[u8]) -> Option<(&str, usize)> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    Some((std::str::from_utf8(&bytes[..end]).unwrap_or_default(), end + 2))
}

/// Clients send arrays of bulk strings.
fn redis_request(bytes: &[u8]) -> Option<(usize, Step)> {
    let (head, mut at) = line(bytes)?;
    let mut words = Vec::new();
    for _ in 0..head.strip_prefix('*').and_then(|count| count.parse::<usize>().ok()).unwrap_or(0) {
        let (size, skip) = line(bytes.get(at..)?)?;
        let size: usize = size.strip_prefix('$')?.parse().ok()?;
        at += skip;
        words.push(String::from_utf8_lossy(bytes.get(at..at + size + 2)?.strip_suffix(b"\r\n")?).into_owned());
        at += size + 2;
    }
    if let Some(command) = words.first_mut() {
        command.make_ascii_uppercase();
    }
    Some((at, Step(words)))
}

/// How long the first complete value is.
fn redis_length(bytes: &[u8]) -> Option<usize> {
    let (head, mut at) = line(bytes)?;
    let count = || head.get(1..)?.parse::<usize>().ok();
    let nested = match bytes.first()? {
        b'$' | b'=' | b'!' => {
            at += count().map_or(0, |size| size + 2);
            0
        }
        b'*' | b'~' | b'>' => count().unwrap_or(0),
        b'%' => 2 * count().unwrap_or(0),
        b'|' => 2 * count().unwrap_or(0) + 1,
        _ => 0,
    };
    for _ in 0..nested {
        at += redis_length(bytes.get(at..)?)?;
    }
    (bytes.len() >= at).then_some(at)
}

/// A reply that is not an error; and to a read of a stream, one that carries entries rather than a time-out.
fn redis_has_something(step: &Step, reply: &[u8]) -> bool {
    use redis::Value;
    fn is_full(entries: &Value) -> bool {
        matches!(entries, Value::Array(entries) if !entries.is_empty())
    }
    let Ok(value) = redis::parse_redis_value(reply) else {
        return false;
    };
    match (step.0.first().map(String::as_str), value) {
        (_, Value::ServerError(_)) | (Some("XREADGROUP" | "XAUTOCLAIM"), Value::Nil) => false,
        (Some("XREADGROUP"), Value::Array(streams)) => {
            streams.iter().any(|stream| matches!(stream, Value::Array(pair) if pair.get(1).is_some_and(is_full)))
        }
        (Some("XREADGROUP"), Value::Map(streams)) => streams.iter().any(|(_, entries)| is_full(entries)),
        (Some("XAUTOCLAIM"), Value::Array(parts)) => parts.get(1).is_some_and(is_full),
        _ => true,
    }
}

mod tests {
    use super::*;

    #[test]
    fn a_step_is_named_by_the_comment_a_statement_begins_with() {
        assert!(Step::of_sql("-- take: a consumer takes\nselect 1").matches("take"));
        assert!(Step::of_sql("COMMIT").matches("commit"));
        assert!(Step::of_sql("LISTEN notification_events").matches("listen"));
    }

    #[test]
    fn a_client_that_asks_for_tls_first_is_followed_all_the_same() {
        let mut wire = Wire::new(Protocol::Postgres);
        assert_eq!(wire.request(b"\0\0\0\x08\x04\xd2\x16\x2f").unwrap().length, 8);
        assert_eq!(wire.reply(b"N").unwrap().length, 1);
        assert_eq!(wire.request(b"\0\0\0\x09\0\x03\0\0\0").unwrap().length, 9);
        assert_eq!(wire.reply(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I").unwrap().length, 9);
        assert_eq!(wire.reply(b"Z\0\0\0\x05I").unwrap(), Frame { length: 6, ends_reply: true, ..Frame::default() });
        let begun = wire.request(b"Q\0\0\0\x13-- take: x\nx \0\0").unwrap();
        assert!(begun.begins.unwrap().matches("take"));
        assert!(wire.reply(b"Z\0\0\0\x05I").unwrap().completes[0].matches("take"));
    }

    #[test]
    fn a_redis_step_is_its_command_and_if_wanted_an_argument() {
        let (length, step) = redis_request(b"*3\r\n$4\r\nxadd\r\n$3\r\nkey\r\n$1\r\n*\r\n+more").unwrap();
        assert_eq!(length, 30);
        assert!(step.matches("XADD") && step.matches("XADD key"));
        assert!(!step.matches("XADD other") && !step.matches("XACK"));
        assert_eq!(redis_request(b"*3\r\n$4\r\nxadd\r\n$3\r\nke"), None);
    }

    #[test]
    fn a_redis_reply_is_measured_however_deep_it_is() {
        for whole in [
            "+OK\r\n",
            "$-1\r\n",
            "*-1\r\n",
            "_\r\n",
            "$2\r\nhi\r\n",
            "*2\r\n:1\r\n*1\r\n$0\r\n\r\n",
            "%1\r\n+a\r\n*0\r\n",
        ] {
            assert_eq!(redis_length(whole.as_bytes()), Some(whole.len()), "{whole:?}");
            assert_eq!(redis_length(&whole.as_bytes()[..whole.len() - 1]), None, "{whole:?}");
            assert_eq!(redis_length(format!("{whole}+next\r\n").as_bytes()), Some(whole.len()), "{whole:?}");
        }
    }

    #[test]
    fn a_read_that_timed_out_has_nothing() {
        let read = Step(vec!["XREADGROUP".into()]);
        for nothing in ["*-1\r\n", "_\r\n", "*1\r\n*2\r\n$1\r\ns\r\n*0\r\n", "-NOGROUP no\r\n"] {
            assert!(!redis_has_something(&read, nothing.as_bytes()), "{nothing:?}");
        }
        let entry = "*2\r\n$3\r\n1-1\r\n*2\r\n$1\r\nk\r\n$1\r\nv\r\n";
        for one in [format!("*1\r\n*2\r\n$1\r\ns\r\n*1\r\n{entry}"), format!("%1\r\n$1\r\ns\r\n*1\r\n{entry}")] {
            assert!(redis_has_something(&read, one.as_bytes()), "{one:?}");
        }
    }
}
