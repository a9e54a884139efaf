//! The command line: parse, one call into the engine, render.

// Doc comments of options are help texts: a default in square brackets is no link.
#![allow(rustdoc::broken_intra_doc_links)]

mod args;
mod commands;
mod context;
mod drives_view;
mod exit;
mod output;
mod profile;
mod progress;
mod remote_view;
mod secret;
mod select;
mod server_file;
mod service;
mod signals;
mod target;
mod timespec;
mod view;

use std::ffi::OsString;
use std::sync::Arc;

use clap::error::ErrorKind;
use repo::error::{Error, Kind};

use args::{Command, Failure, Parsed};
use context::Context;
use exit::ExitCode;
use output::{Output, json};

/// What this program calls itself, in snapshots and to other sides.
const PROGRAM: &str = concat!("packmule ", env!("CARGO_PKG_VERSION"));

/// Frames come and go by the thousand: glibc's allocator would have their pages given back, and zeroed again, each time.
fn keep_pages() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// Larger than any frame; packs are given back.
        const KEPT: libc::c_int = (4 << 20) + (128 << 10);
        const UNUSED: libc::c_int = 64 << 20;
        // SAFETY: sets two numbers of the allocator's, before there is another thread. Nothing safe does it.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT);
            libc::mallopt(libc::M_TRIM_THRESHOLD, UNUSED);
        }
    }
}

fn main() -> std::process::ExitCode {
    keep_pages();
    signals::default_sigpipe();
    repo::capture::raise_open_files();
    let words: Vec<OsString> = std::env::args_os().collect();
    let code = match args::parse(&words, &profile::directories()) {
        Ok(parsed) => dispatch(parsed),
        Err(Failure::Clap(e)) => no_command(&e, wants_json(&words)),
        Err(Failure::Profile(e)) => fail(&Output::new(wants_json(&words), false, 0), e, false),
    };
    code.into()
}

/// Runs the command and says why it failed if it did.
fn dispatch(parsed: Parsed) -> ExitCode {
    let globals = &parsed.cli.globals;
    let output = Arc::new(Output::new(globals.json, globals.quiet, globals.verbose));
    let checking = matches!(parsed.cli.command, Command::Check(_));
    let result = signals::stop_flag()
        .and_then(|stop| Context::new(parsed.cli.globals, parsed.target, &parsed.secret, Arc::clone(&output), stop))
        .and_then(|context| commands::run(&context, parsed.cli.command));
    match result.and_then(|code| output.flush().map(|()| code)) {
        Ok(code) => code,
        Err(e) => fail(&output, e, checking),
    }
}

/// Says on one line why the command failed; in JSON as `exit_error`.
fn fail(output: &Output, e: Error, checking: bool) -> ExitCode {
    let code = ExitCode::of(e.kind(), checking);
    // Decoders know what is wrong, but not what to do about it.
    let e = if e.kind() == Kind::Damaged && !checking { e.or_remedy(exit::DAMAGED) } else { e };
    if output.json {
        output.complain_json(&json::ExitError { code: code.code(), message: e.to_string() });
    } else {
        output.complain(format!("packmule: error: {e}"));
    }
    code
}

/// Help and version go to standard output; usage errors in clap's words, or as `exit_error`, to standard error.
fn no_command(e: &clap::Error, json: bool) -> ExitCode {
    if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let _ = e.print();
        return ExitCode::Ok;
    }
    if json && e.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let exit = json::ExitError { code: ExitCode::Usage.code(), message: args::one_line(e) };
        Output::new(true, false, 0).complain_json(&exit);
    } else {
        let _ = e.print();
    }
    ExitCode::Usage
}

/// Whether JSON was asked for on a line that cannot be parsed.
fn wants_json(words: &[OsString]) -> bool {
    words.iter().skip(1).take_while(|w| *w != "--").any(|w| w == "--json")
}
