//! The index against a model that is plainly right.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::tests::{WHO, at, chunk, new_pack, pack_id, pack_of, ready};
use super::*;

#[derive(Clone, Debug)]
enum Step {
    Add(u64, Vec<u64>),
    Remove(u64, bool),
    Condemn(u64, bool),
    Reopen,
    Rebuild,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..8u64, prop::collection::vec(0..40u64, 0..12)).prop_map(|(p, c)| Step::Add(p, c)),
        2 => (0..8u64, any::<bool>()).prop_map(|(p, named)| Step::Remove(p, named)),
        2 => (0..8u64, any::<bool>()).prop_map(|(p, c)| Step::Condemn(p, c)),
        1 => Just(Step::Reopen),
        1 => Just(Step::Rebuild),
    ]
}

/// What the index should say: packs with flag and chunks, and the pack each chunk is to be found in.
#[derive(Default)]
struct Model {
    packs: BTreeMap<u64, (bool, Vec<u64>)>,
    chunks: HashMap<u64, u64>,
}

/// Answers removal from the model's packs.
struct Elsewhere<'a>(&'a Model, u64, bool);

impl Reassign for Elsewhere<'_> {
    fn chunks(&self, _: &PackId) -> Result<Option<Vec<ChunkId>>> {
        Ok(self.2.then(|| self.0.packs[&self.1].1.iter().map(|c| chunk(*c)).collect()))
    }

    fn place(&self, id: &ChunkId) -> Option<Place> {
        let (pack, _) = self.0.elsewhere(self.1, id)?;
        Some(Place { pack: pack_id(pack), frame: 1, slot: 1 })
    }
}

impl Model {
    fn elsewhere(&self, not: u64, id: &ChunkId) -> Option<(u64, u64)> {
        let mut others = self.packs.iter().filter(|(p, _)| **p != not);
        others.find_map(|(p, (_, chunks))| Some((*p, *chunks.iter().find(|c| chunk(**c) == *id)?)))
    }

    fn apply(&mut self, index: &mut Index, dir: &Path, step: &Step, seq: u64) {
        match step {
            Step::Add(p, chunks) if !self.packs.contains_key(p) => {
                index.add_packs(&[new_pack(*p, chunks.iter().copied())], at(seq)).unwrap();
                self.packs.insert(*p, (false, chunks.clone()));
                for c in chunks {
                    let usable = self.chunks.get(c).is_some_and(|p| !self.packs[p].0);
                    if !usable {
                        self.chunks.insert(*c, *p);
                    }
                }
            }
            Step::Remove(p, named) if self.packs.contains_key(p) => {
                index.remove_packs(&[pack_id(*p)], at(seq), &Elsewhere(self, *p, *named)).unwrap();
                let moving: Vec<u64> = self.chunks.iter().filter(|(_, at)| *at == p).map(|(c, _)| *c).collect();
                for c in moving {
                    match self.elsewhere(*p, &chunk(c)) {
                        Some((to, _)) => self.chunks.insert(c, to),
                        None => self.chunks.remove(&c),
                    };
                }
                self.packs.remove(p);
            }
            Step::Condemn(p, condemned) if self.packs.contains_key(p) => {
                let flags = Flags { condemned: Some(*condemned), damaged: None };
                index.set_flags(&[pack_id(*p)], flags, at(seq)).unwrap();
                if let Some(pack) = self.packs.get_mut(p) {
                    pack.0 = *condemned;
                }
            }
            Step::Reopen => *index = ready(dir),
            Step::Rebuild => self.rebuild(index, dir, seq),
            _ => {}
        }
    }

    fn rebuild(&mut self, index: &mut Index, dir: &Path, seq: u64) {
        let mut builder = Builder::new(dir, &WHO).unwrap();
        self.chunks.clear();
        for (p, (condemned, chunks)) in &self.packs {
            let flags = Flags { condemned: Some(*condemned), damaged: None };
            builder.push(new_pack(*p, chunks.iter().copied()), flags).unwrap();
        }
        for good in [true, false] {
            for (p, (_, chunks)) in self.packs.iter().filter(|(_, (condemned, _))| *condemned != good) {
                chunks.iter().for_each(|c| _ = self.chunks.entry(*c).or_insert(*p));
            }
        }
        *index = builder.finish(Some(at(seq))).unwrap();
    }

    fn compare(&self, index: &Index) {
        for c in 0..40 {
            assert_eq!(pack_of(index, c), self.chunks.get(&c).map(|p| pack_id(*p)), "chunk {c}");
            let usable = index.lookup_usable(&[chunk(c)]).unwrap()[0].is_some();
            assert_eq!(usable, self.chunks.get(&c).is_some_and(|p| !self.packs[p].0), "chunk {c}");
        }
        let (chunks, packs) = index.counts().unwrap();
        assert_eq!((chunks, packs), (self.chunks.len() as u64, self.packs.len() as u64));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn agrees_with_a_model(steps in prop::collection::vec(step(), 1..25)) {
        let dir = tempfile::tempdir().unwrap();
        let mut index = Index::create(dir.path(), &WHO).unwrap();
        let mut model = Model::default();
        for (seq, step) in steps.iter().enumerate() {
            model.apply(&mut index, dir.path(), step, seq as u64);
            model.compare(&index);
        }
    }
}
