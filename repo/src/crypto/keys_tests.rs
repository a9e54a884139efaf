use super::*;
use crate::crypto::hash::{ChunkKind, content_hash};
use crate::crypto::vectors;
use crate::id::hex;

const OBJECTS: [Object; 7] = [
    Object::Footer,
    Object::Rollup,
    Object::Manifest,
    Object::Sidecar,
    Object::LogRecord,
    Object::IndexValue,
    Object::TenantKeyring,
];

fn fixed_keys() -> Keys {
    vectors::keys()
}

fn sealed_frame(keys: &Keys, payload: &[u8]) -> Vec<u8> {
    let mut buf = vec![0xaa; FRAME_HEAD];
    buf.extend_from_slice(payload);
    assert_eq!(keys.seal_frame(FrameKind::Data, 100, &mut buf), keys.current_epoch());
    buf
}

fn is_damaged<T>(result: Result<T>) -> bool {
    result.is_err_and(|e| e.kind() == Kind::Damaged)
}

#[test]
fn objects_round_trip_and_every_flipped_bit_fails() {
    let keys = fixed_keys();
    for object in OBJECTS {
        for plain in [&b""[..], b"x", &[9; 5000]] {
            let sealed = keys.seal(object, b"ctx", plain);
            assert_eq!(sealed.len(), plain.len() + OBJECT_OVERHEAD);
            assert_eq!(keys.open(object, b"ctx", &sealed).unwrap(), plain);
        }
    }
    let sealed = keys.seal(Object::Manifest, b"ctx", b"a manifest");
    for bit in 0..sealed.len() * 8 {
        let mut bad = sealed.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(is_damaged(keys.open(Object::Manifest, b"ctx", &bad)), "bit {bit}");
    }
    for len in 0..sealed.len() {
        assert!(is_damaged(keys.open(Object::Manifest, b"ctx", &sealed[..len])), "length {len}");
    }
    assert!(is_damaged(keys.open(Object::Manifest, b"ctx", &[&sealed[..], b"x"].concat())));
}

#[test]
fn an_object_opens_only_as_what_it_is_and_where_it_belongs() {
    let keys = fixed_keys();
    for object in OBJECTS {
        let sealed = keys.seal(object, b"ctx", b"plain");
        for other in OBJECTS {
            assert_eq!(keys.open(other, b"ctx", &sealed).is_ok(), other == object);
        }
        assert!(is_damaged(keys.open(object, b"cty", &sealed)));
        assert!(is_damaged(keys.open(object, b"", &sealed)));
        let elsewhere = Keys::derive(&vectors::keyring(), RepoId([8; 32]));
        assert!(is_damaged(elsewhere.open(object, b"ctx", &sealed)));
        let mut other_epoch = sealed.clone();
        other_epoch[0] = 0;
        assert!(is_damaged(keys.open(object, b"ctx", &other_epoch)));
    }
}

#[test]
fn the_kind_is_bound_apart_from_its_key() {
    // The same key and nonce under another number: the AAD alone must refuse it.
    let keys = fixed_keys();
    let (a, b) = (keys.object_aad(Object::Footer, 1, b"c"), keys.object_aad(Object::Rollup, 1, b"c"));
    assert_ne!(a, b);
    assert_ne!(a, keys.object_aad(Object::Footer, 0, b"c"));
    assert_ne!(keys.object_aad(Object::Footer, 1, &[0; 5]), keys.frame_aad(FrameKind::Data, 1, 0));
}

#[test]
fn frames_round_trip_in_place() {
    let keys = fixed_keys();
    for payload in [&b""[..], b"x", &[3; 70_000]] {
        let mut buf = sealed_frame(&keys, payload);
        assert_eq!(buf.len(), payload.len() + FRAME_OVERHEAD);
        keys.open_frame(FrameKind::Data, 1, 100, &mut buf).unwrap();
        assert_eq!(&buf[FRAME_HEAD..], payload);
    }
    assert_ne!(sealed_frame(&keys, b"same"), sealed_frame(&keys, b"same"));
}

#[test]
fn sealing_and_opening_a_frame_does_not_move_it() {
    let keys = fixed_keys();
    let mut buf = Vec::with_capacity(FRAME_OVERHEAD + 1000);
    buf.resize(FRAME_HEAD + 1000, 1);
    let at = buf.as_ptr();
    keys.seal_frame(FrameKind::Tree, 1000, &mut buf);
    keys.open_frame(FrameKind::Tree, 1, 1000, &mut buf).unwrap();
    assert_eq!(buf.as_ptr(), at);
}

#[test]
fn a_frame_opens_only_with_what_it_was_sealed_with() {
    let keys = fixed_keys();
    let sealed = sealed_frame(&keys, b"payload");
    let open = |keys: &Keys, kind, epoch, raw_len, sealed: &[u8]| {
        is_damaged(keys.open_frame(kind, epoch, raw_len, &mut sealed.to_vec()))
    };
    assert!(!open(&keys, FrameKind::Data, 1, 100, &sealed));
    assert!(open(&keys, FrameKind::Tree, 1, 100, &sealed));
    assert!(open(&keys, FrameKind::Data, 0, 100, &sealed));
    assert!(open(&keys, FrameKind::Data, 2, 100, &sealed));
    assert!(open(&keys, FrameKind::Data, u32::MAX, 100, &sealed));
    assert!(open(&keys, FrameKind::Data, 1, 101, &sealed));
    assert!(open(&Keys::derive(&vectors::keyring(), RepoId([8; 32])), FrameKind::Data, 1, 100, &sealed));
    for bit in 0..sealed.len() * 8 {
        let mut bad = sealed.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(open(&keys, FrameKind::Data, 1, 100, &bad), "bit {bit}");
    }
    for len in 0..sealed.len() {
        assert!(open(&keys, FrameKind::Data, 1, 100, &sealed[..len]), "length {len}");
    }
}

#[test]
fn a_new_epoch_keeps_ids_and_old_data() {
    let mut ring = Keyring::generate();
    let before = Keys::derive(&ring, RepoId([1; 32]));
    let old = before.seal(Object::LogRecord, b"1", b"old");
    assert_eq!(ring.push_epoch().unwrap(), 1);
    let after = Keys::derive(&ring.duplicate(), RepoId([1; 32]));
    let new = after.seal(Object::LogRecord, b"2", b"new");

    let h = content_hash(ChunkKind::Data, b"chunk");
    assert_eq!(before.chunk_id(&h), after.chunk_id(&h));
    assert_eq!(before.config_mac(b"config"), after.config_mac(b"config"));
    assert_eq!(before.signing_key().verifying_key(), after.signing_key().verifying_key());
    assert_eq!(after.open(Object::LogRecord, b"1", &old).unwrap(), b"old");
    assert_eq!(after.open(Object::LogRecord, b"2", &new).unwrap(), b"new");
    assert!(is_damaged(before.open(Object::LogRecord, b"2", &new)));
    assert_eq!((before.current_epoch(), after.current_epoch()), (0, 1));
}

#[test]
fn keyrings_round_trip_and_have_bounds() {
    let ring = vectors::keyring();
    let again = Keyring::from_bytes(&ring.to_bytes()).unwrap();
    assert_eq!(again.to_bytes(), ring.to_bytes());
    for len in [0, 1, 31, 33, 63, 32 * (MAX_EPOCHS + 1)] {
        assert!(is_damaged(Keyring::from_bytes(&vec![0; len])), "{len}");
    }
    let mut full = Keyring { masters: (0..MAX_EPOCHS).map(|_| Key::zero()).collect() };
    assert_eq!(full.push_epoch().unwrap_err().kind(), Kind::Refused);
}

#[test]
fn keys_serve_all_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Keys>();
    shared::<Keyring>();
}

#[test]
fn known_answers() {
    let keys = fixed_keys();
    let h = content_hash(ChunkKind::Data, b"packmule");
    assert_eq!(keys.chunk_id(&h).to_hex(), vectors::get("chunk id"));
    assert_eq!(hex(&keys.config_mac(b"packmule")), vectors::get("config authenticator"));
    assert_eq!(hex(keys.signing_key().verifying_key().as_bytes()), vectors::get("signing key, public"));

    let nonce: [u8; NONCE] = std::array::from_fn(|i| i as u8);
    for (object, name) in OBJECTS.into_iter().zip(["footer", "roll-up", "manifest", "sidecar", "log", "index"]) {
        let sealed = keys.seal_with(object, b"context", b"packmule", &nonce);
        assert_eq!(hex(&sealed), vectors::get(&format!("sealed {name}")));
    }
    for (kind, name) in [(FrameKind::Data, "data"), (FrameKind::Tree, "tree")] {
        let mut buf = vec![0; FRAME_HEAD];
        buf.extend_from_slice(b"packmule");
        keys.seal_frame_with(kind, 8, &mut buf, &nonce);
        assert_eq!(hex(&buf), vectors::get(&format!("{name} frame")));
    }
}
