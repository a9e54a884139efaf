//! Deciding what becomes of each pack.

use std::collections::BTreeSet;

use crate::crypto::keys::FrameKind;
use crate::error::{Kind, Result};
use crate::format::footer::Footer;
use crate::id::{PackId, SessionId};
use crate::index::{PackInfo, PackNo};
use crate::open::Repository;
use crate::prune::MaxUnused;
use crate::prune::mark::{Bits, Marker, share};

/// A pack is small below this share of the size at which packs are closed.
const SMALL: u64 = 4;

/// A pack worth rewriting.
#[derive(Clone, Copy, Debug)]
pub struct Rewrite {
    /// The pack.
    pub info: PackInfo,
    /// What rewriting it gives back, in bytes.
    pub gain: u64,
}

/// What is to be done.
#[derive(Debug, Default)]
pub struct Plan {
    /// Packs that nothing needs, with their sizes.
    pub unused: Vec<(PackId, u64)>,
    /// Packs condemned by an earlier prune that are needed after all.
    pub needed_again: Vec<PackId>,
    /// Packs to rewrite, most gain for their size first, then small ones that are to be joined.
    pub rewrite: Vec<Rewrite>,
    /// Bytes of all packs.
    pub total: u64,
    /// Bytes that are not needed and stay, being too few to be worth a rewrite.
    pub left: u64,
    /// What of a frame may be unneeded when it moves as it is.
    pub tolerance: Tolerance,
}

/// What of a frame may be unneeded for it to move as it is, instead of its needed chunks being grouped anew; and what of a
/// pack for it not to be rewritten. In percent. Half of what may stay unused altogether for each of the two, so that the whole
/// is within the limit when all that is worth it was rewritten.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tolerance(f64);

impl Tolerance {
    /// Even if much may stay unused, a frame that moves should hold more that is needed than not.
    const MOST: f64 = 25.0;

    fn new(max: MaxUnused, total: u64) -> Tolerance {
        let allowed = match max {
            MaxUnused::Percent(p) => p,
            MaxUnused::Bytes(n) => n as f64 * 100.0 / total.max(1) as f64,
            MaxUnused::Unlimited => f64::MAX,
        };
        Tolerance((allowed / 2.0).clamp(0.0, Tolerance::MOST))
    }

    fn bears(self, part: u64, whole: u64) -> bool {
        part as f64 * 100.0 <= whole as f64 * self.0
    }
}

/// A pack of which something is not needed.
struct Partly {
    info: PackInfo,
    /// What is not needed.
    dead: u64,
    /// What of it a rewrite gives back.
    gain: u64,
}

/// What the plan goes by.
pub struct Bounds<'a> {
    /// Packs with later numbers came after the marking began.
    pub newest: Option<PackNo>,
    /// Sessions that were open when it began: what they wrote may not be named by a snapshot yet.
    pub sessions: &'a BTreeSet<SessionId>,
    /// How much may stay unused.
    pub max_unused: MaxUnused,
    /// Packs of data stay as they are until nothing in them is needed.
    pub data_elsewhere: bool,
}

/// Looks at every pack.
///
/// # Errors
/// What index and footers give.
pub fn make(repo: &Repository, marks: &Marker<'_>, bounds: &Bounds<'_>) -> Result<Plan> {
    let mut plan = Plan::default();
    repo.index.packs(&mut |info| {
        plan.total += info.size;
        Ok(())
    })?;
    plan.tolerance = Tolerance::new(bounds.max_unused, plan.total);
    let (mut partly, mut small) = (Vec::new(), Vec::new());
    let (under_way, pool) = (repo.log.state().under_way(None), repo.log.state().pool);
    let mut used = 0;
    let pack_size = u64::from(repo.config.pack_size);
    // Shown outside of any transaction of the index, so that footers can be read meanwhile.
    repo.index.packs(&mut |info| {
        if bounds.newest.is_none_or(|newest| info.no > newest) {
            return Ok(());
        }
        let away = repo.index.posted(&under_way, &info.id)?.is_some();
        match marks.of(&info.id).filter(|bits| bits.count > 0) {
            // At a pool: what a drive brought, of snapshots that are not whole before others have come.
            None if away && pool => {}
            None if written_by(repo, info, bounds.sessions)? => {}
            None => plan.unused.push((info.id, info.size)),
            Some(bits) => {
                used += bits.stored;
                if info.condemned {
                    plan.needed_again.push(info.id);
                }
                if info.damaged || (bounds.data_elsewhere && info.kind == FrameKind::Data) {
                    return Ok(());
                }
                // What is on its way on a drive would travel once more from where it is moved to.
                if away {
                    return Ok(());
                }
                if info.size < pack_size / SMALL {
                    small.push(Small { info: *info, needed: bits.stored });
                }
                if let Some(part) = partly_needed(repo, info, bits, plan.tolerance)? {
                    partly.push(part);
                }
            }
        }
        Ok(())
    })?;
    choose(&mut plan, partly, used, bounds.max_unused);
    if bounds.max_unused != MaxUnused::Unlimited {
        join_small(&mut plan, small, pack_size);
    }
    Ok(plan)
}

/// A pack that is small, and what is needed of it in bytes.
struct Small {
    info: PackInfo,
    needed: u64,
}

/// Many small backups leave many small packs, each with a roll-up, an opening and a request of its own. They are rewritten,
/// frames as they are, when those of a kind fill at least one pack; so what is left over is not rewritten each time.
fn join_small(plan: &mut Plan, small: Vec<Small>, pack_size: u64) {
    let chosen: BTreeSet<PackId> = plan.rewrite.iter().map(|r| r.info.id).collect();
    for kind in [FrameKind::Data, FrameKind::Tree] {
        let of_kind = || small.iter().filter(|s| s.info.kind == kind);
        if of_kind().map(|s| s.needed).sum::<u64>() < pack_size {
            continue;
        }
        let more = of_kind().filter(|s| !chosen.contains(&s.info.id));
        plan.rewrite.extend(more.map(|s| Rewrite { info: s.info, gain: 0 }));
    }
}

/// Takes those that give back most for their size, until what stays unused is within the limit.
fn choose(plan: &mut Plan, mut partly: Vec<Partly>, used: u64, max: MaxUnused) {
    plan.left = partly.iter().map(|p| p.dead).sum();
    partly.sort_by_key(|p| {
        std::cmp::Reverse((u128::from(p.gain) * 1_000_000 / u128::from(p.info.size.max(1)), p.info.id))
    });
    let allowed = max.bytes(used);
    for pack in partly {
        if plan.left <= allowed || plan.tolerance.bears(pack.gain, pack.info.size) {
            break;
        }
        plan.left -= pack.gain;
        plan.rewrite.push(Rewrite { info: pack.info, gain: pack.gain });
    }
}

/// Whether one of these sessions wrote the pack. An unreadable footer is no reason to keep a pack, nor to stop for: the
/// proof before unlinking is.
fn written_by(repo: &Repository, info: &PackInfo, sessions: &BTreeSet<SessionId>) -> Result<bool> {
    if sessions.is_empty() {
        return Ok(false);
    }
    match repo.packs().pack(info) {
        Ok(pack) => Ok(sessions.contains(&pack.footer.session)),
        Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound) || e.errno() == Some(libc::EIO) => Ok(false),
        Err(e) => Err(e),
    }
}

/// What is not needed of a pack; none if all of it is.
fn partly_needed(repo: &Repository, info: &PackInfo, bits: &Bits, tolerance: Tolerance) -> Result<Option<Partly>> {
    let pack = repo.packs().pack(info)?;
    if bits.count as usize == pack.footer.chunks.len() {
        return Ok(None);
    }
    let (mut dead, mut gain) = (0, 0);
    for (i, frame) in pack.footer.frames.iter().enumerate() {
        let (unneeded, fate) = judge(&pack.footer, i, bits, tolerance);
        dead += unneeded;
        gain += match fate {
            Fate::Drop => u64::from(frame.stored),
            Fate::Regroup => unneeded,
            Fate::Move => 0,
        };
    }
    Ok(Some(Partly { info: *info, dead, gain }))
}

/// What becomes of a frame when its pack is rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing in it is needed.
    Drop,
    /// It is copied as it is.
    Move,
    /// Its needed chunks join others in new frames.
    Regroup,
}

/// The fate of the `i`-th frame.
pub fn fate(footer: &Footer, i: usize, bits: &Bits, tolerance: Tolerance) -> Fate {
    judge(footer, i, bits, tolerance).1
}

/// How many stored bytes of the `i`-th frame are not needed, and its fate.
fn judge(footer: &Footer, i: usize, bits: &Bits, tolerance: Tolerance) -> (u64, Fate) {
    let frame = &footer.frames[i];
    let (mut count, mut raw, mut needed) = (0, 0u64, 0);
    for ordinal in frame.chunks() {
        if bits.has(ordinal) {
            let len = footer.chunks[ordinal].len;
            count += 1;
            raw += u64::from(len);
            needed += share(frame.stored, frame.raw, len);
        }
    }
    if count == 0 {
        return (frame.stored.into(), Fate::Drop);
    }
    if count == frame.count {
        return (0, Fate::Move);
    }
    let bearable = tolerance.bears(u64::from(frame.raw).saturating_sub(raw), frame.raw.into());
    (u64::from(frame.stored).saturating_sub(needed), if bearable { Fate::Move } else { Fate::Regroup })
}
