//! A pool as a mount shows it: a tree for each tenant, and nothing of one in another's.

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use fs::layout::Change;
use fs::ops::Ops;
use repo::id::SnapshotId;
use support::{Memory, SECOND, T0, id, list, names, ops, read_all, walk};

const TIME: &str = "2026-11-22T09-51-56Z";

/// Two tenants whose hosts, sources, times and files have equal names; each file holds its tenant's number.
fn pool() -> Arc<Memory> {
    let memory = Memory::new();
    memory.by_tenant.store(true, Ordering::SeqCst);
    for (n, tenant) in [(1, "acme"), (2, "globex")] {
        let root = memory.store.dir("", vec![memory.store.file("who", &[n])]);
        memory.add_of(Some(tenant), id(n), "web1", "etc", T0, &["monthly"], root);
    }
    let root = memory.store.dir("", vec![memory.store.file("who", &[3])]);
    memory.add_of(Some("globex"), id(3), "web1", "etc", T0 + SECOND, &[], root);
    memory
}

fn content(ops: &Ops, path: &str) -> Vec<u8> {
    read_all(ops, walk(ops, path), 100).unwrap()
}

fn link(ops: &Ops, path: &str) -> String {
    String::from_utf8(ops.readlink(walk(ops, path)).unwrap()).unwrap()
}

#[test]
fn each_tenant_has_a_tree_of_its_own() {
    let memory = pool();
    let ops = ops(&memory);
    assert_eq!(names(&ops, ""), ["tenants"]);
    assert_eq!(names(&ops, "tenants"), ["acme", "globex"]);
    for tenant in ["acme", "globex"] {
        assert_eq!(names(&ops, &format!("tenants/{tenant}")), ["hosts", "ids", "snapshots", "tags", "versions"]);
    }
    // Of equal names and times: neither makes the other's ambiguous.
    assert_eq!(names(&ops, "tenants/acme/hosts/web1/etc"), [TIME, "latest"]);
    assert_eq!(names(&ops, "tenants/globex/hosts/web1/etc"), [TIME, "2026-11-22T09-51-57Z", "latest"]);
    assert_eq!(names(&ops, "tenants/acme/ids"), ["01010101"]);
    assert_eq!(names(&ops, "tenants/acme/snapshots"), [format!("{TIME}_web1_etc")]);
    assert_eq!(names(&ops, "tenants/acme/tags/monthly"), [format!("{TIME}_web1_etc")]);
    assert_eq!(names(&ops, "tenants/globex/ids"), ["02020202", "03030303"]);
    assert_eq!(link(&ops, "tenants/acme/hosts/web1/etc/latest"), TIME);
    assert_eq!(link(&ops, "tenants/globex/hosts/web1/etc/latest"), "2026-11-22T09-51-57Z");
    // Links stay below the tenant: from ids one directory up, from a tag two.
    assert_eq!(link(&ops, "tenants/acme/ids/01010101"), format!("../hosts/web1/etc/{TIME}"));
    let tagged = format!("tenants/globex/tags/monthly/{TIME}_web1_etc");
    assert_eq!(link(&ops, &tagged), format!("../../hosts/web1/etc/{TIME}"));
    assert_eq!(memory.manifests.load(Ordering::SeqCst), 0, "listing opens nothing");
    assert_eq!(content(&ops, &format!("tenants/acme/hosts/web1/etc/{TIME}/who")), [1]);
    assert_eq!(content(&ops, &format!("tenants/globex/hosts/web1/etc/{TIME}/who")), [2]);
}

#[test]
fn versions_are_of_one_tenant() {
    let memory = pool();
    let ops = ops(&memory);
    assert_eq!(names(&ops, "tenants/acme/versions/web1/etc/who"), [TIME]);
    assert_eq!(names(&ops, "tenants/globex/versions/web1/etc/who"), [TIME, "2026-11-22T09-51-57Z"]);
    assert_eq!(content(&ops, &format!("tenants/acme/versions/web1/etc/who/{TIME}")), [1]);
    assert_eq!(content(&ops, &format!("tenants/globex/versions/web1/etc/who/{TIME}")), [2]);
}

#[test]
fn a_pool_without_snapshots_shows_that_it_is_one() {
    let memory = Memory::new();
    memory.by_tenant.store(true, Ordering::SeqCst);
    let ops = ops(&memory);
    assert_eq!(names(&ops, ""), ["tenants"]);
    assert!(names(&ops, "tenants").is_empty());
    // A tenant's first snapshot shows; where the last goes, the tenant goes, and no other notices.
    let root = memory.store.dir("", Vec::new());
    memory.add_of(Some("acme"), id(1), "web1", "etc", T0, &[], root.clone());
    memory.add_of(Some("globex"), id(2), "web1", "etc", T0, &[], root);
    assert!(!ops.refresh().unwrap().is_empty());
    assert_eq!(names(&ops, "tenants"), ["acme", "globex"]);
    let (tenants, globex) = (walk(&ops, "tenants"), walk(&ops, "tenants/globex"));
    memory.forget(id(1));
    let changes = ops.refresh().unwrap();
    assert!(changes.contains(&Change::Name(tenants, "acme".into())), "{changes:?}");
    assert!(!changes.contains(&Change::Listing(globex)), "{changes:?}");
    assert_eq!(names(&ops, "tenants"), ["globex"]);
    // Whose snapshots nobody knows, after a repair, are nobody's.
    let root = memory.store.dir("", Vec::new());
    memory.add(id(9), "web1", "etc", T0, &[], root);
    ops.refresh().unwrap();
    assert_eq!(names(&ops, ""), ["hosts", "ids", "snapshots", "tags", "tenants", "versions"]);
    assert_eq!(names(&ops, "ids"), ["09090909"]);
    assert_eq!(names(&ops, "tenants/globex/ids"), ["02020202"]);
}

#[test]
fn a_hundred_thousand_snapshots_of_many_tenants_open_nothing() {
    let memory = Memory::new();
    memory.by_tenant.store(true, Ordering::SeqCst);
    let root = memory.store.dir("", Vec::new());
    for n in 0..100_000u32 {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        let (tenant, at) = (format!("tenant{}", n % 100), T0 + i64::from(n) * SECOND);
        memory.add_of(Some(&tenant), SnapshotId(bytes), "web1", "data", at, &[], root.clone());
    }
    let ops = ops(&memory);
    assert_eq!(list(&ops, walk(&ops, "tenants")).len(), 100);
    assert_eq!(list(&ops, walk(&ops, "tenants/tenant7/hosts/web1/data")).len(), 1001);
    assert_eq!(list(&ops, walk(&ops, "tenants/tenant7/snapshots")).len(), 1000);
    assert_eq!(memory.manifests.load(Ordering::SeqCst) + memory.store.reads.load(Ordering::SeqCst), 0);
    assert_eq!(ops.held(), 0, "synthetic entries take no place in the table");
}

#[test]
fn what_is_damaged_is_named_with_its_tenant() {
    let memory = pool();
    let ops = ops(&memory);
    memory.forget(id(3));
    let lost = memory.store.dir("", vec![memory.store.file("who", &[3])]);
    if let repo::format::tree::Content::Dir(dir) = &lost.content {
        memory.store.damage(dir.h);
    }
    memory.add_of(Some("globex"), id(3), "web1", "etc", T0 + SECOND, &[], lost);
    ops.refresh().unwrap();
    let root = walk(&ops, "tenants/globex/hosts/web1/etc/2026-11-22T09-51-57Z");
    assert!(ops.lookup(root, b"who").is_err());
    let told = memory.reports.lock().clone();
    assert!(told.iter().any(|line| line.starts_with("tenants/globex/hosts/web1/etc/2026-11-22T09-51-57Z")), "{told:?}");
}
