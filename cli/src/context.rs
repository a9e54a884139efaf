//! What every command gets: the global options, the output, and repository and secret when it asks for them.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use repo::error::Result;
use sync::ssh::url::Address;
use zeroize::Zeroizing;

use crate::args::{Globals, NewSecretArgs, SecretArgs, TargetArgs};
use crate::output::Output;
use crate::progress::{Job, Progress, Rate};
use crate::secret::{Secret, SecretSources};
use crate::target::TargetSources;

/// The surroundings of one command.
pub struct Context {
    /// Options every command takes.
    pub globals: Globals,
    /// Where it says what it has to say.
    pub output: Arc<Output>,
    rate: Rate,
    stop: Arc<AtomicBool>,
    target: TargetSources,
    secret: SecretSources,
    resolved: OnceCell<PathBuf>,
}

impl Context {
    /// Completes `globals` with the environment and what the profile says. Nothing is read or asked for yet.
    ///
    /// # Errors
    /// `Usage` for an environment variable that makes no sense.
    pub fn new(
        globals: Globals,
        profile_target: TargetArgs,
        profile_secret: &SecretArgs,
        output: Arc<Output>,
        stop: Arc<AtomicBool>,
    ) -> Result<Context> {
        let fps = std::env::var_os("PACKMULE_PROGRESS_FPS");
        let rate = Rate::new(fps.as_ref().map(|f| f.to_string_lossy()).as_deref(), globals.json)?;
        let target = TargetSources::new(globals.target.clone(), profile_target);
        let secret = SecretSources::new(&globals.secret, profile_secret);
        Ok(Context { globals, output, rate, stop, target, secret, resolved: OnceCell::new() })
    }

    /// The repository's directory.
    ///
    /// # Errors
    /// As [`TargetSources::resolve`].
    pub fn target(&self) -> Result<&Path> {
        if let Some(known) = self.resolved.get() {
            return Ok(known);
        }
        let target = self.target.resolve()?;
        Ok(self.resolved.get_or_init(|| target))
    }

    /// Further directories that were named with -r.
    pub fn further(&self) -> &[std::ffi::OsString] {
        self.target.further()
    }

    /// The site, if what is named as the repository is one that is reached over SSH.
    ///
    /// # Errors
    /// As [`TargetSources::site`].
    pub fn site(&self) -> Result<Option<Address>> {
        self.target.site()
    }

    /// Where the index is to be, if the user says so. An empty variable counts as unset.
    pub fn index_dir(&self) -> Option<&Path> {
        self.globals.index_dir.as_deref().filter(|d| !d.is_empty()).map(Path::new)
    }

    /// The secret that opens the repository; asked for anew at every call.
    ///
    /// # Errors
    /// As [`SecretSources::existing`].
    pub fn secret(&self) -> Result<Secret> {
        self.secret.existing(self.target()?)
    }

    /// Whether [`Context::secret`] asks a person, who may mistype.
    pub fn asks_for_secret(&self) -> bool {
        self.secret.asks()
    }

    /// Refuses to read the new secret from where this one is read.
    ///
    /// # Errors
    /// As [`SecretSources::leave_input_to`].
    pub fn leave_input_to(&self, new: &NewSecretArgs) -> Result<()> {
        self.secret.leave_input_to(new)
    }

    /// The password of a repository to be made.
    ///
    /// # Errors
    /// As [`SecretSources::initial`].
    pub fn initial_password(&self) -> Result<Zeroizing<String>> {
        self.secret.initial()
    }

    /// Whether SIGINT or SIGTERM has asked the command to stop.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// A monitor for one operation; it shows progress until it is dropped. Drop it before printing the result.
    pub fn monitor(&self, job: Job) -> Progress {
        Progress::start(Arc::clone(&self.output), job, self.rate, Arc::clone(&self.stop))
    }
}
