//! Who comes in, who does not, and what either is told.

use repo::error::Kind;

use super::*;
use crate::ssh::is_transient;

#[test]
fn the_gate_sees_who_and_its_grant_reaches_the_service() {
    let rig = rig(|caller, mut channel, _| {
        let grant = *caller.grant.downcast_ref::<u8>().unwrap();
        write!(channel.write, "{} {} {} {grant}", caller.user, caller.key.fingerprint(), caller.peer.ip()).unwrap();
    });
    let link = rig.link();
    let mut said = String::new();
    link.channel().unwrap().read.read_to_string(&mut said).unwrap();
    assert_eq!(said, format!("site {} 127.0.0.1 42", rig.key.public().fingerprint()));
    assert_eq!(rig.keeper.asked.load(Ordering::SeqCst), 1);
    let by_print = Target { pin: Pin::Fingerprint(rig.host_key.public().fingerprint()), ..rig.target() };
    connect(&by_print, LONG).unwrap().close();
    assert!(rig.events().contains("Admitted"));
}

#[test]
fn a_key_or_a_name_that_is_not_known_gets_the_same_answer() {
    let rig = rig(echo);
    let stranger = KeyPair::generate("").unwrap();
    let wrong_key = connect(&Target { key: stranger.clone(), ..rig.target() }, LONG).err().unwrap();
    let wrong_name = connect(&Target { user: "other".into(), ..rig.target() }, LONG).err().unwrap();
    for error in [&wrong_key, &wrong_name] {
        assert_eq!(error.kind(), Kind::Refused);
        assert!(!is_transient(error));
        assert!(error.to_string().contains("the key revoked"), "{error}");
    }
    let plain = |e: &repo::error::Error, user: &str, key: &KeyPair| {
        e.to_string().replace(user, "NAME").replace(&key.public().fingerprint(), "KEY")
    };
    assert_eq!(plain(&wrong_key, "site", &stranger), plain(&wrong_name, "other", &rig.key));
    eventually("the event", || rig.events().contains(&stranger.public().fingerprint()));
}

#[test]
fn another_host_key_ends_it_before_anything_is_sent() {
    let rig = rig(echo);
    let other = KeyPair::generate("").unwrap().public();
    for pin in [Pin::Key(other.clone()), Pin::Fingerprint(other.fingerprint())] {
        let error = connect(&Target { pin, ..rig.target() }, LONG).err().unwrap();
        assert_eq!(error.kind(), Kind::Refused);
        let text = error.to_string();
        assert!(text.contains(&other.fingerprint()) && text.contains(&rig.host_key.public().fingerprint()), "{text}");
    }
    assert_eq!(rig.keeper.asked.load(Ordering::SeqCst), 0, "no key was offered");
}

#[test]
fn nobody_there_is_worth_another_try() {
    let mut gone = rig(echo);
    let target = gone.target();
    gone.stop(Duration::ZERO);
    let name =
        Target { address: Address { host: "nowhere.invalid".into(), ..target.address.clone() }, ..target.clone() };
    for (target, says) in [(&target, "Connection refused"), (&name, "no address is known")] {
        let error = connect(target, Duration::from_secs(5)).err().unwrap();
        assert_eq!(error.kind(), Kind::Unreachable);
        assert!(is_transient(&error) && error.to_string().contains(says), "{error}");
        assert!(error.what_to_do().is_some());
    }
}

#[test]
fn one_that_never_answers_is_given_up_in_time() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let rig = rig(echo);
    let mut target = rig.target();
    target.address.port = silent.local_addr().unwrap().port();
    let started = Instant::now();
    let error = connect(&target, Duration::from_secs(1)).err().unwrap();
    assert!(started.elapsed() < Duration::from_secs(3));
    assert!(is_transient(&error) && error.to_string().contains("no answer within 1 s"), "{error}");
}

#[test]
fn what_is_no_ssh_server_is_said_to_be_none() {
    let rig = rig(echo);
    for says in
        [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"SSH-2.0-x\r\nnonsense that is no packet of ssh at all", b""]
    {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut target = rig.target();
        target.address.port = other.local_addr().unwrap().port();
        let thread = std::thread::spawn(move || {
            let (mut socket, _) = other.accept().unwrap();
            let _ = socket.write_all(says);
            // Lets the caller's greeting come, so that closing does not reset the connection.
            let _ = socket.set_read_timeout(Some(Duration::from_millis(300)));
            while matches!(socket.read(&mut [0; 4096]), Ok(1..)) {}
        });
        let error = connect(&target, Duration::from_secs(10)).err().unwrap();
        assert!(matches!(error.kind(), Kind::Unreachable | Kind::Unsupported), "{error}");
        assert!(error.what_to_do().is_some() && !error.to_string().contains('\n'), "{error}");
        thread.join().unwrap();
    }
}

#[test]
fn as_many_sessions_as_there_may_be() {
    let mut limits = Limits { sessions_per_key: 3, ..Limits::default() };
    limits.sessions = 3;
    let rig = rig_with(limits, echo);
    let links: Vec<_> = (0..3).map(|_| rig.link()).collect();
    let mut channels: Vec<_> = links.iter().map(|link| link.channel().unwrap()).collect();
    let error = links[0].channel().err().unwrap();
    assert!(is_transient(&error) && error.to_string().contains("busy"), "{error}");
    // A fourth connection is told so, too.
    let error = match connect(&rig.target(), LONG) {
        Ok(link) => link.channel().err().unwrap(),
        Err(error) => error,
    };
    assert!(is_transient(&error), "{error}");
    channels.pop();
    links[0].channel().unwrap();
}

#[test]
fn stopping_tells_services_waits_and_then_cuts() {
    let mut polite = rig(|_, mut channel, stop| {
        while !stop.is_set() {
            std::thread::sleep(Duration::from_millis(10));
        }
        channel.write.write_all(b"goodbye").unwrap();
    });
    let link = polite.link();
    let mut channel = link.channel().unwrap();
    let started = Instant::now();
    assert_eq!(polite.stop(LONG), 0);
    assert!(started.elapsed() < Duration::from_secs(5));
    let mut said = String::new();
    channel.read.read_to_string(&mut said).unwrap();
    assert_eq!(said, "goodbye");

    let mut rude = rig(echo);
    let target = rude.target();
    let link = rude.link();
    let mut channel = link.channel().unwrap();
    let started = Instant::now();
    assert_eq!(rude.stop(Duration::from_millis(300)), 0, "its reader finds the channel cut");
    assert!(started.elapsed() < Duration::from_secs(2));
    assert!(in_time("the client", move || channel.read.read(&mut [0])).is_err());
    assert!(is_transient(&link.channel().err().unwrap()));
    assert!(is_transient(&connect(&target, LONG).err().unwrap()));
}

#[test]
fn who_has_nothing_to_do_does_not_keep_a_server_from_stopping() {
    let mut rig = rig(echo);
    let link = rig.link();
    let (idle, mut busy) = (link.channel().unwrap(), rig.link().channel().unwrap());
    let talking = std::thread::spawn(move || {
        let until = Instant::now() + Duration::from_secs(6);
        let mut back = [0; 8];
        while Instant::now() < until {
            busy.write.write_all(b"not done").and_then(|()| busy.write.flush()).unwrap();
            busy.read.read_exact(&mut back).unwrap();
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let started = Instant::now();
    assert_eq!(rig.stop(LONG), 0);
    let took = started.elapsed();
    assert!(took > Duration::from_secs(5) && took < LONG, "{took:?}");
    talking.join().expect("who is busy is let finish");
    drop(idle);
}

/// A peer whose machine is gone sends nothing, not even an end.
#[test]
fn a_silent_end_is_noticed_by_keepalives() {
    let timing = Timing { keepalive: Duration::from_millis(200), keepalives: 3, ..Timing::default() };
    let rig = rig_with(Limits { timing, ..Limits::default() }, echo);
    let relay = raw::Relay::start(rig.address(), Duration::ZERO);
    let mut target = rig.target();
    target.address.port = relay.port();
    let link = connect(&target, LONG).unwrap();
    let mut channel = link.channel().unwrap();
    // Answered keepalives keep it open.
    std::thread::sleep(Duration::from_secs(2));
    assert!(!link.is_closed());
    relay.freeze();
    let started = Instant::now();
    let error = in_time("the reader", move || channel.read.read(&mut [0]).unwrap_err());
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert!(error.to_string().contains("no longer answers"), "{error}");
    eventually("the server notices, too", || rig.idle() && rig.server.as_ref().unwrap().connections().1 == 0);
}
