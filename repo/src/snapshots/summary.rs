//! What the index keeps of a manifest, sealed, so that listing many snapshots reads no manifests.

use crate::crypto::keys::{Keys, Object};
use crate::error::{Error, Result};
use crate::format::manifest::{Manifest, Stats};
use crate::format::wire::{Reader, Writer};
use crate::id::SnapshotId;

/// Another version's summaries are made anew, not understood.
const VERSION: u8 = 1;
const MAX_TEXT: usize = 64 * 1024;
const MAX_PATHS: usize = 65_536;

/// A manifest without its tree. What the log says (host, source, times, tags) is not repeated here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The user who ran the capture.
    pub username: String,
    /// Name and version of the program.
    pub program: String,
    /// The paths that were asked for, as stored: absolute ones begin with `/`.
    pub paths: Vec<Vec<u8>>,
    /// When the capture ended, nanoseconds since the epoch.
    pub captured_end: i64,
    /// The snapshot it was compared with.
    pub parent: Option<SnapshotId>,
    /// Totals.
    pub stats: Stats,
}

impl Summary {
    /// Of a manifest.
    pub fn of(manifest: &Manifest) -> Summary {
        Summary {
            username: manifest.username.clone(),
            program: manifest.program.clone(),
            paths: manifest.paths.clone(),
            captured_end: manifest.captured_end,
            parent: manifest.parent,
            stats: manifest.stats.clone(),
        }
    }

    /// For the index. Bound to the snapshot and to the manifest's hash that the log has.
    pub fn seal(&self, keys: &Keys, id: &SnapshotId, manifest_hash: &[u8; 32]) -> Vec<u8> {
        keys.seal(Object::IndexValue, &context(id, manifest_hash), &self.encode())
    }

    /// What [`Summary::seal`] gave for the same snapshot and manifest.
    ///
    /// # Errors
    /// `Damaged` for anything else: then the manifest must be asked.
    pub fn open(keys: &Keys, id: &SnapshotId, manifest_hash: &[u8; 32], sealed: &[u8]) -> Result<Summary> {
        Summary::decode(&keys.open(Object::IndexValue, &context(id, manifest_hash), sealed)?)
    }

    fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(VERSION);
        w.lp_str(&self.username);
        w.lp_str(&self.program);
        w.varint(self.paths.len() as u64);
        self.paths.iter().for_each(|p| w.lp_bytes(p));
        w.i64(self.captured_end);
        w.lp_bytes(self.parent.as_ref().map_or(&[][..], |p| p.as_bytes()));
        self.stats.values().iter().for_each(|v| w.varint(*v));
        w.into_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Summary> {
        let mut r = Reader::new(bytes);
        if r.u8()? != VERSION {
            return Err(Error::damaged("a snapshot's summary is of another version"));
        }
        let username = r.lp_str(MAX_TEXT)?.to_owned();
        let program = r.lp_str(MAX_TEXT)?.to_owned();
        let count = r.count(MAX_PATHS, 1)?;
        let paths = (0..count).map(|_| Ok(r.lp_bytes(MAX_TEXT)?.to_vec())).collect::<Result<_>>()?;
        let captured_end = r.i64()?;
        let parent = match r.lp_bytes(32)? {
            [] => None,
            bytes => Some(SnapshotId(bytes.try_into().map_err(|_| Error::damaged("a summary's parent is no id"))?)),
        };
        let mut values = [0; 15];
        for value in &mut values {
            *value = r.varint()?;
        }
        r.finish()?;
        Ok(Summary { username, program, paths, captured_end, parent, stats: Stats::from_values(values) })
    }
}

fn context(id: &SnapshotId, manifest_hash: &[u8; 32]) -> Vec<u8> {
    [b"summary".as_slice(), id.as_bytes(), manifest_hash].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::keys::Keyring;
    use crate::id::RepoId;

    #[test]
    fn a_summary_opens_only_for_its_snapshot_and_manifest() {
        let keys = Keys::derive(&Keyring::generate(), RepoId::random());
        let summary = Summary {
            username: "u".into(),
            program: "packmule 0".into(),
            paths: vec![b"/a".to_vec(), b"/\xff".to_vec()],
            captured_end: -5,
            parent: Some(SnapshotId([7; 32])),
            stats: Stats { files: 3, unstable: u64::MAX, ..Stats::default() },
        };
        let (id, hash) = (SnapshotId::random(), [9; 32]);
        let sealed = summary.seal(&keys, &id, &hash);
        assert_eq!(Summary::open(&keys, &id, &hash, &sealed).unwrap(), summary);
        assert!(Summary::open(&keys, &SnapshotId::random(), &hash, &sealed).is_err());
        assert!(Summary::open(&keys, &id, &[8; 32], &sealed).is_err());
        assert!(Summary::open(&keys, &id, &hash, &sealed[..sealed.len() - 1]).is_err());
        let encoded = summary.encode();
        for cut in 0..encoded.len() {
            assert!(Summary::decode(&encoded[..cut]).is_err(), "{cut}");
        }
    }
}
