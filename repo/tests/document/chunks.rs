//! How files are cut.

use std::collections::BTreeMap;

use fastcdc::v2020::{MASKS, get_gear_with_seed};
use repo::chunker::ChunkerParams;

use crate::{rows, section, vector};

/// The gear table as the page has it.
fn gear() -> Vec<u64> {
    let block = section("## Chunks").split("```").nth(3).unwrap();
    block.split_whitespace().map(|word| u64::from_str_radix(word, 16).unwrap()).collect()
}

fn masks() -> BTreeMap<u32, u64> {
    let row =
        |row: Vec<&'static str>| Some((row[0].parse().ok()?, u64::from_str_radix(row[1].trim_matches('`'), 16).ok()?));
    rows("## Chunks").into_iter().filter_map(row).collect()
}

/// The page's rule, word by word.
fn cut_as_told(params: ChunkerParams, gear: &[u64], masks: &BTreeMap<u32, u64>, data: &[u8]) -> usize {
    if data.len() <= params.min as usize {
        return data.len();
    }
    let bits = f64::from(params.avg).log2().round() as u32;
    let n = data.len().min(params.max as usize);
    let mut hash = 0u64;
    for i in params.min as usize..n & !1 {
        hash = (hash << 1).wrapping_add(gear[usize::from(data[i])]);
        let mask = if i < params.avg as usize { masks[&(bits + 1)] } else { masks[&(bits - 1)] };
        if hash & mask == 0 {
            return i;
        }
    }
    n
}

/// The page's sample.
fn sample(len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(b"packmule chunker vector").finalize_xof().fill(&mut out);
    out
}

fn cuts(data: &[u8], cut: impl Fn(&[u8]) -> usize) -> Vec<usize> {
    let mut rest = data;
    let mut out = Vec::new();
    while !rest.is_empty() {
        let n = cut(rest);
        out.push(n);
        rest = &rest[n..];
    }
    out
}

#[test]
fn the_gear_table_and_masks_are_frozen() {
    let (real, _) = get_gear_with_seed(0);
    assert_eq!(gear(), real.to_vec());
    let masks = masks();
    assert_eq!(masks.keys().copied().collect::<Vec<_>>(), (7..=21).collect::<Vec<_>>());
    for (n, mask) in masks {
        assert_eq!(MASKS[n as usize], mask, "mask {n}");
    }
}

#[test]
fn chunks_are_cut_as_told() {
    let (gear, masks) = (gear(), masks());
    let data = sample(2 << 20);
    let small = ChunkerParams { id: 1, min: 4 << 10, avg: 16 << 10, max: 64 << 10 };
    for (params, name) in [(ChunkerParams::DEFAULT, "cuts, default"), (small, "cuts, 4 16 64 KiB")] {
        let real = cuts(&data, |rest| params.cut(rest));
        let text = real.iter().map(usize::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(text, vector(name));
        assert_eq!(cuts(&data, |rest| cut_as_told(params, &gear, &masks, rest)), real);
    }
    let mut odd = vec![small, ChunkerParams::DEFAULT];
    odd.extend(
        [(64, 256, 1024), (64, 300, 1024), (2048, 5000, 9000), (64, 1 << 19, 1 << 20), (500, 724, 1024)]
            .map(|(min, avg, max)| ChunkerParams { id: 1, min, avg, max }),
    );
    for params in odd {
        params.validate().unwrap();
        // Random, and with stretches that never cut; of lengths around every bound, odd ones too.
        for (from, len) in [(0, 300_001), (7, 65_535), (11, 4097), (1000, 16_383), (5, 1025), (9, 131_073)] {
            let mut piece = data[from..from + len].to_vec();
            for fill in [0, len / 2] {
                piece[..fill].fill(0);
                let told = cuts(&piece, |rest| cut_as_told(params, &gear, &masks, rest));
                assert_eq!(cuts(&piece, |rest| params.cut(rest)), told, "{params:?} {len}");
            }
        }
    }
}
