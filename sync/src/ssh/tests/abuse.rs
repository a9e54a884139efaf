//! Peers that mean harm, or are something else altogether.

use std::net::TcpStream;

use russh::client::{AuthResult, KeyboardInteractiveAuthResponse};
use russh::{ChannelMsg, MethodKind};

use super::*;

/// What a request on a channel is answered.
async fn answer(channel: &mut russh::Channel<russh::client::Msg>) -> bool {
    loop {
        match channel.wait().await.expect("an answer") {
            ChannelMsg::Success => return true,
            ChannelMsg::Failure => return false,
            _ => {}
        }
    }
}

#[test]
fn only_public_keys_are_offered_and_taken() {
    let rig = rig(echo);
    raw::run(async {
        let only = |methods: &[MethodKind]| assert_eq!(methods, &[MethodKind::PublicKey]);
        let mut handle = raw::connect(&rig).await;
        match handle.authenticate_none("site").await.unwrap() {
            AuthResult::Failure { remaining_methods, .. } => only(&remaining_methods),
            AuthResult::Success => panic!("let in without a key"),
        }
        match handle.authenticate_password("site", "secret").await.unwrap() {
            AuthResult::Failure { remaining_methods, .. } => only(&remaining_methods),
            AuthResult::Success => panic!("let in with a password"),
        }
        match handle.authenticate_keyboard_interactive_start("site", None).await.unwrap() {
            KeyboardInteractiveAuthResponse::Failure { remaining_methods, .. } => only(&remaining_methods),
            other => panic!("{other:?}"),
        }
    });
    assert_eq!(rig.keeper.asked.load(Ordering::SeqCst), 0);
}

#[test]
fn guessing_ends_soon() {
    let limits = Limits { timing: Timing { before_auth: LONG, ..Timing::default() }, ..Limits::default() };
    let rig = rig_with(limits, echo);
    raw::run(async {
        let mut handle = raw::connect(&rig).await;
        let mut tries = 0;
        while !handle.is_closed() {
            let key = russh::keys::PrivateKeyWithHashAlg::new(KeyPair::generate("").unwrap().private(), None);
            match handle.authenticate_publickey("site", key).await {
                Ok(result) => assert!(!result.success()),
                Err(_) => break,
            }
            tries += 1;
            assert!(tries < 10, "as many tries as it likes");
        }
    });
    assert!(rig.keeper.asked.load(Ordering::SeqCst) <= 4);
}

#[test]
fn nothing_but_the_subsystem_is_served() {
    let rig = rig(echo);
    raw::run(async {
        let handle = raw::enter(&rig).await;
        let mut channel = handle.channel_open_session().await.unwrap();
        channel.request_shell(true).await.unwrap();
        assert!(!answer(&mut channel).await, "shell");
        channel.exec(true, "id").await.unwrap();
        assert!(!answer(&mut channel).await, "exec");
        channel.set_env(true, "LD_PRELOAD", "x").await.unwrap();
        assert!(!answer(&mut channel).await, "env");
        channel.request_pty(true, "xterm", 80, 25, 0, 0, &[]).await.unwrap();
        assert!(!answer(&mut channel).await, "pty");
        channel.agent_forward(true).await.unwrap();
        assert!(!answer(&mut channel).await, "agent");
        channel.request_x11(true, false, "MIT-MAGIC-COOKIE-1", "00", 0).await.unwrap();
        assert!(!answer(&mut channel).await, "x11");
        channel.request_subsystem(true, "sftp").await.unwrap();
        assert!(!answer(&mut channel).await, "sftp");
        assert!(handle.channel_open_direct_tcpip("127.0.0.1", 22, "127.0.0.1", 1).await.is_err(), "forwarding");
        assert!(handle.channel_open_direct_streamlocal("/run/x").await.is_err(), "forwarding of a socket");
        assert!(handle.tcpip_forward("127.0.0.1", 0).await.is_err(), "forwarding back");
        assert!(handle.streamlocal_forward("/run/x").await.is_err(), "forwarding back of a socket");
        // After all that the connection still does what it is for.
        channel.request_subsystem(true, "packmule").await.unwrap();
        assert!(answer(&mut channel).await, "the subsystem");
    });
    assert!(!rig.idle());
}

/// russh queues requests on a channel that nobody drains: without an end they would hold its loop for ever.
#[test]
fn endless_requests_end_the_connection() {
    let rig = rig(echo);
    raw::run(async {
        let handle = raw::enter(&rig).await;
        let channel = handle.channel_open_session().await.unwrap();
        while channel.request_shell(false).await.is_ok() && !handle.is_closed() {
            tokio::task::yield_now().await;
        }
    });
    eventually("the connection's end", || rig.server.as_ref().unwrap().connections() == (0, 0));
}

/// Bytes on a channel on which nothing was asked for, and more bytes than were granted.
#[test]
fn data_that_nobody_asked_for_ends_it() {
    let served = Arc::new(AtomicUsize::new(0));
    let ended = served.clone();
    let rig = rig(move |_, mut channel, _| {
        // Reads nothing until the other side has sent all it likes.
        std::thread::sleep(Duration::from_millis(500));
        let error = channel.read.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        ended.fetch_add(1, Ordering::SeqCst);
    });
    raw::run(async {
        let handle = raw::enter(&rig).await;
        let channel = handle.channel_open_session().await.unwrap();
        let _ = channel.data_bytes(vec![0; 1000]).await;
        while !handle.is_closed() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    eventually("the first connection's end", || rig.server.as_ref().unwrap().connections() == (0, 0));
    raw::run(async {
        let handle = raw::enter(&rig).await;
        let mut channel = handle.channel_open_session().await.unwrap();
        channel.request_subsystem(true, "packmule").await.unwrap();
        assert!(answer(&mut channel).await);
        // The window of SSH would take 16 MiB; a mebibyte is granted.
        let _ = channel.data_bytes(vec![0; 3 << 20]).await;
        while channel.wait().await.is_some_and(|m| !matches!(m, ChannelMsg::Close)) {}
    });
    eventually("the service's end", || served.load(Ordering::SeqCst) == 1);
    eventually("the server is idle", || rig.idle());
}

#[test]
fn idle_connections_do_not_keep_an_honest_one_out() {
    let rig = rig(echo);
    let address = rig.address();
    // From many addresses, so that the bound on all of them is reached, too.
    let idle: Vec<_> = (0..150u8)
        .filter_map(|n| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::from(([127, 0, 0, 2 + n / 6], 0)).into()).unwrap();
            socket.connect(&address.into()).unwrap();
            let socket = TcpStream::from(socket);
            // Some greet and then say no more.
            (n % 3 != 0 || (&socket).write_all(b"SSH-2.0-idle\r\n").is_ok()).then_some(socket)
        })
        .collect();
    eventually("as many as may wait", || rig.server.as_ref().unwrap().connections().0 == 100);
    let started = Instant::now();
    let link = rig.link();
    let mut channel = link.channel().unwrap();
    channel.write.write_all(b"x").and_then(|()| channel.write.flush()).unwrap();
    channel.read.read_exact(&mut [0]).unwrap();
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert!(rig.events().contains("Crowded"));
    drop(idle);
}

#[test]
fn of_one_address_the_oldest_gives_way() {
    let rig = rig(echo);
    let idle: Vec<_> = (0..20).map(|_| TcpStream::connect(rig.address()).unwrap()).collect();
    eventually("eight of them", || rig.server.as_ref().unwrap().connections() == (8, 8));
    rig.link().close();
    // The first was cut, the last not: nothing but the server's greeting comes.
    let ends = |mut socket: &TcpStream| {
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        !matches!(socket.read_to_end(&mut Vec::new()), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
    };
    let ended: Vec<bool> = idle.iter().map(ends).collect();
    assert!(ended[..12].iter().all(|e| *e) && !ended[19], "{ended:?}");
}

#[test]
fn who_does_not_authenticate_is_cut_off() {
    let timing = Timing { before_auth: Duration::from_millis(500), ..Timing::default() };
    let rig = rig_with(Limits { timing, ..Limits::default() }, echo);
    for greeting in [&b""[..], b"SSH-2.0-", b"SSH-2.0-x\r\n"] {
        let mut socket = TcpStream::connect(rig.address()).unwrap();
        socket.write_all(greeting).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        let started = Instant::now();
        let _ = socket.read_to_end(&mut Vec::new());
        assert!(started.elapsed() < Duration::from_secs(3));
    }
    // One that drips does not stay longer.
    let mut socket = TcpStream::connect(rig.address()).unwrap();
    let started = Instant::now();
    while socket.write_all(b"x\r\n").is_ok() {
        std::thread::sleep(Duration::from_millis(50));
        assert!(started.elapsed() < Duration::from_secs(5), "it drips for ever");
    }
    let handle = raw::run(raw::connect(&rig));
    eventually("one that talks SSH, too", || handle.is_closed());
    eventually("nobody is left", || rig.server.as_ref().unwrap().connections() == (0, 0));
    rig.link().close();
}

#[test]
fn garbage_harms_nobody() {
    let rig = rig(echo);
    let packet = |length: u32, rest: &[u8]| [b"SSH-2.0-x\r\n", &length.to_be_bytes()[..], rest].concat();
    let garbage = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        vec![0xff; 100_000],
        vec![b'\n'; 100_000],
        b"SSH-1.5-old\r\n".to_vec(),
        packet(u32::MAX, &[0; 64]),
        packet(0, &[0; 64]),
        packet(12, &[255; 64]),
        packet(40_000, &[20; 40_000]),
    ];
    for bytes in garbage {
        let mut socket = TcpStream::connect(rig.address()).unwrap();
        let _ = socket.write_all(&bytes);
        let _ = socket.shutdown(std::net::Shutdown::Write);
        socket.set_read_timeout(Some(LONG)).unwrap();
        let _ = socket.read_to_end(&mut Vec::new());
    }
    eventually("nobody is left", || rig.server.as_ref().unwrap().connections() == (0, 0));
    rig.link().channel().unwrap();
    assert!(!rig.events().contains("Panicked"));
}
