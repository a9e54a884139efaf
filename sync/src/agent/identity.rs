//! What makes a host the one that a site knows: its key, the site's, and the keys of its state.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use repo::crypto::keys::Keyring;
use repo::error::{Error, Kind, Result};
use repo::id::{RepoId, hex, unhex};
use zeroize::Zeroizing;

use crate::fetch::Dial;
use crate::invitation::Invitation;
use crate::remote::{Joined, reach, show_token};
use crate::ssh::is_transient;
use crate::ssh::keys::{KeyPair, PublicKey};
use crate::ssh::url::Address;

const MARK: &str = "packmule-agent-1";
/// The file's name in an agent's directory.
const FILE: &str = "identity";
/// Longer than any.
const LONGEST: u64 = 64 * 1024;

/// Who this host is to a site.
pub struct Identity {
    /// Where the site is.
    pub address: Address,
    /// The key it must show there.
    pub host_key: PublicKey,
    /// The host whose snapshots the site takes from here.
    pub host: String,
    /// What the state is called.
    pub repository: RepoId,
    /// What the state, and what is on its way, is sealed with. The site has it too.
    pub keyring: Keyring,
    /// What this host shows.
    pub key: KeyPair,
}

impl Identity {
    /// A new one, for the host that was invited.
    ///
    /// # Errors
    /// `Usage` if the invitation is for a site that is to push to a pool.
    pub fn new(invitation: &Invitation) -> Result<Identity> {
        if !invitation.agent {
            return Err(Error::new(
                Kind::Usage,
                "this invitation is for a site, not for a host that is to be backed up",
            )
            .remedy("take it up with `packmule remote add` at the site"));
        }
        Ok(Identity {
            address: invitation.address.clone(),
            host_key: invitation.host_key.clone(),
            host: invitation.tenant.clone(),
            repository: RepoId::random(),
            keyring: Keyring::generate(),
            key: KeyPair::generate(&format!("packmule agent {}", invitation.tenant))?,
        })
    }

    /// Reads the identity in an agent's directory.
    ///
    /// # Errors
    /// `NotFound` if there is none, `Refused` if others may read it, `Damaged` if it is not whole.
    pub fn load(dir: &Path) -> Result<Identity> {
        let path = dir.join(FILE);
        let found = fs::metadata(&path).map_err(|e| Error::io("open", &path, e))?;
        if found.mode() & 0o077 != 0 {
            return Err(Error::new(Kind::Refused, "others may read this host's key")
                .at(path)
                .remedy("let the host join the site again; if nobody has read it, `chmod 600` it"));
        }
        if found.len() > LONGEST {
            return Err(Error::damaged("this is no agent's identity:").at(path));
        }
        let text = Zeroizing::new(fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?);
        parse(&text).ok_or_else(|| {
            Error::damaged("an agent's identity is not whole:").at(path).remedy("let the host join the site again")
        })
    }

    fn text(&self) -> Result<Zeroizing<String>> {
        let key = self.key.to_text()?;
        let keyring = Zeroizing::new(hex(&self.keyring.to_bytes()));
        Ok(Zeroizing::new(format!(
            "{MARK}\n{}\n{}\n{}\n{}\n{}\n{}",
            self.address,
            self.host_key.text(),
            self.host,
            hex(self.repository.as_bytes()),
            *keyring,
            *key
        )))
    }

    /// Connects to the site each time it is asked to.
    pub fn dial(&self) -> Dial {
        let (address, host_key, key) = (self.address.clone(), self.host_key.clone(), self.key.clone());
        Arc::new(move || reach(&address, &host_key, &key)?.channel())
    }
}

fn parse(text: &str) -> Option<Identity> {
    let mut lines = text.splitn(7, '\n');
    let mut line = || lines.next();
    (line()? == MARK).then_some(())?;
    let address = Address::parse(line()?).ok()?;
    let host_key = PublicKey::parse(line()?).ok()?;
    let host = line()?.to_owned();
    let repository = RepoId(unhex(line()?)?);
    let keyring = Keyring::from_bytes(&bytes(line()?)?).ok()?;
    let key = KeyPair::from_text(line()?.as_bytes()).ok()?;
    Some(Identity { address, host_key, host, repository, keyring, key })
}

fn bytes(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let pair = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(pair).collect::<Option<Vec<u8>>>().map(Zeroizing::new)
}

/// Takes an invitation up, and writes the identity to `dir`, which is made for its owner alone. Where this host has joined that
/// site already, it gets another key, and keeps its state.
///
/// # Errors
/// `Exists` if it has joined the site as another host, or the site had another key; `Refused` if the site does not take the
/// invitation; `Unreachable`. All is then as it was.
pub fn join(invitation: &Invitation, dir: &Path) -> Result<Identity> {
    let mut identity = Identity::new(invitation)?;
    let (path, new) = (dir.join(FILE), dir.join("identity.new"));
    match Identity::load(dir) {
        Err(e) if e.kind() == Kind::NotFound => {}
        Err(e) => return Err(e),
        Ok(known) if known.host == identity.host && known.host_key == identity.host_key => {
            (identity.repository, identity.keyring) = (known.repository, known.keyring);
        }
        Ok(known) => {
            return Err(Error::new(
                Kind::Exists,
                format!("this host has joined that site already, as '{}' and by another key:", known.host),
            )
            .at(path)
            .remedy("to join it anew, leave it first: `packmule agent leave`"));
        }
    }
    // Shown before, and perhaps taken: the site takes it again by the same key.
    if let Some(before) = pending(&new).filter(|b| b.host == identity.host && b.host_key == identity.host_key) {
        identity = before;
    }
    // What could fail here fails before the invitation is used up.
    let absent: Vec<&Path> = dir.ancestors().take_while(|dir| dir.symlink_metadata().is_err()).collect();
    let made = write_new(&identity, dir, &new).and_then(|()| {
        let joined = Joined { repository: identity.repository, keyring: &identity.keyring, host: &identity.host };
        show_token(invitation, &joined, &identity.key)
    });
    if let Err(e) = made {
        // The site may have taken it, and the answer be lost.
        if is_transient(&e) {
            return Err(e.or_remedy("run the same command again, with the same invitation"));
        }
        let _ = fs::remove_file(&new);
        // Deepest first; one in which there is something else by now stays.
        absent.iter().for_each(|dir| drop(fs::remove_dir(dir)));
        return Err(e);
    }
    fs::rename(&new, &path).and_then(|()| File::open(dir)?.sync_all()).map_err(|e| Error::io("write", &path, e))?;
    Ok(identity)
}

/// The identity of a try that did not come to its end.
fn pending(new: &Path) -> Option<Identity> {
    let found = fs::metadata(new).ok().filter(|found| found.mode() & 0o077 == 0 && found.len() <= LONGEST)?;
    let text = fs::read_to_string(new).ok().filter(|_| found.is_file()).map(Zeroizing::new)?;
    parse(&text)
}

fn write_new(identity: &Identity, dir: &Path, new: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| Error::io("make", dir, e))?;
    let failed = |e| Error::io("write", new, e);
    let _ = fs::remove_file(new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new).map_err(failed)?;
    file.write_all(identity.text()?.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

/// Forgets the site: its identity and state here. What is there stays there.
///
/// # Errors
/// `NotFound`; what the system gives.
pub fn leave(dir: &Path) -> Result<()> {
    let path = dir.join(FILE);
    fs::metadata(&path).map_err(|e| Error::io("open", &path, e))?;
    fs::remove_dir_all(dir).map_err(|e| Error::io("remove", dir, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_reads_back_and_is_its_owner_s() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let invitation = Invitation {
            address: Address::parse("ssh://[fd00::1]:7023").unwrap(),
            host_key: KeyPair::generate("").unwrap().public(),
            tenant: "Web_1.example".into(),
            sealed: false,
            agent: true,
            token: Zeroizing::new([7; 32]),
        };
        let made = Identity::new(&invitation).unwrap();
        let path = dir.path().join(FILE);
        fs::write(&path, made.text().unwrap().as_bytes()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(Identity::load(dir.path()).err().unwrap().kind(), Kind::Refused);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let read = Identity::load(dir.path()).unwrap();
        assert_eq!((&read.address, &read.host_key, &read.host), (&made.address, &made.host_key, &made.host));
        assert_eq!(read.text().unwrap(), made.text().unwrap());
        let text = made.text().unwrap();
        for cut in (0..text.len() - 40).step_by(7) {
            assert!(parse(&text[..cut]).is_none(), "{cut}");
        }
    }
}
