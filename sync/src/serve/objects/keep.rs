//! A sealed tenant's copy on the pool's disk, and in it the copies of sealed tenants of its own, if it is a pool.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use repo::backend::local::Local;
use repo::backend::{Area as Stored, Backend, Object as Place};
use repo::clock::Time;
use repo::error::{Error, Kind, Result};
use repo::format::record::Position;
use repo::id::{PackId, RepoId};
use repo::limits::MIB;

use super::own;
use crate::sealed::newest;
use crate::sealed::remote::named;
use crate::serve::spool::BLOCK;
use crate::wire::{Area, Object, StateName};

/// Where damaged packs are set aside, in the copy.
const DAMAGED: &str = "damaged";

/// Where a pool whose tenants' directories lie in `tenants` keeps a sealed tenant's copy.
pub fn copy_dir(tenants: &Path, tenant: u32) -> PathBuf {
    tenants.join(tenant.to_string()).join("copy")
}

/// The copies of sealed tenants below `tenants`, by number.
///
/// # Errors
/// What the system gives.
pub fn nested_copies(tenants: &Path) -> Result<BTreeMap<u32, RepoId>> {
    let mut found = BTreeMap::new();
    let entries = match fs::read_dir(tenants) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        other => other.map_err(|e| Error::io("list", tenants, e))?,
    };
    for entry in entries {
        let name = entry.map_err(|e| Error::io("list", tenants, e))?.file_name();
        let Some(number) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(of) = Local::copy_mark(&copy_dir(tenants, number))? {
            found.insert(number, of);
        }
    }
    Ok(found)
}

/// Bytes that a pool whose tenants' directories lie in `tenants` keeps of a sealed tenant; none before its first push.
///
/// # Errors
/// What the system gives.
pub fn stored_bytes(tenants: &Path, tenant: u32) -> Result<Option<u64>> {
    let dir = copy_dir(tenants, tenant);
    Local::copy_mark(&dir)?.map(|of| Kept::open(&dir, of)?.bytes()).transpose()
}

/// A copy.
pub struct Kept {
    copy: Local,
    nested: Mutex<BTreeMap<u32, Local>>,
    newest: Mutex<Option<Position>>,
}

impl Kept {
    /// The copy of `repository` in `dir`, which is made if it is absent.
    ///
    /// # Errors
    /// As [`Local::copy_of`].
    pub fn open(dir: &Path, repository: RepoId) -> Result<Kept> {
        if let Some(parent) = dir.parent() {
            fs::create_dir_all(parent).map_err(|e| Error::io("make", parent, e))?;
        }
        let copy = Local::copy_of(dir, repository)?;
        let mut nested = BTreeMap::new();
        for (number, of) in nested_copies(&dir.join("tenants"))? {
            nested.insert(number, Local::copy_of(&copy_dir(&dir.join("tenants"), number), of)?);
        }
        let newest = newest(&copy)?;
        Ok(Kept { copy, nested: Mutex::new(nested), newest: Mutex::new(newest) })
    }

    /// The copy itself.
    pub fn copy(&self) -> &Local {
        &self.copy
    }

    /// The newest record of its log.
    pub fn newest(&self) -> Option<Position> {
        *self.newest.lock()
    }

    /// Notes a record that came.
    pub fn came(&self, at: Position) {
        let mut newest = self.newest.lock();
        if newest.is_none_or(|newest| newest.seq < at.seq) {
            *newest = Some(at);
        }
    }

    /// Bytes of everything in it.
    ///
    /// # Errors
    /// What the system gives.
    pub fn bytes(&self) -> Result<u64> {
        let mut sum = bytes_of(&self.copy)?;
        for nested in self.nested.lock().values() {
            sum += bytes_of(nested)?;
        }
        Ok(sum)
    }

    /// Makes room for the copy of a tenant of this one's.
    ///
    /// # Errors
    /// As [`Local::copy_of`].
    pub fn add_nested(&self, tenant: u32, of: RepoId) -> Result<()> {
        let dir = copy_dir(&self.copy.root().join("tenants"), tenant);
        if let Some(parent) = dir.parent() {
            fs::create_dir_all(parent).map_err(|e| Error::io("make", parent, e))?;
        }
        self.nested.lock().insert(tenant, Local::copy_of(&dir, of)?);
        Ok(())
    }

    /// Whether there is room for the copy of a tenant of this one's.
    pub fn has_nested(&self, tenant: u32) -> bool {
        self.nested.lock().contains_key(&tenant)
    }

    /// How many copies are in it.
    pub fn nested_count(&self) -> usize {
        self.nested.lock().len()
    }

    /// Does something with the place of an object; none if there is no such place.
    ///
    /// # Errors
    /// What `visit` gives.
    pub fn at<T>(&self, object: &Object, visit: &mut dyn FnMut(&Local, &Place) -> Result<T>) -> Result<Option<T>> {
        if let Some(place) = own(object) {
            return visit(&self.copy, &place).map(Some);
        }
        let Object::State(name) = object else { return Ok(None) };
        match parse(name) {
            Some((tenant, Nested::Object(place))) => {
                self.nested.lock().get(&tenant).map(|copy| visit(copy, &place)).transpose()
            }
            _ => Ok(None),
        }
    }

    /// An object's size, if it is there.
    ///
    /// # Errors
    /// What the system gives.
    pub fn size(&self, object: &Object) -> Result<Option<u64>> {
        if let Object::State(name) = object
            && let Some((tenant, Nested::Mark)) = parse(name)
        {
            return Ok(self.nested.lock().contains_key(&tenant).then_some(MARK));
        }
        Ok(self.at(object, &mut |copy, place| copy.size(place))?.flatten())
    }

    /// Where an object's file is or would be.
    ///
    /// # Errors
    /// None so far.
    pub fn path(&self, object: &Object) -> Result<Option<PathBuf>> {
        if let Object::State(name) = object
            && let Some((tenant, Nested::Mark)) = parse(name)
        {
            return Ok(self.nested.lock().get(&tenant).map(|copy| copy.root().join("copy")));
        }
        self.at(object, &mut |copy, place| Ok(copy.path(place)))
    }

    /// Everything in an area, ascending, with sizes and times of receipt.
    ///
    /// # Errors
    /// What the system gives.
    pub fn list(&self, area: Area) -> Result<Vec<(Object, u64, Time)>> {
        let mut all = Vec::new();
        let wanted = match area {
            Area::Config => {
                all.extend(found(&self.copy, &Place::Config, Object::Config)?);
                return Ok(all);
            }
            Area::State => {
                for (tenant, copy) in self.nested.lock().iter() {
                    list_nested(*tenant, copy, &mut all)?;
                }
                all.sort();
                return Ok(all);
            }
            Area::Keys => Stored::Keys,
            Area::Packs => Stored::Packs,
            Area::Footers => Stored::Footers,
            Area::Snapshots => Stored::Snapshots,
            Area::Log | Area::Audit => Stored::Log,
        };
        self.copy.list(wanted, &mut |place, _| {
            let name = named(&place)?;
            if name.area() == area {
                all.extend(found(&self.copy, &place, name)?);
            }
            Ok(())
        })?;
        Ok(all)
    }

    /// Packs that were set aside and have not come again.
    ///
    /// # Errors
    /// What the system gives.
    pub fn lost(&self) -> Result<Vec<PackId>> {
        let dir = self.copy.root().join(DAMAGED);
        let mut lost = Vec::new();
        let Ok(entries) = fs::read_dir(&dir) else { return Ok(lost) };
        for entry in entries {
            let name = entry.map_err(|e| Error::io("list", &dir, e))?.file_name();
            let Some(id) = name.to_str().and_then(|name| name.parse::<PackId>().ok()) else { continue };
            if self.copy.size(&Place::Pack(id))?.is_none() {
                lost.push(id);
            }
        }
        lost.sort_unstable();
        Ok(lost)
    }

    /// Takes a damaged pack out of the copy, so that it is asked for again; its bytes are kept.
    ///
    /// # Errors
    /// What the system gives.
    pub fn set_aside(&self, id: &PackId) -> Result<()> {
        let dir = self.copy.root().join(DAMAGED);
        let from = self.copy.path(&Place::Pack(*id));
        fs::create_dir_all(&dir).map_err(|e| Error::io("make", &dir, e))?;
        fs::rename(&from, dir.join(id.to_hex())).map_err(|e| Error::io("set aside", &from, e))
    }

    /// Forgets a damaged pack's bytes: it has come again.
    pub fn came_again(&self, id: &PackId) {
        // What cannot be removed costs space alone.
        let _ = fs::remove_file(self.copy.root().join(DAMAGED).join(id.to_hex()));
    }
}

/// Bytes of a mark.
const MARK: u64 = 64;

/// What a name below `tenants/` means.
pub enum Nested {
    /// Of which repository the copy is.
    Mark,
    /// An object in it.
    Object(Place),
}

/// The tenant and the thing in its copy that a file of state is.
pub fn parse(name: &StateName) -> Option<(u32, Nested)> {
    let mut parts = name.as_str().split('/');
    let (top, number) = (parts.next()?, parts.next()?);
    let tenant: u32 = number.parse().ok().filter(|n: &u32| top == "tenants" && n.to_string() == number)?;
    let thing = match (parts.next()?, parts.next(), parts.next()) {
        ("copy", None, None) => Nested::Mark,
        ("config", None, None) => Nested::Object(Place::Config),
        ("config.copy", None, None) => Nested::Object(Place::ConfigCopy),
        (dir, Some(name), None) => {
            let area = Stored::ALL.into_iter().find(|area| area.dir() == dir)?;
            Nested::Object(area.parse(name)?)
        }
        _ => return None,
    };
    Some((tenant, thing))
}

/// What a file counts as: many small ones fill a disk too.
pub fn on_disk(size: u64) -> u64 {
    size.max(1).next_multiple_of(BLOCK)
}

fn bytes_of(copy: &Local) -> Result<u64> {
    let mut sum = 0;
    for area in Stored::ALL {
        copy.list(area, &mut |_, size| {
            sum += on_disk(size);
            Ok(())
        })?;
    }
    Ok(sum)
}

fn found(copy: &Local, place: &Place, name: Object) -> Result<Option<(Object, u64, Time)>> {
    let path = copy.path(place);
    match fs::symlink_metadata(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        other => {
            let meta = other.map_err(|e| Error::io("look at", &path, e))?;
            Ok(Some((name, meta.len(), received(&meta)?)))
        }
    }
}

/// When a file came here: it was never written to since.
pub fn received(meta: &fs::Metadata) -> Result<Time> {
    let at = meta.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    at.and_then(|at| i64::try_from(at.as_nanos()).ok())
        .map(Time)
        .ok_or_else(|| Error::new(Kind::Clock, "a stored file is from before 1970"))
}

fn list_nested(tenant: u32, copy: &Local, all: &mut Vec<(Object, u64, Time)>) -> Result<()> {
    let name = |rest: &str| StateName::new(&format!("tenants/{tenant}/{rest}")).map(Object::State);
    let mark = copy.root().join("copy");
    let meta = fs::symlink_metadata(&mark).map_err(|e| Error::io("look at", &mark, e))?;
    all.push((name("copy")?, MARK, received(&meta)?));
    for place in [Place::Config, Place::ConfigCopy] {
        all.extend(found(copy, &place, name(&place.path().to_string_lossy())?)?);
    }
    for area in Stored::ALL {
        copy.list(area, &mut |place, _| {
            let rest = match &place {
                Place::Pack(id) => format!("packs/{}", id.to_hex()),
                other => other.path().to_string_lossy().into_owned(),
            };
            all.extend(found(copy, &place, name(&rest)?)?);
            Ok(())
        })?;
    }
    Ok(())
}

/// Whether a file's BLAKE3 is `hash`.
///
/// # Errors
/// What the system gives, but for bytes that the disk cannot read.
pub fn is_named_by_hash(path: &Path, hash: &[u8; 32]) -> Result<bool> {
    let mut file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let (mut hasher, mut buffer) = (blake3::Hasher::new(), vec![0; MIB]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finalize().as_bytes() == hash),
            Ok(n) => {
                hasher.update(&buffer[..n]);
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            // EIO: a bad part of the disk.
            Err(e) if e.raw_os_error() == Some(5) => return Ok(false),
            Err(e) => return Err(Error::io("read", path, e)),
        }
    }
}
