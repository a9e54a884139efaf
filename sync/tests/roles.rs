//! Who may do what, over real SSH, complete: every sort of key, every message that may open a connection, and in every
//! conversation every message that there is.

#[allow(dead_code)]
#[path = "../../repo/tests/common/tenants.rs"]
mod parties;
#[path = "support/raw.rs"]
mod raw;
#[path = "support/sayings.rs"]
mod sayings;
#[path = "support/scene.rs"]
mod scene;
#[allow(dead_code)]
#[path = "../../repo/tests/heal/site.rs"]
mod site;
#[path = "support/table.rs"]
mod table;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use raw::Raw;
use repo::agents;
use repo::error::Kind;
use repo::format::record::{Roles, TenantState};
use repo::monitor::Void;
use repo::tenants;
use sayings::sayings;
use scene::{Party, Scene, said};
use site::Site;
use sync::serve::bare;
use sync::ssh::client::Link;
use sync::ssh::keys::KeyPair;
use sync::wire::*;
use table::{compare, kinds};

const HOUR: Duration = Duration::from_secs(3600);

/// What each key is answered that opens a connection so. `!Kind`: a failure of that kind.
const OPENINGS: &str = "
what                 | push     | push of another | pull     | admin        | attach to own | to another's | to none  | redeem fresh          | as a lost site        | for a lost site       | used                  | expired               | never made            | another tenant's
guest                | !Refused | !Refused        | !Refused | !Refused     | !Refused      | !Refused     | !Refused | Welcome:Push          | !Refused              | Welcome:Restore, keys | !Refused              | !Refused              | !Refused              | !Refused
sealed, guest        | !Refused | !Refused        | !Refused | !Refused     | !Refused      | !Refused     | !Refused | Welcome:Push          | !Refused              | Welcome:Restore       | !Refused              | !Refused              | !Refused              | !Refused
push key             | Ready    | !Refused        | !Refused | !Unsupported | -             | !Refused     | !Refused | Welcome:Push          | Welcome:Push          | Welcome:Push          | Welcome:Push          | Welcome:Push          | Welcome:Push          | Welcome:Push
pull key             | !Refused | !Refused        | Ready    | !Unsupported | !Refused      | !Refused     | !Refused | Welcome:Pull          | Welcome:Pull          | Welcome:Pull          | Welcome:Pull          | Welcome:Pull          | Welcome:Pull          | Welcome:Pull
site's key           | Ready    | !Refused        | Ready    | !Unsupported | -             | !Refused     | !Refused | Welcome:Push          | Welcome:Push          | Welcome:Push          | Welcome:Push          | Welcome:Push          | Welcome:Push          | Welcome:Push
restored site's key  | Ready    | !Refused        | Ready    | !Unsupported | -             | !Refused     | !Refused | Welcome:Restore, keys | Welcome:Restore, keys | Welcome:Restore, keys | Welcome:Restore, keys | Welcome:Restore, keys | Welcome:Restore, keys | Welcome:Restore, keys
operator's key       | !Refused | !Refused        | !Refused | !Unsupported | !Refused      | !Refused     | !Refused | Welcome:Operator      | Welcome:Operator      | Welcome:Operator      | Welcome:Operator      | Welcome:Operator      | Welcome:Operator      | Welcome:Operator
sealed, push key     | Ready    | !Refused        | !Refused | !Unsupported | -             | !Refused     | !Refused | Welcome:Push          | Welcome:Push          | Welcome:Push          | Welcome:Push          | Welcome:Push          | Welcome:Push          | Welcome:Push
sealed, pull key     | !Refused | !Refused        | Ready    | !Unsupported | !Refused      | !Refused     | !Refused | Welcome:Pull          | Welcome:Pull          | Welcome:Pull          | Welcome:Pull          | Welcome:Pull          | Welcome:Pull          | Welcome:Pull
sealed, site's       | Ready    | !Refused        | Ready    | !Unsupported | -             | !Refused     | !Refused | Welcome:Push          | Welcome:Push          | Welcome:Push          | Welcome:Push          | Welcome:Push          | Welcome:Push          | Welcome:Push
sealed, restored     | Ready    | !Refused        | Ready    | !Unsupported | -             | !Refused     | !Refused | Welcome:Restore       | Welcome:Restore       | Welcome:Restore       | Welcome:Restore       | Welcome:Restore       | Welcome:Restore       | Welcome:Restore
sealed, operator's   | !Refused | !Refused        | !Refused | !Unsupported | !Refused      | !Refused     | !Refused | Welcome:Operator      | Welcome:Operator      | Welcome:Operator      | Welcome:Operator      | Welcome:Operator      | Welcome:Operator      | Welcome:Operator
revoked push         | !Refused | !Refused        | !Refused | !Refused     | !Refused      | !Refused     | !Refused | Welcome:Push          | !Refused              | Welcome:Restore, keys | !Refused              | !Refused              | !Refused              | !Refused
revoked pull         | !Refused | !Refused        | !Refused | !Refused     | !Refused      | !Refused     | !Refused | Welcome:Push          | !Refused              | Welcome:Restore, keys | !Refused              | !Refused              | !Refused              | !Refused
revoked site's       | !Refused | !Refused        | !Refused | !Refused     | !Refused      | !Refused     | !Refused | Welcome:Push          | !Refused              | Welcome:Restore, keys | !Refused              | !Refused              | !Refused              | !Refused
revoked restored     | !Refused | !Refused        | !Refused | !Refused     | !Refused      | !Refused     | !Refused | Welcome:Push          | !Refused              | Welcome:Restore, keys | !Refused              | !Refused              | !Refused              | !Refused
revoked operator's   | !Refused | !Refused        | !Refused | !Refused     | !Refused      | !Refused     | !Refused | Welcome:Push          | !Refused              | Welcome:Restore, keys | !Refused              | !Refused              | !Refused              | !Refused
suspended tenant's   | !Refused | !Refused        | !Refused | !Refused     | !Refused      | !Refused     | !Refused | !Refused              | !Refused              | !Refused              | !Refused              | !Refused              | !Refused              | !Refused
removed tenant's     | !Refused | !Refused        | !Refused | !Refused     | !Refused      | !Refused     | !Refused | !Refused              | !Refused              | !Refused              | !Refused              | !Refused              | !Refused              | !Refused
agent's key          | Ready    | !Refused        | !Refused | !Unsupported | -             | !Refused     | !Refused | Welcome:Agent         | Welcome:Agent         | Welcome:Agent         | Welcome:Agent         | Welcome:Agent         | Welcome:Agent         | Welcome:Agent
agent's, may restore | Ready    | !Refused        | Ready    | !Unsupported | -             | !Refused     | !Refused | Welcome:Agent         | Welcome:Agent         | Welcome:Agent         | Welcome:Agent         | Welcome:Agent         | Welcome:Agent         | Welcome:Agent
agent, guest         | !Refused | !Refused        | !Refused | !Refused     | !Refused      | !Refused     | !Refused | Welcome:Agent         | !Refused              | !Refused              | !Refused              | !Refused              | !Refused              | Welcome:Agent
revoked agent's      | !Refused | !Refused        | !Refused | !Refused     | !Refused      | !Refused     | !Refused | !Refused              | !Refused              | !Refused              | !Refused              | !Refused              | !Refused              | Welcome:Agent
";

/// What each message is answered in each conversation.
const INSIDE: &str = "
what                               | push                | attached | pull             | sealed push  | sealed attached | sealed pull  | agent             | agent attached | agent pull
Begin                              | !Io                 | !Io      | !Io              | !Io          | !Io             | !Io          | !Io               | !Io            | !Io
Attach                             | !Io                 | !Io      | !Io              | !Io          | !Io             | !Io          | !Io               | !Io            | !Io
Redeem                             | !Io                 | !Io      | !Io              | !Io          | !Io             | !Io          | !Io               | !Io            | !Io
Ready                              | !Io                 | !Io      | !Io              | !Io          | !Io             | !Io          | !Io               | !Io            | !Io
Welcome                            | !Io                 | !Io      | !Io              | !Io          | !Io             | !Io          | !Io               | !Io            | !Io
Fail                               | !Io                 | !Io      | !Io              | !Io          | !Io             | !Io          | !Io               | !Io            | !Io
Ping                               | Pong                | Pong     | Pong             | Pong         | Pong            | Pong         | Pong              | Pong           | Pong
Pong                               | -                   | -        | -                | -            | -               | -            | -                 | -              | -
Bye                                | -                   | -        | -                | -            | -               | -            | -                 | -              | -
Data, unannounced                  | !Io                 | !Io      | !Io              | !Io          | !Io             | !Io          | !Io               | !Io            | !Io
Cut, of nothing                    | !Io                 | !Io      | !Io              | !Io          | !Io             | !Io          | !Io               | !Io            | !Io
Keys, own                          | -                   | !Io      | !Io              | !Io          | !Io             | !Io          | -                 | !Io            | !Io
Keys, another's                    | !Refused            | !Io      | !Io              | !Io          | !Io             | !Io          | !Refused          | !Io            | !Io
Put pack, own                      | Durable             | Durable  | !Io              | Durable      | Durable         | !Io          | Durable           | Durable        | !Io
Put pack, another's                | Durable+Refused     | Durable  | !Io              | Durable      | Durable         | !Io          | Durable+Refused   | Durable        | !Io
Put pack, no pack                  | Durable+Refused     | Durable  | !Io              | Durable      | Durable         | !Io          | Durable+Refused   | Durable        | !Io
Put pack, other bytes              | Durable+Refused     | Durable  | !Io              | Refused      | Refused         | !Io          | Durable+Refused   | Durable        | !Io
Put pack, cut                      | Durable             | Durable  | !Io              | Durable      | Durable         | !Io          | Durable           | Durable        | !Io
Put config                         | !Io                 | !Io      | !Io              | Durable      | !Io             | !Io          | !Io               | !Io            | !Io
Put config, another's              | !Io                 | !Io      | !Io              | Refused      | !Io             | !Io          | !Io               | !Io            | !Io
Put key slot, own                  | !Io                 | !Io      | !Io              | Durable      | !Io             | !Io          | !Io               | !Io            | !Io
Put key slot, of a password        | !Io                 | !Io      | !Io              | Refused      | !Io             | !Io          | !Io               | !Io            | !Io
Put footers, new                   | !Io                 | !Io      | !Io              | Durable      | !Io             | !Io          | !Io               | !Io            | !Io
Put footers, of another's bytes    | !Io                 | !Io      | !Io              | Refused      | !Io             | !Io          | !Io               | !Io            | !Io
Put snapshot, of other bytes       | !Io                 | !Io      | !Io              | Refused      | !Io             | !Io          | !Io               | !Io            | !Io
Put snapshot, new                  | !Io                 | !Io      | !Io              | Durable      | !Io             | !Io          | !Io               | !Io            | !Io
Put log, own                       | !Io                 | !Io      | !Io              | Durable      | !Io             | !Io          | !Io               | !Io            | !Io
Put log, far ahead                 | !Io                 | !Io      | !Io              | Refused      | !Io             | !Io          | !Io               | !Io            | !Io
Put audit, a segment               | !Io                 | !Io      | !Io              | Durable      | !Io             | !Io          | !Io               | !Io            | !Io
Put state                          | !Io                 | !Io      | !Io              | Refused      | !Io             | !Io          | !Io               | !Io            | !Io
Put state, leading elsewhere       | !Io                 | !Io      | !Io              | Refused      | !Io             | !Io          | !Io               | !Io            | !Io
Durable                            | !Io                 | !Io      | !Io              | !Io          | !Io             | !Io          | !Io               | !Io            | !Io
Refused                            | !Io                 | !Io      | !Io              | !Io          | !Io             | !Io          | !Io               | !Io            | !Io
Listing                            | !Io                 | !Io      | !Io              | !Io          | !Io             | !Io          | !Io               | !Io            | !Io
Want own                           | !Io                 | !Io      | !Io              | Given        | !Io             | Given        | !Io               | !Io            | !Io
Want another's                     | !Io                 | !Io      | !Io              | Lacking      | !Io             | Lacking      | !Io               | !Io            | !Io
Want config                        | !Io                 | !Io      | !Io              | Given        | !Io             | Given        | !Io               | !Io            | !Io
Want state                         | !Io                 | !Io      | !Io              | Lacking      | !Io             | Lacking      | !Io               | !Io            | !Io
Lacking                            | !Io                 | !Io      | !Io              | !Io          | !Io             | !Io          | !Io               | !Io            | !Io
Given                              | !Io                 | !Io      | !Io              | !Io          | !Io             | !Io          | !Io               | !Io            | !Io
Holding own                        | !Io                 | !Io      | !Io              | Answer:0     | !Io             | Answer:0     | !Io               | !Io            | !Io
Holding another's                  | !Io                 | !Io      | !Io              | Answer:1     | !Io             | Answer:1     | !Io               | !Io            | !Io
Order, forged                      | !Io                 | !Io      | !Io              | !Refused     | !Io             | !Io          | !Io               | !Io            | !Io
Ordered                            | !Io                 | !Io      | !Io              | !Io          | !Io             | !Io          | !Io               | !Io            | !Io
Have own                           | Answer:0            | !Io      | !Io              | !Io          | !Io             | !Io          | Answer:0          | !Io            | !Io
Have another's                     | Answer:1            | !Io      | !Io              | !Io          | !Io             | !Io          | Answer:1          | !Io            | !Io
Answer                             | !Io                 | !Io      | !Io              | !Io          | !Io             | !Io          | !Io               | !Io            | !Io
Manifest, own                      | Accepted            | !Io      | !Io              | !Io          | !Io             | !Io          | Accepted          | !Io            | !Io
Manifest, another's                | Declined:Invalid    | !Io      | !Io              | !Io          | !Io             | !Io          | Declined:Invalid  | !Io            | !Io
Manifest, own under another's name | Declined:Invalid    | !Io      | !Io              | !Io          | !Io             | !Io          | Declined:Invalid  | !Io            | !Io
Manifest, cut                      | -                   | !Io      | !Io              | !Io          | !Io             | !Io          | -                 | !Io            | !Io
Again, never sent                  | Declined:Unknown    | !Io      | !Io              | !Io          | !Io             | !Io          | Declined:Unknown  | !Io            | !Io
Accepted                           | !Io                 | !Io      | !Io              | !Io          | !Io             | !Io          | !Io               | !Io            | !Io
Missing                            | !Io                 | !Io      | !Io              | !Io          | !Io             | !Io          | !Io               | !Io            | !Io
Declined                           | !Io                 | !Io      | !Io              | !Io          | !Io             | !Io          | !Io               | !Io            | !Io
Done                               | Finished            | !Io      | !Io              | Finished     | !Io             | !Io          | Finished          | !Io            | !Io
Done, elsewhere                    | Finished            | !Io      | !Io              | !Refused     | !Io             | !Io          | Finished          | !Io            | !Io
Finished                           | !Io                 | !Io      | !Io              | !Io          | !Io             | !Io          | !Io               | !Io            | !Io
Keep, a question                   | Kept:not            | !Io      | !Io              | !Io          | !Io             | !Io          | Kept:not          | !Io            | !Io
Keep, something                    | Kept:there          | !Io      | !Io              | !Io          | !Io             | !Io          | Kept:not          | !Io            | !Io
Keep, twice                        | Kept:there+Kept:not | !Io      | !Io              | !Io          | !Io             | !Io          | Kept:not+Kept:not | !Io            | !Io
Kept                               | !Io                 | !Io      | !Io              | !Io          | !Io             | !Io          | !Io               | !Io            | !Io
Recall                             | !Io                 | !Io      | Recalled:6       | !Io          | !Io             | !Io          | !Io               | !Io            | Recalled:0
Recalled                           | !Io                 | !Io      | !Io              | !Io          | !Io             | !Io          | !Io               | !Io            | !Io
Receipts, own                      | Signed:1            | !Io      | !Io              | Signed:1     | !Io             | !Io          | Signed:0          | !Io            | !Io
Receipts, another's                | Signed:0            | !Io      | !Io              | Signed:0     | !Io             | !Io          | Signed:0          | !Io            | !Io
Receipts, of nothing               | Signed:0            | !Io      | !Io              | Signed:0     | !Io             | !Io          | Signed:0          | !Io            | !Io
Signed                             | !Io                 | !Io      | !Io              | !Io          | !Io             | !Io          | !Io               | !Io            | !Io
List                               | !Io                 | !Io      | Snapshots:1      | !Io          | !Io             | !Io          | !Io               | !Io            | Snapshots:1
List, behind all                   | !Io                 | !Io      | Snapshots:0      | !Io          | !Io             | !Io          | !Io               | !Io            | Snapshots:0
Snapshots                          | !Io                 | !Io      | !Io              | !Io          | !Io             | !Io          | !Io               | !Io            | !Io
Fetch own                          | !Io                 | !Io      | Manifest         | !Io          | !Io             | !Io          | !Io               | !Io            | Manifest
Fetch another's                    | !Io                 | !Io      | Declined:Unknown | !Io          | !Io             | !Io          | !Io               | !Io            | Declined:Unknown
Fetch what is not                  | !Io                 | !Io      | Declined:Unknown | !Io          | !Io             | !Io          | !Io               | !Io            | Declined:Unknown
Get own                            | !Io                 | !Io      | Chunks+Absent:0  | !Io          | !Io             | !Io          | !Io               | !Io            | Chunks+Absent:0
Get another's                      | !Io                 | !Io      | Absent:1         | !Io          | !Io             | !Io          | !Io               | !Io            | Absent:1
Chunks                             | !Io                 | !Io      | !Io              | !Io          | !Io             | !Io          | !Io               | !Io            | !Io
Absent                             | !Io                 | !Io      | !Io              | !Io          | !Io             | !Io          | !Io               | !Io            | !Io
Objects Config                     | !Io                 | !Io      | !Io              | Listing:some | !Io             | Listing:some | !Io               | !Io            | !Io
Objects Keys                       | !Io                 | !Io      | !Io              | Listing:some | !Io             | Listing:some | !Io               | !Io            | !Io
Objects Packs                      | !Io                 | !Io      | !Io              | Listing:some | !Io             | Listing:some | !Io               | !Io            | !Io
Objects Footers                    | !Io                 | !Io      | !Io              | Listing:some | !Io             | Listing:some | !Io               | !Io            | !Io
Objects Snapshots                  | !Io                 | !Io      | !Io              | Listing:some | !Io             | Listing:some | !Io               | !Io            | !Io
Objects Log                        | !Io                 | !Io      | !Io              | Listing:some | !Io             | Listing:some | !Io               | !Io            | !Io
Objects State                      | !Io                 | !Io      | !Io              | Listing:none | !Io             | Listing:none | !Io               | !Io            | !Io
Objects Audit                      | !Io                 | !Io      | !Io              | Listing:some | !Io             | Listing:some | !Io               | !Io            | !Io
";

/// Opens a conversation, once more if the one before has not quite ended.
fn try_opened(link: &Link, first: &Message) -> Option<(Raw, Session)> {
    for _ in 0..1000 {
        let mut raw = Raw::over(link.channel().unwrap());
        raw.say(std::slice::from_ref(first));
        if let Message::Attach { session } = first {
            return Some((raw, *session));
        }
        match raw.hear() {
            Some(Message::Ready { session, .. }) => return Some((raw, session)),
            Some(Message::Fail(fail)) if fail.kind() == Kind::Locked => std::thread::sleep(Duration::from_millis(2)),
            _ => return None,
        }
    }
    panic!("another push does not end");
}

fn opened(link: &Link, first: &Message) -> (Raw, Session) {
    try_opened(link, first).expect("it is ready")
}

/// What somebody is answered who opens a connection with this.
fn begins(link: &Link, first: &[Message]) -> String {
    for _ in 0..1000 {
        let mut raw = Raw::over(link.channel().unwrap());
        raw.say(first);
        let heard = raw.rest();
        match heard.messages.first() {
            Some(Message::Fail(fail)) if fail.kind() == Kind::Locked => std::thread::sleep(Duration::from_millis(2)),
            _ => return said(&heard),
        }
    }
    panic!("another push does not end");
}

/// What a connection can turn out to be.
const CONVERSATIONS: [&str; 9] = [
    "push",
    "attached",
    "pull",
    "sealed push",
    "sealed attached",
    "sealed pull",
    "agent",
    "agent attached",
    "agent pull",
];

/// Two tenants of each sort; what the second has is another's to the first.
struct Cast {
    scene: Scene,
    acme: Party,
    globex: Party,
    vault: Party,
    bank: Party,
}

fn cast() -> Cast {
    let scene = Scene::new();
    let [acme, globex] = [("acme", 1), ("globex", 2)].map(|(name, seed)| scene.party(name, false, seed));
    let [vault, bank] = [("vault", 3), ("bank", 4)].map(|(name, seed)| scene.party(name, true, seed));
    Cast { scene, acme, globex, vault, bank }
}

/// A site with agents.
fn site_with_agents() -> Scene {
    let disk = Site::new();
    let repo = Arc::new(disk.open());
    Scene::serving(disk, repo)
}

#[test]
fn every_message_in_every_conversation() {
    let Cast { scene, acme, globex, vault, bank } = cast();
    let home = site_with_agents();
    let (may_restore, agent) = (Roles::AGENT.and(Roles::RESTORE), Roles::AGENT);
    let [web1, web2] = [("web1", 5), ("web2", 6)].map(|(host, seed)| home.agent(host, agent, seed));
    let site = Roles::PUSH.and(Roles::PULL);
    let tenants = vec![Roles::PUSH, Roles::PULL, site, site.and(Roles::RESTORE)];
    let (mut seen, mut tried) = (Vec::new(), BTreeSet::new());
    // Each conversation with every set of roles that opens it: it is the same for all of them.
    for (scene, own, other, names, sets) in [
        (&scene, &acme, &globex, ["push", "attached", "pull"], tenants.clone()),
        (&scene, &vault, &bank, ["sealed push", "sealed attached", "sealed pull"], tenants),
        (&home, &web1, &web2, ["agent", "agent attached", "agent pull"], vec![agent, may_restore]),
    ] {
        let sayings = sayings(own, other);
        for roles in sets {
            let link = scene.link(&scene.enrol(own, roles)).unwrap();
            let mut tell = |conversation: &'static str, first: &Message| {
                for (saying, messages) in &sayings {
                    tried.insert(messages[0].kind());
                    let mut raw = opened(&link, first).0;
                    raw.say(messages);
                    seen.push((saying.clone(), conversation, said(&raw.rest())));
                }
            };
            if roles.allow(Roles::PUSH) || roles.allow(agent) {
                tell(names[0], &own.begin(Purpose::Push));
                let (push, session) = opened(&link, &own.begin(Purpose::Push));
                tell(names[1], &Message::Attach { session });
                let end = push.rest();
                assert!(end.end.is_ok(), "{end:?}");
            }
            if roles.allow(Roles::PULL) || roles.allow(may_restore) {
                tell(names[2], &own.begin(Purpose::Pull));
            }
        }
    }
    assert_eq!(tried, kinds(), "a kind of message is not tried");
    let rows = sayings(&acme, &globex);
    let rows: Vec<&str> = rows.iter().map(|(name, _)| name.as_str()).collect();
    compare(INSIDE, &rows, &CONVERSATIONS, &seen);
}

/// How a connection may begin.
const COLUMNS: [&str; 14] = [
    "push",
    "push of another",
    "pull",
    "admin",
    "attach to own",
    "to another's",
    "to none",
    "redeem fresh",
    "as a lost site",
    "for a lost site",
    "used",
    "expired",
    "never made",
    "another tenant's",
];

/// Somebody with a key, who belongs to `own` or wants to.
struct Caller<'a> {
    name: &'static str,
    key: Option<KeyPair>,
    own: &'a Party,
    other: &'a Party,
}

/// Somebody with the key that delivered what is there.
fn held<'a>(name: &'static str, own: &'a Party, other: &'a Party) -> Caller<'a> {
    Caller { name, key: Some(own.key.clone()), own, other }
}

/// What opens a connection, in the order of the columns.
fn openings(scene: &Scene, who: &Caller<'_>, used: &Token) -> Vec<Message> {
    let (own, other) = (who.own, who.other);
    let nowhere = || Message::Attach { session: Session([7; 16]) };
    let elsewhere = match own.begin(Purpose::Push) {
        Message::Begin { purpose, position, program, .. } => {
            Message::Begin { purpose, position, program, repository: other.repo.config.repo_id }
        }
        _ => unreachable!(),
    };
    let (pushes, restore) = match own.roles.allow(Roles::AGENT) {
        true => (Roles::AGENT, Roles::AGENT.and(Roles::RESTORE)),
        false => (Roles::PUSH, Roles::PUSH.and(Roles::PULL).and(Roles::RESTORE)),
    };
    let expired = scene.token(own.number, pushes, Duration::ZERO);
    vec![
        own.begin(Purpose::Push),
        elsewhere,
        own.begin(Purpose::Pull),
        own.begin(Purpose::Admin),
        nowhere(),
        nowhere(),
        nowhere(),
        own.redeem(scene.token(own.number, pushes, HOUR), false),
        own.redeem(scene.token(own.number, pushes, HOUR), true),
        own.redeem(scene.token(own.number, restore, HOUR), true),
        own.redeem(used.clone(), false),
        own.redeem(expired, false),
        own.redeem(Token::new([5; 32]), false),
        own.redeem(scene.token(other.number, pushes, HOUR), false),
    ]
}

fn change(scene: &Scene, party: &Party, change: impl Fn(&mut TenantState)) {
    let mut change = |tenant: &mut TenantState| {
        change(tenant);
        Ok(())
    };
    tenants::change(&scene.pool, party.number, &mut change).unwrap();
}

#[test]
fn every_key_and_every_beginning() {
    let Cast { scene, acme, globex, vault, bank } = cast();
    let [frozen, gone] = [("frozen", 5), ("gone", 6)].map(|(name, seed)| scene.party(name, false, seed));
    let site = Roles::PUSH.and(Roles::PULL);
    let sets = [Roles::PUSH, Roles::PULL, site, site.and(Roles::RESTORE), Roles::OPERATOR];
    let pooled = ["push key", "pull key", "site's key", "restored site's key", "operator's key"];
    let sealed = ["sealed, push key", "sealed, pull key", "sealed, site's", "sealed, restored", "sealed, operator's"];
    let revoked = ["revoked push", "revoked pull", "revoked site's", "revoked restored", "revoked operator's"];
    let caller = |name, own, other, roles: Roles| Caller { name, key: Some(scene.enrol(own, roles)), own, other };
    let mut callers = vec![Caller { name: "guest", key: None, own: &acme, other: &globex }];
    callers.push(Caller { name: "sealed, guest", key: None, own: &vault, other: &bank });
    for (own, other, names) in [(&acme, &globex, pooled), (&vault, &bank, sealed), (&acme, &globex, revoked)] {
        callers.extend(names.into_iter().zip(sets).map(|(name, roles)| caller(name, own, other, roles)));
    }
    callers.push(caller("suspended tenant's", &frozen, &globex, site.and(Roles::RESTORE)));
    callers.push(caller("removed tenant's", &gone, &globex, site.and(Roles::RESTORE)));
    let at = scene.pool.clock.now();
    let publics = callers.iter().filter(|who| who.name.starts_with("revoked"));
    let shut: BTreeSet<String> = publics.filter_map(|who| Some(bare(&who.key.as_ref()?.public()))).collect();
    // A site that is made anew has put an end to all other keys, and a key that was refused may have become one again.
    let as_it_was = |party: &Party| {
        change(&scene, party, |tenant| {
            tenant.keys.iter_mut().for_each(|key| key.revoked = shut.contains(&key.public).then_some(at));
        });
    };
    [&acme, &vault].into_iter().for_each(as_it_was);
    change(&scene, &frozen, |tenant| tenant.suspended = true);
    repo::removal::order(&scene.pool, gone.number, true, &Void::default()).unwrap();

    // While no invitation is open nobody who may do nothing gets in at all.
    change(&scene, &acme, |acme| acme.invites.clear());
    let stranger = KeyPair::generate("").unwrap();
    // Who is refused is told after a second, so all of them at once.
    std::thread::scope(|scope| {
        // Whose tenant is being removed gets in far enough to be told so.
        let shut_out = |who: &&Caller<'_>| who.key.is_none() || (out(who.name) && !who.name.starts_with("removed"));
        for who in callers.iter().filter(shut_out) {
            scope.spawn(|| {
                let refused = scene.link(who.key.as_ref().unwrap_or(&stranger)).err();
                let e = refused.unwrap_or_else(|| panic!("{} gets in", who.name));
                assert_eq!(e.kind(), Kind::Refused, "{}: {e}", who.name);
            });
        }
    });
    let used = scene.token(acme.number, Roles::PUSH, HOUR);
    let key = KeyPair::generate("").unwrap();
    assert_eq!(begins(&scene.link(&key).unwrap(), &[acme.redeem(used.clone(), false)]), "Welcome:Push");
    // Keeps the door open for guests.
    let _open = scene.token(acme.number, Roles::PULL, HOUR);
    let mut seen = begin_all(&scene, &callers, &used, &|who| {
        if who.own.number == acme.number || who.own.number == vault.number {
            as_it_was(who.own);
        }
    });

    let home = site_with_agents();
    let may_restore = Roles::AGENT.and(Roles::RESTORE);
    let [web1, web3, web4] = [("web1", 7), ("web3", 8), ("web4", 9)].map(|(h, seed)| home.agent(h, Roles::AGENT, seed));
    let web2 = home.agent("web2", may_restore, 10);
    let hosts = vec![
        held("agent's key", &web1, &web2),
        held("agent's, may restore", &web2, &web1),
        Caller { name: "agent, guest", key: None, own: &web3, other: &web1 },
        held("revoked agent's", &web4, &web1),
    ];
    agents::revoke(&home.pool, "web4").unwrap();
    let e = home.link(&web4.key).err().expect("who was revoked does not get in");
    assert_eq!(e.kind(), Kind::Refused);
    let used = home.token(web3.number, Roles::AGENT, HOUR);
    let key = KeyPair::generate("").unwrap();
    assert_eq!(begins(&home.link(&key).unwrap(), &[web3.redeem(used.clone(), false)]), "Welcome:Agent");
    let _open = home.token(web3.number, Roles::AGENT, HOUR);
    seen.extend(begin_all(&home, &hosts, &used, &|_| ()));

    let rows: Vec<&str> = callers.iter().chain(&hosts).map(|who| who.name).collect();
    compare(OPENINGS, &rows, &COLUMNS, &seen);
}

/// Whether somebody may do nothing, and so stays out while no invitation is open.
fn out(name: &str) -> bool {
    ["revoked", "suspended", "removed"].iter().any(|word| name.starts_with(word))
}

/// Has everybody begin in every way. `after` each.
fn begin_all(
    scene: &Scene,
    callers: &[Caller<'_>],
    used: &Token,
    after: &dyn Fn(&Caller<'_>),
) -> Vec<(String, &'static str, String)> {
    let mut seen = Vec::new();
    // A push that is under way while it is attached to; none of who cannot have one.
    let under_way = |party: &Party| {
        let link = scene.link(&party.key).ok()?;
        let (raw, session) = try_opened(&link, &party.begin(Purpose::Push))?;
        Some((link, raw, session))
    };
    for who in callers {
        let firsts = openings(scene, who, used);
        let gets_in = |key: &KeyPair| scene.link(key).unwrap_or_else(|e| panic!("{}: {e}", who.name));
        // Whoever takes an invitation up is somebody else the next time.
        let stays = who.key.as_ref().filter(|_| !out(who.name)).map(gets_in);
        for (column, first) in COLUMNS.into_iter().zip(firsts) {
            let push = match column {
                "attach to own" => under_way(who.own),
                "to another's" => under_way(who.other),
                _ => None,
            };
            let first = match &push {
                Some((_, _, session)) => Message::Attach { session: *session },
                None => first,
            };
            let comes = || gets_in(&who.key.clone().unwrap_or_else(|| KeyPair::generate("guest").unwrap()));
            let answer = match &stays {
                Some(link) => begins(link, &[first]),
                None => begins(&comes(), &[first]),
            };
            seen.push((who.name.to_owned(), column, answer));
            push.map(|(_, raw, _)| raw.rest());
            after(who);
        }
    }
    seen
}

/// Who, beside whom, with a key of which roles; and what becomes of them.
type End<'a> = (&'a Scene, &'a Party, &'a Party, Roles, &'a dyn Fn(&Party));

#[test]
fn who_is_suspended_in_the_middle_gets_and_leaves_nothing_more() {
    let Cast { scene, acme, globex, vault, bank } = cast();
    let home = site_with_agents();
    let may_restore = Roles::AGENT.and(Roles::RESTORE);
    let [web1, web2] = [("web1", 5), ("web2", 6)].map(|(host, seed)| home.agent(host, may_restore, seed));
    let site = Roles::PUSH.and(Roles::PULL);
    let suspend = |party: &Party| change(&scene, party, |tenant| tenant.suspended = true);
    let remove = |party: &Party| _ = repo::removal::order(&scene.pool, party.number, true, &Void::default()).unwrap();
    let revoke = |_: &Party| agents::revoke(&home.pool, "web1").unwrap();
    let ends: [End<'_>; 5] = [
        (&scene, &acme, &bank, site, &suspend),
        (&scene, &globex, &bank, site, &remove),
        (&scene, &vault, &acme, site, &suspend),
        (&scene, &bank, &acme, site, &remove),
        (&home, &web1, &web2, may_restore, &revoke),
    ];
    for (scene, own, other, roles, end) in ends {
        // A snapshot that has not arrived.
        own.site.write("dir/new", &site::noise(99, 5000));
        let options = repo::capture::Options { host: "web1".into(), ..own.site.options() };
        repo::capture::backup(&own.repo, options, &Void::default()).unwrap();
        let state = own.repo.log.state();
        let newest = *state.snapshots.iter().max_by_key(|(_, s)| s.seq).unwrap().0;
        let sealed = own.objects(repo::backend::Area::Snapshots);
        let (_, sealed) = sealed.into_iter().find(|(object, _)| *object == Object::Snapshot(newest)).unwrap();
        let manifest = Message::Manifest { snapshot: newest, size: sealed.len() as u64 };
        let packs = own.objects(repo::backend::Area::Packs).into_iter().flat_map(|(id, bytes)| scene::put(id, &bytes));
        let deliver: Vec<Message> = packs.chain(raw::with_bytes(manifest, &sealed)).collect();
        let sayings = sayings(own, other);
        let link = scene.link(&if own.sealed || roles == site { scene.enrol(own, roles) } else { own.key.clone() });
        let link = link.unwrap();
        let (mut push, _) = opened(&link, &own.begin(Purpose::Push));
        let pulls: Vec<(&str, Raw, &[Message])> = sayings
            .iter()
            .filter(|(name, _)| match own.sealed {
                true => ["Want own", "Objects Packs", "Holding own"].contains(&name.as_str()),
                false => ["List", "Fetch own", "Get own", "Recall"].contains(&name.as_str()),
            })
            .map(|(name, messages)| {
                let by = if roles == site { scene.enrol(own, Roles::PULL) } else { own.key.clone() };
                (name.as_str(), opened(&scene.link(&by).unwrap(), &own.begin(Purpose::Pull)).0, &messages[..])
            })
            .collect();
        end(own);
        for (name, mut pull, messages) in pulls {
            pull.say(messages);
            assert_eq!(said(&pull.rest()), "!Refused", "{name}");
        }
        if own.sealed {
            push.say(&deliver[..2]);
            assert_eq!(said(&push.rest()), "!Refused");
        } else {
            push.say(&deliver);
            let heard = said(&push.rest());
            assert!(heard.contains("Declined:Suspended") && !heard.contains("Accepted"), "{heard}");
        }
    }
}
