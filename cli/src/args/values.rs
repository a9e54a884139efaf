//! Small values parsed from the command line; a value of these types is already valid.

use std::str::FromStr;

/// A number of bytes: `4096`, `512K`, `32MiB`, `1.5G`. The letters are powers of 1024, as in restic; `kB`, `MB`, … are
/// powers of 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(s: &str) -> Result<Bytes, String> {
        let wrong = || format!("'{s}' is not a size such as 4096, 512K, 32MiB or 1.5G");
        let split = s.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(s.len());
        let (number, unit) = s.split_at(split);
        let unit = unit.trim().to_ascii_lowercase();
        let (letter, base) = match unit.strip_suffix("ib") {
            Some(letter) if !letter.is_empty() => (letter, 1024u64),
            _ => match unit.strip_suffix('b') {
                Some("") => ("", 1024),
                Some(letter) => (letter, 1000),
                None => (unit.as_str(), 1024),
            },
        };
        let power = ["", "k", "m", "g", "t", "p"].iter().position(|l| *l == letter).ok_or_else(wrong)?;
        let factor = base.pow(power as u32);
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(factor).map(Bytes).ok_or_else(|| format!("'{s}' is too large"));
        }
        let bytes = number.parse::<f64>().map_err(|_| wrong())? * factor as f64;
        if !(0.0..=(1u64 << 60) as f64).contains(&bytes) {
            return Err(format!("'{s}' is too large"));
        }
        Ok(Bytes(bytes as u64))
    }
}

/// Bytes in a second: `10Mbit`, `500kbit`, `2MiB`, `800K`; a number alone is KiB, as in restic. 0 and `unlimited` are no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(pub Option<u64>);

impl FromStr for Rate {
    type Err = String;

    fn from_str(s: &str) -> Result<Rate, String> {
        if s == "unlimited" {
            return Ok(Rate(None));
        }
        let wrong = || format!("'{s}' is not a rate such as 10Mbit, 2MiB or 800 (KiB a second)");
        let text = s.strip_suffix("/s").unwrap_or(s);
        let bytes = match text.to_ascii_lowercase().strip_suffix("bit") {
            Some(bits) => {
                let split = bits.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(bits.len());
                let factor = match bits[split..].trim() {
                    "" => 1.0,
                    "k" => 1e3,
                    "m" => 1e6,
                    "g" => 1e9,
                    _ => return Err(wrong()),
                };
                let bits: f64 = bits[..split].parse().map_err(|_| wrong())?;
                let bytes = bits * factor / 8.0;
                if bits > 0.0 && bytes < 1.0 { 1 } else { bytes as u64 }
            }
            None => match text.parse::<u64>() {
                Ok(kib) => kib.checked_mul(1024).ok_or_else(wrong)?,
                Err(_) => text.parse::<Bytes>().map_err(|_| wrong())?.0,
            },
        };
        Ok(Rate(Some(bytes).filter(|bytes| *bytes > 0)))
    }
}

/// A rate for some hours, or that nothing passes then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace(pub sync::throttle::Pace);

impl FromStr for Pace {
    type Err = String;

    fn from_str(s: &str) -> Result<Pace, String> {
        if s == "pause" {
            return Ok(Pace(sync::throttle::Pace::Pause));
        }
        match s.parse::<Rate>()? {
            Rate(Some(rate)) => Ok(Pace(sync::throttle::Pace::Rate(rate))),
            Rate(None) => Err(format!("'{s}' is no limit: give a rate, or 'pause'")),
        }
    }
}

/// How many snapshots one retention rule keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The newest so many.
    Newest(u32),
    /// All.
    Unlimited,
}

impl FromStr for Keep {
    type Err = String;

    fn from_str(s: &str) -> Result<Keep, String> {
        match s {
            "unlimited" => Ok(Keep::Unlimited),
            _ => match s.parse() {
                Ok(0) | Err(_) => Err(format!("'{s}' is neither a number from 1 nor 'unlimited'")),
                Ok(n) => Ok(Keep::Newest(n)),
            },
        }
    }
}

/// The part of the packs whose data a check reads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Subset {
    /// Part `n` of `m`: after `m` checks with n = 1 … m all was read.
    Part {
        /// Which, from 1.
        n: u32,
        /// Of how many.
        m: u32,
    },
    /// So many percent, chosen at random: above 0, at most 100.
    Percent(f64),
}

impl FromStr for Subset {
    type Err = String;

    fn from_str(s: &str) -> Result<Subset, String> {
        if let Some(percent) = s.strip_suffix('%') {
            return match percent.parse::<f64>() {
                Ok(p) if p > 0.0 && p <= 100.0 => Ok(Subset::Percent(p)),
                _ => Err(format!("'{s}' is not a percentage above 0% and up to 100%")),
            };
        }
        let part = s.split_once('/').and_then(|(n, m)| Some((n.parse::<u32>().ok()?, m.parse::<u32>().ok()?)));
        match part {
            Some((n, m)) if n >= 1 && n <= m => Ok(Subset::Part { n, m }),
            Some(_) => Err(format!("'{s}' must be n/m with n from 1 to m")),
            None => Err(format!("'{s}' is neither n/m (such as 1/10) nor a percentage (such as 2.5%)")),
        }
    }
}

/// How much may stay unused in packs before they are rewritten.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unused {
    /// So many percent of what is in use.
    Percent(f64),
    /// So many bytes.
    Bytes(u64),
    /// Any amount.
    Unlimited,
}

impl FromStr for Unused {
    type Err = String;

    fn from_str(s: &str) -> Result<Unused, String> {
        if s == "unlimited" {
            return Ok(Unused::Unlimited);
        }
        let wrong = || format!("'{s}' is neither a percentage such as 5%, a size such as 10G, nor 'unlimited'");
        match s.strip_suffix('%') {
            Some(percent) => match percent.parse::<f64>() {
                Ok(p) if (0.0..=1e6).contains(&p) => Ok(Unused::Percent(p)),
                _ => Err(wrong()),
            },
            None => s.parse::<Bytes>().map(|bytes| Unused::Bytes(bytes.0)).map_err(|_| wrong()),
        }
    }
}

/// Tags in one argument, separated by commas: a filter's argument needs all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagList(pub Vec<String>);

impl FromStr for TagList {
    type Err = String;

    fn from_str(s: &str) -> Result<TagList, String> {
        let tags: Vec<String> = s.split(',').map(|t| t.trim().to_owned()).collect();
        if tags.iter().any(|t| t.is_empty() || t.chars().any(char::is_control)) {
            return Err(format!("'{}' holds an empty tag or a control character", s.escape_debug()));
        }
        Ok(TagList(tags))
    }
}

impl TagList {
    /// As a list to be set, which may be empty.
    ///
    /// # Errors
    /// As its parsing.
    pub fn or_none(s: &str) -> Result<TagList, String> {
        if s.is_empty() { Ok(TagList(Vec::new())) } else { s.parse() }
    }

    /// The tags of several arguments, each once, in the order given.
    pub fn flatten(lists: &[TagList]) -> Vec<String> {
        let mut out: Vec<String> = Vec::new();
        for tag in lists.iter().flat_map(|l| &l.0) {
            if !out.contains(tag) {
                out.push(tag.clone());
            }
        }
        out
    }
}

/// `FROM:TO`, two numeric ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMap {
    /// As captured.
    pub from: u32,
    /// As restored.
    pub to: u32,
}

impl FromStr for IdMap {
    type Err = String;

    fn from_str(s: &str) -> Result<IdMap, String> {
        s.split_once(':')
            .and_then(|(from, to)| Some(IdMap { from: from.parse().ok()?, to: to.parse().ok()? }))
            .ok_or_else(|| format!("'{s}' is not FROM:TO with two numeric ids"))
    }
}

/// A user: as a number, or by a name that this machine knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User(pub u32);

impl FromStr for User {
    type Err = String;

    fn from_str(s: &str) -> Result<User, String> {
        let by_name = || nix::unistd::User::from_name(s).map(|found| found.map(|user| user.uid.as_raw()));
        number_or_name(s, "user", by_name).map(User)
    }
}

/// A group: as a number, or by a name that this machine knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group(pub u32);

impl FromStr for Group {
    type Err = String;

    fn from_str(s: &str) -> Result<Group, String> {
        let by_name = || nix::unistd::Group::from_name(s).map(|found| found.map(|group| group.gid.as_raw()));
        number_or_name(s, "group", by_name).map(Group)
    }
}

fn number_or_name(
    text: &str,
    what: &str,
    by_name: impl Fn() -> nix::Result<Option<u32>>,
) -> std::result::Result<u32, String> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().map_err(|_| format!("'{text}' is not a {what}'s number, from 0 to {}", u32::MAX));
    }
    match by_name() {
        Ok(Some(id)) => Ok(id),
        Ok(None) => Err(format!("this machine knows no {what} '{text}'; give the number, or another name")),
        Err(e) => Err(format!("cannot look up the {what} '{text}': {e}; give the number")),
    }
}

/// Permission bits in octal, at most 0777.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Octal(pub u32);

impl FromStr for Octal {
    type Err = String;

    fn from_str(s: &str) -> Result<Octal, String> {
        match u32::from_str_radix(s, 8) {
            Ok(bits) if bits <= 0o777 && !s.starts_with('+') => Ok(Octal(bits)),
            _ => Err(format!("'{s}' is not an octal number up to 777")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        for (text, bytes) in [
            ("800", Some(800 << 10)),
            ("10Mbit", Some(1_250_000)),
            ("10mbit/s", Some(1_250_000)),
            ("1.5Gbit", Some(187_500_000)),
            ("1bit", Some(1)),
            ("2MiB", Some(2 << 20)),
            ("2MB/s", Some(2_000_000)),
            ("800K", Some(800 << 10)),
            ("0", None),
            ("unlimited", None),
        ] {
            assert_eq!(text.parse(), Ok(Rate(bytes)), "{text}");
        }
        for text in ["", "fast", "10Mbits", "-1", "bit", "1xbit"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
        assert_eq!("pause".parse(), Ok(Pace(sync::throttle::Pace::Pause)));
        assert!("0".parse::<Pace>().is_err());
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("512K", 512 << 10),
            ("512k", 512 << 10),
            ("32MiB", 32 << 20),
            ("32 MiB", 32 << 20),
            ("1.5G", 3 << 29),
            ("1GB", 1_000_000_000),
            ("7b", 7),
            ("2T", 2 << 40),
        ] {
            assert_eq!(text.parse::<Bytes>(), Ok(Bytes(bytes)), "{text}");
        }
        for text in ["", "K", "-1", "1X", "1.2.3", "99999999999P", "9999999.5P", "ib", "1ib", "nan"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    #[test]
    fn keeps() {
        assert_eq!("7".parse(), Ok(Keep::Newest(7)));
        assert_eq!("unlimited".parse(), Ok(Keep::Unlimited));
        for text in ["0", "-1", "", "all"] {
            assert!(text.parse::<Keep>().is_err(), "{text}");
        }
    }

    #[test]
    fn limits_of_what_stays_unused() {
        assert_eq!("5%".parse(), Ok(Unused::Percent(5.0)));
        assert_eq!("0".parse(), Ok(Unused::Bytes(0)));
        assert_eq!("10G".parse(), Ok(Unused::Bytes(10 << 30)));
        assert_eq!("unlimited".parse(), Ok(Unused::Unlimited));
        for text in ["", "%", "-1%", "nan%", "inf%", "much"] {
            assert!(text.parse::<Unused>().is_err(), "{text}");
        }
    }

    #[test]
    fn subsets() {
        assert_eq!("2/7".parse(), Ok(Subset::Part { n: 2, m: 7 }));
        assert_eq!("2.5%".parse(), Ok(Subset::Percent(2.5)));
        for text in ["0/3", "4/3", "1", "0%", "101%", "nan%", "a/b", "%", "1/0"] {
            assert!(text.parse::<Subset>().is_err(), "{text}");
        }
    }

    #[test]
    fn tags_are_split_and_never_empty() {
        assert_eq!("a, b".parse(), Ok(TagList(vec!["a".into(), "b".into()])));
        assert!("a,,b".parse::<TagList>().is_err());
        assert!("".parse::<TagList>().is_err());
        assert!("a\nb".parse::<TagList>().is_err());
        assert_eq!((TagList::or_none(""), TagList::or_none("a")), (Ok(TagList(vec![])), "a".parse()));
        assert!(TagList::or_none(",").is_err());
        let lists = ["a,b".parse().unwrap(), "b,c".parse().unwrap()];
        assert_eq!(TagList::flatten(&lists), ["a", "b", "c"]);
    }

    #[test]
    fn users_and_groups_have_numbers_or_names() {
        assert_eq!(("0".parse(), "root".parse()), (Ok(User(0)), Ok(User(0))));
        assert_eq!(("4711".parse(), "root".parse()), (Ok(Group(4711)), Ok(Group(0))));
        for text in ["", "-1", "4294967296", "no such name"] {
            assert!(text.parse::<User>().is_err() && text.parse::<Group>().is_err(), "{text}");
        }
        let why = "nobody-of-that-name".parse::<User>().unwrap_err();
        assert!(why.contains("knows no user 'nobody-of-that-name'") && why.contains("number"), "{why}");
    }

    #[test]
    fn id_maps_and_octal() {
        assert_eq!("1000:0".parse(), Ok(IdMap { from: 1000, to: 0 }));
        assert!("1000".parse::<IdMap>().is_err());
        assert!("a:b".parse::<IdMap>().is_err());
        assert_eq!("022".parse(), Ok(Octal(0o22)));
        for text in ["8", "1000", "", "+7"] {
            assert!(text.parse::<Octal>().is_err(), "{text}");
        }
    }
}
