//! Making a drive, and opening one.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use repo::backend::local::Local;
use repo::backend::{Area, Backend, Object};
use repo::clock::Clock;
use repo::crypto::hash::is_drive_of;
use repo::crypto::keys::Keyring;
use repo::crypto::slot::{Argon2Cost, RecoveryCode};
use repo::error::{Error, Kind, Result};
use repo::format::record::{Custody, DriveState, MAX_TEXT, Record, Step};
use repo::id::{DriveId, RepoId, random_bytes};
use repo::keyslots::NewSlots;
use repo::limits::MAX_SMALL_OBJECT;
use repo::lock::{COMMIT_WAIT, Locks};
use repo::monitor::{Event, Monitor};
use repo::open::{Access, Identity, Init, Place, Repository, Sealed, init_drive};
use repo::rebuild::rebuild;
use repo::session::who;

use super::Contents;

/// What people call a drive: not empty, of at most 255 bytes, without control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label(String);

impl Label {
    /// A label of this text.
    ///
    /// # Errors
    /// `Usage`.
    pub fn new(text: &str) -> Result<Label> {
        const _: () = assert!(MAX_TEXT >= 255);
        if text.is_empty() || text.len() > 255 || text.chars().any(char::is_control) {
            return Err(Error::new(Kind::Usage, "a drive's label has 1 to 255 characters that can be printed")
                .remedy("name it as it is written on the drive: --label \"acme 1\""));
        }
        Ok(Label(text.to_owned()))
    }

    /// As it was given.
    pub fn text(&self) -> &str {
        &self.0
    }
}

/// Makes a drive in `place` for the repository of this identity, cut as `like`. Returns its id and the recovery code that opens
/// it, to be shown once.
///
/// # Errors
/// As [`init_drive`].
pub fn init(
    place: &Place,
    label: &Label,
    (repository, keyring): (RepoId, &Keyring),
    like: &Repository,
    back: bool,
    monitor: &dyn Monitor,
) -> Result<(DriveId, RecoveryCode)> {
    let slots = NewSlots { passphrase: None, cost: Argon2Cost::DEFAULT, recipients: &[], recovery_code: true };
    let wanted = Init { slots, chunker: like.config.chunker, pack_size: like.config.pack_size };
    let identity = Identity { id: repository, keyring: keyring.duplicate() };
    let (id, code) = init_drive(&place.root, wanted, identity)?;
    let mut drive = Sealed::open_drive(place.clone(), Access::Write)?.0.unlock_with(keyring, monitor)?;
    drive.set_clock(like.clock.clone());
    let made = Step { custody: Custody::Made, at: drive.clock.now(), by: who() };
    let state = DriveState {
        label: label.0.clone(),
        party: String::new(),
        repository,
        back,
        steps: vec![made],
        packs: 0,
        bytes: 0,
        digest: *blake3::Hasher::new().finalize().as_bytes(),
        snapshots: 0,
        newest: None,
        loads: Vec::new(),
    };
    let commit = drive.locks.commit(COMMIT_WAIT)?;
    drive.log.append(&commit, Record::DriveSet { drive: id, state: Box::new(state) })?;
    Ok((id, code))
}

/// A drive, open: its part of the repository, and what it says of itself.
pub struct Drive {
    /// Its id.
    pub id: DriveId,
    /// What is on it.
    pub repo: Repository,
}

impl Drive {
    /// What its log says of it.
    ///
    /// # Errors
    /// `Damaged` where that is missing.
    pub fn state(&self) -> Result<DriveState> {
        let state = self.repo.log.state().drives.get(&self.id).cloned();
        state.ok_or_else(|| {
            let e = Error::damaged(
                "this drive does not say what it is: its making was interrupted, or it was copied together",
            );
            e.remedy("empty it, and make it anew with `packmule drive init`")
        })
    }
}

/// Opens the drive in `place` with the keys of the repository that it carries a part of.
///
/// # Errors
/// `WrongDrive` if there is none, or for one of another repository; what it gives.
pub fn open(
    place: Place,
    access: Access,
    (repository, keyring): (RepoId, &Keyring),
    clock: &Clock,
    monitor: &dyn Monitor,
) -> Result<Drive> {
    let (root, again) = (place.root.clone(), place.clone());
    let (sealed, id) = Sealed::open_drive(place, access)?;
    if sealed.repo_id() != repository || !is_drive_of(&id, &repository) {
        return Err(other(&root));
    }
    require_known_key(sealed.backend().as_ref(), keyring, access)?;
    let mut repo = match access {
        Access::Read => match sealed.read_with(keyring, monitor) {
            // Its log is lost: packs, roll-ups and manifests tell what they are by themselves.
            Err(e) if e.kind() == Kind::Damaged => {
                monitor.event(Event::Warning(&format!("{e}: what is sound on the drive is taken all the same")));
                Sealed::open_drive(again, access)?.0.leniently().read_with(keyring, monitor)?
            }
            other => other?,
        },
        _ => sealed.unlock_with(keyring, monitor)?,
    };
    repo.set_clock(clock.clone());
    // An index of another state of the drive: files came or went that no record speaks of.
    let listed = Contents::of(repo.backend.as_ref())?.packs;
    if repo.index.counts()?.1 != listed {
        let dir = repo.index.dir().to_owned();
        repo.index = rebuild(repo.backend.as_ref(), &repo.keys, &repo.log, &dir, monitor)?;
    }
    Ok(Drive { id, repo })
}

/// What is on a drive is opened with any key its repository ever had; what is written to it must be opened by its own slots.
///
/// # Errors
/// `WrongDrive` if that is not so; what the drive gives.
pub fn require_known_key(drive: &dyn Backend, keyring: &Keyring, access: Access) -> Result<()> {
    let mut newest = None;
    drive.list(Area::Log, &mut |object, _| {
        if matches!(object, Object::Log(_)) {
            newest = Some(object);
        }
        Ok(())
    })?;
    let Some(object) = newest else { return Ok(()) };
    // Every sealed object begins with the number of its key.
    let mut epoch = [0; 4];
    // What is damaged says nothing.
    if drive.read_into(&object, 0, &mut epoch).is_err() {
        return Ok(());
    }
    let epoch = u32::from_le_bytes(epoch);
    if access != Access::Read && epoch.saturating_add(1) < keyring.epochs() {
        let what = "the repository's key was rotated since this drive was made, whose recovery code would not open what came after:";
        return Err(Error::new(Kind::WrongDrive, what)
            .at(drive.path(&object))
            .remedy("send it off as it is; for what is left make another with `packmule drive init`"));
    }
    if epoch < keyring.epochs() {
        return Ok(());
    }
    let what = "the drive is sealed with a newer key of its repository than is known here:";
    Err(Error::new(Kind::WrongDrive, what)
        .at(drive.path(&object))
        .remedy("its site has rotated the key: `packmule sync push` there makes the new one known; then try again"))
}

fn other(root: &Path) -> Error {
    Error::new(Kind::WrongDrive, "this drive carries a part of another repository:")
        .at(root)
        .remedy("name the repository that it is of, or another drive")
}

/// Destroys the key slots of the drive in `root`: they are overwritten, and then removed. How many there were.
///
/// # Errors
/// As [`Local::open_drive`], and what the system gives.
pub fn retire(root: &Path) -> Result<(DriveId, usize)> {
    let (drive, id) = Local::open_drive(root, false)?;
    let _only_one = Locks::file(&drive.lock_path()).commit(COMMIT_WAIT)?;
    let mut slots = Vec::new();
    drive.list(Area::Keys, &mut |object, size| {
        slots.push((object, size));
        Ok(())
    })?;
    for (slot, size) in &slots {
        let path = drive.path(slot);
        // A longer one is none.
        let size = (*size).min(MAX_SMALL_OBJECT as u64);
        let noise: Vec<u8> = (0..size.div_ceil(32)).flat_map(|_| random_bytes::<32>()).collect();
        let overwrite = || {
            let file = fs::OpenOptions::new().write(true).open(&path)?;
            file.write_all_at(&noise, 0)?;
            file.sync_all()
        };
        overwrite().map_err(|e| Error::io("overwrite", &path, e))?;
        drive.delete(slot)?;
    }
    drive.sync_deletes(Area::Keys)?;
    Ok((id, slots.len()))
}

/// Where a drive is, and where this machine keeps what it knows of it.
pub fn place_of(root: &Path, like: &Place) -> Place {
    Place { root: root.to_owned(), index_dir: None, cache: like.cache.clone() }
}
