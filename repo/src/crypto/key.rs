//! A key, as a type that neither prints nor outlives its use.

use zeroize::Zeroizing;

/// 32 secret bytes. No `Debug`, `Display`, `Clone` or comparison; wiped when dropped; boxed, so that moving it leaves
/// no copy behind.
pub struct Key(Box<Zeroizing<[u8; 32]>>);

impl Key {
    /// A fresh key from the operating system's random source.
    ///
    /// # Panics
    /// When the system has no random source.
    pub fn random() -> Key {
        let mut key = Key::zero();
        getrandom::fill(&mut key.0[..]).expect("the operating system's random source works");
        key
    }

    /// BLAKE3 derive-key: `context` must be one of [`super::context`].
    pub fn derive(context: &'static str, material: &[u8]) -> Key {
        let mut key = Key::zero();
        blake3::Hasher::new_derive_key(context).update(material).finalize_xof().fill(&mut key.0[..]);
        key
    }

    /// Takes the first 32 bytes of `bytes`; nothing if there are fewer.
    pub(crate) fn from_slice(bytes: &[u8]) -> Option<Key> {
        let mut key = Key::zero();
        key.0.copy_from_slice(bytes.get(..32)?);
        Some(key)
    }

    /// A key to be filled in through [`Key::expose_mut`].
    pub(super) fn zero() -> Key {
        Key(Box::new(Zeroizing::new([0; 32])))
    }

    /// The bytes, for the primitive that uses them. Never log, print or store them in clear.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    pub(super) fn expose_mut(&mut self) -> &mut [u8; 32] {
        &mut self.0
    }

    /// A second copy, on purpose.
    pub fn duplicate(&self) -> Key {
        let mut key = Key::zero();
        key.0.copy_from_slice(&self.0[..]);
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::context;

    #[test]
    fn derivation_depends_on_context_and_material() {
        let a = Key::derive(context::KEY_ID, b"m");
        assert_eq!(a.expose(), &blake3::derive_key(context::KEY_ID, b"m"));
        assert_ne!(a.expose(), Key::derive(context::KEY_FRAME, b"m").expose());
        assert_ne!(a.expose(), Key::derive(context::KEY_ID, b"n").expose());
        assert_eq!(a.expose(), a.duplicate().expose());
        assert_ne!(Key::random().expose(), Key::random().expose());
    }
}
