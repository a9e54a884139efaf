//! Server and site killed at random moments of pushes: nothing is lost, and nothing stored twice.

mod support;

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::pool::{Cloud, bytes, pushed};
use support::{Running, Site, noise};

const ROUNDS: u64 = 12;

/// Numbers that look random, the same each time.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

fn start_push(site: &Site) -> Running {
    site.start(&["sync", "push", "cloud"])
}

#[test]
fn killed_at_any_moment_nothing_is_lost_or_stored_twice() {
    let mut cloud = Cloud::new(&["acme"]);
    let site = Site::new();
    site.write("first", &noise(1, 20 << 20));
    site.backup();
    cloud.join("acme", &site);
    let begin = Instant::now();
    pushed(&site);
    let usual = begin.elapsed().as_micros() as u64;
    let (mut random, mut killed) = (Seeded(7), [0, 0]);
    let mut round = 0;
    // On a busy machine most pushes are over, or not begun, when they are to be killed.
    while round < ROUNDS || (round < 8 * ROUNDS && killed.iter().any(|n| *n <= 2)) {
        site.write(&format!("new/{}", round % 3), &noise(100 + round, 16 << 20));
        site.write(&format!("small/{round}"), &noise(200 + round, 3000));
        site.backup();
        // Sometimes twice before anyone gets through.
        for _ in 0..=random.below(2) {
            let mut push = start_push(&site);
            std::thread::sleep(Duration::from_micros(random.below(usual)));
            if push.ended() {
                // Or told to come back: the server is still at work on what a killed one sent.
                assert!([0, 13].contains(&push.wait().code));
                continue;
            }
            let server = random.below(2) == 0;
            killed[usize::from(server)] += 1;
            if server {
                cloud.kill();
                // Done in that very moment, or told to come back.
                let ran = push.wait();
                assert!([0, 13].contains(&ran.code), "{ran:?}");
                cloud.start();
            } else {
                push.signal(Signal::SIGKILL);
                assert!([-9, 0].contains(&push.wait().code));
            }
        }
        // The server may still be busy with what the killed one sent.
        site.run(&["sync", "push", "cloud", "--retry"]).ok();
        if round % 4 == 3 {
            cloud.has(&site.src());
        }
        round += 1;
    }
    assert!(killed.iter().all(|n| *n > 2), "{killed:?}");
    assert_eq!(cloud.pool.snapshots().len(), site.snapshots().len());
    assert_eq!(cloud.spooled(), []);
    cloud.stop();
    cloud.has(&site.src());
    let (here, there) = (bytes(&site.repo().join("packs")), cloud.stored());
    assert!(there < here + here / 50, "{here} bytes of packs at the site, {there} at the pool");
}
