//! What a repository consists of, by name, for copies that keep the bytes as they are, and for packs.

use repo::error::{Error, Kind, Result};
use repo::format::wire::{Reader, Writer};
use repo::id::{PackId, SnapshotId};

use super::limits::{MAX_STATE_NAME, MAX_STATE_PART, MAX_STATE_PARTS};
use super::parts::newer;

/// A sort of objects: one folder of a repository, or what a server keeps beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Area {
    /// The config.
    Config = 0,
    /// Key slots. No slot that a passphrase opens leaves a site.
    Keys = 1,
    /// Packs.
    Packs = 2,
    /// Roll-ups of footers.
    Footers = 3,
    /// Sealed manifests.
    Snapshots = 4,
    /// Records of the log.
    Log = 5,
    /// A server's own files: tenants, policies, host key, agents, profiles.
    State = 6,
    /// Segments of the audit.
    Audit = 7,
}

/// One object. Its parts cannot name anything outside its area.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    /// The config.
    Config,
    /// A key slot, by the eight bytes that its file's name shows in hexadecimal.
    Key([u8; 8]),
    /// A pack.
    Pack(PackId),
    /// A roll-up, by its number.
    Footers(u64),
    /// A sealed manifest.
    Snapshot(SnapshotId),
    /// A record of the log, by its number.
    Log(u64),
    /// A file of state.
    State(StateName),
    /// A segment of the audit, by its number.
    Audit(u64),
}

/// The name of a file of state: at most 192 bytes, one to four parts with `/` between; a part has 1 to 64 of
/// `a`–`z`, `A`–`Z`, `0`–`9`, `-`, `_` and `.`, which does not begin it. So it is a relative path that stays where it is put.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateName(String);

impl StateName {
    /// Takes a name that is one.
    ///
    /// # Errors
    /// `Usage` for any other.
    pub fn new(name: &str) -> Result<StateName> {
        let part = |part: &str| {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
            (1..=MAX_STATE_PART).contains(&part.len()) && !part.starts_with('.') && part.bytes().all(allowed)
        };
        if name.len() > MAX_STATE_NAME || name.split('/').count() > MAX_STATE_PARTS || !name.split('/').all(part) {
            let message = format!("'{}' cannot be a name of a file of state", super::escape(name));
            return Err(Error::new(Kind::Usage, message));
        }
        Ok(StateName(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Area {
    /// Every area, by number.
    pub const ALL: [Area; 8] =
        [Area::Config, Area::Keys, Area::Packs, Area::Footers, Area::Snapshots, Area::Log, Area::State, Area::Audit];

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Area> {
        let number = r.u8()?;
        Area::ALL.get(usize::from(number)).copied().ok_or_else(|| newer("a sort of objects", number))
    }
}

impl Object {
    /// Which area it is in.
    pub fn area(&self) -> Area {
        match self {
            Object::Config => Area::Config,
            Object::Key(_) => Area::Keys,
            Object::Pack(_) => Area::Packs,
            Object::Footers(_) => Area::Footers,
            Object::Snapshot(_) => Area::Snapshots,
            Object::Log(_) => Area::Log,
            Object::State(_) => Area::State,
            Object::Audit(_) => Area::Audit,
        }
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        w.u8(self.area() as u8);
        self.write_name(w);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Object> {
        let area = Area::read(r)?;
        Object::read_name(r, area)
    }

    /// The name within the area, where that is known already.
    pub(super) fn write_name(&self, w: &mut Writer) {
        match self {
            Object::Config => {}
            Object::Key(slot) => w.bytes(slot),
            Object::Pack(id) => w.bytes(id.as_bytes()),
            Object::Snapshot(id) => w.bytes(id.as_bytes()),
            Object::Footers(number) | Object::Log(number) | Object::Audit(number) => w.u64(*number),
            Object::State(name) => w.lp_str(name.as_str()),
        }
    }

    pub(super) fn read_name(r: &mut Reader<'_>, area: Area) -> Result<Object> {
        Ok(match area {
            Area::Config => Object::Config,
            Area::Keys => Object::Key(r.array()?),
            Area::Packs => Object::Pack(PackId(r.array()?)),
            Area::Footers => Object::Footers(r.u64()?),
            Area::Snapshots => Object::Snapshot(SnapshotId(r.array()?)),
            Area::Log => Object::Log(r.u64()?),
            Area::Audit => Object::Audit(r.u64()?),
            Area::State => {
                let name = StateName::new(r.lp_str(MAX_STATE_NAME)?);
                Object::State(name.map_err(|_| Error::damaged("a name could lead elsewhere"))?)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_state_stays_where_it_is_put() {
        let long = "x".repeat(MAX_STATE_PART);
        let longest = [&long[..], &long, &long[2..]].join("/");
        assert_eq!(longest.len(), MAX_STATE_NAME);
        for good in ["a", "tenants/acme/policy.toml", "a.b", "a/b/c/d", "A-_.9", &long, &longest] {
            assert_eq!(StateName::new(good).unwrap().as_str(), good);
        }
        let (part, whole) = (format!("{long}x"), format!("{longest}x"));
        for bad in
            ["", ".", "..", "a/../b", "/a", "a/", "a//b", ".a", "a/b/c/d/e", "a b", "a\\b", "ä", "a\0", &part, &whole]
        {
            assert_eq!(StateName::new(bad).unwrap_err().kind(), Kind::Usage, "{bad:?}");
        }
    }

    #[test]
    fn areas_stand_in_the_order_of_their_numbers() {
        for (number, area) in Area::ALL.into_iter().enumerate() {
            assert_eq!(area as usize, number);
        }
    }
}
