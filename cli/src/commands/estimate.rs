//! `estimate`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use repo::capture::{Options, Sample};
use repo::error::{Error, Kind, Result};
use repo::format::record::RemoteState;
use repo::monitor::Monitor;
use repo::open::{Access, Repository};
use repo::snapshots::Summaries;
use serde::Serialize;
use sync::estimate::{Measured, estimate};
use sync::pending::pending;
use sync::remote;

use super::open::open_repository;
use crate::PROGRAM;
use crate::args::{EstimateArgs, Rate};
use crate::context::Context;
use crate::exit::ExitCode;
use crate::output::human;
use crate::progress::Job;

/// Of a line's speed so much is had, by what was measured over lines that lose packets.
const GOODPUT: f64 = 0.85;
/// What a drive is written and read with, in bytes a second: a usual USB disk.
const DRIVE_RATE: f64 = 120e6;
/// What of a drive is filled.
const FILLED: f64 = 0.97;
/// Snapshots that tell how much comes a day are at most so old.
const HISTORY: Duration = Duration::from_secs(30 * 24 * 3600);

/// The answer as JSON.
#[derive(Serialize)]
#[serde(tag = "message_type", rename = "summary")]
struct Answer {
    /// Files and bytes that a backup would save.
    total_files: u64,
    total_bytes: u64,
    /// Files and bytes that were read, or known to be unchanged; fewer only with --sample.
    measured_files: u64,
    measured_bytes: u64,
    /// Bytes of packs that would be stored here.
    bytes_new: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote: Option<Wire>,
    drives: u64,
    drive_size: u64,
    /// Copying onto them, the post, and taking them in.
    days_by_post: f64,
    /// Bytes of packs that this source brought a day lately, if it has a history.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_daily: Option<u64>,
    error_count: u64,
}

#[derive(Serialize)]
struct Wire {
    name: String,
    /// What would travel of the new bytes.
    bytes_new: u64,
    /// What was recorded here and is not there yet.
    bytes_pending: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    hours_by_line: Option<f64>,
}

/// Runs `estimate`.
pub fn run(ctx: &Context, args: EstimateArgs) -> Result<ExitCode> {
    let rate = match args.rate {
        Some(Rate(None)) => return Err(Error::new(Kind::Usage, "a line has some speed").remedy("say --rate 100Mbit")),
        Some(Rate(Some(rate))) => Some(rate as f64),
        None => None,
    };
    let repo = open_repository(ctx, Access::Read)?;
    let known = args.remote.as_ref().map(|name| remote::find(&repo, name)).transpose()?;
    let sample = args.sample.filter(|percent| *percent < 100).map(|percent| Arc::new(Sample::new(percent)));
    let options = Options { sample: sample.clone(), ..super::backup::options(&args.backup, None)? };
    let (host, source) = (options.host.clone(), options.source.clone());
    let progress = ctx.monitor(Job::Backup);
    let measured = measured(&repo, options, known.as_ref(), &progress);
    drop(progress);
    let (outcome, mut measured) = measured?;
    let (mut files, mut bytes) = (outcome.stats.files, outcome.stats.bytes);
    let read = (files, bytes);
    if let Some(sample) = &sample {
        let (left, left_bytes) = (sample.files.load(Ordering::Relaxed), sample.bytes.load(Ordering::Relaxed));
        if bytes == 0 && left_bytes > 0 {
            return Err(
                Error::new(Kind::Usage, "no file belongs to so small a sample").remedy("take a larger --sample")
            );
        }
        let factor = 1.0 + left_bytes as f64 / bytes.max(1) as f64;
        (files, bytes) = (files + left, bytes + left_bytes);
        measured.here = (measured.here as f64 * factor) as u64;
        measured.wire = (measured.wire as f64 * factor) as u64;
    }
    let wire = match (&args.remote, &known) {
        (Some(name), Some(known)) => {
            let waiting = pending(&repo, name, known.pushed.filter(|_| !remote::is_anew(known)))?.bytes;
            let bytes = measured.wire + waiting;
            let hours = rate.map(|rate| bytes as f64 / (rate * GOODPUT) / 3600.0);
            let (name, bytes_new) = (name.clone(), measured.wire);
            Some(Wire { name, bytes_new, bytes_pending: waiting, bytes, hours_by_line: hours })
        }
        _ => None,
    };
    let carried = wire.as_ref().map_or(measured.here, |wire| wire.bytes);
    let answer = Answer {
        total_files: files,
        total_bytes: bytes,
        measured_files: read.0,
        measured_bytes: read.1,
        bytes_new: measured.here,
        drives: (carried as f64 / (args.drive_size.0.max(1) as f64 * FILLED)).ceil() as u64,
        drive_size: args.drive_size.0,
        days_by_post: 2.0 * carried as f64 / DRIVE_RATE / 86_400.0 + f64::from(args.post_days),
        bytes_daily: daily(&repo, &host, source.as_deref())?,
        remote: wire,
        error_count: outcome.stats.errors,
    };
    tell(ctx, &args, &answer, rate)?;
    ctx.output.flush()?;
    Ok(if answer.error_count > 0 { ExitCode::Partial } else { ExitCode::Ok })
}

fn measured(
    repo: &Repository,
    options: Options,
    known: Option<&RemoteState>,
    progress: &dyn Monitor,
) -> Result<(repo::capture::Outcome, Measured)> {
    match known.filter(|known| !known.sealed) {
        // A sealed copy, or a directory, has what this repository has.
        None => estimate(repo, options, None, progress),
        Some(known) => {
            let link = remote::open(known)?;
            let done = estimate(repo, options, Some((&remote::dial_first(&link, known)?, PROGRAM)), progress);
            link.close();
            done
        }
    }
}

/// Bytes of packs a day that this source's snapshots of the last weeks have brought, the first of all not counted.
fn daily(repo: &Repository, host: &str, source: Option<&str>) -> Result<Option<u64>> {
    let state = repo.log.state();
    let now = repo.clock.now();
    let mut own: Vec<_> = state
        .snapshots
        .iter()
        .filter(|(_, s)| s.host == host && source.is_none_or(|source| s.source == source))
        .filter(|(_, s)| now.since(s.recorded) < HISTORY)
        .map(|(id, s)| (s.recorded, *id))
        .collect();
    own.sort_unstable();
    let (Some(first), Some(last)) = (own.first(), own.last()) else { return Ok(None) };
    let days = last.0.since(first.0).as_secs_f64() / 86_400.0;
    if days < 0.5 {
        return Ok(None);
    }
    let mut summaries = Summaries::new(repo, &state);
    let mut sum = 0;
    for (_, id) in &own[1..] {
        sum += summaries.get(id)?.stats.data_stored;
    }
    Ok(Some((sum as f64 / days) as u64))
}

fn tell(ctx: &Context, args: &EstimateArgs, answer: &Answer, rate: Option<f64>) -> Result<()> {
    if ctx.output.json {
        return ctx.output.message(answer);
    }
    let line = |what: &str, value: String| ctx.output.line(format!("{what:<22} {value}"));
    let (files, size) = (human::count(answer.total_files, "file"), human::size(answer.total_bytes));
    line("To be backed up", format!("{files}, {size}"))?;
    if let Some(percent) = args.sample.filter(|percent| *percent < 100) {
        let read = human::size(answer.measured_bytes);
        line("", format!("of {percent} % of the files, {read}, what follows is reckoned"))?;
    }
    line("New here", human::size(answer.bytes_new))?;
    if let Some(wire) = &answer.remote {
        let pending = match wire.bytes_pending {
            0 => String::new(),
            n => format!(", {} of that recorded already", human::size(n)),
        };
        line(&format!("To be sent to {}", wire.name), format!("{}{pending}", human::size(wire.bytes)))?;
        match (wire.hours_by_line, rate) {
            (Some(hours), Some(rate)) => {
                let speed = rate * 8.0 / 1e6;
                line("By line", format!("{}, at 85 % of {speed} Mbit/s", took(hours)))?;
            }
            _ => line("By line", "say --rate 100Mbit to know how long".to_owned())?,
        }
    }
    let (drives, size) = (human::count(answer.drives, "drive"), human::size(answer.drive_size));
    let (days, post) = (answer.days_by_post, human::count(u64::from(args.post_days), "day"));
    line("By post", format!("{drives} of {size}, {days:.1} days with {post} on the way"))?;
    if let Some(daily) = answer.bytes_daily {
        line("Each day, lately", human::size(daily))?;
    }
    Ok(())
}

fn took(hours: f64) -> String {
    match hours {
        h if h < 1.0 => format!("{:.0} minutes", h * 60.0),
        h if h < 72.0 => format!("{h:.1} hours"),
        h => format!("{:.1} days", h / 24.0),
    }
}
