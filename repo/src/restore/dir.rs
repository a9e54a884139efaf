//! Directories of the target while something in them is still to be done. A directory gets its attributes when the last
//! who holds it lets go: so after everything in it, the deepest first, and in memory bounded by what is being worked on.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::sys::stat::fstat;
use parking_lot::Mutex;

use crate::capture::scan::{Meta, stat, stat_at};
use crate::error::{Error, Kind, Result};
use crate::format::tree::Entry;
use crate::monitor::{Action, Counters};
use crate::restore::at;
use crate::restore::attrs::{self, Node};
use crate::restore::context::Context;

/// Where a directory is below the target: its name and the one above. Holds nothing open.
pub struct Place {
    above: Option<Arc<Place>>,
    name: Box<[u8]>,
}

impl Place {
    /// The target itself.
    pub fn root() -> Arc<Place> {
        Arc::new(Place { above: None, name: Box::default() })
    }

    /// The path from the target, without a leading slash; with `last` appended unless that is empty.
    pub fn path(&self, last: &[u8]) -> Vec<u8> {
        let mut names: Vec<&[u8]> = Vec::new();
        if !last.is_empty() {
            names.push(last);
        }
        let mut at = self;
        while let Some(above) = &at.above {
            names.push(&at.name);
            at = above;
        }
        names.reverse();
        names.join(&b'/')
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // By hand: thousands of levels would overflow a stack.
        let mut above = self.above.take();
        while let Some(mut place) = above.and_then(Arc::into_inner) {
            above = place.above.take();
        }
    }
}

/// A share in a directory. See the module.
pub struct Dir<'c>(Option<Arc<Inner<'c>>>);

struct Inner<'c> {
    ctx: &'c Context<'c>,
    place: Arc<Place>,
    parent: Option<Dir<'c>>,
    /// Closed while the walk is far below it.
    slot: Mutex<Option<Arc<File>>>,
    id: (u64, u64),
    /// Attributes it gets at the end.
    attrs: Option<Box<Entry>>,
    fresh: bool,
    /// New files get an access control list that nobody captured.
    bequeaths: bool,
    /// In a dry run: it is not there.
    absent: bool,
}

impl Clone for Dir<'_> {
    fn clone(&self) -> Self {
        Dir(self.0.clone())
    }
}

impl<'c> Dir<'c> {
    /// The target. `attrs` as for [`Dir::below`]; without `file` (a dry run) it is not there.
    ///
    /// # Errors
    /// The system's.
    pub fn root(ctx: &'c Context<'c>, file: Option<Arc<File>>, attrs: Option<Entry>) -> nix::Result<Dir<'c>> {
        Dir::new(ctx, Place::root(), None, file, attrs, false)
    }

    /// The directory `name`, opened as `file`, which gets `attrs` when everything in it is done; `fresh` if this restore
    /// made it. Without `file` (a dry run) it is not there.
    ///
    /// # Errors
    /// The system's.
    pub fn below(&self, name: &[u8], file: Option<File>, attrs: Option<Entry>, fresh: bool) -> nix::Result<Dir<'c>> {
        let inner = self.inner();
        let place = Arc::new(Place { above: Some(Arc::clone(&inner.place)), name: name.into() });
        Dir::new(inner.ctx, place, Some(self.clone()), file.map(Arc::new), attrs, fresh)
    }

    fn new(
        ctx: &'c Context<'c>,
        place: Arc<Place>,
        parent: Option<Dir<'c>>,
        file: Option<Arc<File>>,
        attrs: Option<Entry>,
        fresh: bool,
    ) -> nix::Result<Dir<'c>> {
        let id = match &file {
            Some(file) => fstat(file).map(|st| (st.st_dev, st.st_ino))?,
            None => (0, 0),
        };
        let bequeaths = match (&file, &parent) {
            // What is new inherits from its parent, and that was taken away again.
            (Some(file), _) if !fresh => attrs::has_default_acl(file),
            _ => false,
        };
        let absent = file.is_none();
        ctx.open_dirs.fetch_add(usize::from(!absent), Ordering::Relaxed);
        let attrs = attrs.map(Box::new);
        let slot = Mutex::new(file);
        Ok(Dir(Some(Arc::new(Inner { ctx, place, parent, slot, id, attrs, fresh, bequeaths, absent }))))
    }

    fn inner(&self) -> &Inner<'c> {
        self.0.as_ref().unwrap_or_else(|| unreachable!("only dropping takes the share away"))
    }

    /// What the restore is about.
    pub fn ctx(&self) -> &'c Context<'c> {
        self.inner().ctx
    }

    /// Where it is.
    pub fn place(&self) -> &Arc<Place> {
        &self.inner().place
    }

    /// In a dry run: whether it is not there.
    pub fn absent(&self) -> bool {
        self.inner().absent
    }

    /// The filesystem it is on.
    pub fn device(&self) -> u64 {
        self.inner().id.0
    }

    /// Whether new files in it get an access control list from it.
    pub fn bequeaths(&self) -> bool {
        self.inner().bequeaths
    }

    /// The open directory; opened again if it was closed.
    ///
    /// # Errors
    /// The system's; `Refused` when somebody put something else in its place.
    pub fn file(&self) -> Result<Arc<File>> {
        self.inner().file()
    }

    /// Closes it until it is needed again. The target itself stays open.
    pub fn close(&self) {
        let inner = self.inner();
        if inner.parent.is_some() && inner.slot.lock().take().is_some() {
            inner.ctx.open_dirs.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// What stands at `name`, if anything.
    ///
    /// # Errors
    /// The system's; `Refused` for the repository's own directory.
    pub fn look(&self, name: &[u8]) -> Result<Option<Meta>> {
        if self.absent() {
            return Ok(None);
        }
        let file = self.file()?;
        match stat_at(std::os::fd::AsFd::as_fd(&*file), name) {
            Ok(meta) if self.ctx().spared == Some((meta.dev, meta.ino)) => {
                Err(Error::new(Kind::Refused, "this repository itself stays as it is:")
                    .at(self.ctx().target_path(self.place(), name)))
            }
            Ok(meta) => Ok(Some(meta)),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(Error::io("look at", self.ctx().target_path(self.place(), name), e)),
        }
    }
}

impl<'c> Inner<'c> {
    fn is(&self, file: &File) -> bool {
        fstat(file).is_ok_and(|st| (st.st_dev, st.st_ino) == self.id)
    }

    fn file(&self) -> Result<Arc<File>> {
        let mut slot = self.slot.lock();
        if let Some(file) = slot.as_ref() {
            return Ok(Arc::clone(file));
        }
        let path = || self.ctx.target_path(&self.place, b"");
        let file = at::descend(self.ctx.root()?, &self.place.path(b""));
        let file = file.map_err(|e| Error::io("open", path(), e.into()))?;
        if !self.is(&file) {
            let what = "somebody replaced a directory while it was restored:";
            return Err(Error::new(Kind::Refused, what).at(path()));
        }
        Ok(Arc::clone(self.fill(&mut slot, file)))
    }

    fn fill<'s>(&self, slot: &'s mut Option<Arc<File>>, file: File) -> &'s Arc<File> {
        self.ctx.open_dirs.fetch_add(1, Ordering::Relaxed);
        slot.insert(Arc::new(file))
    }

    /// Opens it by the `..` of a directory in it: one step, however deep it is.
    fn reopen_from(&self, child: &File) {
        let mut slot = self.slot.lock();
        if slot.is_some() {
            return;
        }
        if let Ok(file) = at::above(child)
            && self.is(&file)
        {
            self.fill(&mut slot, file);
        }
    }

    fn complete(&self, file: &File) -> Result<()> {
        let Some(entry) = &self.attrs else { return Ok(()) };
        let io = |e| Error::io("look at", self.ctx.target_path(&self.place, b""), e);
        let old = stat(file).map_err(io)?;
        attrs::apply(self.ctx, &Node::open(file), entry, &old, self.fresh, &|| self.ctx.target_path(&self.place, b""))
    }

    /// Sets the attributes and hands the parent's share on.
    fn end(mut self) -> Option<Dir<'c>> {
        let parent = self.parent.take();
        let place = Arc::clone(&self.place);
        let (ctx, fresh) = (self.ctx, self.fresh || self.absent);
        // After a stop, attributes that could bar the next run's way are not set.
        if !ctx.stopped() && !self.absent && !ctx.options.dry_run {
            let done = self.file().and_then(|file| {
                if let Some(parent) = &parent {
                    parent.inner().reopen_from(&file);
                }
                self.complete(&file)
            });
            if let Err(e) = done {
                ctx.failed(&place, b"", e);
            }
        }
        if self.slot.into_inner().is_some() {
            ctx.open_dirs.fetch_sub(1, Ordering::Relaxed);
        }
        Counters::add(&ctx.monitor.counters().dirs, 1);
        if fresh && !ctx.stopped() {
            ctx.item(&place, b"", Action::Restored, 0);
        }
        parent
    }
}

impl Drop for Dir<'_> {
    fn drop(&mut self) {
        // Whoever is last ends it, then perhaps the one above, and so on: a loop, for a stack has an end.
        let mut next = self.0.take();
        while let Some(inner) = next.and_then(Arc::into_inner) {
            next = inner.end().and_then(|mut parent| parent.0.take());
        }
    }
}
