//! Where a host keeps what it is to a site, and its profiles.

use std::path::PathBuf;

use repo::error::{Error, Kind, Result};
use sync::ssh::url::Address;

/// The directory of this host's agent for the site at `address`: below the user's state directory, `/var/lib` for root.
///
/// # Errors
/// `Usage` if there is no such directory.
pub fn of_agent(address: &Address) -> Result<PathBuf> {
    Ok(user_dir("XDG_STATE_HOME", ".local/state", "/var/lib")?.join("packmule/agent").join(address.place()))
}

/// The directory for profiles that this user writes: `/etc` for root.
///
/// # Errors
/// `Usage` if there is no such directory.
pub fn of_profiles() -> Result<PathBuf> {
    Ok(user_dir("XDG_CONFIG_HOME", ".config", "/etc")?.join("packmule"))
}

fn user_dir(variable: &str, below_home: &str, of_root: &str) -> Result<PathBuf> {
    let root = nix::unistd::geteuid().is_root();
    choose(&|name| std::env::var_os(name).map(PathBuf::from), variable, below_home, root.then_some(of_root)).ok_or_else(
        || {
            Error::new(Kind::Usage, "there is no place for what an agent keeps")
                .remedy(format!("set HOME or {variable}"))
        },
    )
}

/// As the XDG specification has it: relative paths do not count.
fn choose(
    var: &dyn Fn(&str) -> Option<PathBuf>,
    variable: &str,
    below_home: &str,
    of_root: Option<&str>,
) -> Option<PathBuf> {
    let absolute = |name| var(name).filter(|path| path.is_absolute());
    absolute(variable)
        .or_else(|| of_root.map(PathBuf::from))
        .or_else(|| absolute("HOME").map(|home| home.join(below_home)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_s_place_is_the_system_s() {
        let dir = |vars: &[(&str, &str)], root| {
            let var = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| PathBuf::from(v));
            choose(&var, "XDG_STATE_HOME", ".local/state", root)
        };
        let some = |s: &str| Some(PathBuf::from(s));
        assert_eq!(dir(&[("XDG_STATE_HOME", "/s"), ("HOME", "/h")], Some("/var/lib")), some("/s"));
        assert_eq!(dir(&[("HOME", "/root")], Some("/var/lib")), some("/var/lib"));
        assert_eq!(dir(&[("XDG_STATE_HOME", "s"), ("HOME", "/h")], None), some("/h/.local/state"));
        assert_eq!(dir(&[], None), None);
    }
}
