//! What is noted of a connection: how much passed, and what it was about.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::stream::Duplex;
use crate::wire::Message;

/// Within this time …
const SPAN: Duration = Duration::from_secs(3600);
/// … so many entries of one key go to the audit: whoever connects without end must not fill the log.
const ENTRIES: u32 = 600;

/// One connection as it goes on.
#[derive(Default)]
pub struct Visit {
    operation: Mutex<&'static str>,
    snapshots: AtomicU64,
    taken: AtomicU64,
    given: AtomicU64,
    troubles: Mutex<Troubles>,
    /// The connection that this one is a part of.
    whole: OnceLock<Arc<Visit>>,
}

/// What was not taken from a client that was served otherwise.
#[derive(Default)]
struct Troubles {
    declined: u64,
    refused: u64,
    /// Why, the first time.
    why: String,
}

impl Visit {
    /// This is a further connection of another's push: what passes counts there too.
    pub fn is_part_of(&self, whole: &Arc<Visit>) {
        // It carried only its first words so far, but they count.
        let (taken, given) = self.bytes();
        if self.whole.set(Arc::clone(whole)).is_ok() {
            whole.count(taken, given);
        }
    }

    /// Whether it is a further connection of another's push.
    pub fn is_part(&self) -> bool {
        self.whole.get().is_some()
    }

    fn count(&self, taken: u64, given: u64) {
        self.taken.fetch_add(taken, Ordering::Relaxed);
        self.given.fetch_add(given, Ordering::Relaxed);
        if let Some(whole) = self.whole.get() {
            whole.count(taken, given);
        }
    }

    /// Notes what is said to the client, as far as it tells how it went.
    pub fn said(&self, message: &Message) {
        match message {
            Message::Accepted { already: false, .. } => self.snapshot(),
            Message::Declined { why, .. } => self.note(why, |troubles| troubles.declined += 1),
            Message::Refused { why, .. } => self.note(why, |troubles| troubles.refused += 1),
            _ => {}
        }
    }

    /// Something went wrong, and the connection went on.
    pub fn trouble(&self, why: &str) {
        self.note(why, |_| ());
    }

    fn note(&self, why: &str, count: impl FnOnce(&mut Troubles)) {
        if let Some(whole) = self.whole.get() {
            return whole.note(why, count);
        }
        let mut troubles = self.troubles.lock();
        count(&mut troubles);
        if troubles.why.is_empty() {
            why.clone_into(&mut troubles.why);
        }
    }

    /// What was not taken, and why; empty if all was.
    pub fn failure(&self) -> String {
        let troubles = self.troubles.lock();
        let counted = [("declined", "snapshot", troubles.declined), ("refused", "object", troubles.refused)];
        let mut parts: Vec<String> = Vec::new();
        for (how, what, n) in counted.into_iter().filter(|(.., n)| *n > 0) {
            parts.push(format!("{how} {n} {what}{}", if n == 1 { "" } else { "s" }));
        }
        match parts.is_empty() {
            true => troubles.why.clone(),
            false => format!("{}: {}", parts.join(", "), troubles.why),
        }
    }

    /// The stream, with what passes counted.
    pub fn counted(self: &Arc<Visit>, duplex: Duplex) -> Duplex {
        Duplex {
            read: Box::new(Counted { inner: duplex.read, visit: Arc::clone(self) }),
            write: Box::new(Counted { inner: duplex.write, visit: Arc::clone(self) }),
        }
    }

    /// What the client wants, once that is known.
    pub fn is(&self, operation: &'static str) {
        *self.operation.lock() = operation;
    }

    /// A snapshot was taken in or given.
    pub fn snapshot(&self) {
        self.snapshots.fetch_add(1, Ordering::Relaxed);
    }

    /// What the client wanted; empty if it did not say.
    pub fn operation(&self) -> &'static str {
        *self.operation.lock()
    }

    /// Snapshots taken in or given.
    pub fn snapshots(&self) -> u64 {
        self.snapshots.load(Ordering::Relaxed)
    }

    /// Bytes that came, and that went.
    pub fn bytes(&self) -> (u64, u64) {
        (self.taken.load(Ordering::Relaxed), self.given.load(Ordering::Relaxed))
    }
}

struct Counted<T> {
    inner: T,
    visit: Arc<Visit>,
}

impl Read for Counted<Box<dyn Read + Send>> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.visit.count(n as u64, 0);
        Ok(n)
    }
}

impl Write for Counted<Box<dyn Write + Send>> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.visit.count(0, n as u64);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// How much each key has had recorded.
#[derive(Default)]
pub struct Ration(Mutex<HashMap<String, Share>>);

struct Share {
    since: Instant,
    entries: u32,
    left_out: u64,
}

impl Ration {
    /// Takes an entry of a key's ration: how many were left out before it; none if it is to be left out too.
    pub fn take(&self, fingerprint: &str, now: Instant) -> Option<u64> {
        let mut all = self.0.lock();
        all.retain(|key, share| key == fingerprint || now.duration_since(share.since) < SPAN);
        let new = || Share { since: now, entries: 0, left_out: 0 };
        let share = all.entry(fingerprint.to_owned()).or_insert_with(new);
        if now.duration_since(share.since) >= SPAN {
            (share.since, share.entries) = (now, 0);
        }
        if share.entries >= ENTRIES {
            share.left_out += 1;
            return None;
        }
        share.entries += 1;
        Some(std::mem::take(&mut share.left_out))
    }
}

/// Something that an operator may want to know: an event, and what there is to say of it.
pub struct Told<'a> {
    /// What happened, in a word.
    pub event: &'a str,
    /// Names and values.
    pub fields: Vec<(&'static str, String)>,
}

impl std::fmt::Display for Told<'_> {
    /// As `event=served tenant=acme …`; a value with anything but plain characters is quoted and escaped.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "event={}", self.event)?;
        for (name, value) in &self.fields {
            let plain = |c: char| c.is_ascii_graphic() && c != '"' && c != '\\' && c != '=';
            match !value.is_empty() && value.chars().all(plain) {
                true => write!(f, " {name}={value}")?,
                false => write!(f, " {name}=\"{}\"", value.escape_debug())?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use repo::id::{PackId, SnapshotId};

    use super::*;
    use crate::wire::{Object, Reason};

    #[test]
    fn a_line_has_one_meaning() {
        let fields =
            vec![("key", "SHA256:a+/b".to_owned()), ("error", "a \"b\"\nevent=x".to_owned()), ("e", String::new())];
        let line = Told { event: "failed", fields }.to_string();
        assert_eq!(line, r#"event=failed key=SHA256:a+/b error="a \"b\"\nevent=x" e="""#);
    }

    #[test]
    fn what_was_not_taken_is_counted_with_its_reason_and_parts_count_for_the_whole() {
        let (whole, part) = (Arc::new(Visit::default()), Visit::default());
        part.count(5, 1);
        part.is_part_of(&whole);
        part.count(10, 2);
        assert_eq!((whole.bytes(), part.bytes()), ((15, 3), (15, 3)));
        assert_eq!(whole.failure(), "");
        let (snapshot, object) = (SnapshotId([1; 32]), Object::Pack(PackId([2; 32])));
        let declined = |why: &str| Message::Declined { snapshot, reason: Reason::Quota, why: why.to_owned() };
        whole.said(&Message::Accepted { snapshot, already: false });
        whole.said(&declined("full"));
        whole.said(&declined("still full"));
        part.said(&Message::Refused { object, why: "bad".into() });
        assert_eq!(whole.failure(), "declined 2 snapshots, refused 1 object: full");
        assert_eq!((whole.snapshots(), part.failure()), (1, String::new()));
    }

    #[test]
    fn who_connects_without_end_is_counted_only() {
        let (ration, start) = (Ration::default(), Instant::now());
        assert!((0..ENTRIES).all(|_| ration.take("a", start) == Some(0)));
        assert_eq!((ration.take("a", start), ration.take("a", start), ration.take("b", start)), (None, None, Some(0)));
        assert_eq!(ration.take("a", start + SPAN), Some(2));
        assert_eq!(ration.take("a", start + SPAN), Some(0));
        assert_eq!(ration.0.lock().len(), 1, "who is not heard of any more is forgotten");
    }
}
