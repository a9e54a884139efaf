//! `man`.

use std::io;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use repo::error::{Error, Result};

use crate::args::{Cli, ManArgs};
use crate::context::Context;
use crate::exit::ExitCode;

/// Writes `packmule.1` and a page `packmule-COMMAND.1` for every command.
pub fn run(_ctx: &Context, args: ManArgs) -> Result<ExitCode> {
    let failed = |e| Error::io("write manual pages to", &args.dir, e);
    std::fs::create_dir_all(&args.dir).map_err(failed)?;
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    write(&command, &args.dir).map_err(failed)?;
    Ok(ExitCode::Ok)
}

fn write(command: &Command, dir: &Path) -> io::Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        write(below, dir)?;
    }
    // What stands below the help would be one paragraph of a section EXTRA.
    let notes = command.get_after_help().map(|text| notes(&text.to_string())).unwrap_or_default();
    let page = Man::new(command.clone().after_help(None::<&'static str>));
    let mut text = Vec::new();
    page.render(&mut text)?;
    let mut text = String::from_utf8_lossy(&text).into_owned();
    let at = text.find("\n.SH VERSION\n").map_or(text.len(), |at| at + 1);
    text.insert_str(at, &notes);
    std::fs::write(dir.join(page.get_filename()), text)
}

/// The notes below a command's help as sections: lists keep their lines.
fn notes(help: &str) -> String {
    let mut out = String::new();
    let mut noted = false;
    for part in help.split("\n\n") {
        let (first, rest) = part.split_once('\n').unwrap_or((part, ""));
        let section = match first {
            "Exit codes:" => "EXIT STATUS",
            "Environment:" => "ENVIRONMENT",
            _ => {
                out += if std::mem::replace(&mut noted, true) { ".PP\n" } else { ".SH NOTES\n" };
                part.lines().for_each(|line| out += &escaped(line));
                continue;
            }
        };
        out += &format!(".SH \"{section}\"\n.nf\n");
        rest.lines().for_each(|line| out += &escaped(line));
        out += ".fi\n";
    }
    out
}

/// One line of text in which roff sees no command.
fn escaped(line: &str) -> String {
    let text = line.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    let guard = if text.starts_with('.') { "\\&" } else { "" };
    format!("{guard}{text}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_keep_their_lines_and_notes_flow() {
        let help = "What:\nthe '.' a-b\n\n.more\\\n\nExit codes:\n    0  done\n  130  interrupted";
        let expected = ".SH NOTES\nWhat:\nthe \\(aq.\\(aq a\\-b\n.PP\n\\&.more\\e\n\
                        .SH \"EXIT STATUS\"\n.nf\n    0  done\n  130  interrupted\n.fi\n";
        assert_eq!(notes(help), expected);
    }
}
