//! `tenant set`, and what is set in words.

use std::time::Duration;

use repo::error::{Error, Kind, Result};
use repo::format::record::State;
use repo::open::Repository;
use repo::policy::{self, KEEP_ALL};
use repo::retention::Policy;
use repo::tenants;
use serde::Serialize;

use super::super::forget;
use crate::args::{Quota, TenantSetArgs, Term};
use crate::context::Context;
use crate::output::human;

/// What holds for a tenant, wherever it is set, as JSON.
#[derive(Serialize)]
pub struct Holds {
    hold_seconds: u64,
    window_seconds: u64,
    /// Such as `daily=7`; empty where everything is kept.
    keep: Vec<String>,
    /// Which of these stand for the tenant itself.
    own: Vec<&'static str>,
}

/// Refuses a `tenant set` that sets nothing.
///
/// # Errors
/// `Usage`.
pub fn require_something(args: &TenantSetArgs) -> Result<()> {
    if args.quota.is_none() && args.hold.is_none() && args.window.is_none() && keeps(args).is_none() {
        return Err(Error::new(Kind::Usage, "nothing says what to set")
            .remedy("give --quota, --hold, --window, or what to keep, such as --keep-daily 30"));
    }
    Ok(())
}

/// Runs `tenant set`.
pub fn set(ctx: &Context, repo: &Repository, args: &TenantSetArgs) -> Result<()> {
    let keeps = keeps(args);
    let Some(name) = &args.name else { return set_default(ctx, repo, args, keeps) };
    let (number, _) = tenants::find(&repo.log.state(), name).map(|(number, tenant)| (number, tenant.made))?;
    let before = policy::window(&repo.log.state(), Some(number));
    tenants::change(repo, number, &mut |tenant| {
        let put = |term: Option<Term>, at: &mut Option<u64>| *at = term.map_or(*at, |Term(seconds)| seconds);
        put(args.hold, &mut tenant.hold);
        put(args.window, &mut tenant.window);
        if let Some(Quota(quota)) = args.quota {
            tenant.quota = quota;
        }
        if let Some(words) = &keeps {
            tenant.retention.clone_from(words);
        }
        Ok(())
    })?;
    let state = repo.log.state();
    if ctx.output.json {
        return told(ctx, &state, Some((number, name)));
    }
    if let Some(Quota(quota)) = args.quota {
        let says = quota
            .map_or_else(|| "has no quota now".to_owned(), |quota| format!("may store {} now", human::size(quota)));
        ctx.output.remark(format!("tenant {name} {says}"))?;
    }
    if args.hold.is_some() || args.window.is_some() || keeps.is_some() {
        ctx.output.remark(format!("tenant {name}: {}", words(&state, Some(number))))?;
    }
    shortened(ctx, before, policy::window(&state, Some(number)))
}

/// What holds now, as JSON: for a tenant, or for all of which nothing else is said.
fn told(ctx: &Context, state: &State, tenant: Option<(u32, &str)>) -> Result<()> {
    let number = tenant.map(|(number, _)| number);
    let mut names = vec![
        ("hold_seconds", policy::hold(state, number).as_secs().into()),
        ("window_seconds", policy::window(state, number).as_secs().into()),
        ("keep", kept(state, number).into()),
    ];
    match tenant {
        Some((number, name)) => {
            names.push(("tenant", name.into()));
            names.push(("quota", state.tenants.get(&number).and_then(|tenant| tenant.quota).into()));
        }
        None => names.push(("default", true.into())),
    }
    ctx.output.did("tenant set", &names, "")
}

/// The rules that hold, such as `daily=7`; none where everything is kept.
fn kept(state: &State, tenant: Option<u32>) -> Vec<String> {
    let kept = policy::retention(state, tenant).ok().flatten().as_ref().map(Policy::to_words).unwrap_or_default();
    kept.lines().map(str::to_owned).collect()
}

fn set_default(ctx: &Context, repo: &Repository, args: &TenantSetArgs, keeps: Option<String>) -> Result<()> {
    let before = policy::window(&repo.log.state(), None);
    policy::set(repo, &|pool| {
        let put = |term: Option<Term>, at: &mut Option<u64>| *at = term.map_or(*at, |Term(seconds)| seconds);
        put(args.hold, &mut pool.hold);
        put(args.window, &mut pool.window);
        if let Some(words) = &keeps {
            pool.retention.clone_from(words);
        }
    })?;
    let state = repo.log.state();
    if ctx.output.json {
        return told(ctx, &state, None);
    }
    ctx.output.remark(format!("tenants of which nothing else is said: {}", words(&state, None)))?;
    shortened(ctx, before, policy::window(&state, None))
}

/// What is to be kept, as the log has it; none if nothing is said.
fn keeps(args: &TenantSetArgs) -> Option<String> {
    match (args.keep_all, args.keep_default) {
        (true, _) => Some(KEEP_ALL.to_owned()),
        (_, true) => Some(String::new()),
        _ if args.keep.is_empty() => None,
        _ => Some(forget::policy(&args.keep).to_words()),
    }
}

fn shortened(ctx: &Context, before: Duration, now: Duration) -> Result<()> {
    match now < before {
        true => ctx.output.remark(format!("what was received until now stays for {}", span(before))),
        false => Ok(()),
    }
}

/// `hold 72h, window none, keeps daily=7 monthly=12`.
fn words(state: &State, tenant: Option<u32>) -> String {
    let (hold, window) = (policy::hold(state, tenant), policy::window(state, tenant));
    format!("hold {}, window {}, {}", span(hold), span(window), rules(state, tenant))
}

/// What is kept, in words.
pub fn rules(state: &State, tenant: Option<u32>) -> String {
    match policy::retention(state, tenant) {
        Ok(Some(policy)) => format!("keeps {}", policy.to_words().replace('\n', " ")),
        Ok(None) => "keeps everything".to_owned(),
        Err(e) => e.to_string(),
    }
}

/// `72h`, `30d`, `none`.
pub fn span(time: Duration) -> String {
    match time.as_secs() / 3600 {
        0 => "none".to_owned(),
        hours if hours % 24 == 0 && hours >= 96 => format!("{}d", hours / 24),
        hours => format!("{hours}h"),
    }
}

/// What holds for a tenant.
pub fn holds(state: &State, number: u32) -> Holds {
    let tenant = state.tenants.get(&number);
    let own = [
        ("hold", tenant.is_some_and(|t| t.hold.is_some())),
        ("window", tenant.is_some_and(|t| t.window.is_some())),
        ("keep", tenant.is_some_and(|t| !t.retention.is_empty())),
    ];
    Holds {
        hold_seconds: policy::hold(state, Some(number)).as_secs(),
        window_seconds: policy::window(state, Some(number)).as_secs(),
        keep: kept(state, Some(number)),
        own: own.into_iter().filter(|(_, own)| *own).map(|(name, _)| name).collect(),
    }
}
