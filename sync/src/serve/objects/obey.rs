//! Obeying an owner's order to delete: what it may name, and when.

use std::collections::BTreeSet;

use repo::backend::{Area, Backend, Object as Place};
use repo::error::{Error, Kind, Result};
use repo::format::record::{Obeyed, Record};
use repo::lock::COMMIT_WAIT;
use repo::log::CHECKPOINT_EVERY;
use repo::policy;

use super::keep::received;
use super::{Keeper, own};
use crate::sealed::order::Order;

impl Keeper<'_> {
    /// Deletes what a sound order names; how many objects, and their bytes. It is recorded first.
    ///
    /// # Errors
    /// `Refused`, and nothing was deleted: if it is forged, another repository's, made at another record than the newest that is
    /// here, obeyed already, or names what is not here, what must stay, or what has come within the window.
    pub(super) fn obey(&mut self, bytes: &[u8]) -> Result<(u64, u64)> {
        let refused = |why: String| Error::new(Kind::Refused, why);
        let repo = &self.pool.repo;
        // A clock that was set forward must not end anybody's window.
        repo.log.check_clock()?;
        let commit = repo.locks.commit(COMMIT_WAIT)?;
        repo.log.refresh()?;
        let state = repo.log.state();
        let nobody = || refused("nobody may order deletions here before the first push is complete".into());
        let order = Order::open(bytes, state.owners.get(&self.tenant).ok_or_else(nobody)?)?;
        if order.repository != self.repository {
            return Err(refused("this order to delete is for another repository".into()));
        }
        let hash = *blake3::hash(bytes).as_bytes();
        let last = state.orders.get(&self.tenant);
        if last.is_some_and(|last| order.position.seq <= last.position.seq) {
            return Err(refused("this order to delete was obeyed before, or is older than one that was".into())
                .remedy("push again with --delete: it makes a new one"));
        }
        if self.kept.newest() != Some(order.position) {
            return Err(refused(
                "this order to delete was made at another state of the repository than is here".into(),
            )
            .remedy("push again with --delete: it makes a new one"));
        }
        let objects = self.named(&order)?;
        let sum = objects.iter().map(|(_, size)| size).sum();
        let done =
            Obeyed { position: order.position, hash, objects: objects.len() as u64, bytes: sum, at: repo.clock.now() };
        repo.log.append(&commit, Record::OrderObeyed { tenant: self.tenant, order: done })?;
        drop(commit);
        let copy = self.kept.copy();
        objects.iter().try_for_each(|(place, _)| copy.delete(place))?;
        Area::ALL.into_iter().try_for_each(|area| copy.sync_deletes(area))?;
        if let Some((_, used)) = &mut *self.shared.quota.lock() {
            *used = used.saturating_sub(sum);
        }
        self.listing = None;
        Ok((objects.len() as u64, sum))
    }

    /// What the order names, with sizes; first what refers to others.
    fn named(&self, order: &Order) -> Result<Vec<(Place, u64)>> {
        let refused = |why: String| Error::new(Kind::Refused, why);
        let copy = self.kept.copy();
        let (now, state) = (self.pool.repo.clock.now(), self.pool.repo.log.state());
        // Without its last checkpoint and what follows a log says nothing.
        let kept_from = order.position.seq - (order.position.seq - 1) % CHECKPOINT_EVERY;
        let mut named = Vec::with_capacity(order.objects.len());
        let mut slots = BTreeSet::new();
        for object in &order.objects {
            let stays = || refused(format!("this order to delete names {object:?}, which must stay"));
            let place = own(object).ok_or_else(stays)?;
            match &place {
                Place::Config | Place::ConfigCopy | Place::Audit(_) => return Err(stays()),
                Place::Log(seq) if *seq >= kept_from => return Err(stays()),
                Place::Key(id) => _ = slots.insert(id.clone()),
                _ => {}
            }
            let path = copy.path(&place);
            let Ok(meta) = std::fs::symlink_metadata(&path) else {
                return Err(refused(format!("this order to delete names {object:?}, which is not here"))
                    .remedy("push again with --delete: it makes a new one"));
            };
            let until = policy::window_ends(&state, Some(self.tenant), received(&meta)?);
            if until > now {
                return Err(refused(format!(
                    "this order to delete is too early: {object:?} came within the immutability window, and stays for \
                     {} hours more",
                    (until.0.saturating_sub(now.0)) / 3_600_000_000_000 + 1
                )));
            }
            named.push((place, meta.len()));
        }
        let mut left = 0;
        copy.list(Area::Keys, &mut |place, _| {
            left += usize::from(!matches!(&place, Place::Key(id) if slots.contains(id)));
            Ok(())
        })?;
        if left == 0 {
            return Err(refused("this order to delete would leave no key slot: nobody could open the copy".into()));
        }
        // Manifests, roll-ups, packs, and then the rest.
        let rank = |place: &Place| match place {
            Place::Snapshot(_) => 0,
            Place::Footers(_) => 1,
            Place::Pack(_) => 2,
            _ => 3,
        };
        named.sort_by_key(|(place, _)| rank(place));
        Ok(named)
    }
}
