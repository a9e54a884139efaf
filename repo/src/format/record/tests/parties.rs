//! Tenants, agents and remotes, as tests make them.

use super::*;

fn tenant() -> impl Strategy<Value = TenantState> {
    let invite = (id(), at(), ".{0,5}").prop_map(|(hash, expires, label)| {
        let host = label.clone();
        Invite { hash, roles: Roles::AGENT, label, host, expires }
    });
    let numbers = (option::of(any::<u64>()), option::of(any::<u64>()), option::of(any::<u64>()));
    let lists = (vec(credential(), 0..3), vec(invite, 0..3), vec(any::<u8>(), 0..50));
    let rest = (option::of(id()), option::of(position()), option::of(removal()));
    ("[a-z]{1,9}", any::<(bool, bool)>(), at(), numbers, lists, rest).prop_map(
        |(
            name,
            (sealed, suspended),
            made,
            (quota, hold, window),
            (keys, invites, keyring),
            (repo, watermark, removed),
        )| {
            let retention = if sealed { "daily=7".into() } else { String::new() };
            let repository = repo.map(RepoId);
            let new = TenantState::new(&name, sealed, made);
            TenantState {
                suspended,
                removed,
                quota,
                hold,
                window,
                retention,
                repository,
                keyring,
                keys,
                invites,
                watermark,
                ..new
            }
        },
    )
}

fn remote() -> impl Strategy<Value = RemoteState> {
    (vec(any::<u8>(), 0..50), any::<bool>(), option::of(position()), option::of(at()), ".{0,9}").prop_map(
        |(key, sealed, pushed, pushed_at, tenant)| RemoteState {
            url: "ssh://pool.example:7022".into(),
            host_key: "ssh-ed25519 AAAA".into(),
            key: PrivateKey(key.into()),
            tenant,
            sealed,
            pushed,
            pushed_at,
        },
    )
}

fn obeyed() -> impl Strategy<Value = Obeyed> {
    (position(), id(), any::<(u64, u64)>(), at()).prop_map(|(position, hash, (objects, bytes), at)| Obeyed {
        position,
        hash,
        objects,
        bytes,
        at,
    })
}

pub fn of_parties() -> impl Strategy<Value = Record> {
    prop_oneof![
        1 => Just(Record::PoolMade),
        1 => vec(any::<u8>(), 0..9).prop_map(|key| Record::HostKey { key: PrivateKey(key.into()) }),
        4 => (0u32..3, tenant()).prop_map(|(tenant, state)| Record::TenantSet { tenant, state: Box::new(state) }),
        1 => (0u32..3, certificate()).prop_map(|(tenant, certificate)| {
            Record::TenantRemoved { tenant, certificate: Box::new(certificate) }
        }),
        2 => (3u32..5, tenant()).prop_map(|(agent, state)| Record::AgentSet { agent, state: Box::new(state) }),
        1 => (0u32..3, vec(any::<u8>(), 0..9))
            .prop_map(|(tenant, sealed)| Record::Belongings { tenant, name: "a".into(), sealed }),
        2 => (0u32..3, position()).prop_map(|(tenant, position)| Record::Watermark { tenant, position }),
        4 => ("[ab]", remote()).prop_map(|(name, state)| Record::RemoteSet { name, state: Box::new(state) }),
        1 => "[ab]".prop_map(|name| Record::RemoteRemoved { name }),
        2 => (0u32..3, id()).prop_map(|(tenant, key)| Record::OwnerPinned { tenant, key }),
        2 => (0u32..3, obeyed()).prop_map(|(tenant, order)| Record::OrderObeyed { tenant, order }),
        2 => ("[ab]", position(), at()).prop_map(|(remote, position, at)| Record::Pushed { remote, position, at }),
    ]
}
