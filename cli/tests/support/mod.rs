//! A repository, a source and the program as users run it.

#![allow(dead_code)]

pub mod disk;
pub mod post;
pub mod pool;

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub const PASSWORD: &str = "a password of the tests";
/// Opens nothing of value. With it, opening costs no password hashing.
pub const IDENTITY: &str = "AGE-SECRET-KEY-10YLG6NVFZDNAK5E2DDWNKAFMZEKA6F0HA2D2V9MJY340ZAY6PDJS0Y4GLC";
pub const RECIPIENT: &str = "age17zv74e44g6ljf7mye8xex565zz6lnxklvydf790nxqg87lgphcrqy7ttk8";
/// No command of these tests takes longer, whatever else the machine does.
const TIMEOUT: Duration = Duration::from_secs(120);

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    pub words: String,
    pub code: i32,
    pub out: Vec<u8>,
    pub err: String,
}

impl Ran {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// Asserts the exit code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Ran {
        assert_eq!(self.code, code, "{}: {}\n{}", self.words, self.err, self.text());
        self
    }

    /// Asserts success.
    #[track_caller]
    pub fn ok(self) -> Ran {
        self.exits(0)
    }

    /// Asserts a refusal: the exit code, and one line that has every one of `said` and something to do.
    #[track_caller]
    pub fn refused(self, code: i32, said: &[&str]) -> Ran {
        let ran = self.exits(code);
        let errors: Vec<&str> = ran.err.lines().filter(|l| l.starts_with("packmule: error: ")).collect();
        assert_eq!(errors.len(), 1, "{}: one line of error: {}", ran.words, ran.err);
        for text in said {
            assert!(errors[0].contains(text), "{}: no {text:?} in {:?}", ran.words, errors[0]);
        }
        assert!(errors[0].contains("; "), "{}: nothing to do in {:?}", ran.words, errors[0]);
        ran
    }

    /// The lines of JSON on standard output.
    pub fn json(&self) -> Vec<serde_json::Value> {
        let lines = self.text();
        let parsed = lines.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}")));
        // A list counts as its elements.
        parsed.flat_map(|v: serde_json::Value| v.as_array().cloned().unwrap_or_else(|| vec![v])).collect()
    }
}

/// A child that does not outlive the test.
pub struct Running {
    child: Option<Child>,
    words: String,
    out: File,
    err: File,
}

impl Running {
    pub fn start(command: Command) -> Running {
        Running::fed(command, Stdio::null())
    }

    /// With this as standard input.
    pub fn fed(mut command: Command, input: Stdio) -> Running {
        let words = command.get_args().map(|a| a.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ");
        let (out, err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        command.stdin(input).stdout(out.try_clone().unwrap()).stderr(err.try_clone().unwrap());
        // A group of its own, so that what it starts goes with it.
        let child = command.process_group(0).spawn().unwrap_or_else(|e| panic!("{words}: {e}"));
        Running { child: Some(child), words, out, err }
    }

    pub fn pid(&self) -> i32 {
        self.child.as_ref().unwrap().id() as i32
    }

    pub fn ended(&mut self) -> bool {
        self.child.as_mut().unwrap().try_wait().unwrap().is_some()
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Waits, but not for ever.
    pub fn wait(mut self) -> Ran {
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                break status;
            }
            assert!(begin.elapsed() < TIMEOUT, "{} hangs: {}", self.words, read_again(&mut self.err));
            std::thread::sleep(Duration::from_millis(3));
        };
        self.child = None;
        let mut out = Vec::new();
        self.out.rewind().unwrap();
        self.out.read_to_end(&mut out).unwrap();
        let err = read_again(&mut self.err);
        assert!(!err.contains("panicked"), "{}: {err}", self.words);
        let code = status.code().unwrap_or_else(|| -status.signal().unwrap());
        assert!(![-6, -7, -11].contains(&code), "{} crashed: {code} {err}", self.words);
        Ran { words: std::mem::take(&mut self.words), code, out, err }
    }

    pub fn stderr(&mut self) -> String {
        read_again(&mut self.err)
    }

    pub fn stdout(&mut self) -> String {
        read_again(&mut self.out)
    }
}

fn read_again(file: &mut File) -> String {
    let mut text = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut text).unwrap();
    String::from_utf8_lossy(&text).into_owned()
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = nix::sys::signal::killpg(
                nix::unistd::Pid::from_raw(child.id() as i32),
                nix::sys::signal::Signal::SIGKILL,
            );
            let _ = child.wait();
        }
    }
}

/// A mount made by the test, undone also when the test fails.
pub struct Undo(pub PathBuf);

impl Drop for Undo {
    fn drop(&mut self) {
        // What is stacked there, deepest last.
        for _ in 0..4 {
            if !mounts().iter().any(|m| m == &self.0) {
                return;
            }
            let _ = Command::new("umount").arg("-l").arg(&self.0).stderr(Stdio::null()).status();
        }
    }
}

/// Every mount point of this process's namespace.
pub fn mounts() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let field = |line: &str| line.split(' ').nth(1).map(|f| PathBuf::from(f.replace("\\040", " ")));
    table.lines().filter_map(field).collect()
}

/// Mounts; the tests need root for it.
pub fn mount(words: &[&str], at: &Path) -> Undo {
    let mut command = Command::new("mount");
    command.args(words).arg(at);
    let out = command.output().expect("these tests need the command mount");
    assert!(out.status.success(), "these tests mount and need root: {}", String::from_utf8_lossy(&out.stderr));
    Undo(at.to_owned())
}

/// A place with a repository, a source and a home directory of its own.
pub struct Site {
    // Before the directory they are in, so that it can be removed.
    pub undo: Vec<Undo>,
    dir: TempDir,
}

impl Site {
    /// Without a repository.
    pub fn bare() -> Site {
        let dir = tempfile::tempdir().unwrap();
        for name in ["home", "src", "mnt"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("identity"), IDENTITY).unwrap();
        fs::write(dir.path().join("password"), PASSWORD).unwrap();
        Site { undo: Vec::new(), dir }
    }

    /// With an empty repository that both password and identity open.
    pub fn new() -> Site {
        let site = Site::bare();
        copy(template(), &site.repo());
        site
    }

    /// With two snapshots of a small source.
    pub fn filled() -> Site {
        let site = Site::new();
        site.write("dir/small", b"some words");
        site.write("dir/deep/noise", &noise(1, 300_000));
        site.write("large", &noise(2, 5 << 20));
        std::os::unix::fs::symlink("large", site.src().join("link")).unwrap();
        site.backup();
        site.write("dir/new", &noise(3, 200_000));
        site.backup();
        site
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn repo(&self) -> PathBuf {
        self.path().join("repo")
    }

    pub fn src(&self) -> PathBuf {
        self.path().join("src")
    }

    pub fn mnt(&self) -> PathBuf {
        self.path().join("mnt")
    }

    pub fn home(&self) -> PathBuf {
        self.path().join("home")
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.src().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// The program, without a secret.
    pub fn program(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_packmule"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", self.home());
        command.env("PACKMULE_REPOSITORY", self.repo()).current_dir(self.src()).args(words);
        command
    }

    /// The program with a secret that opens quickly.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = self.program(&["--identity-file"]);
        // Before the words, which may end in a command's own.
        command.arg(self.path().join("identity")).args(words);
        command
    }

    /// The index's database, which some command must have made.
    pub fn database(&self) -> PathBuf {
        let named = |p: &PathBuf| p.file_name().is_some_and(|n| n == "data.mdb");
        files(&self.repo().join("index")).into_iter().find(named).expect("a database in the index")
    }

    pub fn start(&self, words: &[&str]) -> Running {
        Running::start(self.command(words))
    }

    pub fn run(&self, words: &[&str]) -> Ran {
        self.start(words).wait()
    }

    /// With the password instead.
    pub fn with_password(&self, words: &[&str], password: &str) -> Ran {
        let mut command = self.program(words);
        command.env("PACKMULE_PASSWORD", password);
        Running::start(command).wait()
    }

    /// Backs up the source and returns the snapshot's id.
    #[track_caller]
    pub fn backup(&self) -> String {
        saved(&self.run(&["--json", "backup", ".", "--source", "data", "--host", "web"]).ok())
    }

    /// Every snapshot's id, oldest first.
    #[track_caller]
    pub fn snapshots(&self) -> Vec<String> {
        let listed = self.run(&["--json", "snapshots"]).ok();
        listed.json().iter().filter_map(|m| m["id"].as_str().map(str::to_owned)).collect()
    }

    /// Restores a snapshot and asserts that it is what `top` holds.
    #[track_caller]
    pub fn restores(&self, name: &str, top: &Path) {
        let target = tempfile::tempdir_in(self.path()).unwrap();
        let at = target.path().join("src");
        self.run(&["restore", name, "--target", at.to_str().unwrap()]).ok();
        same(top, &at, &[]);
    }
}

/// The snapshot's id in a summary.
#[track_caller]
pub fn saved(ran: &Ran) -> String {
    let summary = ran.json().into_iter().find(|m| m["message_type"] == "summary").expect("a summary");
    summary["snapshot_id"].as_str().expect("a snapshot").to_owned()
}

/// Asserts that two trees do not differ.
#[track_caller]
pub fn same(a: &Path, b: &Path, options: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/compare-trees");
    let out = Command::new(script).args(options).arg(a).arg(b).output().expect("compare-trees needs python3");
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
}

/// A repository that is made once and then copied: making one costs a second of password hashing.
fn template() -> &'static Path {
    static MADE: OnceLock<TempDir> = OnceLock::new();
    let dir = MADE.get_or_init(|| {
        let site = Site::bare();
        site.with_password(&["init", "--pack-size", "4M"], PASSWORD).ok();
        site.with_password(&["key", "add", "--recipient", RECIPIENT, "--label", "fast"], PASSWORD).ok();
        let kept = tempfile::tempdir().unwrap();
        copy(&site.repo(), &kept.path().join("repo"));
        kept
    });
    // A static is never dropped: what is left is a few kilobytes in the tests' scratch directory.
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| dir.path().join("repo"))
}

/// A copy without the index, and with the reserve's 64 MiB not set aside.
pub fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").args(["-a", "--sparse=always"]).arg(from).arg(to).status().unwrap();
    assert!(status.success());
    let _ = fs::remove_dir_all(to.join("index"));
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(size + 8);
    while out.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(size);
    out
}

/// Every file below `dir`, sorted.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            match path.symlink_metadata().unwrap().is_dir() {
                true => open.push(path),
                false => found.push(path),
            }
        }
    }
    found.sort();
    found
}

/// Waits until something holds.
#[track_caller]
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A mount of a site's repository in the foreground.
pub struct Mount {
    pub at: PathBuf,
    // Unmounted before the process is killed.
    _undo: Undo,
    pub process: Running,
}

impl Mount {
    /// Mounts on `at` and waits until it is ready.
    #[track_caller]
    pub fn new(site: &Site, at: &Path, words: &[&str]) -> Mount {
        let mut all = vec!["mount", at.to_str().unwrap()];
        all.extend(words);
        let undo = Undo(at.to_owned());
        let mut process = site.start(&all);
        let outside = fs::metadata(at.parent().unwrap()).unwrap().dev();
        eventually("the mount comes up", || {
            assert!(!process.ended(), "mount ended: {}", process.stderr());
            fs::symlink_metadata(at).is_ok_and(|m| m.dev() != outside)
                && (at.join("hosts").exists() || at.join("tenants").exists())
        });
        Mount { at: at.to_owned(), _undo: undo, process }
    }

    /// The directory of the newest snapshot of the usual source.
    pub fn latest(&self) -> PathBuf {
        self.at.join("hosts/web/data/latest")
    }

    /// Whether something is mounted there.
    pub fn is_listed(&self) -> bool {
        mounts().contains(&self.at)
    }

    /// Unmounts from outside, and asserts that the process then ends well.
    #[track_caller]
    pub fn unmount(self) {
        // Whoever looks at all mounts of a machine keeps each busy for a moment.
        eventually("it can be unmounted", || {
            let out = Command::new("umount").arg(&self.at).output().unwrap();
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(out.status.success() || said.contains("busy"), "{said}");
            out.status.success()
        });
        self.ends(0);
    }

    /// Asserts that the process ends and nothing stays mounted.
    #[track_caller]
    pub fn ends(self, code: i32) {
        let Mount { at, _undo, process } = self;
        process.wait().exits(code);
        assert!(!mounts().contains(&at), "a dead mount stays at {}", at.display());
        assert_eq!(fs::read_dir(&at).unwrap().count(), 0);
    }
}

/// Writes into the middle of an existing file, or cuts it.
pub fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    // In place: the same inode, as damage has it. Nothing may depend on the mode.
    let mut file = File::options().write(true).truncate(true).open(path).unwrap();
    file.write_all(&bytes).unwrap();
}

/// The newest snapshot of the site's source on a mount, without links.
pub fn canonical(mount: &Mount) -> PathBuf {
    fs::canonicalize(mount.latest()).unwrap()
}

pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
