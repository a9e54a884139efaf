//! Text for people: sizes, times, durations, tables.

use std::ffi::OsStr;
use std::io::IsTerminal;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, Table as Comfy, presets};
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Bytes as restic writes them: `512 B`, `1.500 KiB`, `12.345 GiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [(&str, u32); 5] = [("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match UNITS.iter().find(|(_, shift)| bytes >> shift > 0) {
        Some((unit, shift)) => format!("{:.3} {unit}", bytes as f64 / (1u64 << shift) as f64),
        None => format!("{bytes} B"),
    }
}

/// As [`size`], with one decimal, for a line that is soon another: `512 B`, `1.5 KiB`.
pub fn brief_size(bytes: u64) -> String {
    let exact = size(bytes);
    match exact.split_once('.') {
        Some((whole, rest)) => format!("{whole}.{}{}", &rest[..1], &rest[3..]),
        None => exact,
    }
}

/// `12:34`, or `1:02:03` from an hour up; fractions are cut off.
pub fn duration(span: Duration) -> String {
    let seconds = span.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// The engine's time as the calendar's: it covers fewer years, so this is exact.
pub fn timestamp(time: repo::clock::Time) -> Timestamp {
    Timestamp::from_nanosecond(time.0.into()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// `2026-11-17 18:00:00+01:00` in `zone`: with the offset, so that it means one moment wherever it is read, and can be typed
/// again as it is.
pub fn time_in(instant: Timestamp, zone: &TimeZone) -> String {
    instant.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S%:z").to_string()
}

/// `2026-11-17 18:00:00+01:00`, in the local zone.
pub fn time(instant: Timestamp) -> String {
    time_in(instant, &TimeZone::system())
}

/// `1 file`, `2 files`.
pub fn count(n: u64, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// Mode bits as `ls -l` writes them: `drwxr-xr-x`, `-rwsr-xr-x`.
pub fn mode(mode: u32) -> String {
    let kind = match mode & libc::S_IFMT {
        libc::S_IFDIR => 'd',
        libc::S_IFLNK => 'l',
        libc::S_IFIFO => 'p',
        libc::S_IFSOCK => 's',
        libc::S_IFCHR => 'c',
        libc::S_IFBLK => 'b',
        _ => '-',
    };
    let mut out = String::from(kind);
    for (shift, special, letter) in [(6, libc::S_ISUID, 's'), (3, libc::S_ISGID, 's'), (0, libc::S_ISVTX, 't')] {
        let bits = mode >> shift;
        out.push(if bits & 4 != 0 { 'r' } else { '-' });
        out.push(if bits & 2 != 0 { 'w' } else { '-' });
        out.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    out
}

/// A path or name from a snapshot as one line of text: control characters escaped, so that it cannot act on a terminal.
pub fn path(raw: &[u8]) -> String {
    repo::error::printable(Path::new(OsStr::from_bytes(raw)))
}

/// A terminal that says it is narrower does not know how wide it is (0), or shows a row better as one long line than as a
/// letter a line.
const NARROWEST: u16 = 20;

/// A table without borders. On a terminal long cells wrap; elsewhere a row is a line.
pub struct Table {
    inner: Comfy,
}

impl Table {
    /// A table with these column titles; those that begin with `>` are aligned to the right (and shown without it).
    pub fn new(titles: &[&str]) -> Table {
        Table::with(titles, std::io::stdout().is_terminal())
    }

    fn with(titles: &[&str], terminal: bool) -> Table {
        let mut inner = Comfy::new();
        inner.load_style(presets::NOTHING);
        let width = inner.width().filter(|_| terminal);
        inner.set_content_arrangement(arrangement(width));
        inner.set_header(titles.iter().map(|t| t.trim_start_matches('>')).collect::<Vec<_>>());
        for (index, title) in titles.iter().enumerate() {
            if let Some(column) = inner.column_mut(index) {
                column.set_padding((0, 2));
                if title.starts_with('>') {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        Table { inner }
    }

    /// Adds a row. Control characters are escaped.
    pub fn row<S: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.inner
            .add_row(cells.into_iter().map(|c| repo::error::printable(Path::new(c.as_ref()))).collect::<Vec<_>>());
    }

    /// The table's lines, without white space at their ends.
    pub fn lines(&self) -> Vec<String> {
        self.inner.to_string().lines().map(|l| l.trim_end().to_owned()).collect()
    }
}

/// Whether cells wrap on a terminal of this width.
fn arrangement(width: Option<u16>) -> ContentArrangement {
    match width {
        Some(width) if width >= NARROWEST => ContentArrangement::Dynamic,
        _ => ContentArrangement::Disabled,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_wrap_only_where_there_is_room() {
        for (width, wraps) in [(None, false), (Some(0), false), (Some(19), false), (Some(20), true), (Some(80), true)] {
            assert_eq!(matches!(arrangement(width), ContentArrangement::Dynamic), wraps, "{width:?}");
        }
    }

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.000 KiB"),
            (1536, "1.500 KiB"),
            (5 << 20, "5.000 MiB"),
            (13_255_342_817, "12.345 GiB"),
            (3 << 40, "3.000 TiB"),
            (u64::MAX, "16384.000 PiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        for (bytes, text) in [(1023, "1023 B"), (1536, "1.5 KiB"), (13_255_342_817, "12.3 GiB")] {
            assert_eq!(brief_size(bytes), text);
        }
    }

    #[test]
    fn durations_and_counts() {
        assert_eq!(duration(Duration::from_millis(59_999)), "0:59");
        assert_eq!(duration(Duration::from_secs(3723)), "1:02:03");
        assert_eq!((count(1, "file"), count(0, "file")), ("1 file".into(), "0 files".into()));
    }

    #[test]
    fn times_are_in_the_zone() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        assert_eq!(time_in("2026-11-17T17:00:00.9Z".parse().unwrap(), &zone), "2026-11-17 18:00:00+01:00");
    }

    #[test]
    fn modes() {
        for (bits, text) in [
            (0o040755, "drwxr-xr-x"),
            (0o104755, "-rwsr-xr-x"),
            (0o102644, "-rw-r-Sr--"),
            (0o041777, "drwxrwxrwt"),
            (0o120777, "lrwxrwxrwx"),
            (0o020600, "crw-------"),
        ] {
            assert_eq!(mode(bits), text);
        }
    }

    #[test]
    fn tables_have_no_borders_and_escape() {
        let mut table = Table::with(&["ID", ">Size", "Path"], false);
        table.row(["ab12", "5 B", "/a\nb"]);
        table.row(["cd34", "1.000 KiB", "/c"]);
        assert_eq!(table.lines(), ["ID         Size  Path", "ab12        5 B  /a\\nb", "cd34  1.000 KiB  /c"]);
    }

    #[test]
    fn hostile_names_stay_text() {
        assert_eq!(path(b"a\x1b[31m\xff"), "a\\u{1b}[31m\u{fffd}");
    }
}
