//! Where secrets come from: what is refused, and that none is shown.

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::pty::openpty;
use nix::sys::termios::{LocalFlags, tcgetattr};
use support::{PASSWORD, Running, Site, eventually};

#[test]
fn standard_input_is_not_asked_for_two_secrets() {
    let site = Site::filled();
    for key in ["add", "passwd"] {
        let named = ["--password-file -", "--new-password-file -", "give one of them by a file or a command"];
        let words = ["-p", "-", "key", key, "--new-password-file", "-"];
        Running::start(site.program(&words)).wait().refused(2, &named);
        // The variable counts as the option does.
        let mut command = site.program(&words[2..]);
        command.env("PACKMULE_PASSWORD_FILE", "-");
        Running::start(command).wait().refused(2, &named);
    }
    // Alone it gives either.
    let mut command = site.program(&["key", "add", "--new-password-file", "-"]);
    command.env("PACKMULE_PASSWORD", PASSWORD).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"another\n").unwrap();
    assert!(child.wait().unwrap().success());
    site.with_password(&["snapshots"], "another").ok();
}

/// Starts a program whose terminal is the other end of what is returned, and shows nothing until that is told to.
fn on_a_terminal(mut command: Command) -> (std::process::Child, File) {
    let terminal = openpty(None, None).unwrap();
    let end = || Stdio::from(terminal.slave.try_clone().unwrap());
    command.stdin(end()).stdout(end()).stderr(end());
    // SAFETY: both calls may be made between fork and exec, and touch no memory.
    unsafe {
        command.pre_exec(|| {
            if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let mut keys = File::from(terminal.master);
    // Its output stopped from the beginning, it stands before its first words until they can be shown.
    keys.write_all(b"\x13").unwrap();
    (command.spawn().unwrap(), keys)
}

#[test]
fn nothing_typed_is_shown_once_a_password_is_asked_for() {
    let site = Site::filled();
    for words in [&["snapshots"][..], &["key", "add"]] {
        let mut command = site.program(words);
        if words[0] == "key" {
            command = site.command(words);
        }
        let (mut child, mut keys) = on_a_terminal(command);
        let echo = |keys: &File| tcgetattr(keys.as_fd()).unwrap().local_flags.contains(LocalFlags::ECHO);
        eventually("the echo is off before the question", || !echo(&keys));
        keys.write_all(b"\x11").unwrap();
        let answers = if words[0] == "key" { 2 } else { 1 };
        let (mut shown, mut buffer) = (Vec::new(), [0; 4096]);
        for n in 0..answers {
            // Each question ends so, and ends what is shown.
            while !shown.ends_with(b": ") {
                let got = keys.read(&mut buffer).unwrap();
                shown.extend_from_slice(&buffer[..got]);
            }
            assert!(!echo(&keys), "question {n}");
            keys.write_all(format!("{PASSWORD}\n").as_bytes()).unwrap();
            shown.push(b'\n');
        }
        // The terminal fails with EIO once nobody holds its other end.
        while let Ok(got @ 1..) = keys.read(&mut buffer) {
            shown.extend_from_slice(&buffer[..got]);
        }
        let shown = String::from_utf8_lossy(&shown);
        assert!(child.wait().unwrap().success(), "{shown}");
        assert!(!shown.contains(PASSWORD), "{shown}");
    }
}
