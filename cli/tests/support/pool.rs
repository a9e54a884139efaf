//! A pool that is served, and sites that push to it, as users run them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::{PASSWORD, RECIPIENT, Ran, Running, Site, eventually, files, same};

/// A pool and its server.
pub struct Cloud {
    // Before the pool it serves.
    pub server: Option<Running>,
    pub pool: Site,
    /// Where it listens, and will after a restart.
    pub address: String,
    pub host_key: String,
}

impl Cloud {
    /// With these tenants, serving.
    pub fn new(tenants: &[&str]) -> Cloud {
        Cloud::at("127.0.0.1:0", tenants)
    }

    pub fn at(address: &str, tenants: &[&str]) -> Cloud {
        let pool = Site::bare();
        pool.with_password(&["init", "--pool", "--pack-size", "4M"], PASSWORD).ok();
        quick(&pool);
        for tenant in tenants {
            pool.run(&["tenant", "create", tenant]).ok();
        }
        let mut cloud = Cloud { server: None, pool, address: address.into(), host_key: String::new() };
        cloud.start();
        cloud
    }

    pub fn start(&mut self) {
        let address = self.address.clone();
        self.start_by(&["serve", "--listen", &address, "--json"]);
    }

    /// Starts the server with these words.
    pub fn start_by(&mut self, words: &[&str]) {
        let mut server = self.pool.start(words);
        eventually("the server is up", || {
            assert!(!server.ended(), "the server ended: {}", server.stderr());
            server.stdout().ends_with('\n')
        });
        let told: serde_json::Value = serde_json::from_str(server.stdout().lines().next().unwrap()).unwrap();
        self.address = told["address"].as_str().unwrap().into();
        self.host_key = told["host_key"].as_str().unwrap().into();
        self.server = Some(server);
    }

    /// Asks the server to stop, and asserts that it does.
    #[track_caller]
    pub fn stop(&mut self) -> Ran {
        let server = self.server.take().unwrap();
        server.signal(Signal::SIGTERM);
        server.wait().ok()
    }

    pub fn kill(&mut self) {
        let server = self.server.take().unwrap();
        server.signal(Signal::SIGKILL);
        server.wait().exits(-9);
    }

    /// What is said on the server's standard error so far.
    pub fn said(&mut self) -> String {
        self.server.as_mut().unwrap().stderr()
    }

    /// An invitation for the tenant.
    pub fn invite(&self, tenant: &str) -> String {
        self.pool.run(&["-q", "tenant", "invite", tenant, "--address", &self.address]).ok().text().trim().into()
    }

    /// Connects the site as the tenant; it knows the pool as `cloud`.
    pub fn join(&self, tenant: &str, site: &Site) {
        add(site, "cloud", &self.invite(tenant)).ok();
    }

    /// What `tenant show` tells.
    pub fn tenant(&self, name: &str) -> serde_json::Value {
        self.pool.run(&["--json", "tenant", "show", name]).ok().json().remove(0)
    }

    /// Bytes in the pool's packs.
    pub fn stored(&self) -> u64 {
        bytes(&self.pool.repo().join("packs"))
    }

    /// What waits in the pool's spools: paths and sizes.
    pub fn spooled(&self) -> Vec<(PathBuf, u64)> {
        let sized = |p: PathBuf| fs::metadata(&p).ok().filter(|_| !p.ends_with("lock")).map(|m| (p, m.len()));
        files(&self.pool.repo().join("tenants")).into_iter().filter_map(sized).collect()
    }

    /// The newest snapshot, restored from the pool, is what `top` holds; and nothing is damaged.
    #[track_caller]
    pub fn has(&self, top: &Path) {
        self.pool.restores(self.pool.snapshots().last().expect("a snapshot"), top);
        self.pool.run(&["check", "--read-data"]).ok();
    }
}

/// Bytes in all files below `dir`.
pub fn bytes(dir: &Path) -> u64 {
    files(dir).iter().filter_map(|p| fs::metadata(p).ok()).map(|m| m.len()).sum()
}

/// Makes the repository open without password hashing.
fn quick(site: &Site) {
    site.with_password(&["key", "add", "--recipient", RECIPIENT, "--label", "fast"], PASSWORD).ok();
}

/// A site whose repository is no copy of another's.
pub fn other_site() -> Site {
    let site = Site::bare();
    site.with_password(&["init", "--pack-size", "4M"], PASSWORD).ok();
    quick(&site);
    site
}

/// Runs a command of the site with `input` on standard input.
pub fn feed(site: &Site, words: &[&str], input: &str) -> Ran {
    fed(site, site.command(words), input)
}

pub fn fed(site: &Site, command: Command, input: &str) -> Ran {
    let path = site.path().join("input");
    fs::write(&path, input).unwrap();
    Running::fed(command, Stdio::from(File::open(path).unwrap())).wait()
}

/// `remote add`, agreeing.
pub fn add(site: &Site, name: &str, invitation: &str) -> Ran {
    feed(site, &["remote", "add", name, "--yes"], invitation)
}

/// `remote add` without a terminal to ask at.
pub fn add_unasked(site: &Site, name: &str, invitation: &str) -> Ran {
    let real = site.command(&["remote", "add", name]);
    let mut command = Command::new("setsid");
    command.arg("--wait").arg(real.get_program()).args(real.get_args()).env_clear();
    command.envs(real.get_envs().filter_map(|(name, value)| Some((name, value?))));
    fed(site, command, invitation)
}

/// `sync push cloud`, with its summary where it gives one.
pub fn push(site: &Site) -> Ran {
    site.run(&["--json", "sync", "push", "cloud"])
}

/// The summary of a push that ends well.
#[track_caller]
pub fn pushed(site: &Site) -> serde_json::Value {
    summary(&push(site).ok())
}

#[track_caller]
pub fn summary(ran: &Ran) -> serde_json::Value {
    ran.json().into_iter().find(|m| m["message_type"] == "summary").expect("a summary")
}

/// A push that has begun to send, and stands still.
#[track_caller]
pub fn halfway(cloud: &Cloud, site: &Site) -> Running {
    let mut running = site.start(&["sync", "push", "cloud"]);
    eventually("the push sends", || {
        assert!(!running.ended(), "it ended: {}", running.stderr());
        cloud.spooled().iter().any(|(_, len)| *len > 0)
    });
    running.signal(Signal::SIGSTOP);
    assert!(!running.ended(), "it was over before it could be stopped");
    std::thread::sleep(Duration::from_millis(50));
    running
}

/// Asserts that both hold the same files.
#[track_caller]
pub fn equal(a: &Path, b: &Path) {
    same(a, b, &[]);
}
