//! Fuzz targets of every decoder: `cargo +nightly fuzz run tree -- -max_total_time=600 -malloc_limit_mb=64`.
//!
//! What a decoder must hold to is written once, in `repo/tests/hostile/decoders.rs` and `sync/tests/hostile/decoders.rs`; there
//! it is also tried with proptest.

#[path = "../../repo/tests/hostile/decoders.rs"]
pub mod decoders;
#[path = "../../sync/tests/hostile/decoders.rs"]
pub mod protocol;

/// The fuzzer's own `-malloc_limit_mb` watches the memory.
pub fn bounded<T>(_given: usize, _each: usize, decode: impl FnOnce() -> T) -> T {
    decode()
}
