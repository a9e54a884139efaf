//! The config's two files: one may be lost.

use std::path::Path;

use crate::backend::{Backend, Object};
use crate::error::{Kind, Result, printable};
use crate::format::config::{Config, UnverifiedConfig};
use crate::limits::MAX_SMALL_OBJECT;
use crate::monitor::{Event, Monitor};
use crate::open::Repository;

/// The config as one of its two files has it. Errors name the file.
pub(super) fn read_config(backend: &dyn Backend, object: &Object) -> Result<UnverifiedConfig> {
    let bytes = backend.read_all(object, MAX_SMALL_OBJECT)?;
    Config::decode(&bytes).map_err(|e| e.at(backend.path(object)))
}

/// Makes both files of the config say what was verified. The other one is whole while one is replaced.
///
/// # Errors
/// What the backend gives; a full disk is none.
pub(crate) fn mend_config(repo: &Repository, monitor: &dyn Monitor) -> Result<()> {
    let (backend, wanted) = (repo.backend.as_ref(), repo.config.encode(&repo.keys));
    for object in [Object::Config, Object::ConfigCopy] {
        let path = backend.path(&object);
        match backend.read_all(&object, MAX_SMALL_OBJECT) {
            Ok(bytes) if bytes == wanted => continue,
            // Repositories made before there was a copy get one.
            Err(e) if e.kind() == Kind::NotFound && object == Object::ConfigCopy => {}
            Err(e) if e.kind() == Kind::NotFound => warn_mended(monitor, "was missing", &path),
            _ => {
                backend.delete(&object)?;
                warn_mended(monitor, "was damaged", &path);
            }
        }
        match backend.put(&object, &wanted) {
            Err(e) if e.kind() == Kind::NoSpace => monitor.event(Event::Warning(&e.to_string())),
            done => drop(done?),
        }
    }
    Ok(())
}

fn warn_mended(monitor: &dyn Monitor, what: &str, path: &Path) {
    let path = printable(path);
    monitor.event(Event::Warning(&format!("{path} {what} and is made anew from its copy: look after this disk")));
}
