//! Reading and building what stands between an entry and its chunks: directories and files alike.

pub mod builder;
pub mod closure;
pub mod dir;
pub mod file;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
