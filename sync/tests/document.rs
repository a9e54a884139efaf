//! `docs/protocol.md` against the program: tables, limits, offsets and vectors are read from the page.

#[path = "support/samples.rs"]
mod samples;

use std::collections::BTreeMap;

use repo::id::hex;
use samples::samples;
use sync::wire::limits;
use sync::wire::*;

const DOCUMENT: &str = include_str!("../../docs/protocol.md");

/// The text under a heading, up to the next of its kind.
fn section(heading: &str) -> &'static str {
    let from = DOCUMENT.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading {heading}"));
    let text = &DOCUMENT[from + heading.len() + 2..];
    let marks = heading.split(' ').next().unwrap();
    text.split(&format!("\n{marks} ")).next().unwrap()
}

/// The cells of a section's table rows, without its head.
fn rows(heading: &str) -> Vec<Vec<&'static str>> {
    let lines = section(heading).lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    lines.skip(2).map(|line| line.split(" | ").collect()).collect()
}

/// The rows of a table whose first cell is a name and whose second is a value in code.
fn vectors() -> Vec<(&'static str, &'static str)> {
    let value = |row: &Vec<&'static str>| (row[0], row[1].trim_matches('`'));
    rows("## Vectors").iter().map(value).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "{text}");
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

fn preface() -> Preface {
    Preface { lowest: 1, highest: 2, features: vec!["a".into(), "range-audit".into()] }
}

#[test]
fn the_messages_are_these() {
    let mut told = BTreeMap::new();
    for row in rows("## Messages") {
        assert_eq!(row.len(), 4, "{row:?}");
        let from = match row[2] {
            "C" => Direction::Client,
            "S" => Direction::Server,
            "B" => Direction::Both,
            other => panic!("{other}"),
        };
        assert!(told.insert(row[0].parse::<u8>().unwrap(), (row[1], from)).is_none(), "{row:?}");
    }
    let all = samples();
    let real: BTreeMap<_, _> =
        all.iter().map(|(_, message)| (message.kind(), (message.name(), message.direction()))).collect();
    assert_eq!(told.len(), real.len());
    for (kind, (name, from)) in real {
        assert!(told[&kind].0 == name && told[&kind].1 == from, "{kind} {name} {from:?}");
    }
}

#[test]
fn the_numbers_are_these() {
    /// `DiskFull` as `disk full`.
    fn words(value: impl std::fmt::Debug) -> String {
        let mut out = String::new();
        for c in format!("{value:?}").chars() {
            out.push_str(if c.is_uppercase() && !out.is_empty() { " " } else { "" });
            out.extend(c.to_lowercase());
        }
        out
    }
    fn list<T: std::fmt::Debug>(all: &[T]) -> String {
        all.iter().enumerate().map(|(n, value)| format!("{n} {}", words(value))).collect::<Vec<_>>().join(", ")
    }
    let real = [
        ("purpose", list(&Purpose::ALL)),
        ("role", list(&Role::ALL)),
        ("reason", list(&Reason::ALL)),
        ("area", list(&Area::ALL)),
    ];
    let told: Vec<_> = rows("## Numbers").iter().map(|row| (row[0], row[1].to_owned())).collect();
    assert_eq!(told, real);
    let kinds: Vec<_> = rows("## Failures").iter().map(|row| (row[0].to_owned(), row[1].to_owned())).collect();
    let real: Vec<_> = KINDS.iter().enumerate().map(|(n, kind)| (n.to_string(), format!("{kind:?}"))).collect();
    assert_eq!(kinds, real);
}

#[test]
fn the_limits_are_these() {
    let real: BTreeMap<&str, u64> = [
        ("message, kind and body", limits::MAX_MESSAGE as u64),
        ("Data", limits::MAX_DATA as u64),
        ("preface, behind its length", limits::MAX_PREFACE as u64),
        ("features", limits::MAX_FEATURES as u64),
        ("feature", limits::MAX_FEATURE as u64),
        ("pieces, piece names, bits", limits::MAX_PIECES as u64),
        ("partial objects", limits::MAX_PARTIAL as u64),
        ("snapshots of a page", limits::MAX_SNAPSHOTS as u64),
        ("objects of a page", limits::MAX_LISTING as u64),
        ("object", limits::MAX_OBJECT),
        ("order", limits::MAX_ORDER),
        ("manifest", limits::MAX_MANIFEST),
        ("frame, raw; a piece", limits::MAX_FRAME.into()),
        ("pieces of a frame", limits::MAX_FRAME_CHUNKS as u64),
        ("tenant", limits::MAX_TENANT as u64),
        ("program, label, host", limits::MAX_LABEL as u64),
        ("host key", limits::MAX_HOST_KEY as u64),
        ("keyring", limits::MAX_KEYRING as u64),
        ("belongings", limits::MAX_BELONGINGS as u64),
        ("drives, receipts", limits::MAX_DRIVES as u64),
        ("receipt", limits::MAX_RECEIPT as u64),
        ("text", limits::MAX_TEXT as u64),
        ("state's name", limits::MAX_STATE_NAME as u64),
        ("state's name, one part", limits::MAX_STATE_PART as u64),
        ("state's name, parts", limits::MAX_STATE_PARTS as u64),
    ]
    .into();
    let told: BTreeMap<_, u64> = rows("## Limits").iter().map(|row| (row[0], row[1].parse().unwrap())).collect();
    assert_eq!(told, real);
    assert!(section("## Framing").contains(&format!("together: 1 to {}.", limits::MAX_MESSAGE)));
    assert!(section("## Preface").contains(&format!("what follows, at most {}", limits::MAX_PREFACE)));
    assert!(section("## Messages").contains(&format!("| Data | B | 1 to {} bytes |", limits::MAX_DATA)));
}

#[test]
fn the_preface_has_these_offsets() {
    let bytes = preface().encode().unwrap();
    let block = section("## Preface").split("```").nth(1).unwrap();
    let parse = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.parse::<usize>().ok()?, words.next()?.parse::<usize>().ok()))
    };
    let told: Vec<_> = block.lines().filter_map(parse).collect();
    let values: [&[u8]; 5] = [MAGIC, &[bytes.len() as u8 - 10, 0], &[1, 0], &[2, 0], b"\x02\x01a\x0brange-audit"];
    assert_eq!(told.len(), values.len());
    let mut at = 0;
    for ((offset, len), value) in told.into_iter().zip(values) {
        assert_eq!((offset, len.unwrap_or(value.len())), (at, value.len()));
        assert_eq!(&bytes[at..at + value.len()], value);
        at += value.len();
    }
    assert_eq!(at, bytes.len());
    assert_eq!((PREFACE_HEAD, LOWEST, HIGHEST), (10, 1, 1));
    assert!(DOCUMENT.contains(&format!("\nVersion {HIGHEST}. This page")));
}

#[test]
fn the_vectors_are_these() {
    let told = vectors();
    let all = samples();
    let mut real = vec![("preface", hex(&preface().encode().unwrap()))];
    for (name, message) in &all {
        let mut bytes = Vec::new();
        message.encode(&mut bytes).unwrap();
        real.push((name, hex(&bytes)));
    }
    for (name, value) in &real {
        assert!(told.iter().any(|row| row == &(*name, &value[..])), "not on the page: | {name} | `{value}` |");
    }
    assert_eq!(told.len(), real.len());
    // And back: what the page says is read as what the sample is.
    for ((name, value), (_, message)) in told[1..].iter().zip(&all) {
        let bytes = unhex(value);
        let header = Header::decode(bytes.first_chunk().unwrap()).unwrap();
        assert_eq!(header.body, bytes.len() - HEADER, "{name}");
        assert!(Message::decode(header.kind, &bytes[HEADER..]).unwrap() == *message, "{name}");
    }
    let preface_bytes = unhex(told[0].1);
    assert_eq!(Preface::decode(&preface_bytes[PREFACE_HEAD..]).unwrap(), preface());
    let head = Preface::decode_head(preface_bytes.first_chunk().unwrap());
    assert_eq!(head.unwrap(), preface_bytes.len() - PREFACE_HEAD);
}
