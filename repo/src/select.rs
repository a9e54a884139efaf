//! Which snapshots are meant: by id, unique prefix, `latest`, `latest~N`, and filters.
//!
//! "Newest" goes by [`crate::times`]: the order of the log where clocks were wrong.

use std::collections::BTreeSet;
use std::path::Path;

use crate::clock::Time;
use crate::error::{Error, Kind, Result, printable};
use crate::format::record::{SnapshotState, State};
use crate::history::{History, tenant_name};
use crate::id::SnapshotId;
use crate::times::Times;

/// In an error's list of what was meant, more than this many are only counted.
const LISTED: usize = 8;

/// A snapshot as a user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// The whole id; at a pool the pool's, or the one at the tenant's own repository.
    Id(SnapshotId),
    /// The first hexadecimal digits of one, in lower case.
    Prefix(String),
    /// The N-th newest that the filter leaves, from 0; they must be of one host and source.
    Latest(u32),
}

/// Which snapshots come into question. Empty lists let everything pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// At a pool: of any of these tenants, by number. Says whose ids are meant, too.
    pub tenants: Vec<u32>,
    /// Of any of these hosts.
    pub hosts: Vec<String>,
    /// Of any of these sources.
    pub sources: Vec<String>,
    /// With all tags of any of these lists.
    pub tags: Vec<Vec<String>>,
    /// Of all of these paths, as a manifest has them.
    pub paths: Vec<Vec<u8>>,
    /// Captured at this time or before, as [`Times`] has it.
    pub at: Option<Time>,
    /// Also those that are forgotten.
    pub forgotten: bool,
}

/// A snapshot's paths, asked for only where a filter names some.
pub type PathsOf<'a> = &'a mut dyn FnMut(&SnapshotId) -> Result<Vec<Vec<u8>>>;

impl Filter {
    /// Whether a snapshot is of a tenant that is asked for.
    fn concerns(&self, snapshot: &SnapshotState) -> bool {
        self.tenants.is_empty() || snapshot.origin.is_some_and(|origin| self.tenants.contains(&origin.tenant))
    }

    /// Whether a snapshot passes, its paths and time left aside.
    pub fn admits(&self, snapshot: &SnapshotState) -> bool {
        let any = |list: &[String], of: &String| list.is_empty() || list.contains(of);
        self.concerns(snapshot)
            && any(&self.hosts, &snapshot.host)
            && any(&self.sources, &snapshot.source)
            && (self.tags.is_empty() || self.tags.iter().any(|all| all.iter().all(|tag| snapshot.tags.contains(tag))))
            && (self.forgotten || snapshot.forgotten.is_none())
    }
}

/// All snapshots that pass the filter, oldest first.
///
/// # Errors
/// What `paths_of` gives.
pub fn matching(state: &State, times: &Times, filter: &Filter, paths_of: PathsOf<'_>) -> Result<Vec<SnapshotId>> {
    let mut found = Vec::new();
    let in_time = |id: &SnapshotId| filter.at.is_none_or(|at| times.get(id).is_some_and(|m| m.captured <= at));
    for (id, _) in state.snapshots.iter().filter(|(id, s)| filter.admits(s) && in_time(id)) {
        if !filter.paths.is_empty() {
            let paths = paths_of(id)?;
            if !filter.paths.iter().all(|wanted| paths.contains(wanted)) {
                continue;
            }
        }
        found.push(*id);
    }
    found.sort_by_key(|id| times.order(id));
    Ok(found)
}

/// The one snapshot that is meant. The filter decides what `latest` chooses from; an id or a prefix finds any
/// snapshot, forgotten ones and those of other tenants only if the filter has them.
///
/// # Errors
/// `NotFound`; `Ambiguous`, with the list, for an id or a prefix of several snapshots or a `latest` of several
/// histories;
/// what `paths_of` gives.
pub fn resolve(
    state: &State,
    times: &Times,
    name: &Name,
    filter: &Filter,
    paths_of: PathsOf<'_>,
) -> Result<SnapshotId> {
    match name {
        Name::Id(id) => by_id(state, id, filter),
        Name::Prefix(prefix) => by_prefix(state, prefix, filter),
        Name::Latest(back) => latest(state, times, *back, filter, paths_of),
    }
}

/// Several names, each snapshot once, oldest first; all that pass the filter when there is no name.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_all(
    state: &State,
    times: &Times,
    names: &[Name],
    filter: &Filter,
    paths_of: PathsOf<'_>,
) -> Result<Vec<SnapshotId>> {
    if names.is_empty() {
        return matching(state, times, filter, paths_of);
    }
    let mut found = BTreeSet::new();
    for name in names {
        found.insert(times.order(&resolve(state, times, name, filter, paths_of)?));
    }
    Ok(found.into_iter().map(|(_, id)| id).collect())
}

fn by_id(state: &State, id: &SnapshotId, filter: &Filter) -> Result<SnapshotId> {
    // A tenant chooses the ids of what it delivers: one may be what the pool calls another tenant's snapshot.
    let named = |s: &SnapshotState| s.origin.is_some_and(|origin| origin.id == *id);
    let fits: Vec<_> = candidates(state, filter).filter(|(of, s)| *of == id || named(s)).collect();
    match fits.as_slice() {
        [] => Err(Error::new(Kind::NotFound, format!("there is no snapshot {}{}", id.short(), whose(state, filter)))),
        [(id, snapshot)] => admit(id, snapshot, filter),
        several => {
            let list = listing(several.iter().map(|(id, s)| describe(state, id, s)));
            let message = format!("{} snapshots are called {}: {list}", several.len(), id.short());
            Err(Error::new(Kind::Ambiguous, message).remedy("say whose with --tenant"))
        }
    }
}

fn by_prefix(state: &State, prefix: &str, filter: &Filter) -> Result<SnapshotId> {
    let begins = |id: &SnapshotId| id.to_hex().starts_with(prefix);
    let named = |s: &SnapshotState| s.origin.is_some_and(|origin| begins(&origin.id));
    let fits: Vec<_> = candidates(state, filter).filter(|(id, s)| begins(id) || named(s)).collect();
    // A forgotten one does not make a live one's prefix ambiguous.
    let live: Vec<_> = fits.iter().filter(|(_, s)| filter.forgotten || s.forgotten.is_none()).collect();
    match (live.as_slice(), fits.as_slice()) {
        ([(id, _)], _) => Ok(**id),
        ([], []) => {
            let message = format!("no snapshot's id begins with {prefix}{}", whose(state, filter));
            Err(Error::new(Kind::NotFound, message))
        }
        ([], [(id, snapshot), ..]) => admit(id, snapshot, filter),
        (several, _) => {
            let list = listing(several.iter().map(|(id, s)| describe(state, id, s)));
            let message = format!("{} snapshots' ids begin with {prefix}: {list}", several.len());
            Err(Error::new(Kind::Ambiguous, message).remedy("give more digits"))
        }
    }
}

/// The snapshots that an id can mean.
fn candidates<'a>(state: &'a State, filter: &Filter) -> impl Iterator<Item = (&'a SnapshotId, &'a SnapshotState)> {
    state.snapshots.iter().filter(|(_, snapshot)| filter.concerns(snapshot))
}

/// ` of acme`, if the filter says whose snapshots come into question.
fn whose(state: &State, filter: &Filter) -> String {
    let names: Vec<String> = filter.tenants.iter().map(|number| tenant_name(state, *number)).collect();
    if names.is_empty() { String::new() } else { format!(" of {}", names.join(" or ")) }
}

fn admit(id: &SnapshotId, snapshot: &SnapshotState, filter: &Filter) -> Result<SnapshotId> {
    match snapshot.forgotten {
        Some(at) if !filter.forgotten => {
            let message = format!("snapshot {} was forgotten at {at}", id.short());
            Err(Error::new(Kind::NotFound, message).remedy("`packmule unforget` brings it back"))
        }
        _ => Ok(*id),
    }
}

fn latest(state: &State, times: &Times, back: u32, filter: &Filter, paths_of: PathsOf<'_>) -> Result<SnapshotId> {
    let found = matching(state, times, filter, paths_of)?;
    let histories: BTreeSet<History> = found.iter().filter_map(|id| state.snapshots.get(id)).map(History::of).collect();
    if histories.len() > 1 {
        let list = listing(histories.iter().map(|history| history.words(state)));
        let (what, which) = match histories.iter().any(|history| history.tenant.is_some()) {
            true => ("tenants, hosts and sources", "say which with --tenant, --host and --source"),
            false => ("hosts and sources", "say which with --host and --source"),
        };
        let message = format!("\"latest\" could be of {} {what}: {list}", histories.len());
        return Err(Error::new(Kind::Ambiguous, message).remedy(which));
    }
    let none = || Error::new(Kind::NotFound, "there is no such snapshot");
    let of = histories.first().map(|history| printable(Path::new(&history.words(state))));
    match found.iter().rev().nth(back as usize) {
        Some(id) => Ok(*id),
        None if state.snapshots.is_empty() => Err(none().remedy(match state.pool {
            true => "the pool has none yet; `packmule sync push` at a tenant's site brings some",
            false => "the repository has none yet; `packmule backup` makes one",
        })),
        None => match of {
            None => match before_all(state, times, filter, paths_of)? {
                Some(oldest) => Err(none().remedy(format!("the oldest is {oldest}"))),
                None => Err(none().remedy("no snapshot passes the filters; `packmule snapshots` lists all")),
            },
            Some(of) => Err(none().remedy(format!("{of} has only {} that pass the filters", found.len()))),
        },
    }
}

/// The oldest snapshot that all but the filter's time lets pass, in words: where nothing passes, all are later.
fn before_all(state: &State, times: &Times, filter: &Filter, paths_of: PathsOf<'_>) -> Result<Option<String>> {
    if filter.at.is_none() {
        return Ok(None);
    }
    let found = matching(state, times, &Filter { at: None, ..filter.clone() }, paths_of)?;
    Ok(found.first().and_then(|id| Some(describe(state, id, state.snapshots.get(id)?))))
}

/// A snapshot in a few words: `ab12cd34 (web1 srv-data 2026-11-22T09:51:56Z)`, at a pool with its tenant first.
pub fn describe(state: &State, id: &SnapshotId, snapshot: &SnapshotState) -> String {
    format!("{} ({} {})", id.short(), History::of(snapshot).words(state), snapshot.captured)
}

fn listing(items: impl ExactSizeIterator<Item = String>) -> String {
    let rest = items.len().saturating_sub(LISTED);
    let mut list = items.take(LISTED).collect::<Vec<_>>().join(", ");
    if rest > 0 {
        list.push_str(&format!(" and {rest} more"));
    }
    // Names come from other machines: nothing in them may act on a terminal.
    list.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(host: &str, source: &str, captured: i64, tags: &[&str]) -> SnapshotState {
        SnapshotState {
            host: host.into(),
            source: source.into(),
            captured: Time::from_secs(captured),
            recorded: Time::from_secs(captured),
            received: Time::from_secs(captured),
            tags: tags.iter().map(|t| t.to_string()).collect(),
            pinned: false,
            forgotten: None,
            manifest_hash: [0; 32],
            origin: None,
            seq: 0,
        }
    }

    fn id(first: u8, last: u8) -> SnapshotId {
        let mut bytes = [0; 32];
        (bytes[0], bytes[31]) = (first, last);
        SnapshotId(bytes)
    }

    /// Three of web1's, the second tagged, the third forgotten; one of db1's.
    fn state() -> State {
        let mut state = State::default();
        state.snapshots.insert(id(0xaa, 1), snapshot("web1", "srv", 100, &[]));
        state.snapshots.insert(id(0xaa, 2), snapshot("web1", "srv", 200, &["monthly", "x"]));
        let mut forgotten = snapshot("web1", "srv", 300, &[]);
        forgotten.forgotten = Some(Time::from_secs(400));
        state.snapshots.insert(id(0xab, 3), forgotten);
        state.snapshots.insert(id(0xcd, 4), snapshot("db1", "etc", 150, &["x"]));
        state
    }

    fn paths(id: &SnapshotId) -> Result<Vec<Vec<u8>>> {
        Ok(if id.0[31] == 4 { vec![b"/etc".to_vec()] } else { vec![b"/srv".to_vec(), b"/opt".to_vec()] })
    }

    fn find(name: Name, filter: &Filter) -> Result<SnapshotId> {
        let state = state();
        resolve(&state, &times(&state), &name, filter, &mut paths)
    }

    fn times(state: &State) -> Times {
        Times::of(state, Time::from_secs(1000))
    }

    fn web1() -> Filter {
        Filter { hosts: vec!["web1".into()], ..Filter::default() }
    }

    #[test]
    fn ids_and_prefixes() {
        let all = Filter::default();
        assert_eq!(find(Name::Id(id(0xaa, 1)), &all).unwrap(), id(0xaa, 1));
        assert_eq!(find(Name::Prefix("cd".into()), &all).unwrap(), id(0xcd, 4));
        assert_eq!(find(Name::Prefix("c".into()), &web1()).unwrap(), id(0xcd, 4), "filters are for latest");
        assert_eq!(find(Name::Prefix("ef".into()), &all).unwrap_err().kind(), Kind::NotFound);
        let e = find(Name::Prefix("aa".into()), &all).unwrap_err();
        assert_eq!(e.kind(), Kind::Ambiguous);
        assert!(e.to_string().contains("aa000000 (web1 srv 1970-01-01T00:01:40Z), aa000000"), "{e}");
    }

    #[test]
    fn latest_is_of_one_history() {
        let e = find(Name::Latest(0), &Filter::default()).unwrap_err();
        assert_eq!(e.kind(), Kind::Ambiguous);
        assert!(e.to_string().contains("db1 etc, web1 srv; say which"), "{e}");
        assert_eq!(find(Name::Latest(0), &web1()).unwrap(), id(0xaa, 2));
        assert_eq!(find(Name::Latest(1), &web1()).unwrap(), id(0xaa, 1));
        let e = find(Name::Latest(2), &web1()).unwrap_err();
        assert!(e.kind() == Kind::NotFound && e.to_string().contains("web1 srv has only 2"), "{e}");
        let at = |secs| Filter { at: Some(Time::from_secs(secs)), ..web1() };
        assert_eq!(find(Name::Latest(0), &at(199)).unwrap(), id(0xaa, 1));
        assert_eq!(find(Name::Latest(0), &at(200)).unwrap(), id(0xaa, 2));
        assert!(find(Name::Latest(0), &at(99)).is_err());
    }

    #[test]
    fn an_id_that_a_tenant_made_up_is_never_taken_for_another_s() {
        use crate::format::record::{Origin, TenantState};
        let mut state = State::default();
        for (number, name) in [(1, "acme"), (2, "globex")] {
            state.tenants.insert(number, TenantState::new(name, false, Time::from_secs(0)));
        }
        let mut add = |tenant, own: SnapshotId, site: SnapshotId| {
            let origin = Some(Origin { tenant, id: site });
            state.snapshots.insert(own, SnapshotState { origin, ..snapshot("web1", "srv", 100, &[]) });
        };
        // The second's site says that its snapshot has the id which the first's has at the pool.
        add(1, id(0xaa, 1), id(0xbb, 1));
        add(2, id(0xcc, 2), id(0xaa, 1));
        let times = times(&state);
        let find = |name: Name, tenants: &[u32]| {
            let filter = Filter { tenants: tenants.to_vec(), ..Filter::default() };
            resolve(&state, &times, &name, &filter, &mut paths)
        };
        for name in [Name::Id(id(0xaa, 1)), Name::Prefix("aa".into())] {
            let e = find(name.clone(), &[]).unwrap_err();
            assert_eq!(e.kind(), Kind::Ambiguous);
            assert!(e.to_string().contains("aa000000 (acme web1 srv 1970-01-01T00:01:40Z), cc000000 (globex"), "{e}");
            assert_eq!(find(name.clone(), &[1]).unwrap(), id(0xaa, 1));
            assert_eq!(find(name, &[2]).unwrap(), id(0xcc, 2));
        }
        assert_eq!(find(Name::Prefix("bb".into()), &[]).unwrap(), id(0xaa, 1));
        assert_eq!(find(Name::Prefix("bb".into()), &[2]).unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn forgotten_ones_only_when_asked_for() {
        let e = find(Name::Prefix("ab".into()), &Filter::default()).unwrap_err();
        assert_eq!(e.kind(), Kind::NotFound);
        assert!(e.to_string().contains("unforget"), "{e}");
        assert!(find(Name::Id(id(0xab, 3)), &Filter::default()).is_err());
        assert_eq!(find(Name::Prefix("a".into()), &Filter::default()).unwrap_err().kind(), Kind::Ambiguous);
        let asked = Filter { forgotten: true, ..web1() };
        assert_eq!(find(Name::Prefix("ab".into()), &asked).unwrap(), id(0xab, 3));
        assert_eq!(find(Name::Latest(0), &asked).unwrap(), id(0xab, 3));
    }

    #[test]
    fn tags_and_paths_filter() {
        let tags = |lists: &[&[&str]]| Filter {
            tags: lists.iter().map(|l| l.iter().map(|t| t.to_string()).collect()).collect(),
            ..Filter::default()
        };
        let matches = |filter: &Filter| matching(&state(), &times(&state()), filter, &mut paths).unwrap();
        assert_eq!(matches(&tags(&[&["x"]])), [id(0xcd, 4), id(0xaa, 2)]);
        assert_eq!(matches(&tags(&[&["x", "monthly"]])), [id(0xaa, 2)]);
        assert_eq!(matches(&tags(&[&["x", "no"], &["monthly"]])), [id(0xaa, 2)]);
        let of = |p: &[&str]| Filter { paths: p.iter().map(|p| p.as_bytes().to_vec()).collect(), ..Filter::default() };
        assert_eq!(matches(&of(&["/etc"])), [id(0xcd, 4)]);
        assert_eq!(matches(&of(&["/opt", "/srv"])), [id(0xaa, 1), id(0xaa, 2)]);
        assert!(matches(&of(&["/opt", "/etc"])).is_empty());
    }

    #[test]
    fn several_names_are_sorted_and_each_counts_once() {
        let names = [Name::Prefix("cd".into()), Name::Id(id(0xaa, 2)), Name::Latest(0), Name::Latest(1)];
        let (state, times) = (state(), times(&state()));
        let found = resolve_all(&state, &times, &names, &web1(), &mut paths).unwrap();
        assert_eq!(found, [id(0xaa, 1), id(0xcd, 4), id(0xaa, 2)]);
        assert_eq!(resolve_all(&state, &times, &[], &web1(), &mut paths).unwrap().len(), 2);
        let none = resolve(&State::default(), &Times::default(), &Name::Latest(0), &Filter::default(), &mut paths)
            .unwrap_err();
        assert!(none.to_string().contains("packmule backup"), "{none}");
    }
}
