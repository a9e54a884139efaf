//! The protocol's decoders under attack, for `tests/hostile_bytes.rs` and for `fuzz/`. Whoever includes this gives `bounded`,
//! which runs a decoder and may watch its memory.

use sync::wire::limits::MAX_MESSAGE;
use sync::wire::{HEADER, Header, Message, PREFACE_HEAD, Preface};

use crate::bounded;

/// The start of a stream: a preface, and messages. Whatever is accepted is what would be sent.
pub fn wire(bytes: &[u8]) {
    preface(bytes);
    messages(bytes);
    // As a body alone, of every kind.
    if let Some((kind, body)) = bytes.split_first() {
        message(*kind, body);
    }
}

/// A preface, with and without its head.
pub fn preface(bytes: &[u8]) {
    if let Some(head) = bytes.first_chunk::<PREFACE_HEAD>() {
        let _ = bounded(bytes.len(), 0, || Preface::decode_head(head));
    }
    if let Ok(preface) = bounded(bytes.len(), 32, || Preface::decode(bytes)) {
        let again = preface.encode().unwrap();
        assert!(bytes.starts_with(&again[PREFACE_HEAD..]));
    }
}

/// Messages, one after the other.
pub fn messages(bytes: &[u8]) {
    let mut rest = bytes;
    while let Some((head, tail)) = rest.split_first_chunk::<HEADER>() {
        let Ok(header) = Header::decode(head) else { return };
        assert!(header.body < MAX_MESSAGE && header.encode() == *head);
        let Some((body, tail)) = tail.split_at_checked(header.body) else { return };
        if !header.is_unknown() {
            message(header.kind, body);
        }
        rest = tail;
    }
}

/// One message's body.
pub fn message(kind: u8, body: &[u8]) {
    // 24 for each: a list of objects takes at least one byte for each of them here, and no more than 4096.
    if let Ok(message) = bounded(body.len() + 16 * 1024, 24, || Message::decode(kind, body)) {
        let mut again = Vec::new();
        message.encode(&mut again).unwrap();
        assert_eq!(&again[HEADER..], body);
        assert_eq!((again[HEADER - 1], message.kind()), (kind, kind));
        // Must neither fail nor go on for ever.
        assert!(format!("{message:?}").len() < 64 * 1024);
        if let Message::Fail(fail) = message {
            let said = fail.into_error().to_string();
            assert!(sync::wire::is_plain(&said), "{said:?}");
        }
    }
}
