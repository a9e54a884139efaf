//! Entries of snapshots, for people and for programs.

use repo::format::tree::{Entry, EntryType, FileTime};

use jiff::Timestamp;

use crate::output::{human, json};

/// As `ls -l` shows it, without the path.
pub fn long(entry: &Entry, human_sizes: bool) -> String {
    let size = if human_sizes { human::size(entry.size) } else { entry.size.to_string() };
    let time = human::time(timestamp(entry.mtime));
    format!("{} {:>5} {:>5} {size:>11} {time}", human::mode(mode(entry)), entry.uid, entry.gid)
}

/// A path of a snapshot, from `/`, with what a symbolic link says behind it.
pub fn path(path: &[u8], entry: &Entry, with_target: bool) -> String {
    let shown = human::path(path);
    match entry.kind {
        EntryType::Symlink if with_target => format!("/{shown} -> {}", human::path(&entry.target)),
        _ => format!("/{shown}"),
    }
}

/// For programs.
pub fn node(path: &[u8], entry: &Entry) -> json::Node {
    let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
    let absolute = [b"/", path].concat();
    json::Node {
        name: String::from_utf8_lossy(name).into_owned(),
        r#type: match entry.kind {
            EntryType::File => "file",
            EntryType::Dir => "dir",
            EntryType::Symlink => "symlink",
            EntryType::Fifo => "fifo",
            EntryType::Socket => "socket",
            EntryType::CharDevice => "chardev",
            EntryType::BlockDevice => "dev",
        },
        path: json::PathField::new(&absolute),
        uid: entry.uid,
        gid: entry.gid,
        size: (entry.kind == EntryType::File).then_some(entry.size),
        mode: mode(entry),
        permissions: human::mode(mode(entry)),
        mtime: json::Time(timestamp(entry.mtime)),
        linktarget: (entry.kind == EntryType::Symlink).then(|| String::from_utf8_lossy(&entry.target).into_owned()),
    }
}

/// Permission bits and type as `stat` gives them.
fn mode(entry: &Entry) -> u32 {
    entry.mode
        | match entry.kind {
            EntryType::File => libc::S_IFREG,
            EntryType::Dir => libc::S_IFDIR,
            EntryType::Symlink => libc::S_IFLNK,
            EntryType::Fifo => libc::S_IFIFO,
            EntryType::Socket => libc::S_IFSOCK,
            EntryType::CharDevice => libc::S_IFCHR,
            EntryType::BlockDevice => libc::S_IFBLK,
        }
}

/// A file's time; one that no calendar holds is shown as the nearest that does.
fn timestamp(time: FileTime) -> Timestamp {
    let nearest = if time.secs < 0 { Timestamp::MIN } else { Timestamp::MAX };
    let nanos = i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos);
    Timestamp::from_nanosecond(nanos).unwrap_or(nearest)
}

/// A time as typed, as files have it.
pub fn file_time(at: Timestamp) -> FileTime {
    let nanos = at.as_nanosecond();
    FileTime {
        secs: i64::try_from(nanos.div_euclid(1_000_000_000)).unwrap_or(i64::MAX),
        nanos: nanos.rem_euclid(1_000_000_000) as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_as_text_and_json() {
        let mut link = Entry::new("l\n", EntryType::Symlink);
        link.target = b"to".to_vec();
        (link.mode, link.mtime.secs) = (0o777, i64::MAX);
        assert_eq!(path(b"a/l\n", &link, true), "/a/l\\n -> to");
        assert_eq!(path(b"a/l\n", &link, false), "/a/l\\n");
        assert!(long(&link, false).starts_with("lrwxrwxrwx     0     0           0 9999-"), "{}", long(&link, false));
        let node = node(b"a/\xff", &link);
        assert_eq!((node.name.as_str(), node.path.path.as_str()), ("\u{fffd}", "/a/\u{fffd}"));
        assert!(node.path.path_b64.is_some() && node.size.is_none() && node.linktarget.as_deref() == Some("to"));
    }

    #[test]
    fn times_go_both_ways() {
        for secs in [-5, 0, 1_800_000_000] {
            let time = FileTime { secs, nanos: 7 };
            assert_eq!(file_time(timestamp(time)), time);
        }
    }
}
