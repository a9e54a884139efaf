//! A split-block Bloom filter over chunk ids: tells most new chunks from memory.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::id::ChunkId;

/// One bit is set in each of these words of a block.
const WORDS: usize = 8;
/// With 12 bits a key about one new chunk in 200 is asked for in vain.
const BITS_PER_KEY: u64 = 12;
const SALT: [u32; WORDS] =
    [0x47b6_137b, 0x4497_4d91, 0x8824_ad5b, 0xa2b7_289d, 0x7054_95c7, 0x2df1_424b, 0x9efc_4947, 0x5c6b_fb31];

/// The filter. Chunk ids are uniform already, so their bytes are the hash. With more keys than planned for it answers
/// "maybe" more often, never wrongly "no".
pub(super) struct Filter {
    words: Vec<AtomicU32>,
}

impl Filter {
    /// A filter for `keys` keys, of at most `cap` bytes.
    pub fn new(keys: u64, cap: usize) -> Filter {
        let block = WORDS * size_of::<AtomicU32>();
        let wanted = usize::try_from(keys.saturating_mul(BITS_PER_KEY) / 8).unwrap_or(usize::MAX);
        let blocks = (wanted.min(cap) / block).max(1);
        Filter { words: (0..blocks * WORDS).map(|_| AtomicU32::new(0)).collect() }
    }

    /// Adds a key.
    pub fn insert(&self, chunk: &ChunkId) {
        let (block, bits) = self.place(chunk);
        for (word, bit) in block.iter().zip(bits) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// False only if the key was never added.
    pub fn may_hold(&self, chunk: &ChunkId) -> bool {
        let (block, bits) = self.place(chunk);
        block.iter().zip(bits).all(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
    }

    fn place(&self, chunk: &ChunkId) -> (&[AtomicU32], [u32; WORDS]) {
        let b = chunk.as_bytes();
        let which = u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
        let hash = u32::from_le_bytes([b[8], b[9], b[10], b[11]]);
        let blocks = self.words.len() / WORDS;
        let at = ((u128::from(which) * blocks as u128) >> 64) as usize * WORDS;
        (&self.words[at..at + WORDS], SALT.map(|salt| 1 << (hash.wrapping_mul(salt) >> 27)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_was_added_and_little_else() {
        let filter = Filter::new(20_000, usize::MAX);
        let ids: Vec<ChunkId> = (0..20_000).map(|_| ChunkId::random()).collect();
        ids.iter().for_each(|id| filter.insert(id));
        assert!(ids.iter().all(|id| filter.may_hold(id)));
        let wrong = (0..20_000).filter(|_| filter.may_hold(&ChunkId::random())).count();
        assert!(wrong < 400, "{wrong} of 20,000");
    }

    #[test]
    fn past_its_cap_it_never_says_no_wrongly() {
        let filter = Filter::new(1 << 40, 64);
        let ids: Vec<ChunkId> = (0..1000).map(|_| ChunkId::random()).collect();
        ids.iter().for_each(|id| filter.insert(id));
        assert!(ids.iter().all(|id| filter.may_hold(id)));
    }
}
