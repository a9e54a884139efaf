//! `key …`.

use jiff::Timestamp;
use repo::crypto::slot::{Argon2Cost, RecoveryCode};
use repo::error::{Error, Result};
use repo::format::record::Record;
use repo::format::slot::Lock;
use repo::keyslots::{self, StoredSlot};
use repo::lock::COMMIT_WAIT;
use repo::open::{Access, Repository, Sealed};
use zeroize::Zeroizing;

use super::open::{open_repository, open_with_secret, place};
use crate::args::{KeyAction, KeyAddArgs, KeyArgs, KeyPasswdArgs, KeyRemoveArgs};
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::human::{self, Table};
use crate::output::json;
use crate::secret::new_password;

/// Runs `key …`.
pub fn run(ctx: &Context, args: KeyArgs) -> Result<ExitCode> {
    match args.action {
        KeyAction::List => list(ctx)?,
        KeyAction::Add(args) => add(ctx, args)?,
        KeyAction::Remove(args) => remove(ctx, &args)?,
        KeyAction::Passwd(args) => passwd(ctx, &args)?,
        KeyAction::Rotate => rotate(ctx)?,
        KeyAction::RecoveryCode => recovery_code(ctx)?,
    }
    ctx.output.flush()?;
    Ok(ExitCode::Ok)
}

/// Prints a recovery code with what to do with it. Nothing prints it again.
pub fn show_code(ctx: &Context, code: &str) -> Result<()> {
    if ctx.output.json {
        return ctx.output.message_now(&json::RecoveryCode { recovery_code: code });
    }
    ctx.output.line("")?;
    ctx.output.line("Recovery code, shown only this once:")?;
    ctx.output.line("")?;
    // On one line: a prompt takes no more of what is pasted.
    ctx.output.line(Zeroizing::new(format!("    {code}")).as_str())?;
    ctx.output.line("")?;
    ctx.output.line("It opens the repository when the password is lost.")?;
    ctx.output.line("Print it or write it down, and keep it apart from this machine and from the repository.")?;
    ctx.output.flush()
}

/// Needs no secret: whoever cannot open the repository should see what would open it.
fn list(ctx: &Context) -> Result<()> {
    let sealed = Sealed::open(place(ctx)?, Access::Read)?;
    let slots = keyslots::list(sealed.backend().as_ref(), &sealed.repo_id())?;
    if ctx.output.json {
        return slots.iter().try_for_each(|slot| ctx.output.message(&message(slot)));
    }
    let mut table = Table::new(&["ID", "Kind", "Label", "Made", "Opens"]);
    for stored in &slots {
        match &stored.slot {
            Ok(slot) => table.row([
                stored.id.as_str(),
                kind(&slot.head.lock),
                &slot.head.label,
                &created(slot.head.created).map_or_else(String::new, human::time),
                if slot.head.lock.opens_repository() { "repository" } else { "owner's key" },
            ]),
            Err(_) => table.row([stored.id.as_str(), "unreadable", "", "", ""]),
        }
    }
    table.lines().iter().try_for_each(|line| ctx.output.line(line))?;
    for e in slots.iter().filter_map(|s| s.slot.as_ref().err()) {
        ctx.output.complain(format!("packmule: warning: {e}"));
    }
    Ok(())
}

/// A slot's kind in the words of the options; only the format calls a password a passphrase.
fn kind(lock: &Lock) -> &'static str {
    match lock {
        Lock::Passphrase { .. } => "password",
        other => other.name(),
    }
}

fn message(stored: &StoredSlot) -> json::KeySlot {
    let head = stored.slot.as_ref().ok().map(|slot| &slot.head);
    json::KeySlot {
        id: stored.id.clone(),
        kind: head.map_or("unreadable", |h| kind(&h.lock)),
        label: head.map(|h| h.label.clone()),
        created: head.and_then(|h| created(h.created)).map(json::Time),
        opens_repository: head.is_some_and(|h| h.lock.opens_repository()),
        error: stored.slot.as_ref().err().map(Error::to_string),
    }
}

fn created(secs: u64) -> Option<Timestamp> {
    i64::try_from(secs).ok().and_then(|s| Timestamp::from_second(s).ok())
}

fn add(ctx: &Context, args: KeyAddArgs) -> Result<()> {
    ctx.leave_input_to(&args.new)?;
    let repo = open_repository(ctx, Access::Write)?;
    let label = args.label.unwrap_or_else(default_label);
    let (backend, id, keyring) = (repo.backend.as_ref(), repo.config.repo_id, &repo.unlocked.keyring);
    let slot = match &args.recipient {
        Some(recipient) => {
            let _commit = repo.locks.commit(COMMIT_WAIT)?;
            keyslots::add_recipient(backend, id, keyring, &label, recipient)?
        }
        None => {
            // Asked for before others have to wait.
            let password = new_password(&args.new)?;
            let _commit = repo.locks.commit(COMMIT_WAIT)?;
            keyslots::add_passphrase(backend, id, keyring, &label, &password, Argon2Cost::DEFAULT)?
        }
    };
    say(ctx, "added", &slot, &label)
}

fn remove(ctx: &Context, args: &KeyRemoveArgs) -> Result<()> {
    let repo = open_repository(ctx, Access::Write)?;
    let _commit = repo.locks.commit(COMMIT_WAIT)?;
    let slots = keyslots::list(repo.backend.as_ref(), &repo.config.repo_id)?;
    let slot =
        keyslots::resolve(&slots, &args.slot).map_err(|e| e.or_remedy("`packmule key list` shows the ids of all"))?;
    keyslots::remove(repo.backend.as_ref(), &repo.config.repo_id, &slot.id)?;
    let label = slot.slot.as_ref().map_or("", |s| s.head.label.as_str());
    say(ctx, "removed", &slot.id, label)
}

fn passwd(ctx: &Context, args: &KeyPasswdArgs) -> Result<()> {
    ctx.leave_input_to(&args.new)?;
    let repo = open_repository(ctx, Access::Write)?;
    let backend = repo.backend.as_ref();
    // Nobody is to think of a password that is then refused.
    keyslots::replaceable(backend, &repo.config.repo_id, &repo.unlocked)?;
    let password = new_password(&args.new)?;
    let _commit = repo.locks.commit(COMMIT_WAIT)?;
    let changed = keyslots::passwd(backend, repo.config.repo_id, &repo.unlocked, None, &password, Argon2Cost::DEFAULT)?;
    if let Some(old) = &changed.replaced {
        say(ctx, "removed", old, "")?;
    }
    say(ctx, "added", &changed.added, "")?;
    if !ctx.output.json {
        ctx.output.remark("The password is changed. Who knew the old one may have kept the key it opened:")?;
        ctx.output.remark("if that matters, run `packmule key rotate`.")?;
    }
    Ok(())
}

fn rotate(ctx: &Context) -> Result<()> {
    let (repo, secret) = open_with_secret(ctx, Access::Write)?;
    let commit = repo.locks.commit(COMMIT_WAIT)?;
    let rotated = keyslots::rotate(
        repo.backend.as_ref(),
        repo.config.repo_id,
        &repo.unlocked,
        &secret,
        &mut |code: &RecoveryCode| show_code(ctx, &code.to_text()),
        &mut |_, epoch| repo.log.append(&commit, Record::KeyEpoch { epoch, at: repo.clock.now() }).map(drop),
    )?;
    if ctx.output.json {
        return ctx.output.message(&json::KeyRotated {
            epoch: rotated.epoch,
            dropped: rotated.dropped.iter().map(|(id, label)| json::SlotName::new(id, label)).collect(),
            owner_moved: rotated.owner_moved,
        });
    }
    ctx.output.line(format!("Data written from now on is sealed with a new key (epoch {}).", rotated.epoch))?;
    for (id, label) in &rotated.dropped {
        ctx.output
            .line(format!("Removed key slot {id} \"{label}\": add its password again with `packmule key add`."))?;
    }
    old_code_remark(ctx, &repo, rotated.owner_moved)
}

fn recovery_code(ctx: &Context) -> Result<()> {
    let (repo, secret) = open_with_secret(ctx, Access::Write)?;
    let _commit = repo.locks.commit(COMMIT_WAIT)?;
    let backend = repo.backend.as_ref();
    let moved = keyslots::recovery_code(backend, repo.config.repo_id, &repo.unlocked, &secret, &mut |code| {
        show_code(ctx, &code.to_text())
    })?;
    old_code_remark(ctx, &repo, moved)
}

/// The owner's key moves only for who shows the code that opens it.
fn old_code_remark(ctx: &Context, repo: &Repository, owner_moved: bool) -> Result<()> {
    if owner_moved || ctx.output.json {
        return Ok(());
    }
    let slots = keyslots::list(repo.backend.as_ref(), &repo.config.repo_id)?;
    if !slots.iter().any(|s| s.slot.as_ref().is_ok_and(|slot| !slot.head.lock.opens_repository())) {
        return Ok(());
    }
    ctx.output.line("An older recovery code opens the repository no more, but it alone opens the owner's key: keep it.")
}

fn say(ctx: &Context, action: &'static str, id: &str, label: &str) -> Result<()> {
    if ctx.output.json {
        return ctx.output.message(&json::KeyChanged { action, slot: json::SlotName::new(id, label) });
    }
    let label = if label.is_empty() { String::new() } else { format!(" \"{label}\"") };
    ctx.output.line(format!("{action} key slot {id}{label}"))
}

fn default_label() -> String {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "user".to_owned());
    let host = nix::unistd::gethostname().map_or_else(|_| String::new(), |h| h.to_string_lossy().into_owned());
    format!("{user}@{host}")
}
