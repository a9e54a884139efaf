//! Where large files are cut: FastCDC (2020), gear table and masks frozen in `docs/format.md` (Chunks).

use fastcdc::v2020::FastCDC;

use crate::error::{Error, Kind, Result};
use crate::limits::{KIB, MAX_CHUNK};

/// How files are cut into chunks. Fixed when a repository is made: other parameters would find no duplicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkerParams {
    /// The algorithm. 1: FastCDC 2020, normalisation level 1, seed 0. 2 is reserved for pieces of a fixed size.
    pub id: u16,
    /// No chunk but a file's last is shorter, in bytes.
    pub min: u32,
    /// The length aimed at.
    pub avg: u32,
    /// No chunk is longer.
    pub max: u32,
}

impl ChunkerParams {
    /// FastCDC of 32, 128 and 512 KiB.
    pub const DEFAULT: ChunkerParams =
        ChunkerParams { id: 1, min: 32 * KIB as u32, avg: 128 * KIB as u32, max: 512 * KIB as u32 };

    /// Refuses parameters this program cannot cut by.
    ///
    /// # Errors
    /// `NewerFormat` for an unknown algorithm, `Damaged` for sizes out of order or range.
    pub fn validate(&self) -> Result<()> {
        if self.id != 1 {
            return Err(
                Error::new(Kind::NewerFormat, format!("unknown chunker {}", self.id)).remedy("use a newer packmule")
            );
        }
        let even = |n: u32| n.is_multiple_of(2);
        let ordered = self.min < self.avg && self.avg < self.max && self.max <= MAX_CHUNK as u32;
        // The algorithm is not defined for smaller ones.
        let large_enough = 64 <= self.min && 256 <= self.avg && 1024 <= self.max;
        if !ordered || !large_enough || !even(self.min) || !even(self.avg) || !even(self.max) {
            return Err(Error::damaged("the chunker's sizes are out of range"));
        }
        Ok(())
    }

    /// The length of the first chunk of `data`. Give at least [`ChunkerParams::max`] bytes, or all that is left of the file.
    pub fn cut(&self, data: &[u8]) -> usize {
        if data.len() <= self.min as usize {
            return data.len();
        }
        FastCDC::new(data, self.min as usize, self.avg as usize, self.max as usize).cut(0, data.len()).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pseudo-random bytes that every implementation can make: BLAKE3's output stream of a fixed input.
    fn sample(len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new().update(b"packmule chunker vector").finalize_xof().fill(&mut out);
        out
    }

    fn cuts(data: &[u8]) -> Vec<usize> {
        let params = ChunkerParams::DEFAULT;
        let mut rest = data;
        let mut out = Vec::new();
        while !rest.is_empty() {
            let n = params.cut(rest);
            out.push(n);
            rest = &rest[n..];
        }
        out
    }

    #[test]
    fn sizes_that_the_algorithm_is_not_defined_for_are_refused() {
        let params = |min, avg, max| ChunkerParams { id: 1, min, avg, max };
        for good in [ChunkerParams::DEFAULT, params(64, 256, 1024), params(64, 66 * 4, 1 << 20)] {
            good.validate().unwrap();
            assert!((good.min as usize..=good.max as usize).contains(&good.cut(&sample(2 << 20))));
        }
        for bad in [
            params(62, 256, 1024),
            params(64, 254, 1024),
            params(64, 66, 68),
            params(64, 256, 1022),
            params(65, 256, 1024),
            params(256, 256, 1024),
            params(64, 1024, 1024),
            params(64, 256, (1 << 20) + 2),
            params(0, 0, 0),
        ] {
            assert_eq!(bad.validate().unwrap_err().kind(), Kind::Damaged, "{bad:?}");
        }
    }

    #[test]
    fn a_window_of_max_bytes_cuts_as_the_whole_does() {
        let params = ChunkerParams::DEFAULT;
        let data = sample(3 * 1024 * 1024);
        let mut at = 0;
        for whole in cuts(&data) {
            let window = &data[at..data.len().min(at + params.max as usize)];
            assert_eq!(params.cut(window), whole);
            at += whole;
        }
    }

    #[test]
    fn an_insertion_moves_few_cuts() {
        let data = sample(8 * 1024 * 1024);
        let mut edited = data.clone();
        edited.splice(1_000_000..1_000_000, [1, 2, 3]);
        let ends = |cuts: Vec<usize>, shift: usize| {
            cuts.iter()
                .scan(0, |at, n| {
                    *at += n;
                    Some(*at)
                })
                .map(|e| e.saturating_sub(shift))
                .collect::<Vec<_>>()
        };
        let (before, after) = (ends(cuts(&data), 0), ends(cuts(&edited), 3));
        let same = before.iter().filter(|e| **e > 2_000_000 && after.contains(e)).count();
        assert_eq!(same, before.iter().filter(|e| **e > 2_000_000).count());
    }
}
