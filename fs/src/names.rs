//! Names of synthetic entries: text from outside made safe, and times.

/// Names longer than this cannot be shown.
pub const NAME_MAX: usize = repo::limits::MAX_NAME;

/// `raw` as one component of a path, at most `max` bytes (at least 32): control characters, `%`, `/` and what
/// Windows clients refuse are percent-encoded, as are the whole names `.` and `..` and a trailing dot or space.
/// Different texts give different names; one that is too long is cut and ends in `~` and a hash.
pub fn encode(raw: &str, max: usize) -> String {
    let mut out = String::with_capacity(raw.len());
    let last = raw.len().saturating_sub(1);
    for (i, c) in raw.char_indices() {
        let refused = c.is_control() || "%/\\:*?\"<>|".contains(c) || (i == last && (c == '.' || c == ' '));
        if refused {
            let mut utf8 = [0; 4];
            c.encode_utf8(&mut utf8).bytes().for_each(|b| out.push_str(&format!("%{b:02X}")));
        } else {
            out.push(c);
        }
    }
    if out.is_empty() {
        // No text encodes to this, because `%` is always followed by two digits.
        out.push('%');
    }
    shorten(out, raw, max)
}

fn shorten(mut out: String, raw: &str, max: usize) -> String {
    if out.len() > max {
        let hash = blake3::hash(raw.as_bytes()).to_hex();
        let mut cut = max - 17;
        while !out.is_char_boundary(cut) {
            cut -= 1;
        }
        out.truncate(cut);
        out.push('~');
        out.push_str(&hash[..16]);
    }
    out
}

/// A time in UTC, to the second, without colons: `2026-11-22T09-51-56Z`. Sorts as it should from year 0 to 9999.
pub fn time(ns: i64) -> String {
    let secs = ns.div_euclid(1_000_000_000);
    let (days, rest) = (secs.div_euclid(86_400), secs.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}-{:02}-{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Year, month and day of the proleptic Gregorian calendar, from days since the epoch.
fn civil(days: i64) -> (i64, i64, i64) {
    // Counted from 1 March of year 0, so that the leap day is the last of its year; 146,097 days are 400 years.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The extension that a version of `name` keeps, with its dot; empty if it has none worth keeping.
pub fn extension(name: &[u8]) -> &[u8] {
    match name.iter().rposition(|&b| b == b'.') {
        Some(dot) if dot > 0 && (2..=17).contains(&(name.len() - dot)) => &name[dot..],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_utc_without_colons() {
        assert_eq!(time(1_795_341_116 * 1_000_000_000), "2026-11-22T09-51-56Z");
        assert_eq!(time(0), "1970-01-01T00-00-00Z");
        assert_eq!(time(-1), "1969-12-31T23-59-59Z");
        assert_eq!(time(951_782_400 * 1_000_000_000), "2000-02-29T00-00-00Z");
        time(i64::MIN);
        time(i64::MAX);
    }

    #[test]
    fn text_becomes_a_safe_component() {
        assert_eq!(encode("web1.example", 255), "web1.example");
        assert_eq!(encode("..", 255), ".%2E");
        assert_eq!(encode(".", 255), "%2E");
        assert_eq!(encode("", 255), "%");
        assert_eq!(encode("a/b%\n", 255), "a%2Fb%25%0A");
        assert_eq!(encode("Zürich", 255), "Zürich");
        assert_eq!(encode(&"ü".repeat(400), 255).len(), 255);
    }

    #[test]
    fn versions_keep_short_extensions() {
        assert_eq!(extension(b"a.txt"), b".txt");
        assert_eq!(extension(b".bashrc"), b"");
        assert_eq!(extension(b"a."), b"");
        assert_eq!(extension(b"noext"), b"");
    }

    proptest! {
        #[test]
        fn encoding_is_valid_and_injective(a in ".{0,300}", b in ".{0,300}") {
            let (x, y) = (encode(&a, NAME_MAX), encode(&b, NAME_MAX));
            prop_assert!(repo::path::valid_name(x.as_bytes()));
            prop_assert_eq!(a == b, x == y);
        }
    }
}
