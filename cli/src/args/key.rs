//! `key …`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Options of `key`.
#[derive(Debug, Args)]
pub struct KeyArgs {
    /// What to do with the keys.
    #[command(subcommand)]
    pub action: KeyAction,
}

/// What to do with the keys.
#[derive(Debug, Subcommand)]
pub enum KeyAction {
    /// List the key slots: id, kind, label, date
    List,
    /// Add a key slot: a further password, or an age recipient
    Add(KeyAddArgs),
    /// Remove a key slot; the last one cannot be removed
    Remove(KeyRemoveArgs),
    /// Change the password of the slot that opens the repository now
    Passwd(KeyPasswdArgs),
    /// Start a new key for all data written from now on; other passwords must be added again
    Rotate,
    /// Make and print a new recovery code; the old one opens nothing any more
    RecoveryCode,
}

/// Options of `key add`.
#[derive(Debug, Args)]
pub struct KeyAddArgs {
    /// The name of the new slot [default: user@host]
    #[arg(long, value_name = "NAME")]
    pub label: Option<String>,

    /// Add a slot that this age X25519 public key (age1…) opens, instead of a password
    #[arg(long, value_name = "AGE1…", conflicts_with_all = ["new_password_file", "new_password_command"])]
    pub recipient: Option<String>,

    /// The new password.
    #[command(flatten)]
    pub new: NewSecretArgs,
}

/// Options of `key remove`.
#[derive(Debug, Args)]
pub struct KeyRemoveArgs {
    /// The slot's id or label, as `key list` shows it
    #[arg(value_name = "SLOT")]
    pub slot: String,
}

/// Options of `key passwd`.
#[derive(Debug, Args)]
pub struct KeyPasswdArgs {
    /// The new password.
    #[command(flatten)]
    pub new: NewSecretArgs,
}

/// Where a new password comes from; without these it is asked for twice on the terminal.
#[derive(Debug, Clone, Default, Args)]
pub struct NewSecretArgs {
    /// Read the new password from FILE, or from standard input for -; one trailing newline does not count
    #[arg(long, value_name = "FILE", conflicts_with = "new_password_command")]
    pub new_password_file: Option<PathBuf>,

    /// Take what `sh -c COMMAND` prints as the new password; one trailing newline does not count
    #[arg(long, value_name = "COMMAND")]
    pub new_password_command: Option<OsString>,
}
