//! A receipt: a pool's word, signed by the key that its server shows, that what a drive carried is there. It is text, so that it
//! can come back on the drive, over the network, or by any other way. `docs/format.md` (Transfer drives) is normative.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use repo::clock::Time;
use repo::error::{Error, Kind, Result};
use repo::format::record::{Custody, DriveState};
use repo::id::{DriveId, RepoId, hex, random_bytes, unhex};

use super::Contents;
use crate::ssh::keys::{KeyPair, PublicKey};

/// What the signature is for.
const NAMESPACE: &str = "receipt@packmule";
const FIRST: &str = "packmule-receipt 1";
/// The file on the drive.
const FILE: &str = "receipt";
/// What a file with a receipt in it may have at most, in bytes.
const MAX_LETTER: u64 = 64 << 20;

/// What a pool says of a drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Which drive.
    pub drive: DriveId,
    /// Of whose repository.
    pub repository: RepoId,
    /// What of it is at the pool, durably: all of its packs.
    pub contents: Contents,
    /// When that was so.
    pub at: Time,
}

impl Receipt {
    /// What a pool's log allows it to say of a drive: none before all of its packs were taken, and of one that goes back.
    ///
    /// It says the same however it travels, and however often it is asked for.
    pub fn of(drive: DriveId, state: &DriveState) -> Option<Receipt> {
        // A push may have brought what the drive was to bring: then its packs were not looked at, and nothing is signed.
        let verified =
            state.steps.iter().rfind(|step| matches!(step.custody, Custody::Received | Custody::Verified))?;
        let here = matches!(state.standing(), Custody::Verified | Custody::Committed) && !state.back;
        (here && verified.custody == Custody::Verified).then(|| Receipt {
            drive,
            repository: state.repository,
            contents: Contents::noted(state),
            at: verified.at,
        })
    }

    fn text(&self) -> String {
        let Receipt { drive, repository, contents, at } = self;
        format!(
            "{FIRST}\ndrive {drive}\nrepository {repository}\npacks {}\nbytes {}\ndigest {}\nat {}\n",
            contents.packs,
            contents.bytes,
            hex(&contents.digest),
            at.0
        )
    }

    /// With the signature of the pool's key.
    ///
    /// # Errors
    /// `Bug`.
    pub fn signed(&self, key: &KeyPair) -> Result<String> {
        let text = self.text();
        let signature = key.sign(NAMESPACE, text.as_bytes())?;
        Ok(format!("{text}{signature}"))
    }

    /// Reads one, and who has signed it: nothing is believed before that is compared.
    ///
    /// # Errors
    /// `Damaged` for what is none.
    pub fn read(text: &str) -> Result<Signed> {
        let none = || Error::damaged("this is no receipt of a pool's");
        let at = text.find("-----BEGIN SSH SIGNATURE-----").ok_or_else(none)?;
        let (said, signature) = text.split_at(at);
        let mut lines = said.lines();
        let first = lines.next().ok_or_else(none)?;
        if first != FIRST && first.starts_with("packmule-receipt ") {
            return Err(Error::new(Kind::NewerFormat, "this receipt is a newer program's").remedy("update packmule"));
        }
        let mut value = |name: &str| {
            lines
                .next()
                .and_then(|line| line.strip_prefix(name))
                .and_then(|rest| rest.strip_prefix(' '))
                .ok_or_else(none)
        };
        let receipt = Receipt {
            drive: value("drive")?.parse().map_err(|_| none())?,
            repository: value("repository")?.parse().map_err(|_| none())?,
            contents: Contents {
                packs: value("packs")?.parse().map_err(|_| none())?,
                bytes: value("bytes")?.parse().map_err(|_| none())?,
                digest: unhex(value("digest")?).ok_or_else(none)?,
            },
            at: Time(value("at")?.parse().map_err(|_| none())?),
        };
        // One spelling only: what is verified is what is read.
        if first != FIRST || receipt.text() != said {
            return Err(none());
        }
        Ok(Signed { receipt, signature: signature.to_owned() })
    }
}

/// A receipt that may be anybody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    receipt: Receipt,
    signature: String,
}

impl Signed {
    /// Which drive it claims to be of.
    pub fn drive(&self) -> DriveId {
        self.receipt.drive
    }

    /// What it says, if this key has signed it.
    ///
    /// # Errors
    /// `Refused`.
    pub fn verify(&self, key: &PublicKey) -> Result<&Receipt> {
        if !key.verifies(NAMESPACE, self.receipt.text().as_bytes(), &self.signature) {
            let e = Error::new(Kind::Refused, "this receipt was not signed by the pool that the drive is for");
            return Err(e.remedy("ask its operator for another: `packmule drive import` writes one onto the drive"));
        }
        Ok(&self.receipt)
    }
}

/// Where a drive holds the receipt.
pub fn path_on(root: &Path) -> PathBuf {
    root.join(FILE)
}

/// Puts it on the drive, in place of one that is there.
///
/// # Errors
/// What the system gives.
pub fn leave(root: &Path, text: &str) -> Result<()> {
    // Whatever somebody has put on the drive: a new file, through no link.
    let (path, new) = (path_on(root), root.join(format!("receipt.{}", hex(&random_bytes::<8>()))));
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        // Not all filesystems replace.
        if path.symlink_metadata().is_ok() {
            fs::remove_file(&path)?;
        }
        fs::rename(&new, &path)
    };
    write().map_err(|e| {
        let _ = fs::remove_file(&new);
        Error::io("write the receipt to", &path, e)
    })?;
    // Where a directory cannot be synced, the name is as durable as it can be.
    let _ = fs::File::open(root).and_then(|dir| dir.sync_all());
    Ok(())
}

/// The receipt in a file, or on a drive; none where there is no such file. It may have come by mail, which changes the ends of lines,
/// or inside of something in which `within` finds it.
///
/// # Errors
/// As [`Receipt::read`]; what the system gives.
pub fn found(at: &Path, within: &dyn Fn(&str) -> Option<String>) -> Result<Option<Signed>> {
    let path = if at.is_dir() { path_on(at) } else { at.to_owned() };
    match fs::metadata(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Ok(meta) if !meta.is_file() || meta.len() > MAX_LETTER => {
            return Err(Error::damaged("this is no receipt of a pool's").at(path));
        }
        _ => {}
    }
    let text = fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
    let text = within(&text).unwrap_or(text).replace('\r', "");
    let asked =
        "it is the file `receipt` on a drive that was taken in, or what `packmule drive import --json` has said";
    Receipt::read(&format!("{}\n", text.trim_end())).map(Some).map_err(|e| e.at(path).remedy(asked))
}

#[cfg(test)]
mod tests {
    use repo::format::record::Step;

    use super::*;

    fn receipt() -> Receipt {
        Receipt {
            drive: DriveId([1; 32]),
            repository: RepoId([2; 32]),
            contents: Contents { packs: 3, bytes: 1 << 40, digest: [4; 32] },
            at: Time(5),
        }
    }

    #[test]
    fn it_is_for_what_was_taken_since_it_came() {
        use Custody::*;
        let of = |way: &[Custody], back| {
            let step =
                |(at, custody): (usize, &Custody)| Step { custody: *custody, at: Time(at as i64), by: "x".into() };
            let Receipt { repository, contents: Contents { packs, bytes, digest }, .. } = receipt();
            let (label, party, steps) = (String::new(), "acme".into(), way.iter().enumerate().map(step).collect());
            let (snapshots, newest, loads) = (0, None, Vec::new());
            let state =
                DriveState { label, party, repository, back, steps, packs, bytes, digest, snapshots, newest, loads };
            Receipt::of(DriveId([1; 32]), &state)
        };
        let at = |at| Some(Receipt { at: Time(at), ..receipt() });
        assert_eq!(of(&[Shipped, Received, Verified], false), at(2));
        assert_eq!(of(&[Received, Verified, Committed], false), at(1));
        assert_eq!(of(&[Received, Verified, Committed, Received, Verified, Committed], false), at(4));
        assert_eq!(of(&[Received, Committed, Verified], false), at(2), "a push ended while it was taken in");
        assert_eq!(
            of(&[Received, Verified, Retired], false),
            at(1),
            "its slots are destroyed, what it brought is here"
        );
        for none in [
            &[Shipped][..],
            &[Received],
            &[Received, Committed],
            &[Received, Verified, Committed, Received],
            &[Received, Verified, Committed, Received, Committed],
            &[Received, Verified, Lost],
            &[Received, Retired],
        ] {
            assert_eq!(of(none, false), None, "{none:?}");
        }
        assert_eq!(of(&[Received, Verified], true), None);
    }

    #[test]
    fn only_the_pool_s_own_word_counts() {
        let (key, other) = (KeyPair::generate("pool").unwrap(), KeyPair::generate("other").unwrap());
        let text = receipt().signed(&key).unwrap();
        let read = Receipt::read(&text).unwrap();
        assert_eq!((read.drive(), read.verify(&key.public()).unwrap()), (DriveId([1; 32]), &receipt()));
        assert_eq!(read.verify(&other.public()).unwrap_err().kind(), Kind::Refused);
        let changed = Receipt::read(&text.replacen("packs 3", "packs 4", 1)).unwrap();
        assert_eq!(changed.verify(&key.public()).unwrap_err().kind(), Kind::Refused);
        // The same key signs other things.
        let elsewhere = format!("{}{}", receipt().text(), key.sign("file", receipt().text().as_bytes()).unwrap());
        assert_eq!(Receipt::read(&elsewhere).unwrap().verify(&key.public()).unwrap_err().kind(), Kind::Refused);
    }

    #[test]
    fn whatever_else_is_none() {
        let text = receipt().signed(&KeyPair::generate("pool").unwrap()).unwrap();
        for wrong in [
            String::new(),
            "packmule-receipt 1\n".into(),
            text.replacen("packs 3", "packs 03", 1),
            text.replacen("at 5\n", "at 5\nmore\n", 1),
            text.replacen("drive 01", "drive 0", 1),
        ] {
            assert_eq!(Receipt::read(&wrong).unwrap_err().kind(), Kind::Damaged, "{wrong}");
        }
        let newer = text.replacen("receipt 1", "receipt 2", 1);
        assert_eq!(Receipt::read(&newer).unwrap_err().kind(), Kind::NewerFormat);
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(found(dir.path(), &|_| None).unwrap(), None);
        // Nothing is written through a link that somebody has put there.
        let other = dir.path().join("other");
        fs::write(&other, "mine").unwrap();
        std::os::unix::fs::symlink(&other, path_on(dir.path())).unwrap();
        leave(dir.path(), &text).unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "mine");
        leave(dir.path(), &text).unwrap();
        assert!(
            found(dir.path(), &|_| None).unwrap().is_some()
                && found(&dir.path().join("receipt"), &|_| None).unwrap().is_some()
        );
    }
}
