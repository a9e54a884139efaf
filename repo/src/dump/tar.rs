//! A directory as a POSIX tar archive. What the classic header cannot hold stands in extended (pax) headers: long or
//! large values, fractions of seconds, extended attributes as GNU tar and bsdtar write them.

use std::collections::HashMap;
use std::io::{self, Write};

use ::tar::{Builder, EntryType as Kind, Header};

use super::{Reader, stop, unwritable};
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
    let mut archive =
        Archive { source, monitor, out: Builder::new(out), links: HashMap::new(), done: Archived::default() };
    archive.add(at, root)?;
    if let Content::Dir(dir) = &root.content {
        let failed = walk(source, at, dir, Depth::All, monitor, &mut |path, entry| archive.add(path, entry))?;
        archive.done.failed += failed;
    }
    archive.out.finish().map_err(unwritable)?;
    Ok(archive.done)
}

struct Archive<'a> {
    source: &'a dyn FrameSource,
    monitor: &'a dyn Monitor,
    out: Builder<&'a mut dyn Write>,
    /// The name under which each file with several names was written first.
    links: HashMap<[u8; 32], Vec<u8>>,
    done: Archived,
}

/// Extended header records of one entry, in order.
type Extended = Vec<(String, Vec<u8>)>;

impl Archive<'_> {
    fn add(&mut self, path: &SnapPath, entry: &Entry) -> Result<()> {
        stop(self.monitor)?;
        if entry.kind == EntryType::Socket {
            self.done.sockets += 1;
            self.monitor.event(Event::Warning(&format!("{}: a socket is left out", shown(path))));
            return Ok(());
        }
        let name = member_name(path, entry);
        let mut extended = Extended::new();
        let mut header = header(entry, &mut extended)?;
        set_name(&mut header, &name, &mut extended);
        let linked = match (entry.kind, entry.link_group) {
            (EntryType::Dir, _) | (_, None) => None,
            (_, Some(group)) => match self.links.get(&group) {
                Some(first) => Some(first.clone()),
                None => {
                    self.links.insert(group, name);
                    None
                }
            },
        };
        if let Some(first) = linked {
            header.set_entry_type(Kind::Link);
            header.set_size(0);
            extended.retain(|(key, _)| key != "size");
            set_link(&mut header, &first, &mut extended);
            return self.write(&header, extended, &mut io::empty());
        }
        self.xattrs(path, entry, &mut extended);
        match entry.kind {
            EntryType::File => {
                let mut reader = Reader::new(self.source, &entry.content);
                let written = self.write(&header, extended, &mut reader);
                if let Some(e) = reader.failure {
                    return Err(e.context(format_args!("cannot read {}", shown(path))));
                }
                Counters::add(&self.monitor.counters().bytes, entry.size);
                written
            }
            _ => self.write(&header, extended, &mut io::empty()),
        }
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
                Ok((name, value)) => extended.push((format!("SCHILY.xattr.{name}"), value)),
                Err(e) => {
                    self.done.failed += 1;
                    crate::ls::report(self.monitor, path, &e);
                }
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

/// Everything but names.
fn header(entry: &Entry, extended: &mut Extended) -> Result<Header> {
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
    let size = if entry.kind == EntryType::File { entry.size } else { 0 };
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
    if entry.kind == EntryType::Symlink {
        set_link(&mut header, &entry.target, extended);
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
