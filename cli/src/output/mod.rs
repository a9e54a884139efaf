//! Everything a command says goes through [`Output`], so that lines and the progress bar never mix.

pub mod human;
pub mod json;

use std::io::{self, BufWriter, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::ProgressBar;
use repo::error::{Error, Result};
use serde::Serialize;

/// Standard output and error of one run.
pub struct Output {
    /// Lines of JSON instead of text.
    pub json: bool,
    /// Only results, warnings and errors.
    pub quiet: bool,
    /// How often `-v` was given.
    pub verbose: u8,
    /// Whether both streams are terminals: only then a bar is drawn.
    pub terminal: bool,
    streams: Mutex<Streams>,
}

struct Streams {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    bar: Option<ProgressBar>,
    /// What `raw` writes is all that standard output carries.
    data: bool,
}

impl Output {
    /// The process's own streams.
    pub fn new(json: bool, quiet: bool, verbose: u8) -> Output {
        let terminal = io::stdout().is_terminal() && io::stderr().is_terminal();
        let out: Box<dyn Write + Send> = match io::stdout().is_terminal() {
            true => Box::new(io::stdout()),
            // Listings have millions of lines; unbuffered, each would be a system call.
            false => Box::new(BufWriter::with_capacity(64 * 1024, io::stdout())),
        };
        Output::with(json, quiet, verbose, terminal, out, Box::new(io::stderr()))
    }

    /// Other streams, for tests.
    pub fn with(
        json: bool,
        quiet: bool,
        verbose: u8,
        terminal: bool,
        out: Box<dyn Write + Send>,
        err: Box<dyn Write + Send>,
    ) -> Output {
        // A profile may ask for one and the command line for the other: quiet is the one typed.
        let verbose = if quiet { 0 } else { verbose };
        Output { json, quiet, verbose, terminal, streams: Mutex::new(Streams { out, err, bar: None, data: false }) }
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Standard output is for what [`Output::raw`] writes from now on: progress, notices and results, which would
    /// stand in the middle of it, go to standard error.
    pub fn only_data(&self) {
        self.streams().data = true;
    }

    /// Writes raw bytes to standard output, for `dump` and scripts.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn raw(&self, bytes: &[u8]) -> Result<()> {
        self.streams().write_out(bytes)
    }

    /// Writes one line of text to standard output.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn line(&self, text: impl AsRef<str>) -> Result<()> {
        self.streams().write_line(format!("{}\n", text.as_ref()).as_bytes())
    }

    /// Writes one line of text to standard output unless `-q` was given.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn remark(&self, text: impl AsRef<str>) -> Result<()> {
        if self.quiet { Ok(()) } else { self.line(text) }
    }

    /// Says what was done: a line of text as a remark, or with `--json` a `summary` with the action and the names it is about.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn did(&self, action: &str, names: &[(&str, serde_json::Value)], text: impl AsRef<str>) -> Result<()> {
        if !self.json {
            return self.remark(text);
        }
        let mut summary = serde_json::Map::new();
        summary.insert("message_type".to_owned(), "summary".into());
        summary.insert("action".to_owned(), action.into());
        summary.extend(names.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        self.message(&summary)
    }

    /// Says something to the person at the terminal beside the result: on standard error, unless `-q` was given.
    pub fn aside(&self, text: impl AsRef<str>) {
        if !self.quiet {
            self.complain(text);
        }
    }

    /// Writes one line of JSON to standard output.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn message(&self, message: &impl Serialize) -> Result<()> {
        let line = json::line(message)?;
        self.streams().write_line(&line)
    }

    /// Writes one line of JSON to standard output at once; a listener's progress display waits for it.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn message_now(&self, message: &impl Serialize) -> Result<()> {
        self.message(message)?;
        self.flush()
    }

    /// Writes one line of text to standard error. A standard error that cannot be written is nobody's to tell.
    pub fn complain(&self, text: impl AsRef<str>) {
        self.streams().write_err(format!("{}\n", text.as_ref()).as_bytes());
    }

    /// Writes one line of JSON to standard error.
    pub fn complain_json(&self, message: &impl Serialize) {
        if let Ok(line) = json::line(message) {
            self.streams().write_err(&line);
        }
    }

    /// Hands over everything buffered.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn flush(&self) -> Result<()> {
        self.streams().out.flush().map_err(unwritable)
    }

    /// What [`Output::complain`] says goes here from now on.
    pub fn complain_to(&self, err: Box<dyn Write + Send>) {
        self.streams().err = err;
    }

    /// Lines make way for this bar from now on.
    pub fn attach(&self, bar: Option<ProgressBar>) {
        self.streams().bar = bar;
    }
}

impl Streams {
    fn write_line(&mut self, bytes: &[u8]) -> Result<()> {
        if self.data {
            self.write_err(bytes);
            return Ok(());
        }
        self.write_out(bytes)
    }

    fn write_out(&mut self, bytes: &[u8]) -> Result<()> {
        let out = &mut self.out;
        let result = match &self.bar {
            Some(bar) => bar.suspend(|| out.write_all(bytes).and_then(|()| out.flush())),
            None => out.write_all(bytes),
        };
        result.map_err(unwritable)
    }

    fn write_err(&mut self, bytes: &[u8]) {
        // What was said before stands before it, also when both streams go to one file.
        let (out, err) = (&mut self.out, &mut self.err);
        let mut write = || {
            // It may be that very failure which is to be told.
            let _ = out.flush();
            err.write_all(bytes).and_then(|()| err.flush())
        };
        let _ = match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        };
    }
}

fn unwritable(e: io::Error) -> Error {
    Error::io("write to", "standard output", e)
}

#[cfg(test)]
pub mod testing {
    //! Streams to look into.

    use super::*;
    use std::sync::Arc;

    /// A stream that keeps what is written.
    #[derive(Clone, Default)]
    pub struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Kept {
        /// What was written so far.
        pub fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// An output with its two streams.
    pub fn kept(json: bool, quiet: bool, verbose: u8) -> (Arc<Output>, Kept, Kept) {
        let (out, err) = (Kept::default(), Kept::default());
        let output = Output::with(json, quiet, verbose, false, Box::new(out.clone()), Box::new(err.clone()));
        (Arc::new(output), out, err)
    }
}
