//! Days on which more than one thing goes wrong: a pool whose disk is full, a site that was set back, everybody at once.

mod support;

use std::fs;

use support::pool::{Cloud, add, other_site, push, pushed};
use support::{Mount, Site, copy, eventually, mount, noise, same};

#[test]
fn a_pool_whose_disk_is_full_says_so_and_goes_on_when_there_is_room() {
    let mut cloud = Cloud::new(&["acme"]);
    let site = Site::filled();
    cloud.join("acme", &site);
    pushed(&site);
    cloud.stop();
    // The pool moves to a small disk; what it needs to prune is set aside there.
    let small = cloud.pool.path().join("small");
    fs::create_dir(&small).unwrap();
    let undo = mount(&["-t", "tmpfs", "-o", "size=110m", "tmpfs"], &small);
    cloud.pool.undo.push(undo);
    copy(&cloud.pool.repo(), &small.join("repo"));
    fs::remove_dir_all(cloud.pool.repo()).unwrap();
    std::os::unix::fs::symlink(small.join("repo"), cloud.pool.repo()).unwrap();
    cloud.start();
    let before = cloud.pool.snapshots().len();
    site.write("too-much", &noise(40, 60 << 20));
    site.backup();
    for _ in 0..2 {
        // 14: no space. It is the pool's, and nothing is lost there or here.
        let ran = push(&site).exits(14);
        assert!(ran.err.contains("space") || ran.err.contains("full"), "{}", ran.err);
        site.backup();
        site.run(&["check"]).ok();
        cloud.pool.run(&["check", "--read-data"]).ok();
        assert_eq!(cloud.pool.snapshots().len(), before);
    }
    assert!(
        std::process::Command::new("mount").args(["-o", "remount,size=400m"]).arg(&small).status().unwrap().success()
    );
    pushed(&site);
    cloud.has(&site.src());
}

#[test]
fn a_site_that_was_set_back_to_last_week_is_noticed_and_loses_nothing_at_the_pool() {
    let cloud = Cloud::new(&["acme"]);
    let site = Site::filled();
    cloud.join("acme", &site);
    pushed(&site);
    let before = cloud.pool.snapshots().len();
    let image = site.path().join("last-week");
    copy(&site.repo(), &image);
    site.write("this-week", &noise(50, 3_000_000));
    let lost = site.backup();
    pushed(&site);
    // The virtual machine's image: the repository, and all that the machine remembers.
    fs::remove_dir_all(site.repo()).unwrap();
    fs::rename(&image, site.repo()).unwrap();
    fs::remove_dir_all(site.home()).unwrap();
    fs::create_dir(site.home()).unwrap();
    site.write("after", &noise(51, 500_000));
    site.backup();
    let ran = push(&site).ok();
    assert!(ran.err.contains("rolled back"), "it is told: {}", ran.err);
    // Both histories are there, and both restore.
    assert_eq!(cloud.pool.snapshots().len(), before + 2);
    cloud.has(&site.src());
    // What the site lost comes back to it.
    site.run(&["sync", "pull", "cloud"]).ok();
    assert!(site.snapshots().iter().any(|id| lost.starts_with(id.as_str()) || id.starts_with(&lost)), "{lost}");
    let ran = push(&site).ok();
    assert!(!ran.err.contains("rolled back"), "{}", ran.err);
}

#[test]
fn four_sites_push_at_once_while_the_pool_is_mounted_and_pruned() {
    let names = ["a", "b", "c", "d"];
    let cloud = Cloud::new(&names);
    let sites: Vec<Site> = names.iter().map(|_| other_site()).collect();
    for (i, (name, site)) in names.iter().zip(&sites).enumerate() {
        site.write("common", &noise(60, 6_000_000));
        site.write("own", &noise(61 + i as u64, 4_000_000));
        site.backup();
        add(site, "cloud", &cloud.invite(name)).ok();
    }
    let pushing: Vec<_> = sites.iter().map(|site| site.start(&["sync", "push", "cloud", "--retry"])).collect();
    let mounted = Mount::new(&cloud.pool, &cloud.pool.mnt(), &[]);
    cloud.pool.run(&["prune"]);
    for running in pushing {
        running.wait().ok();
    }
    for (name, site) in names.iter().zip(&sites) {
        let top = cloud.pool.mnt().join("tenants").join(name).join("hosts");
        let latest = || {
            let host = fs::read_dir(&top).ok()?.next()?.ok()?.path();
            let source = fs::read_dir(host).ok()?.next()?.ok()?.path();
            fs::canonicalize(source.join("latest")).ok()
        };
        eventually("the snapshot shows in the mount", || latest().is_some());
        same(&latest().unwrap(), &site.src(), &[]);
    }
    mounted.unmount();
    cloud.pool.run(&["check", "--read-data"]).ok();
    assert!(cloud.stored() < 24_000_000, "what is common is stored once: {}", cloud.stored());
}
