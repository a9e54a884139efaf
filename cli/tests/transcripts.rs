//! What a user sees: help, usage errors, exit codes, JSON errors, completions, manual pages.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;

/// Runs the program with nothing of the surrounding environment.
fn run(words: &[&str], env: &[(&str, &str)]) -> Output {
    let home = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_packmule"))
        .args(words)
        .env_clear()
        .env("HOME", home.path())
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn out(o: &Output) -> String {
    String::from_utf8(o.stdout.clone()).unwrap()
}

fn err(o: &Output) -> String {
    String::from_utf8(o.stderr.clone()).unwrap()
}

/// Exit code, standard output, standard error.
fn transcript(words: &[&str], env: &[(&str, &str)]) -> (i32, String, String) {
    let o = run(words, env);
    (o.status.code().unwrap(), out(&o), err(&o))
}

#[test]
fn help_lists_every_command_and_exit_code() {
    let (code, text, errors) = transcript(&["--help"], &[]);
    assert_eq!((code, errors.as_str()), (0, ""));
    for command in [
        "init",
        "backup",
        "snapshots",
        "ls",
        "find",
        "diff",
        "dump",
        "restore",
        "mount",
        "umount",
        "status",
        "forget",
        "unforget",
        "prune",
        "check",
        "rebuild-index",
        "tag",
        "stats",
        "key",
        "log",
        "completions",
        "man",
        "version",
    ] {
        assert!(text.contains(&format!("\n  {command} ")), "{command}");
    }
    assert!(text.contains("130  interrupted") && text.contains("PACKMULE_PASSWORD_COMMAND"));
}

#[test]
fn restic_letters_mean_what_they_mean_there() {
    for (command, letters) in [
        ("backup", vec!["-e, --exclude", "-x, --one-file-system", "-f, --force", "-H, --host", "-n, --dry-run"]),
        ("restore", vec!["-t, --target", "-i, --include", "-e, --exclude", "-H, --host"]),
        (
            "forget",
            vec![
                "-l, --keep-last",
                "-H, --keep-hourly",
                "-d, --keep-daily",
                "-w, --keep-weekly",
                "-m, --keep-monthly",
                "-y, --keep-yearly",
                "-n, --dry-run",
            ],
        ),
        (
            "ls",
            vec!["-l, --long", "-R, --recursive", "-r, --repo", "-p, --password-file", "-q, --quiet", "-v, --verbose"],
        ),
        ("find", vec!["-i, --ignore-case", "-N, --newest", "-O, --oldest", "-s, --snapshot", "-l, --long"]),
        ("dump", vec!["-t, --target", "-a, --archive"]),
        ("prune", vec!["-n, --dry-run"]),
    ] {
        let (code, text, _) = transcript(&[command, "--help"], &[]);
        assert_eq!(code, 0);
        for letter in letters {
            assert!(text.contains(letter), "{command} {letter}");
        }
    }
}

#[test]
fn usage_errors_are_2_and_say_how() {
    for (words, said) in [
        (vec!["frobnicate"], "unrecognized subcommand 'frobnicate'"),
        (vec!["restore", "latest"], "--target <DIR>"),
        (vec!["restore", "latest:../x", "-t", "/t"], "'../x' is not a path inside a snapshot"),
        (vec!["ls", "nonsense"], "a snapshot is named by its id"),
        (vec!["forget"], "nothing says what to forget; name snapshots, or give a rule such as --keep-daily 7"),
        (vec!["forget", "ab", "--keep-daily", "7"], "cannot be used with"),
        (vec!["forget", "--keep-daily", "0"], "neither a number from 1 nor 'unlimited'"),
        (vec!["forget", "-d", "7", "--release-held"], "--prune"),
        (vec!["tag", "latest"], "--set"),
        (vec!["check", "--read-data-subset", "5/3"], "n from 1 to m"),
        (vec!["backup"], "nothing to back up; name a PATH, or use --files-from or --stdin-from-command"),
        (vec!["init", "--pack-size", "1G"], "not between 4M and 64M"),
        (vec!["snapshots", "--at", "yesterday"], "is not a time such as"),
        (vec!["status", "--max-age", "30m"], "write min for minutes, mo for months"),
        (vec!["status", "--max-age", "26"], "is not an age such as 26h"),
        (vec!["mount", "/mnt", "--umask", "9"], "not an octal number"),
        (vec!["-P", "absent", "backup"], "there is no profile absent: neither /etc/packmule/absent.toml nor "),
        (vec!["serve", "--listen", "nowhere"], "invalid socket address"),
        (vec!["tenant", "set", "acme"], "nothing says what to set; give --quota, --hold"),
        (vec!["tenant", "set", "--hold", "1h"], "<NAME>"),
        (vec!["sync", "push", "cloud", "--limit", "pause"], "limit and between belong together"),
        (vec!["sync", "push", "cloud", "--limit-upload", "fast"], "is not a rate such as 10Mbit"),
        (vec!["sync", "push", "cloud", "--limit", "pause", "--between", "9-17"], "is not hours such as"),
    ] {
        let (code, text, errors) = transcript(&words, &[]);
        assert_eq!((code, text.as_str()), (2, ""), "{words:?}: {errors}");
        assert!(errors.contains(said), "{words:?}: {errors}");
    }
    assert_eq!(transcript(&[], &[]).0, 2);
    assert_eq!(transcript(&["version"], &[("PACKMULE_PROGRESS_FPS", "fast")]).0, 2);
    assert_eq!(transcript(&["version"], &[("PACKMULE_PROGRESS_FPS", "0")]).0, 0);
}

#[test]
fn errors_are_one_line() {
    let (code, _, errors) = transcript(&["forget"], &[]);
    assert_eq!(code, 2);
    assert_eq!(errors.lines().count(), 1);
    assert!(errors.starts_with("packmule: error: "), "{errors}");
}

#[test]
fn json_errors_are_exit_error_messages() {
    for words in [vec!["forget", "--json"], vec!["--json", "ls", "nonsense"], vec!["frobnicate", "--json"]] {
        let (code, text, errors) = transcript(&words, &[]);
        assert_eq!((code, text.as_str()), (2, ""));
        let message: serde_json::Value = serde_json::from_str(&errors).unwrap();
        assert_eq!((&message["message_type"], &message["code"]), (&"exit_error".into(), &2.into()), "{words:?}");
        let line = message["message"].as_str().unwrap();
        assert!(!line.is_empty() && !line.contains('\n'));
    }
}

#[test]
fn version_is_told_in_both_ways() {
    let version = env!("CARGO_PKG_VERSION");
    assert!(transcript(&["version"], &[]).1.starts_with(&format!("packmule {version} (")));
    assert_eq!(transcript(&["--version"], &[]), (0, format!("packmule {version}\n"), String::new()));
    let message: serde_json::Value = serde_json::from_str(&transcript(&["--json", "version"], &[]).1).unwrap();
    assert_eq!((&message["message_type"], &message["version"]), (&"version".into(), &version.into()));
}

#[test]
fn completions_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, text, _) = transcript(&["completions", shell], &[]);
        assert_eq!(code, 0);
        assert!(text.contains("rebuild-index") && text.contains("keep-daily"), "{shell}");
    }
    assert_eq!(transcript(&["completions", "ksh"], &[]).0, 2);
}

#[test]
fn a_manual_page_for_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("made/man1");
    assert_eq!(transcript(&["man", target.to_str().unwrap()], &[]).0, 0);
    for page in ["packmule.1", "packmule-backup.1", "packmule-rebuild-index.1", "packmule-key-recovery-code.1"] {
        assert!(target.join(page).exists(), "{page}");
    }
    let forget = std::fs::read_to_string(target.join("packmule-forget.1")).unwrap();
    assert!(forget.contains("keep\\-hourly") && forget.contains("brought back"));
    let all = std::fs::read_to_string(target.join("packmule.1")).unwrap();
    assert!(all.contains(".SH \"EXIT STATUS\"\n.nf\n    0  done\n    1  failed\n"), "{all}");
    assert!(all.contains(".fi\n.SH \"ENVIRONMENT\"\n.nf\n  PACKMULE_REPOSITORY, "), "{all}");
    for page in std::fs::read_dir(&target).unwrap() {
        assert!(!std::fs::read_to_string(page.unwrap().path()).unwrap().contains(".SH EXTRA"));
    }
    let (code, _, errors) = transcript(&["man", "/dev/null/x"], &[]);
    assert_eq!(code, 1);
    assert!(errors.contains("/dev/null/x"), "{errors}");
}

#[test]
fn a_profile_is_found_in_the_user_s_directory() {
    let config = tempfile::tempdir().unwrap();
    let dir = config.path().join("packmule");
    std::fs::create_dir(&dir).unwrap();
    let env = [("XDG_CONFIG_HOME", config.path().to_str().unwrap())];
    write(&dir.join("home.toml"), "json = true\n[forget]\nkeep-daily = 'many'\n");
    let (code, _, errors) = transcript(&["-P", "home", "version"], &env);
    assert_eq!(code, 2);
    assert!(errors.contains("home.toml line 3: invalid value 'many' for '--keep-daily <N>'"), "{errors}");
    write(&dir.join("home.toml"), "json = true\n");
    assert!(transcript(&["-P", "home", "version"], &env).1.starts_with('{'));
}

#[test]
fn the_second_signal_ends_the_process_with_130() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_packmule"))
        .args(["backup", "--files-from", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id();
    // SIGTERM's handlers are set up after those of SIGINT.
    wait_until(|| signal_set(pid, "SigCgt") & bit(Signal::SIGTERM) != 0);
    send(pid, Signal::SIGINT);
    wait_until(|| (signal_set(pid, "ShdPnd") | signal_set(pid, "SigPnd")) & bit(Signal::SIGINT) == 0);
    assert!(child.try_wait().unwrap().is_none(), "the first signal only asks to stop");
    send(pid, Signal::SIGINT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

fn bit(signal: Signal) -> u64 {
    1 << (signal as u32 - 1)
}

/// One of the sets of signals in `/proc/PID/status`.
fn signal_set(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(":")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

fn send(pid: u32, signal: Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), signal).unwrap();
}

fn wait_until(done: impl Fn() -> bool) {
    for _ in 0..2000 {
        if done() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("ten seconds were not enough");
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}
