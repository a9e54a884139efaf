//! A mount's life: mount, refresh, unmount.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fuser::{Config, INodeNo, Notifier, Session, SessionACL};
use parking_lot::{Condvar, Mutex};
use repo::error::{Error, Kind, Result};

use crate::device::{self, Detached};
use crate::fuse::Adapter;
use crate::layout::Change;
use crate::ops::{Appearance, Ops, Presentation};
use crate::view::View;

/// Kernel read-ahead, set when root.
const READ_AHEAD_KIB: u32 = 1024;
/// How long a plain unmount may take to end the session.
const GRACE: Duration = Duration::from_secs(2);

/// How to mount.
#[derive(Clone, Debug)]
pub struct Options {
    /// What `mount` and `df` show as the device: the repository.
    pub name: String,
    /// Let other users in; the kernel then checks permissions and ACLs as captured.
    pub allow_other: bool,
    /// Show everything as one user's instead.
    pub presentation: Option<Presentation>,
    /// How often to look for new and forgotten snapshots.
    pub refresh: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options { name: "packmule".into(), allow_other: false, presentation: None, refresh: Duration::from_secs(3) }
    }
}

#[derive(Default)]
struct Progress {
    ended: Option<Result<()>>,
    stopping: bool,
    taken: bool,
}

struct Shared {
    at: PathBuf,
    device: (u32, u32),
    progress: Mutex<Progress>,
    changed: Condvar,
}

/// A mount that is being served. Dropping it unmounts.
pub struct Mounted {
    shared: Arc<Shared>,
}

/// Ends a mount from anywhere, such as a signal handler's thread.
#[derive(Clone)]
pub struct Unmounter {
    shared: Arc<Shared>,
}

/// Mounts `view` on the directory `mountpoint` and serves it on threads of its own. When this returns the mount is
/// ready for use. Nothing is checked about the directory except that it is one.
///
/// # Errors
/// What the view gives for the list of snapshots; what [`device::attach`] gives.
pub fn mount(view: Arc<dyn View>, mountpoint: &Path, options: &Options) -> Result<Mounted> {
    let at = mountpoint.canonicalize().map_err(|e| Error::io("open the mount point", mountpoint, e))?;
    if !at.is_dir() {
        return Err(Error::new(Kind::Usage, "the mount point is no directory").at(&at));
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let owner = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
    let appearance = Appearance { owner, presentation: options.presentation, threads: 1 };
    let ops = Arc::new(Ops::new(view.clone(), appearance)?);

    let name = device::table_name(options.name.as_ref());
    let request =
        device::Request { at: &at, name: &name, allow_other: options.allow_other, check: options.allow_other };
    let connection = device::attach(&request)?;
    let undo = |e: std::io::Error| {
        let _ = device::detach(&at);
        Error::io("start serving", &at, e)
    };

    let mut config = Config::default();
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(cores.max(2));
    config.clone_fd = true;
    // One user's view of everything has no ACLs to check.
    let acl = options.allow_other && options.presentation.is_none();
    let adapter = Adapter::new(ops.clone(), acl);
    let session = Session::from_fd(adapter, connection, config.acl, config).map_err(undo)?;
    let notifier = session.notifier();
    let Some(entry) = device::mounted_at(&at)? else {
        let _ = device::detach(&at);
        return Err(Error::new(Kind::Io, "the new mount does not show in the mount table on").at(&at));
    };
    let device = entry.device;

    let shared = Arc::new(Shared { at, device, progress: Mutex::default(), changed: Condvar::new() });
    let mounted = Mounted { shared: shared.clone() };
    let serve = move || shared.end(session.run());
    spawn("serve", serve)?;
    // A first answer proves that requests are served; only then are settings made that need the mount.
    std::fs::metadata(&mounted.shared.at).map(|m| m.dev()).map_err(|e| Error::io("open", mountpoint, e))?;
    device::set_read_ahead(device, READ_AHEAD_KIB);
    let (shared, every) = (mounted.shared.clone(), options.refresh);
    spawn("refresh", move || refresh(&shared, &ops, &*view, &notifier, every))?;
    Ok(mounted)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let spawned = std::thread::Builder::new().name(name.into()).spawn(work);
    spawned.map(drop).map_err(|e| Error::io("start a thread in", "this process", e))
}

fn errno_of<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|e| e.raw_os_error())
}

impl Shared {
    /// The session is over: by `umount` from wherever, or because serving failed.
    fn end(&self, result: std::io::Result<()>) {
        // The connection may have been cut with the mount still there: nobody serves it any more. After an unmount
        // its device number may already be another mount's, but that one answers.
        let dead = || errno_of(std::fs::metadata(&self.at)) == Some(libc::ENOTCONN);
        if self.is_listed() && dead() {
            let _ = device::detach(&self.at);
        }
        let mut progress = self.progress.lock();
        progress.ended = Some(result.map_err(|e| Error::io("serve", &self.at, e)));
        progress.stopping = true;
        self.changed.notify_all();
    }

    /// Whether what is mounted at the mount point has this mount's device number, which is nobody else's while the
    /// session lives.
    fn is_listed(&self) -> bool {
        matches!(device::mounted_at(&self.at), Ok(Some(m)) if m.device == self.device)
    }

    fn unmount(&self) -> Result<Detached> {
        let ours = self.progress.lock().ended.is_none() && self.is_listed();
        let detached = if ours { device::detach(&self.at)? } else { Detached::Absent };
        let deadline = Instant::now() + GRACE;
        let mut progress = self.progress.lock();
        progress.stopping = true;
        self.changed.notify_all();
        while progress.ended.is_none() && detached == Detached::Unmounted {
            if self.changed.wait_until(&mut progress, deadline).timed_out() {
                break;
            }
        }
        if progress.ended.is_none() {
            // Files are still open, here or in another mount namespace: whoever waits need not.
            progress.ended = Some(Ok(()));
            self.changed.notify_all();
        }
        Ok(detached)
    }
}

impl Mounted {
    /// Where it is mounted: absolute, without links.
    pub fn path(&self) -> &Path {
        &self.shared.at
    }

    /// A handle that ends it.
    pub fn unmounter(&self) -> Unmounter {
        Unmounter { shared: self.shared.clone() }
    }

    /// Waits until it is unmounted, by whomever. After a lazy unmount through [`Unmounter`] this returns at once,
    /// although open files go on being served until the process ends.
    ///
    /// # Errors
    /// Why serving failed.
    pub fn wait(&self) -> Result<()> {
        let mut progress = self.shared.progress.lock();
        while progress.ended.is_none() {
            self.shared.changed.wait(&mut progress);
        }
        if progress.taken {
            return Ok(());
        }
        progress.taken = true;
        progress.ended.replace(Ok(())).unwrap_or(Ok(()))
    }

    /// Unmounts; detaches lazily when files are open.
    ///
    /// # Errors
    /// What the system says; it is then still mounted.
    pub fn unmount(&self) -> Result<Detached> {
        self.shared.unmount()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = self.shared.unmount();
    }
}

impl Unmounter {
    /// As [`Mounted::unmount`].
    ///
    /// # Errors
    /// As [`Mounted::unmount`].
    pub fn unmount(&self) -> Result<Detached> {
        self.shared.unmount()
    }
}

/// Until the mount ends: looks for new and forgotten snapshots and has the kernel forget what they change.
fn refresh(shared: &Shared, ops: &Ops, view: &dyn View, notifier: &Notifier, every: Duration) {
    let mut reachable = true;
    loop {
        let mut progress = shared.progress.lock();
        if !progress.stopping {
            shared.changed.wait_for(&mut progress, every);
        }
        if progress.stopping {
            return;
        }
        drop(progress);
        match ops.refresh() {
            Ok(changes) => {
                reachable = true;
                changes.iter().for_each(|change| invalidate(notifier, change));
            }
            Err(e) if reachable => {
                reachable = false;
                view.report("", &e);
            }
            Err(_) => {}
        }
    }
}

fn invalidate(notifier: &Notifier, change: &Change) {
    // A failure leaves an entry that the kernel asks about again when its lifetime ends.
    let _ = match change {
        Change::Name(parent, name) => notifier.inval_entry(INodeNo(*parent), name.as_ref().as_ref()),
        Change::Listing(ino) => notifier.inval_inode(INodeNo(*ino), 0, 0),
    };
}
