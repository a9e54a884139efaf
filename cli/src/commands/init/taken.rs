//! An invitation that makes a lost site anew, and the key that takes it up: kept in the directory that is to hold the repository
//! until it does. The invitation is good once; the pool goes on knowing the key.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use repo::backend::local::Local;
use repo::error::{Error, Result};
use sync::invitation::Invitation;
use sync::remote::new_key;
use sync::ssh::keys::KeyPair;
use zeroize::Zeroizing;

use crate::commands::backup::host_name;

const MARK: &str = "packmule-taken-up-1";
/// Longer than any, in bytes.
const LONGEST: u64 = 16 << 10;

/// The invitation and its key.
pub struct Taken {
    pub invitation: Invitation,
    pub key: KeyPair,
    path: PathBuf,
    /// Directories that were made for it, the deepest first.
    made: Vec<PathBuf>,
}

impl Taken {
    /// What an earlier run left for the repository at `root`.
    ///
    /// # Errors
    /// `Damaged` if it is not whole; what the system gives.
    pub fn find(root: &Path) -> Result<Option<Taken>> {
        let path = Local::invitation_path(root);
        let mut text = Zeroizing::new(String::new());
        match File::open(&path).and_then(|file| file.take(LONGEST).read_to_string(&mut text)) {
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            Err(e) => return Err(Error::io("read", path, e)),
            Ok(_) => {}
        }
        let parse = || {
            let mut lines = text.splitn(3, '\n');
            (lines.next()? == MARK).then_some(())?;
            let invitation = Invitation::parse(lines.next()?).ok()?;
            Some((invitation, KeyPair::from_text(lines.next()?.as_bytes()).ok()?))
        };
        let (invitation, key) = parse().ok_or_else(|| {
            Error::damaged("this is no invitation that was taken up:")
                .at(&path)
                .remedy("remove the file, and ask for another invitation")
        })?;
        Ok(Some(Taken { invitation, key, path, made: Vec::new() }))
    }

    /// Makes a key for `invitation` and keeps both below `root`, which is made if it is absent.
    ///
    /// # Errors
    /// What the system gives.
    pub fn keep(root: &Path, invitation: Invitation) -> Result<Taken> {
        let (key, path) = (new_key(&host_name()?)?, Local::invitation_path(root));
        let failed = |e| Error::io("write", &path, e);
        let absent = |dir: &&Path| dir.symlink_metadata().is_err();
        let root = std::path::absolute(root).map_err(|e| Error::io("find the working directory of", root, e))?;
        let made = root.ancestors().take_while(absent).map(Path::to_owned).collect();
        DirBuilder::new().recursive(true).mode(0o700).create(&root).map_err(|e| Error::io("make", &root, e))?;
        let key_text = key.to_text()?;
        let text = Zeroizing::new(format!("{MARK}\n{invitation}\n{}", *key_text));
        match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        File::open(&root).and_then(|dir| dir.sync_all()).map_err(failed)?;
        Ok(Taken { invitation, key, path, made })
    }

    /// Where both are kept.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Neither is needed any more. Directories that were made for them go too, if nothing else is in them.
    ///
    /// # Errors
    /// What the system gives.
    pub fn drop_it(&self) -> Result<()> {
        fs::remove_file(&self.path).map_err(|e| Error::io("remove", &self.path, e))?;
        self.made.iter().for_each(|dir| drop(fs::remove_dir(dir)));
        Ok(())
    }
}
