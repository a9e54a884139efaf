//! Cutting a link at every sort of message.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use repo::error::{Kind, Result};
use sync::wire::Side;

use crate::tapped::{Fate, Passing, Tap};

/// A sort of message: on the first connection or on a further one, whose, and which.
pub type Sort = (bool, bool, u8);

/// Where a link breaks: at this message of a sort, when so many thirds of it have passed.
struct Cut {
    sort: Sort,
    nth: usize,
    thirds: usize,
}

fn sort(passing: &Passing<'_>) -> Sort {
    (passing.number > 0, passing.from == Side::Server, passing.kind)
}

/// Has `attempt` tried after each `prepare` over a link that breaks at every sort of message that `chosen` names: before the
/// first, in it, behind it, and behind the last. What broke must be worth another try, which must succeed. `verify` follows.
/// Returns the sorts at which a link was cut.
pub fn everywhere(
    chosen: &dyn Fn(Sort) -> bool,
    prepare: &mut dyn FnMut(),
    attempt: &dyn Fn(&Tap) -> Result<()>,
    verify: &dyn Fn(),
) -> BTreeSet<Sort> {
    let seen: Arc<Mutex<BTreeMap<Sort, usize>>> = Arc::default();
    let notes = Arc::clone(&seen);
    prepare();
    let watch: Tap = Arc::new(Mutex::new(move |passing: &Passing<'_>| {
        *notes.lock().entry(sort(passing)).or_default() += 1;
        Fate::Pass
    }));
    // The first time is not like the others.
    let pass: Tap = Arc::new(Mutex::new(|_: &Passing<'_>| Fate::Pass));
    attempt(&pass).unwrap();
    prepare();
    attempt(&watch).unwrap();
    verify();
    let seen = seen.lock().clone();
    let mut at = BTreeSet::new();
    for (sort, count) in seen.into_iter().filter(|(sort, _)| chosen(*sort)) {
        let first = [0, 1, 3].map(|thirds| (1, thirds));
        let last = (count > 1).then_some((count, 3));
        for (nth, thirds) in first.into_iter().chain(last) {
            prepare();
            if try_twice(Cut { sort, nth, thirds }, attempt) {
                at.insert(sort);
            }
            verify();
        }
    }
    at
}

/// Whether the cut was met.
fn try_twice(cut: Cut, attempt: &dyn Fn(&Tap) -> Result<()>) -> bool {
    let met = Arc::new(Mutex::new(0));
    let count = Arc::clone(&met);
    let (what, thirds, nth) = (cut.sort, cut.thirds, cut.nth);
    let cuts: Tap = Arc::new(Mutex::new(move |passing: &Passing<'_>| {
        let mut count = count.lock();
        *count += usize::from(sort(passing) == what);
        match *count == nth && sort(passing) == what {
            true => Fate::Cut(passing.bytes.len() * thirds / 3),
            false => Fate::Pass,
        }
    }));
    let first = attempt(&cuts);
    let met = *met.lock() >= nth;
    if let Err(e) = &first {
        assert!(met, "{e}");
        assert_eq!(e.kind(), Kind::Unreachable, "{what:?}, {nth}, {thirds}: {e}");
        let pass: Tap = Arc::new(Mutex::new(|_: &Passing<'_>| Fate::Pass));
        attempt(&pass).unwrap_or_else(|e| panic!("{what:?}, {nth}, {thirds}, once more: {e}"));
    }
    met
}
