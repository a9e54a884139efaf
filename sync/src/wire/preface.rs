//! What each side says before the first message, and what follows from both.

use repo::error::{Error, Kind, Result};
use repo::format::wire::{Reader, Writer};

use super::codec::broken;
use super::limits::{MAX_FEATURE, MAX_FEATURES, MAX_PREFACE};

/// How a preface begins.
pub const MAGIC: &[u8; 8] = b"PKMLSYNC";
/// Bytes before the rest of a preface: the magic and the rest's length.
pub const PREFACE_HEAD: usize = 10;
/// The lowest version of the protocol that this program speaks.
pub const LOWEST: u16 = 1;
/// The highest version of the protocol that this program speaks.
pub const HIGHEST: u16 = 1;
/// The feature of sides that know [`Message::Receipts`](super::Message::Receipts).
pub const RECEIPTS: &str = "receipts";

/// What to do where this side is the older one …
pub(super) const UPDATE_THIS: &str = "update packmule on this side";
/// … and where the other is.
pub(super) const UPDATE_OTHER: &str = "update packmule on the other side";

/// What a side can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preface {
    /// The lowest version it speaks, at least 1.
    pub lowest: u16,
    /// The highest version it speaks.
    pub highest: u16,
    /// What it knows beyond that, ascending: 1 to 32 bytes of `a`–`z`, `0`–`9` and `-` each.
    pub features: Vec<String>,
}

/// What both sides can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The version in force.
    pub version: u16,
    /// The features that both know, ascending.
    pub features: Vec<String>,
}

impl Agreed {
    /// Whether both know this feature.
    pub fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|known| known == feature)
    }
}

impl Preface {
    /// This program's.
    pub fn ours() -> Preface {
        Preface { lowest: LOWEST, highest: HIGHEST, features: vec![RECEIPTS.to_owned()] }
    }

    /// All its bytes.
    ///
    /// # Errors
    /// `Bug` if the other side would refuse them.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut w = Writer::new();
        w.u16(self.lowest);
        w.u16(self.highest);
        w.varint(self.features.len() as u64);
        self.features.iter().for_each(|feature| w.lp_str(feature));
        if w.len() > MAX_PREFACE || !Preface::decode(w.as_slice()).is_ok_and(|back| back == *self) {
            return Err(Error::bug("a preface of the protocol is out of bounds"));
        }
        Ok([&MAGIC[..], &(w.len() as u16).to_le_bytes(), w.as_slice()].concat())
    }

    /// Reads the magic and the length of what follows.
    ///
    /// # Errors
    /// `Io` if this is no preface.
    pub fn decode_head(bytes: &[u8; PREFACE_HEAD]) -> Result<usize> {
        let [magic @ .., a, b] = bytes;
        if magic != MAGIC {
            let message = "what answers there does not speak packmule's protocol";
            return Err(Error::new(Kind::Io, message).remedy("check the address"));
        }
        match usize::from(u16::from_le_bytes([*a, *b])) {
            length if length <= MAX_PREFACE => Ok(length),
            length => Err(broken(format_args!("a preface of {length} bytes"))),
        }
    }

    /// Reads what follows the head. Bytes behind the features are passed over: a later version may add some.
    ///
    /// # Errors
    /// `Io` if no program would have sent it.
    pub fn decode(rest: &[u8]) -> Result<Preface> {
        Preface::read(&mut Reader::new(rest)).map_err(|_| broken("a preface that cannot be read"))
    }

    fn read(r: &mut Reader<'_>) -> Result<Preface> {
        let (lowest, highest) = (r.u16()?, r.u16()?);
        let n = r.count(MAX_FEATURES, 2)?;
        let features = (0..n).map(|_| feature(r)).collect::<Result<Vec<_>>>()?;
        if lowest == 0 || lowest > highest || !features.is_sorted_by(|a, b| a < b) {
            return Err(Error::damaged("versions or features out of order"));
        }
        Ok(Preface { lowest, highest, features })
    }
}

fn feature(r: &mut Reader<'_>) -> Result<String> {
    let name = r.lp_str(MAX_FEATURE)?;
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if name.is_empty() || !name.bytes().all(allowed) {
        return Err(Error::damaged("a feature of an impossible name"));
    }
    Ok(name.to_owned())
}

/// The version in force, the highest that both speak, and the features that both know.
///
/// # Errors
/// Without a common version: `NewerFormat` if this side is the older one, `Unsupported` if the other is. Both are named.
pub fn negotiate(mine: &Preface, theirs: &Preface) -> Result<Agreed> {
    let version = mine.highest.min(theirs.highest);
    if version >= mine.lowest.max(theirs.lowest) {
        let both = mine.features.iter().filter(|feature| theirs.features.contains(feature));
        return Ok(Agreed { version, features: both.cloned().collect() });
    }
    let message = format!(
        "this packmule speaks versions {} of the protocol, the other side {}",
        versions(mine),
        versions(theirs)
    );
    Err(if mine.highest < theirs.lowest {
        Error::new(Kind::NewerFormat, message).remedy(UPDATE_THIS)
    } else {
        Error::new(Kind::Unsupported, message).remedy(UPDATE_OTHER)
    })
}

fn versions(preface: &Preface) -> String {
    if preface.lowest == preface.highest {
        preface.lowest.to_string()
    } else {
        format!("{} to {}", preface.lowest, preface.highest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preface(lowest: u16, highest: u16, features: &[&str]) -> Preface {
        Preface { lowest, highest, features: features.iter().map(|f| (*f).to_owned()).collect() }
    }

    #[test]
    fn the_highest_that_both_speak_is_in_force() {
        for (mine, theirs, version) in
            [((1, 1), (1, 1), 1), ((1, 3), (2, 5), 3), ((2, 5), (1, 3), 3), ((1, 9), (4, 4), 4)]
        {
            let agreed = negotiate(&preface(mine.0, mine.1, &["a", "b"]), &preface(theirs.0, theirs.1, &["b", "c"]));
            assert_eq!(agreed.unwrap(), Agreed { version, features: vec!["b".into()] });
        }
    }

    #[test]
    fn without_a_common_version_the_older_side_is_named() {
        let e = negotiate(&preface(1, 1, &[]), &preface(2, 3, &[])).unwrap_err();
        assert_eq!(e.kind(), Kind::NewerFormat);
        let said =
            "this packmule speaks versions 1 of the protocol, the other side 2 to 3; update packmule on this side";
        assert_eq!(e.to_string(), said);
        let e = negotiate(&preface(2, 3, &[]), &preface(1, 1, &[])).unwrap_err();
        assert_eq!(e.kind(), Kind::Unsupported);
        assert!(e.to_string().ends_with("the other side 1; update packmule on the other side"), "{e}");
    }

    #[test]
    fn a_preface_has_bounds_and_room_to_grow() {
        let mine = preface(1, 2, &["range-audit", "x"]);
        let bytes = mine.encode().unwrap();
        let rest = &bytes[PREFACE_HEAD..];
        assert_eq!(Preface::decode_head(bytes.first_chunk().unwrap()).unwrap(), rest.len());
        assert_eq!(Preface::decode(&[rest, b"later"].concat()).unwrap(), mine);
        for n in 0..rest.len() {
            assert!(Preface::decode(&rest[..n]).is_err());
        }
        for bad in [preface(0, 1, &[]), preface(2, 1, &[]), preface(1, 1, &["b", "a"]), preface(1, 1, &["a", "a"])] {
            assert_eq!(bad.encode().unwrap_err().kind(), Kind::Bug);
        }
        for bad in ["", "A", "a b", "\x1b", &"x".repeat(33)] {
            assert!(preface(1, 1, &[bad]).encode().is_err(), "{bad:?}");
        }
        let many: Vec<String> = (0..33).map(|n| format!("f{n:02}")).collect();
        assert!(Preface { features: many, ..mine }.encode().is_err());
        assert!(Preface::decode_head(b"SSH-2.0-Op").unwrap_err().to_string().contains("does not speak"));
        assert!(Preface::decode_head(b"PKMLSYNC\x01\x08").is_err());
        assert_eq!(Preface::decode_head(b"PKMLSYNC\x00\x08").unwrap(), MAX_PREFACE);
    }
}
