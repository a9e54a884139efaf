//! Serves a made-up snapshot from memory, to measure the filesystem alone: `synthetic DIR [--allow-other]`, then
//! `umount DIR`.
//! Below `hosts/h/s/<time>`: `files/` with 100,000 files of 4 KiB in 100 directories, and `large`, 4 GiB.

#[path = "../tests/support/mod.rs"]
mod support;

use std::path::Path;

use support::{Memory, Rng, T0, id};

fn main() {
    let at = std::env::args_os().nth(1).expect("a directory to mount on");
    let memory = Memory::new();
    let mut rng = Rng(1);
    let contents: Vec<_> = (0..64).map(|_| rng.bytes(4096)).collect();
    let dirs = (0..100).map(|d| {
        let files = (0..1000).map(|f| memory.store.file(&format!("file-{f:04}.txt"), &contents[(d + f) % 64]));
        memory.store.dir(&format!("dir-{d:02}"), files.collect())
    });
    let files = memory.store.dir("files", dirs.collect());
    let pieces: Vec<_> = (0..64).map(|_| rng.bytes(128 * 1024)).collect();
    let pieces: Vec<_> = (0..32_768).map(|i| Some(pieces[i % 64].clone())).collect();
    let mut large = memory.store.file("large", b"");
    (large.content, large.size) = memory.store.pieces(&pieces, 0);
    drop(pieces);
    memory.add(id(1), "h", "s", T0, &[], memory.store.dir("", vec![files, large]));
    let allow_other = std::env::args_os().nth(2).is_some();
    let options = fs::session::Options { allow_other, ..Default::default() };
    let mounted = fs::session::mount(memory, Path::new(&at), &options).expect("mounts");
    let unmounter = mounted.unmounter();
    fs::signal::on_stop(move || drop(unmounter.unmount())).expect("handles signals");
    println!("ready");
    mounted.wait().expect("serves");
}
