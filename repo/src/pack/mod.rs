//! Packs: built and written by [`writer`], read through the byte-bounded caches of [`store`].

pub mod source;
pub mod cache;
pub mod read;
pub mod many;
pub mod build;
pub mod store;
pub mod writer;
