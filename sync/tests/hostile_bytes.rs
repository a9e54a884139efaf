//! The protocol's decoders against bytes that nobody vouches for: none may panic, none may set aside memory out of proportion,
//! and what is accepted must be what would be sent.

#[path = "../../repo/tests/common/counting.rs"]
mod counting;
#[path = "hostile/decoders.rs"]
mod decoders;
#[path = "support/samples.rs"]
mod samples;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use counting::bounded;
use decoders::{message, messages, preface, wire};
use repo::format::wire::Writer;
use samples::samples;
use sync::stream::pair;
use sync::wire::limits::MAX_MESSAGE;
use sync::wire::{Connection, HEADER, Header, Message, Preface, Side};

/// Every sample: kind and body.
fn bodies() -> Vec<(&'static str, u8, Vec<u8>)> {
    let body = |message: &Message| {
        let mut bytes = Vec::new();
        message.encode(&mut bytes).unwrap();
        bytes.split_off(HEADER)
    };
    samples().iter().map(|(name, message)| (*name, message.kind(), body(message))).collect()
}

#[test]
fn every_truncation_is_an_error() {
    for (name, kind, body) in bodies() {
        message(kind, &body);
        assert!(Message::decode(kind, &body).is_ok(), "{name}");
        // Any part of Data is Data.
        for n in (0..body.len()).filter(|n| name != "Data" || *n == 0) {
            assert!(Message::decode(kind, &body[..n]).is_err(), "{name} of {n} bytes");
        }
        assert_eq!(
            Message::decode(kind, &[&body[..], &[0]].concat()).is_ok(),
            name == "Data",
            "{name}, and a byte more"
        );
    }
}

#[test]
fn every_byte_of_every_message_set_to_every_value() {
    for (_, kind, body) in bodies() {
        for at in 0..body.len() {
            let mut bad = body.clone();
            for value in 0..=255 {
                bad[at] = value;
                message(kind, &bad);
            }
        }
        (0..=255).for_each(|other| message(other, &body));
    }
    let features = vec!["a".to_owned(), "range-audit".to_owned()];
    let good = Preface { lowest: 1, highest: 2, features }.encode().unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        for value in 0..=255 {
            bad[at] = value;
            preface(&bad);
            preface(&bad[10..]);
        }
    }
}

#[test]
fn lengths_and_counts_of_any_size_set_nothing_aside() {
    // A varint of each magnitude wherever one could stand.
    for (_, kind, body) in bodies() {
        for shift in [7, 12, 13, 14, 15, 21, 28, 31, 32, 35, 48, 63] {
            let mut w = Writer::new();
            w.varint(1 << shift);
            for at in 0..=body.len() {
                let mut bad = body.clone();
                bad.splice(at..(at + 1).min(body.len()), w.as_slice().iter().copied());
                message(kind, &bad);
            }
        }
    }
}

#[test]
fn headers_out_of_bounds_are_refused() {
    let head = |length: u32, kind| [&length.to_le_bytes()[..], &[kind]].concat();
    let read = |bytes: Vec<u8>| Header::decode(bytes.first_chunk().unwrap()).map(|header| header.body);
    for (length, kind) in [(0, 9), (u32::MAX, 9), (MAX_MESSAGE as u32 + 1, 32), (1, 10), (256 * 1024 + 2, 10), (0, 200)]
    {
        assert_eq!(read(head(length, kind)).unwrap_err().kind(), repo::error::Kind::Io, "{length} {kind}");
    }
    assert_eq!(read(head(MAX_MESSAGE as u32, 32)).unwrap(), MAX_MESSAGE - 1);
    assert_eq!(read(head(2, 10)).unwrap(), 1);
    assert_eq!(read(head(MAX_MESSAGE as u32, 255)).unwrap(), MAX_MESSAGE - 1, "may be passed over");
    assert_eq!(read(head(1, 127)).unwrap_err().kind(), repo::error::Kind::NewerFormat);
    assert_eq!(read(head(1, 0)).unwrap_err().kind(), repo::error::Kind::NewerFormat);
}

#[test]
fn the_longest_lists_stay_in_proportion() {
    // Bodies of the longest message, of each kind, that begin with a count of each size.
    for (_, kind, body) in bodies() {
        for n in [4096u64, 4097, 16384, 16385, 1 << 20] {
            for at in 0..body.len().min(80) {
                let mut w = Writer::append_to(body[..at].to_vec());
                w.varint(n);
                let mut bad = w.into_vec();
                bad.resize(MAX_MESSAGE - 1, 1);
                let _ = bounded(bad.len(), 3, || Message::decode(kind, &bad).map(drop));
            }
        }
    }
}

#[test]
fn a_stream_that_promises_much_sets_little_aside() {
    // The longest message there may be, of which little or nothing comes; and one that is passed over, which comes whole.
    for (kind, sent, memory) in [(32, 0, 260 << 10), (32, 300 << 10, 800 << 10), (200, MAX_MESSAGE - 1, 32 << 10)] {
        let (mut there, here) = pair(4 << 20, None);
        there.write.write_all(&Preface::ours().encode().unwrap()).unwrap();
        let mut connection = Connection::open(here, Side::Client, &Preface::ours()).unwrap();
        there.write.write_all(&Header { kind, body: MAX_MESSAGE - 1 }.encode()).unwrap();
        there.write.write_all(&vec![1; sent]).unwrap();
        drop(there.write);
        let heard = bounded(memory, 1, || connection.receive());
        assert_eq!(heard.is_ok_and(|message| message.is_none()), kind == 200);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes(bytes in vec(any::<u8>(), 0..600)) {
        wire(&bytes);
        (0..64).for_each(|kind| message(kind, &bytes));
    }

    #[test]
    fn changed_conversations(
        which in vec(any::<Index>(), 1..6),
        changes in vec((any::<Index>(), any::<u8>()), 0..4),
        cut: Option<Index>,
    ) {
        let all = samples();
        let mut bytes = Vec::new();
        which.iter().for_each(|one| one.get(&all).1.encode(&mut bytes).unwrap());
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        messages(&bytes);
    }
}
