//! Sorts more chunk entries than fit in memory: sorted runs in files, merged at the end.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::id::ChunkId;

/// A chunk and its place, as bits.
pub(super) type Entry = (ChunkId, u64);

const ENTRY: usize = 40;
/// Bytes of entries sorted at once.
const RUN: usize = 64 << 20;
/// Runs merged at once: bounds the files open and, with [`BUFFER`], the memory.
const FAN_IN: usize = 128;
const BUFFER: usize = 256 << 10;

/// Takes entries in any order and gives them back sorted.
pub(super) struct Sorter {
    dir: PathBuf,
    buffer: Vec<Entry>,
    capacity: usize,
    /// By level: runs of level n were merged n times. Each level has fewer than [`FAN_IN`].
    runs: Vec<Vec<PathBuf>>,
    made: u64,
}

impl Sorter {
    /// Sorts in `dir`, which holds twice the entries for a time.
    pub fn new(dir: &Path) -> Sorter {
        Sorter::with_capacity(dir, RUN / ENTRY)
    }

    /// As [`Sorter::new`], with `capacity` entries in memory.
    pub fn with_capacity(dir: &Path, capacity: usize) -> Sorter {
        Sorter { dir: dir.to_owned(), buffer: Vec::new(), capacity, runs: Vec::new(), made: 0 }
    }

    /// Takes one entry.
    pub fn push(&mut self, entry: Entry) -> Result<()> {
        self.buffer.push(entry);
        if self.buffer.len() >= self.capacity { self.spill() } else { Ok(()) }
    }

    fn spill(&mut self) -> Result<()> {
        self.buffer.sort_unstable();
        let mut run = RunWriter::new(self.next_path())?;
        self.buffer.iter().try_for_each(|entry| run.put(entry))?;
        self.buffer.clear();
        let run = run.finish()?;
        self.keep(0, run)
    }

    fn keep(&mut self, level: usize, run: PathBuf) -> Result<()> {
        if self.runs.len() <= level {
            self.runs.push(Vec::new());
        }
        self.runs[level].push(run);
        if self.runs[level].len() < FAN_IN {
            return Ok(());
        }
        let full = std::mem::take(&mut self.runs[level]);
        let mut merged = RunWriter::new(self.next_path())?;
        merge(full, &mut |entry| merged.put(&entry))?;
        let merged = merged.finish()?;
        self.keep(level + 1, merged)
    }

    /// Shows every entry in order of chunk id, then place.
    pub fn finish(mut self, visit: &mut dyn FnMut(Entry) -> Result<()>) -> Result<()> {
        if self.runs.is_empty() {
            self.buffer.sort_unstable();
            return self.buffer.into_iter().try_for_each(visit);
        }
        if !self.buffer.is_empty() {
            self.spill()?;
        }
        self.buffer = Vec::new();
        let mut runs: Vec<PathBuf> = self.runs.drain(..).rev().flatten().collect();
        while runs.len() > FAN_IN {
            let some = runs.split_off(runs.len() - FAN_IN);
            let mut merged = RunWriter::new(self.next_path())?;
            merge(some, &mut |entry| merged.put(&entry))?;
            runs.push(merged.finish()?);
        }
        merge(runs, visit)
    }

    fn next_path(&mut self) -> PathBuf {
        self.made += 1;
        self.dir.join(format!("run-{}", self.made))
    }
}

struct RunWriter {
    path: PathBuf,
    file: BufWriter<File>,
}

impl RunWriter {
    fn new(path: PathBuf) -> Result<RunWriter> {
        let file = File::create(&path).map_err(|e| Error::io("create", &path, e))?;
        Ok(RunWriter { path, file: BufWriter::with_capacity(BUFFER, file) })
    }

    fn put(&mut self, entry: &Entry) -> Result<()> {
        let mut bytes = [0; ENTRY];
        bytes[..32].copy_from_slice(entry.0.as_bytes());
        bytes[32..].copy_from_slice(&entry.1.to_be_bytes());
        self.file.write_all(&bytes).map_err(|e| Error::io("write", &self.path, e))
    }

    fn finish(mut self) -> Result<PathBuf> {
        self.file.flush().map_err(|e| Error::io("write", &self.path, e))?;
        Ok(self.path)
    }
}

struct RunReader {
    path: PathBuf,
    file: BufReader<File>,
    left: u64,
}

impl RunReader {
    fn new(path: PathBuf) -> Result<RunReader> {
        let file = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
        let length = file.metadata().map_err(|e| Error::io("open", &path, e))?.len();
        Ok(RunReader { path, file: BufReader::with_capacity(BUFFER, file), left: length / ENTRY as u64 })
    }

    fn next(&mut self) -> Result<Option<Entry>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let (mut chunk, mut place) = ([0; 32], [0; 8]);
        let read = self.file.read_exact(&mut chunk).and_then(|()| self.file.read_exact(&mut place));
        read.map_err(|e| Error::io("read", &self.path, e))?;
        Ok(Some((ChunkId(chunk), u64::from_be_bytes(place))))
    }
}

/// Merges sorted runs and removes them.
fn merge(runs: Vec<PathBuf>, visit: &mut dyn FnMut(Entry) -> Result<()>) -> Result<()> {
    let mut readers = runs.into_iter().map(RunReader::new).collect::<Result<Vec<_>>>()?;
    let mut heads = BinaryHeap::with_capacity(readers.len());
    for (i, reader) in readers.iter_mut().enumerate() {
        heads.extend(reader.next()?.map(|entry| Reverse((entry, i))));
    }
    while let Some(Reverse((entry, i))) = heads.pop() {
        visit(entry)?;
        heads.extend(readers[i].next()?.map(|entry| Reverse((entry, i))));
    }
    for reader in readers {
        fs::remove_file(&reader.path).map_err(|e| Error::io("remove", &reader.path, e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorts_through_several_levels_of_runs() {
        let dir = tempfile::tempdir().unwrap();
        let mut sorter = Sorter::with_capacity(dir.path(), 3);
        let mut expected: Vec<Entry> = (0..1000).map(|n| (ChunkId::random(), n)).collect();
        for entry in &expected {
            sorter.push(*entry).unwrap();
        }
        assert!(sorter.runs.len() > 1);
        expected.sort_unstable();
        let mut found = Vec::new();
        sorter
            .finish(&mut |entry| {
                found.push(entry);
                Ok(())
            })
            .unwrap();
        assert!(found == expected);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
