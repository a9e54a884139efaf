//! Keys: Ed25519 alone, in OpenSSH's formats, so that `ssh-keygen` reads what is written here and the other way round.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use repo::error::{Error, Kind, Result};
use russh::keys::ssh_key::{LineEnding, SshSig};
use russh::keys::{Algorithm, HashAlg, PrivateKey};
use zeroize::Zeroizing;

/// Files of keys are a few hundred bytes; a larger one is something else.
const MAX_FILE: u64 = 16 << 10;

/// A public key. Two are equal if the keys are; the comment is for people.
#[derive(Clone)]
pub struct PublicKey(russh::keys::PublicKey);

impl PublicKey {
    /// Reads one line: `ssh-ed25519 AAAA… comment`, the comment optional.
    pub fn parse(line: &str) -> Result<PublicKey> {
        let wrong = |why: &str| {
            Error::new(Kind::Usage, format!("this is no public key: {why}"))
                .remedy("give the line of a .pub file: `ssh-ed25519 AAAA… name`")
        };
        let line = line.trim();
        if line.len() as u64 > MAX_FILE || line.contains(char::is_control) {
            return Err(wrong("it is more than one line of text"));
        }
        if line.contains("-----BEGIN") {
            return Err(wrong("it is a private key, which should stay where it is"));
        }
        let key = russh::keys::PublicKey::from_openssh(line).map_err(|_| wrong("it does not read as one"))?;
        PublicKey::new(key).ok_or_else(|| wrong("it is not of the kind ssh-ed25519"))
    }

    /// None for a kind of key that is not used here.
    pub(super) fn new(key: russh::keys::PublicKey) -> Option<PublicKey> {
        (key.algorithm() == Algorithm::Ed25519).then_some(PublicKey(key))
    }

    /// The line of a .pub file, without its end.
    pub fn text(&self) -> String {
        self.0.to_openssh().expect("an Ed25519 key has a text")
    }

    /// Whether `signature`, as [`KeyPair::sign`] gives it, is this key's of `message`.
    pub fn verifies(&self, namespace: &str, message: &[u8], signature: &str) -> bool {
        let parsed = SshSig::from_pem(signature);
        parsed.is_ok_and(|signature| self.0.verify(namespace, message, &signature).is_ok())
    }

    /// `SHA256:` and 43 characters, as `ssh-keygen -l` shows it.
    pub fn fingerprint(&self) -> String {
        self.0.fingerprint(HashAlg::Sha256).to_string()
    }

    /// The comment; it may be empty.
    pub fn comment(&self) -> String {
        String::from_utf8_lossy(self.0.comment().as_bytes()).into_owned()
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &PublicKey) -> bool {
        self.0.key_data() == other.0.key_data()
    }
}

impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.fingerprint())
    }
}

/// A private key and its public one. Not shown, wiped from memory when dropped.
#[derive(Clone)]
pub struct KeyPair(Arc<PrivateKey>);

impl KeyPair {
    /// A new key. The comment, a name for people, stands in the file and behind the public key.
    pub fn generate(comment: &str) -> Result<KeyPair> {
        let mut key = PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519)
            .map_err(|e| Error::new(Kind::Bug, format!("cannot make a key: {e}")))?;
        key.set_comment(comment.replace(char::is_control, " "));
        Ok(KeyPair(Arc::new(key)))
    }

    /// Reads a private key file. Refused: one that others than its owner may read, one with a passphrase (nobody is
    /// there to type it), another kind of key.
    pub fn load(path: &Path) -> Result<KeyPair> {
        let mut file = File::open(path).map_err(|e| Error::io("open the key", path, e))?;
        let about = file.metadata().map_err(|e| Error::io("look at the key", path, e))?;
        if about.mode() & 0o077 != 0 {
            return Err(Error::new(Kind::Refused, "others may read the private key")
                .at(path)
                .remedy("make a new one if somebody did; else `chmod 600` it"));
        }
        let wrong = |why: &str| Error::new(Kind::Usage, format!("{why}:")).at(path);
        if !about.is_file() || about.len() > MAX_FILE {
            return Err(wrong("this is no private key"));
        }
        let mut text = Zeroizing::new(Vec::with_capacity(MAX_FILE as usize));
        (&mut file).take(MAX_FILE).read_to_end(&mut text).map_err(|e| Error::io("read the key", path, e))?;
        KeyPair::from_text(&text).map_err(|e| e.at(path))
    }

    /// Reads a private key as OpenSSH writes it; without a passphrase, and of the kind Ed25519.
    pub fn from_text(text: &[u8]) -> Result<KeyPair> {
        let wrong = |why: &'static str| Error::new(Kind::Usage, why);
        let key = PrivateKey::from_openssh(text).map_err(|_| {
            wrong("this is no private key in OpenSSH's format:").remedy("make one with `ssh-keygen -t ed25519 -N ''`")
        })?;
        if key.is_encrypted() {
            return Err(
                wrong("the private key has a passphrase:").remedy("use one without: nobody is there to type it")
            );
        }
        if key.algorithm() != Algorithm::Ed25519 {
            return Err(wrong("the private key is not of the kind ssh-ed25519:"));
        }
        Ok(KeyPair(Arc::new(key)))
    }

    /// The private key as OpenSSH writes it: to be sealed.
    pub fn to_text(&self) -> Result<Zeroizing<String>> {
        self.0.to_openssh(LineEnding::LF).map_err(|e| Error::new(Kind::Bug, format!("cannot write down a key: {e}")))
    }

    /// Reads the key at `path`, or makes one there if nothing is; the second result says which. Of several programs that
    /// make one at once all get the same.
    pub fn load_or_make(path: &Path, comment: &str) -> Result<(KeyPair, bool)> {
        match KeyPair::load(path) {
            Err(e) if e.kind() == Kind::NotFound => {}
            found => return found.map(|key| (key, false)),
        }
        let key = KeyPair::generate(comment)?;
        match key.store(path) {
            Ok(()) => Ok((key, true)),
            Err(e) if e.kind() == Kind::Exists => Ok((KeyPair::load(path)?, false)),
            Err(e) => Err(e),
        }
    }

    /// Writes the key to a new file of mode 0600: whole and durable, or not there. Never replaces one (`Kind::Exists`).
    pub fn store(&self, path: &Path) -> Result<()> {
        let text = self.to_text()?;
        let temporary = Temporary::beside(path)?;
        let failed = |e| Error::io("write the key", path, e);
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary.0).map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        put(&temporary.0, path).map_err(failed)?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|f| f.sync_all()).map_err(|e| Error::io("make durable", folder, e))
    }

    /// A signature of `message` for one purpose, as `ssh-keygen -Y sign -n NAMESPACE` makes it: lines of text.
    pub fn sign(&self, namespace: &str, message: &[u8]) -> Result<String> {
        let failed = |e| Error::new(Kind::Bug, format!("cannot sign: {e}"));
        let signature = self.0.sign(namespace, HashAlg::Sha512, message).map_err(failed)?;
        signature.to_pem(LineEnding::LF).map_err(failed)
    }

    /// What may be shown.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.public_key().clone())
    }

    pub(super) fn private(&self) -> Arc<PrivateKey> {
        self.0.clone()
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({})", self.public().fingerprint())
    }
}

/// Gives the finished file its name if that is free. A filesystem without hard links gets the next best: a look first.
fn put(temporary: &Path, path: &Path) -> std::io::Result<()> {
    match fs::hard_link(temporary, path) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::EOPNOTSUPP | libc::ENOSYS)) => {
            if fs::symlink_metadata(path).is_ok() {
                return Err(std::io::ErrorKind::AlreadyExists.into());
            }
            fs::rename(temporary, path)
        }
        done => done,
    }
}

/// A file's name until it is whole; removed when dropped.
struct Temporary(PathBuf);

impl Temporary {
    fn beside(path: &Path) -> Result<Temporary> {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let name = path.file_name().ok_or_else(|| Error::new(Kind::Usage, "no file is named by").at(path))?;
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut own = std::ffi::OsString::from(".");
        own.push(name);
        own.push(format!(".{}-{number}.tmp", std::process::id()));
        Ok(Temporary(path.with_file_name(own)))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn made_once_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let (key, made) = KeyPair::load_or_make(&path, "site acme").unwrap();
        assert!(made);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let (again, made) = KeyPair::load_or_make(&path, "other").unwrap();
        assert!(!made && again.public() == key.public());
        assert_eq!(again.public().comment(), "site acme");
        assert_eq!(key.store(&path).unwrap_err().kind(), Kind::Exists);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary stays");
    }

    #[test]
    fn many_at_once_make_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let keys: Vec<_> = std::thread::scope(|s| {
            let threads: Vec<_> = (0..8).map(|_| s.spawn(|| KeyPair::load_or_make(&path, "").unwrap())).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(keys.iter().filter(|(_, made)| *made).count(), 1);
        assert!(keys.iter().all(|(key, _)| key.public() == keys[0].0.public()));
    }

    #[test]
    fn what_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        KeyPair::generate("").unwrap().store(&path).unwrap();
        for mode in [0o640, 0o604, 0o660, 0o610] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = KeyPair::load(&path).unwrap_err();
            assert_eq!(error.kind(), Kind::Refused, "{mode:o}");
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        KeyPair::load(&path).unwrap();
    }

    #[test]
    fn other_files_are_no_keys() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        for bytes in [&b""[..], b"ssh-ed25519 AAAA", &[0xff; 300], &[b'-'; 1 << 20]] {
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            assert_eq!(KeyPair::load(&path).unwrap_err().kind(), Kind::Usage);
        }
        assert_eq!(KeyPair::load(dir.path()).unwrap_err().kind(), Kind::Refused, "a folder, by its mode");
        assert_eq!(KeyPair::load(&dir.path().join("none")).unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn public_keys_as_openssh_writes_them() {
        let line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti user@example.com";
        let key = PublicKey::parse(&format!("  {line}\n")).unwrap();
        assert_eq!(key.text(), line);
        assert_eq!(key.comment(), "user@example.com");
        assert_eq!(key.fingerprint(), "SHA256:UCUiLr7Pjs9wFFJMDByLgc3NrtdU344OgUM45wZPcIQ");
        assert_eq!(key, PublicKey::parse(line.rsplit_once(' ').unwrap().0).unwrap(), "the comment makes no difference");
        let own = KeyPair::generate("a\nb").unwrap().public();
        assert_eq!(own.comment(), "a b");
        assert_eq!(PublicKey::parse(&own.text()).unwrap().text(), own.text());
        let rsa = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC7 x";
        for wrong in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 AAAA",
            rsa,
            "-----BEGIN OPENSSH PRIVATE KEY-----",
            "a\nb",
            &format!("{line}\u{1b}[2J"),
        ] {
            assert_eq!(PublicKey::parse(wrong).unwrap_err().kind(), Kind::Usage, "{wrong}");
        }
    }
}
