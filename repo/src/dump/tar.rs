//! A directory as a POSIX tar archive. What the classic header cannot hold stands in extended (pax) headers: long or
//! large values, fractions of seconds, extended attributes and access control lists as GNU tar and bsdtar write them.
//! Files with large holes are in GNU tar's sparse form 1.0.

use std::collections::HashMap;
use std::io::{self, Write};

use ::tar::{Builder, EntryType as Kind, Header};

use super::reader::{Bytes, Reading, Sparse};
use super::{acl, stop, unwritable};
use crate::error::{Error, Result};
use crate::format::tree::{Content, Entry, EntryType, FileTime, XattrValue};
use crate::ls::{Depth, walk};
use crate::monitor::{Counters, Event, Monitor};
use crate::pack::source::FrameSource;
use crate::path::SnapPath;
use crate::tree::file::data;

/// What an archive holds, and what it does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Archived {
    /// Entries written.
    pub entries: u64,
    /// Sockets, which tar has no word for.
    pub sockets: u64,
    /// Directories and attributes that could not be read or written; each was reported.
    pub failed: u64,
}

/// Writes `root`, a directory or anything else, and all below it, under the names that `at` and the paths below it give.
/// A directory that cannot be read is reported, and the rest goes on; a file that cannot ends the archive, for its
/// header has promised its length.
///
/// # Errors
/// `Interrupted`, what the source gives for a file, what `out` gives.
pub fn archive(
    source: &dyn FrameSource,
    at: &SnapPath,
    root: &Entry,
    out: &mut dyn Write,
    monitor: &dyn Monitor,
) -> Result<Archived> {
    let out = Builder::new(Gate { out, shut: false });
    let mut archive = Archive { source, monitor, out, links: HashMap::new(), done: Archived::default() };
    let all = archive.all(at, root);
    archive.out.get_mut().shut = all.is_err();
    all.map(|()| archive.done)
}

/// Shut when the archive ends early: the builder would else write an archive's end, and what is missing not be missed.
struct Gate<'a> {
    out: &'a mut dyn Write,
    shut: bool,
}

impl Write for Gate<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.shut { Err(io::ErrorKind::BrokenPipe.into()) } else { self.out.write(bytes) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

struct Archive<'a> {
    source: &'a dyn FrameSource,
    monitor: &'a dyn Monitor,
    out: Builder<Gate<'a>>,
    /// The name under which each file with several names was written first.
    links: HashMap<[u8; 32], Vec<u8>>,
    done: Archived,
}

/// Extended header records of one entry, in order.
type Extended = Vec<(String, Vec<u8>)>;

impl Archive<'_> {
    fn all(&mut self, at: &SnapPath, root: &Entry) -> Result<()> {
        self.add(at, root)?;
        if let Content::Dir(dir) = &root.content {
            let (source, monitor) = (self.source, self.monitor);
            let failed = walk(source, at, dir, Depth::All, monitor, &mut |path, entry| self.add(path, entry))?;
            self.done.failed += failed;
        }
        self.out.finish().map_err(unwritable)
    }

    fn add(&mut self, path: &SnapPath, entry: &Entry) -> Result<()> {
        stop(self.monitor)?;
        if entry.kind == EntryType::Socket {
            self.done.sockets += 1;
            self.monitor.event(Event::Warning(&format!("{}: a socket is left out", shown(path))));
            return Ok(());
        }
        let name = member_name(path, entry);
        let mut extended = Extended::new();
        let linked = match (entry.kind, entry.link_group) {
            (EntryType::Dir, _) | (_, None) => None,
            (_, Some(group)) => match self.links.get(&group) {
                Some(first) => Some(first.clone()),
                None => {
                    self.links.insert(group, name.clone());
                    None
                }
            },
        };
        if let Some(first) = linked {
            // Its own target, if it is a symbolic link, has no place here.
            let mut header = header(entry, 0, &mut extended)?;
            header.set_entry_type(Kind::Link);
            set_name(&mut header, &name, &mut extended);
            set_link(&mut header, &first, &mut extended);
            return self.write(&header, extended, &mut io::empty());
        }
        if entry.kind == EntryType::File {
            return self.file(path, entry, &name, extended);
        }
        let mut header = header(entry, 0, &mut extended)?;
        set_name(&mut header, &name, &mut extended);
        if entry.kind == EntryType::Symlink {
            set_link(&mut header, &entry.target, &mut extended);
        }
        self.xattrs(path, entry, &mut extended);
        self.write(&header, extended, &mut io::empty())
    }

    fn file(&mut self, path: &SnapPath, entry: &Entry, name: &[u8], mut extended: Extended) -> Result<()> {
        let (source, monitor) = (self.source, self.monitor);
        let unreadable = |e: Error| e.context(format_args!("cannot read {}", shown(path)));
        let sparse = Sparse::of(source, entry, monitor).map_err(unreadable)?;
        let mut header = header(entry, sparse.as_ref().map_or(entry.size, Sparse::len), &mut extended)?;
        match &sparse {
            Some(_) => set_sparse_name(&mut header, name, entry.size, &mut extended),
            None => set_name(&mut header, name, &mut extended),
        }
        self.xattrs(path, entry, &mut extended);
        match &sparse {
            Some(sparse) => {
                let mut bytes = sparse.reader(source, entry);
                let reading = Reading::new(|buf| bytes.fill(buf).map_err(unreadable), monitor);
                self.content(&header, extended, reading)?;
            }
            None => {
                let mut bytes = Bytes::new(source, &entry.content, false);
                let reading = Reading::new(|buf| bytes.fill(buf).map_err(unreadable), monitor);
                self.content(&header, extended, reading)?;
            }
        }
        Counters::add(&monitor.counters().bytes, entry.size);
        Ok(())
    }

    fn content<F>(&mut self, header: &Header, extended: Extended, mut reading: Reading<'_, F>) -> Result<()>
    where
        F: FnMut(&mut [u8]) -> Result<usize>,
    {
        let written = self.write(header, extended, &mut reading);
        reading.failure.map_or(written, Err)
    }

    fn write(&mut self, header: &Header, extended: Extended, content: &mut dyn io::Read) -> Result<()> {
        let mut header = header.clone();
        header.set_cksum();
        let records = extended.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
        self.out.append_pax_extensions(records).and_then(|()| self.out.append(&header, content)).map_err(unwritable)?;
        self.done.entries += 1;
        Counters::add(&self.monitor.counters().files, 1);
        Ok(())
    }

    fn failed(&mut self, path: &SnapPath, e: &Error) {
        self.done.failed += 1;
        crate::ls::report(self.monitor, path, e);
    }

    fn xattrs(&mut self, path: &SnapPath, entry: &Entry, extended: &mut Extended) {
        for (name, value) in &entry.xattrs {
            let added = match (std::str::from_utf8(name), value) {
                // In an extended header a name ends at the first '='.
                (Ok(name), _) if name.contains('=') => Err(Error::damaged("tar has no place for an attribute's name")),
                (Ok(name), XattrValue::Inline(bytes)) => Ok((name, bytes.clone())),
                (Ok(name), XattrValue::Chunk { h, len }) => {
                    data(self.source, h, u64::from(*len)).map(|chunk| (name, chunk.to_vec()))
                }
                (Err(_), _) => Err(Error::damaged("tar has no place for an attribute's name")),
            };
            match added {
                Ok((name, value)) => {
                    // GNU tar sets lists from their text alone, other programs from the attribute.
                    if let Some(kind) = name.strip_prefix("system.posix_acl_") {
                        match acl::text(&value) {
                            Some(text) => extended.push((format!("SCHILY.acl.{kind}"), text.into_bytes())),
                            None => self.failed(path, &Error::damaged("an access control list makes no sense")),
                        }
                    }
                    extended.push((format!("SCHILY.xattr.{name}"), value));
                }
                Err(e) => self.failed(path, &e),
            }
        }
    }
}

fn shown(path: &SnapPath) -> String {
    format!("/{}", crate::error::printable(path.as_path()))
}

/// Relative, directories with a slash at the end; the root itself is `./`.
fn member_name(path: &SnapPath, entry: &Entry) -> Vec<u8> {
    let mut name = if path.is_root() { b".".to_vec() } else { path.as_bytes().to_vec() };
    if entry.kind == EntryType::Dir {
        name.push(b'/');
    }
    name
}

/// Everything but names. `size` is what follows it.
fn header(entry: &Entry, size: u64, extended: &mut Extended) -> Result<Header> {
    let mut header = Header::new_ustar();
    header.set_entry_type(match entry.kind {
        EntryType::File | EntryType::Socket => Kind::Regular,
        EntryType::Dir => Kind::Directory,
        EntryType::Symlink => Kind::Symlink,
        EntryType::Fifo => Kind::Fifo,
        EntryType::CharDevice => Kind::Char,
        EntryType::BlockDevice => Kind::Block,
    });
    header.set_mode(entry.mode);
    // Past what eleven octal digits hold, or seven for ids, readers take the extended value.
    number(extended, "size", size, 0o77_777_777_777, |v| header.set_size(v));
    number(extended, "uid", u64::from(entry.uid), 0o7_777_777, |v| header.set_uid(v));
    number(extended, "gid", u64::from(entry.gid), 0o7_777_777, |v| header.set_gid(v));
    if entry.mtime.nanos != 0 || !(0..=0o77_777_777_777).contains(&entry.mtime.secs) {
        extended.push(("mtime".to_owned(), decimal(entry.mtime).into_bytes()));
    }
    header.set_mtime(u64::try_from(entry.mtime.secs).unwrap_or(0).min(0o77_777_777_777));
    if matches!(entry.kind, EntryType::CharDevice | EntryType::BlockDevice) {
        header.set_device_major(libc::major(entry.rdev)).map_err(unwritable)?;
        header.set_device_minor(libc::minor(entry.rdev)).map_err(unwritable)?;
    }
    if let Some(ustar) = header.as_ustar_mut() {
        text(extended, "uname", &entry.user, &mut ustar.uname);
        text(extended, "gname", &entry.group, &mut ustar.gname);
    }
    Ok(header)
}

fn number(extended: &mut Extended, key: &str, value: u64, max: u64, set: impl FnOnce(u64)) {
    if value > max {
        extended.push((key.to_owned(), value.to_string().into_bytes()));
    }
    set(value);
}

/// Puts text in a field that ends with a zero byte.
fn text(extended: &mut Extended, key: &str, value: &[u8], field: &mut [u8]) {
    let len = field.len() - 1;
    name(extended, key, value, &mut field[..len]);
}

fn set_name(header: &mut Header, path: &[u8], extended: &mut Extended) {
    name(extended, "path", path, &mut header.as_old_mut().name);
}

/// The name of a file in sparse form: programs that do not know it make a file of map and data, and are to make it aside.
fn set_sparse_name(header: &mut Header, path: &[u8], size: u64, extended: &mut Extended) {
    let last = path.rsplit(|&b| b == b'/').next().unwrap_or(path);
    set_name(header, &[b"GNUSparseFile.0/", last].concat(), extended);
    for (key, value) in [("major", &b"1"[..]), ("minor", b"0"), ("name", path)] {
        extended.push((format!("GNU.sparse.{key}"), value.to_vec()));
    }
    extended.push(("GNU.sparse.realsize".to_owned(), size.to_string().into_bytes()));
}

fn set_link(header: &mut Header, target: &[u8], extended: &mut Extended) {
    name(extended, "linkpath", target, &mut header.as_old_mut().linkname);
}

/// Puts a name in its field, and in an extended record if it does not fit or is text that a reader's locale could
/// mistake. Bytes that are no text stand for themselves, as GNU tar writes them: it does not know `hdrcharset`.
fn name(extended: &mut Extended, key: &str, value: &[u8], field: &mut [u8]) {
    let plain = value.is_ascii() || std::str::from_utf8(value).is_err();
    if value.len() > field.len() || !plain {
        extended.push((key.to_owned(), value.to_vec()));
    }
    let n = value.len().min(field.len());
    field[..n].copy_from_slice(&value[..n]);
}

/// Seconds and nanoseconds as one decimal number, which may be negative.
fn decimal(time: FileTime) -> String {
    let nanos = i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos);
    let (sign, whole, part) =
        (if nanos < 0 { "-" } else { "" }, nanos.abs() / 1_000_000_000, nanos.abs() % 1_000_000_000);
    if part == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{part:09}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_times() {
        let time = |secs, nanos| decimal(FileTime { secs, nanos });
        assert_eq!(time(5, 0), "5");
        assert_eq!(time(5, 1), "5.000000001");
        assert_eq!(time(-1, 500_000_000), "-0.500000000");
        assert_eq!(time(-2, 0), "-2");
    }
}
