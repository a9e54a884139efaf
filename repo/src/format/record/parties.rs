//! Those a repository has to do with: the tenants of a pool, and the remotes a repository is pushed to.

use std::collections::BTreeMap;
use std::fmt;

use zeroize::Zeroizing;

use super::governance::{Removal, read_number, write_number};
use super::{MAX_TEXT, Position, option, text, time, write_option};
use crate::clock::Time;
use crate::error::{Error, Kind, Result};
use crate::format::wire::{Reader, Writer};
use crate::id::{RepoId, SnapshotId};
use crate::limits::{KIB, MAX_SMALL_OBJECT};

/// The most credentials, or open invitations, of one tenant.
pub const MAX_CREDENTIALS: usize = 4096;

/// The most bytes of what a tenant keeps at a pool beside its snapshots.
pub const MAX_BELONGINGS: usize = 256 * KIB;

/// The most profiles of a repository …
pub const MAX_PROFILES: usize = 256;
/// … and the most bytes of all of them, with their names.
pub const MAX_PROFILE_BYTES: usize = 128 * KIB;

/// Where a pool has a snapshot from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// The tenant's number.
    pub tenant: u32,
    /// The snapshot's id in the tenant's own repository.
    pub id: SnapshotId,
}

/// What the holder of a key may do: a set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Roles(u8);

impl Roles {
    /// Nothing.
    pub const NONE: Roles = Roles(0);
    /// Deliver snapshots.
    pub const PUSH: Roles = Roles(1);
    /// Fetch what the tenant delivered.
    pub const PULL: Roles = Roles(2);
    /// Back one host up.
    pub const AGENT: Roles = Roles(4);
    /// Fetch what that host delivered.
    pub const RESTORE: Roles = Roles(8);
    /// Manage the pool.
    pub const OPERATOR: Roles = Roles(16);
    /// Of an invitation: the key that takes it up takes the place of all others that its tenant has.
    pub const ALONE: Roles = Roles(32);
    /// Each with its name.
    pub const NAMES: [(Roles, &str); 5] = [
        (Roles::PUSH, "push"),
        (Roles::PULL, "pull"),
        (Roles::AGENT, "agent"),
        (Roles::RESTORE, "restore"),
        (Roles::OPERATOR, "operator"),
    ];

    /// These and those.
    pub fn and(self, other: Roles) -> Roles {
        Roles(self.0 | other.0)
    }

    /// These, but not those.
    pub fn without(self, other: Roles) -> Roles {
        Roles(self.0 & !other.0)
    }

    /// Whether all of `other` are among these.
    pub fn allow(self, other: Roles) -> bool {
        self.0 & other.0 == other.0
    }

    fn read(r: &mut Reader<'_>) -> Result<Roles> {
        match r.u8()? {
            bits if bits < 64 => Ok(Roles(bits)),
            _ => Err(Error::damaged("a stored key has an unknown role")),
        }
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = Roles::NAMES.iter().filter(|(r, _)| self.allow(*r)).map(|(_, name)| *name).collect();
        f.write_str(&names.join(","))
    }
}

impl fmt::Debug for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Roles({self})")
    }
}

/// An SSH key that may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// The public key as OpenSSH writes it, without a comment.
    pub public: String,
    /// What it may do.
    pub roles: Roles,
    /// What people call it.
    pub label: String,
    /// The host that an agent's key is for; else empty.
    pub host: String,
    /// When it was registered.
    pub added: Time,
    /// When it was revoked, if it was.
    pub revoked: Option<Time>,
}

/// An invitation that was not taken up yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invite {
    /// Hash of the token; the token itself is nowhere.
    pub hash: [u8; 32],
    /// What the key that takes it up may do.
    pub roles: Roles,
    /// What people will call it.
    pub label: String,
    /// The host that an agent is for; else empty.
    pub host: String,
    /// After this it is void.
    pub expires: Time,
}

/// A customer at a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantState {
    /// What people call it; a directory's name.
    pub name: String,
    /// Kept sealed: the pool has none of its keys.
    pub sealed: bool,
    /// When it was made.
    pub made: Time,
    /// Whether its keys are refused for now.
    pub suspended: bool,
    /// When its removal was ordered, if it was.
    pub removed: Option<Removal>,
    /// The most bytes it may own; none: any.
    pub quota: Option<u64>,
    /// How long its forgotten snapshots are held, in seconds; none: as the pool's.
    pub hold: Option<u64>,
    /// How long after receipt nobody may delete, in seconds; none: as the pool's.
    pub window: Option<u64>,
    /// What is kept of its history, in the words of [`crate::retention`]; empty: as the pool's.
    pub retention: String,
    /// Its repository, once it has connected.
    pub repository: Option<RepoId>,
    /// Its keyring, sealed for this pool; empty for a sealed tenant, and before it has connected.
    pub keyring: Vec<u8>,
    /// Its keys.
    pub keys: Vec<Credential>,
    /// Its open invitations.
    pub invites: Vec<Invite>,
    /// How far in its log what it delivered is complete.
    pub watermark: Option<Position>,
}

impl TenantState {
    /// A new tenant, with nothing said about it.
    pub fn new(name: &str, sealed: bool, made: Time) -> TenantState {
        TenantState {
            name: name.to_owned(),
            sealed,
            made,
            suspended: false,
            removed: None,
            quota: None,
            hold: None,
            window: None,
            retention: String::new(),
            repository: None,
            keyring: Vec::new(),
            keys: Vec::new(),
            invites: Vec::new(),
            watermark: None,
        }
    }

    pub(super) fn write(&self, w: &mut Writer) {
        w.lp_str(&self.name);
        w.bool(self.sealed);
        w.i64(self.made.0);
        w.bool(self.suspended);
        Removal::write_option(w, self.removed);
        [self.quota, self.hold, self.window].into_iter().for_each(|number| write_number(w, number));
        w.lp_str(&self.retention);
        write_option(w, self.repository.as_ref().map(RepoId::as_bytes));
        w.lp_bytes(&self.keyring);
        w.varint(self.keys.len() as u64);
        for key in &self.keys {
            w.lp_str(&key.public);
            w.u8(key.roles.0);
            w.lp_str(&key.label);
            w.lp_str(&key.host);
            w.i64(key.added.0);
            write_time(w, key.revoked);
        }
        w.varint(self.invites.len() as u64);
        for invite in &self.invites {
            w.bytes(&invite.hash);
            w.u8(invite.roles.0);
            w.lp_str(&invite.label);
            w.lp_str(&invite.host);
            w.i64(invite.expires.0);
        }
        write_position(w, self.watermark);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<TenantState> {
        Ok(TenantState {
            name: text(r)?,
            sealed: r.bool()?,
            made: time(r)?,
            suspended: r.bool()?,
            removed: Removal::read_option(r)?,
            quota: read_number(r)?,
            hold: read_number(r)?,
            window: read_number(r)?,
            retention: text(r)?,
            repository: option(r)?.map(RepoId),
            keyring: r.lp_bytes(MAX_SMALL_OBJECT)?.to_vec(),
            keys: read_list(r, |r| {
                Ok(Credential {
                    public: text(r)?,
                    roles: Roles::read(r)?,
                    label: text(r)?,
                    host: text(r)?,
                    added: time(r)?,
                    revoked: read_time(r)?,
                })
            })?,
            invites: read_list(r, |r| {
                Ok(Invite {
                    hash: r.array()?,
                    roles: Roles::read(r)?,
                    label: text(r)?,
                    host: text(r)?,
                    expires: time(r)?,
                })
            })?,
            watermark: read_position(r)?,
        })
    }
}

/// What a tenant wants back, beside its snapshots, when its repository is lost. Nobody else can open it.
#[derive(Clone, PartialEq, Eq)]
pub struct Belongings {
    /// The tenant's name for it, which tells one content from another.
    pub name: String,
    /// As the tenant sealed it.
    pub sealed: Vec<u8>,
}

impl Belongings {
    pub(super) fn write(&self, w: &mut Writer) {
        w.lp_str(&self.name);
        w.lp_bytes(&self.sealed);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Belongings> {
        Ok(Belongings { name: text(r)?, sealed: r.lp_bytes(MAX_BELONGINGS)?.to_vec() })
    }
}

impl fmt::Debug for Belongings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Belongings({}, {} bytes)", self.name, self.sealed.len())
    }
}

/// The profiles by which a repository is used, by their names: they come back with it when its machine is lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profiles(BTreeMap<String, String>);

impl Profiles {
    /// These texts, by names.
    ///
    /// # Errors
    /// `Usage` if there are too many, or all of it is too long.
    pub fn new(profiles: BTreeMap<String, String>) -> Result<Profiles> {
        let bytes: usize = profiles.iter().map(|(name, text)| name.len() + text.len()).sum();
        if profiles.len() > MAX_PROFILES || bytes > MAX_PROFILE_BYTES || profiles.keys().any(|n| n.len() > MAX_TEXT) {
            return Err(Error::new(Kind::Usage, "there are too many profiles, or they are too long, to be kept"));
        }
        Ok(Profiles(profiles))
    }

    /// Each name with its text.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, text)| (name.as_str(), text.as_str()))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn write(&self, w: &mut Writer) {
        w.varint(self.0.len() as u64);
        for (name, text) in &self.0 {
            w.lp_str(name);
            w.lp_str(text);
        }
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Profiles> {
        let mut profiles = BTreeMap::new();
        for _ in 0..r.count(MAX_PROFILES, 2)? {
            let (name, content) = (text(r)?, r.lp_str(MAX_PROFILE_BYTES)?.to_owned());
            if profiles.last_key_value().is_some_and(|(last, _)| *last >= name) {
                return Err(Error::damaged("stored profiles are out of order"));
            }
            profiles.insert(name, content);
        }
        Profiles::new(profiles).map_err(|_| Error::damaged("stored profiles are too long"))
    }
}

/// What a site wants back with its snapshots: who backs up to it, who it is to them, and how it is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SiteParties {
    /// The key that its server shows.
    pub host_key: Option<PrivateKey>,
    /// Its agents, by number.
    pub agents: BTreeMap<u32, TenantState>,
    /// Its profiles.
    pub profiles: Profiles,
}

impl SiteParties {
    /// As bytes.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut w = Writer::new();
        w.u8(1);
        w.bool(self.host_key.is_some());
        self.host_key.iter().for_each(|key| w.lp_bytes(&key.0));
        w.varint(self.agents.len() as u64);
        for (number, agent) in &self.agents {
            w.varint((*number).into());
            agent.write(&mut w);
        }
        self.profiles.write(&mut w);
        Zeroizing::new(w.into_vec())
    }

    /// From bytes.
    ///
    /// # Errors
    /// `Damaged`; `NewerFormat`.
    pub fn decode(bytes: &[u8]) -> Result<SiteParties> {
        let mut r = Reader::new(bytes);
        if r.u8()? != 1 {
            return Err(super::newer());
        }
        let host_key = if r.bool()? { Some(PrivateKey::read(&mut r)?) } else { None };
        let n = r.count(usize::MAX, 20)?;
        let agents = (0..n).map(|_| Ok((r.varint_u32()?, TenantState::read(&mut r)?))).collect::<Result<_>>()?;
        let profiles = Profiles::read(&mut r)?;
        r.finish()?;
        Ok(SiteParties { host_key, agents, profiles })
    }
}

/// A private key. It does not print, and is wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey(pub Zeroizing<Vec<u8>>);

impl PrivateKey {
    pub(super) fn read(r: &mut Reader<'_>) -> Result<PrivateKey> {
        Ok(PrivateKey(Zeroizing::new(r.lp_bytes(MAX_TEXT)?.to_vec())))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey")
    }
}

/// A pool, or a directory, that this repository is pushed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteState {
    /// Where: `ssh://host:port`, or `file:///path`.
    pub url: String,
    /// Its host key as OpenSSH writes it: no other is accepted. Of a directory `copy`, once that was made.
    pub host_key: String,
    /// The key this repository shows there, in OpenSSH's format; empty for a directory.
    pub key: PrivateKey,
    /// What the pool calls this tenant; empty for a directory.
    pub tenant: String,
    /// Kept sealed there: the pool has none of our keys.
    pub sealed: bool,
    /// How far in this log everything is there.
    pub pushed: Option<Position>,
    /// Since when.
    pub pushed_at: Option<Time>,
}

impl RemoteState {
    pub(super) fn write(&self, w: &mut Writer) {
        w.lp_str(&self.url);
        w.lp_str(&self.host_key);
        w.lp_bytes(&self.key.0);
        w.lp_str(&self.tenant);
        w.bool(self.sealed);
        write_position(w, self.pushed);
        write_time(w, self.pushed_at);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<RemoteState> {
        Ok(RemoteState {
            url: text(r)?,
            host_key: text(r)?,
            key: PrivateKey::read(r)?,
            tenant: text(r)?,
            sealed: r.bool()?,
            pushed: read_position(r)?,
            pushed_at: read_time(r)?,
        })
    }
}

/// An owner's order to delete that a pool has obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Obeyed {
    /// The record of the tenant's log at which it was made.
    pub position: Position,
    /// BLAKE3 of its bytes.
    pub hash: [u8; 32],
    /// Objects that it named.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When it came.
    pub at: Time,
}

impl Obeyed {
    pub(super) fn write(&self, w: &mut Writer) {
        self.position.write(w);
        w.bytes(&self.hash);
        w.varint(self.objects);
        w.varint(self.bytes);
        w.i64(self.at.0);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Obeyed> {
        let (position, hash) = (Position::read(r)?, r.array()?);
        Ok(Obeyed { position, hash, objects: r.varint()?, bytes: r.varint()?, at: time(r)? })
    }
}

impl Origin {
    pub(in crate::format) fn write(self, w: &mut Writer) {
        w.varint(self.tenant.into());
        w.bytes(self.id.as_bytes());
    }

    pub(in crate::format) fn read(r: &mut Reader<'_>) -> Result<Origin> {
        Ok(Origin { tenant: r.varint_u32()?, id: SnapshotId(r.array()?) })
    }
}

pub(super) fn write_position(w: &mut Writer, at: Option<Position>) {
    w.bool(at.is_some());
    at.iter().for_each(|at| at.write(w));
}

pub(super) fn read_position(r: &mut Reader<'_>) -> Result<Option<Position>> {
    if r.bool()? { Position::read(r).map(Some) } else { Ok(None) }
}

pub(super) fn write_time(w: &mut Writer, at: Option<Time>) {
    w.bool(at.is_some());
    at.iter().for_each(|at| w.i64(at.0));
}

pub(super) fn read_time(r: &mut Reader<'_>) -> Result<Option<Time>> {
    if r.bool()? { time(r).map(Some) } else { Ok(None) }
}

fn read_list<T>(r: &mut Reader<'_>, each: impl Fn(&mut Reader<'_>) -> Result<T>) -> Result<Vec<T>> {
    let n = r.count(MAX_CREDENTIALS, 12)?;
    (0..n).map(|_| each(r)).collect()
}
