//! `sync status`.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use repo::clock::Time;
use repo::error::{Error, Kind, Result};
use repo::format::record::{RemoteState, State};
use repo::open::{Access, Repository};
use repo::policy;
use repo::times::Times;
use serde::Serialize;
use sync::pending::{Pending, pending};

use super::open::open_repository;
use super::status::age;
use crate::args::SyncStatusArgs;
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::human::{self, Table};
use crate::output::json;

/// A remote as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "remote_status")]
struct OfRemote<'a> {
    remote: &'a str,
    url: &'a str,
    sealed: bool,
    /// When everything was last found to be there.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_push: Option<json::Time>,
    /// Up to this record of the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    complete_to: Option<u64>,
    pending_snapshots: u64,
    /// The most that the next push sends.
    pending_packs: u64,
    pending_bytes: u64,
    /// Of packs that are on their way on drives, and not in those.
    posted_bytes: u64,
    /// How long the oldest snapshot that is not there has been here; 0 if all are there.
    lag_seconds: u64,
    late: bool,
}

/// A tenant as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "tenant_status")]
struct OfTenant<'a> {
    tenant: &'a str,
    sealed: bool,
    suspended: bool,
    /// Absent of a sealed tenant: nobody can tell here.
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshots: Option<u64>,
    /// When its newest snapshot was received.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_received: Option<json::Time>,
    /// When its last push ended with everything delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_push: Option<json::Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    complete_to: Option<u64>,
    /// How long ago its newest snapshot was received, of a sealed tenant how long ago its last push ended; without one, since it was made.
    lag_seconds: u64,
    late: bool,
}

/// What is told, and whether something is late.
struct Report<'a> {
    ctx: &'a Context,
    repo: &'a Repository,
    state: &'a State,
    now: Time,
    /// What is older is late.
    limit: Option<Timestamp>,
    late: bool,
}

/// Runs `sync status`.
pub fn run(ctx: &Context, args: &SyncStatusArgs) -> Result<ExitCode> {
    let repo = open_repository(ctx, Access::Read)?;
    let state = repo.log.state();
    let now = repo.clock.now();
    let limit = args.max_age.map(|age| age.before(human::timestamp(now), &TimeZone::system()));
    let wanted = |name: &str| args.name.as_deref().is_none_or(|only| only == name);
    let remotes: Vec<_> = state.remotes.iter().filter(|(name, _)| wanted(name)).collect();
    let tenants: Vec<_> = state.tenants.iter().filter(|(_, tenant)| wanted(&tenant.name)).map(|(n, _)| *n).collect();
    if let Some(name) = args.name.as_ref().filter(|_| remotes.is_empty() && tenants.is_empty()) {
        let shown = name.escape_debug();
        return Err(match state.pool {
            true => Error::new(Kind::NotFound, format!("there is no remote or tenant '{shown}'"))
                .remedy("`packmule remote list` and `packmule tenant list` show those there are"),
            false => Error::new(Kind::NotFound, format!("there is no remote '{shown}'"))
                .remedy("`packmule remote list` shows those there are"),
        });
    }
    let mut report = Report { ctx, repo: &repo, state: &state, now, limit, late: false };
    if !remotes.is_empty() || !state.pool {
        report.remotes(&remotes)?;
    }
    if state.pool && (!tenants.is_empty() || remotes.is_empty()) {
        report.tenants(&tenants)?;
    }
    ctx.output.flush()?;
    Ok(if report.late { ExitCode::Found } else { ExitCode::Ok })
}

impl Report<'_> {
    fn is_late(&mut self, since: Time) -> bool {
        let late = self.limit.is_some_and(|limit| human::timestamp(since) < limit);
        self.late |= late;
        late
    }

    fn remotes(&mut self, remotes: &[(&String, &RemoteState)]) -> Result<()> {
        let times = Times::of(self.state, self.now);
        let mut table = Table::new(&["Remote", "Last push", ">Not there", ">To send", ">In the post", ">Lag", ""]);
        for (name, remote) in remotes {
            let lacks = self.state.snapshots.iter().filter(|(_, s)| s.forgotten.is_none() && policy::lacks(remote, s));
            let waiting: Vec<Time> = lacks.filter_map(|(id, _)| times.get(id)).map(|moment| moment.received).collect();
            let oldest = waiting.iter().min().copied();
            // What a prune wrote anew is sent to a copy, and to a pool only with a snapshot.
            let send = match (oldest, remote.sealed) {
                (None, false) => Pending::default(),
                _ => pending(self.repo, name, remote.pushed)?,
            };
            let late = oldest.is_some_and(|oldest| self.is_late(oldest));
            let lag = oldest.map_or(Duration::ZERO, |oldest| self.now.since(oldest));
            if self.ctx.output.json {
                self.ctx.output.message(&OfRemote {
                    remote: name,
                    url: &remote.url,
                    sealed: remote.sealed,
                    last_push: remote.pushed_at.map(json::Time::of),
                    complete_to: remote.pushed.map(|at| at.seq).filter(|seq| *seq > 0),
                    pending_snapshots: waiting.len() as u64,
                    pending_packs: send.packs,
                    pending_bytes: send.bytes,
                    posted_bytes: send.posted,
                    lag_seconds: lag.as_secs(),
                    late,
                })?;
                continue;
            }
            table.row([
                (*name).clone(),
                remote.pushed_at.map_or_else(|| "never".to_owned(), |at| human::time(human::timestamp(at))),
                human::count(waiting.len() as u64, "snapshot"),
                human::size(send.bytes),
                if send.posted == 0 { "none".to_owned() } else { human::size(send.posted) },
                if oldest.is_some() { age(lag) } else { "none".to_owned() },
                if late { "LATE".to_owned() } else { String::new() },
            ]);
        }
        self.show(&table, remotes.len() as u64, "remote")
    }

    fn tenants(&mut self, tenants: &[u32]) -> Result<()> {
        let times = Times::of(self.state, self.now);
        let mut table = Table::new(&["Tenant", "Received last", ">Ago", ">Snapshots", ""]);
        for number in tenants {
            let Some(tenant) = self.state.tenants.get(number) else { continue };
            let own = |s: &repo::format::record::SnapshotState| {
                s.forgotten.is_none() && s.origin.is_some_and(|origin| origin.tenant == *number)
            };
            let received: Vec<Time> = self
                .state
                .snapshots
                .iter()
                .filter(|(_, s)| own(s))
                .filter_map(|(id, _)| times.get(id))
                .map(|moment| moment.received)
                .collect();
            let push = self.state.pushes.get(number).copied();
            let newest = if tenant.sealed { push } else { received.iter().max().copied() };
            let since = newest.unwrap_or(tenant.made);
            // Nobody waits for one that may not come.
            let barred = tenant.suspended || tenant.removed.is_some();
            let late = !barred && self.is_late(since);
            let lag = self.now.since(since);
            if self.ctx.output.json {
                self.ctx.output.message(&OfTenant {
                    tenant: &tenant.name,
                    sealed: tenant.sealed,
                    suspended: tenant.suspended,
                    snapshots: (!tenant.sealed).then_some(received.len() as u64),
                    last_received: newest.filter(|_| !tenant.sealed).map(json::Time::of),
                    last_push: push.map(json::Time::of),
                    complete_to: tenant.watermark.map(|at| at.seq),
                    lag_seconds: lag.as_secs(),
                    late,
                })?;
                continue;
            }
            table.row([
                tenant.name.clone(),
                newest.map_or_else(|| "never".to_owned(), |at| human::time(human::timestamp(at))),
                age(lag),
                if tenant.sealed { "sealed".to_owned() } else { received.len().to_string() },
                match (late, tenant.removed.is_some(), tenant.suspended) {
                    (true, ..) => "LATE",
                    (_, true, _) => "being removed",
                    (.., true) => "suspended",
                    _ => "",
                }
                .to_owned(),
            ]);
        }
        self.show(&table, tenants.len() as u64, "tenant")
    }

    fn show(&self, table: &Table, count: u64, noun: &str) -> Result<()> {
        let output = &self.ctx.output;
        match output.json {
            true => Ok(()),
            false if count == 0 => output.remark(format!("no {noun}s")),
            false => table.lines().iter().try_for_each(|line| output.line(line)),
        }
    }
}
