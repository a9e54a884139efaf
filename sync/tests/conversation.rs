//! Connections over a stream in memory: a short conversation, cut at every byte; old against new; what a side may not do.

#[path = "support/samples.rs"]
mod samples;

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use repo::error::{Kind, Result};
use repo::id::{PackId, SnapshotId};
use samples::samples;
use sync::stream::{Duplex, pair};
use sync::wire::limits::MAX_DATA;
use sync::wire::*;

const PACK: Object = Object::Pack(PackId([3; 32]));

fn sample(name: &str) -> Message {
    samples().into_iter().find(|(vector, _)| *vector == name).unwrap().1
}

/// Runs both sides on threads of their own; panics if either does not end.
fn both<A: Send + 'static, B: Send + 'static>(
    (a, b): (Duplex, Duplex),
    client: impl FnOnce(Duplex) -> A + Send + 'static,
    server: impl FnOnce(Duplex) -> B + Send + 'static,
) -> (A, B) {
    let (told, client_ended) = mpsc::channel();
    let (tell, server_ended) = mpsc::channel();
    thread::spawn(move || told.send(client(a)));
    thread::spawn(move || tell.send(server(b)));
    let limit = Duration::from_secs(20);
    (
        client_ended.recv_timeout(limit).expect("the client ends"),
        server_ended.recv_timeout(limit).expect("the server ends"),
    )
}

fn open(duplex: Duplex, side: Side) -> Result<Connection> {
    Connection::open(duplex, side, &Preface::ours())
}

/// The next message, which must be there.
fn next(receiver: &mut Receiver) -> Result<Message> {
    Ok(receiver.receive()?.unwrap_or(Message::Bye))
}

/// Pushes a pack of 20 bytes and a manifest of 5. Whoever asks goes on receiving while it sends: hence the thread.
fn push(duplex: Duplex) -> Result<Vec<Message>> {
    let (mut send, mut receive) = open(duplex, Side::Client)?.split();
    send.send(&sample("Begin"))?;
    send.flush()?;
    let mut heard = vec![next(&mut receive)?];
    let sender = thread::spawn(move || {
        send.send(&Message::Put { object: PACK, size: 20, from: 0 })?;
        send.send_data(&[1; 12])?;
        send.send(&Message::Ping(7))?;
        send.send_data(&[2; 8])?;
        send.send(&Message::Manifest { snapshot: SnapshotId([2; 32]), size: 5 })?;
        send.send_data(&[3; 5])?;
        send.send(&Message::Bye)?;
        send.flush()
    });
    while let Some(message) = receive.receive()? {
        heard.push(message);
    }
    sender.join().unwrap()?;
    Ok(heard)
}

/// Answers such a push; returns the bytes that came.
fn serve(duplex: Duplex) -> Result<Vec<u8>> {
    let (mut send, mut receive) = open(duplex, Side::Server)?.split();
    let mut bytes = Vec::new();
    loop {
        let answer = match receive.next()? {
            Some(Incoming::Data(some)) => {
                bytes.extend_from_slice(some);
                None
            }
            Some(Incoming::Message(message)) => match message {
                Message::Begin { .. } => Some(sample("Ready")),
                Message::Put { object, size, .. } => Some(Message::Durable { object, bytes: size }),
                Message::Ping(number) => Some(Message::Pong(number)),
                Message::Manifest { snapshot, .. } => Some(Message::Accepted { snapshot, already: false }),
                Message::Bye => return Ok(bytes),
                other => panic!("{other:?}"),
            },
            None => return Ok(bytes),
        };
        if let Some(answer) = answer {
            send.send(&answer)?;
            send.flush()?;
        }
    }
}

#[test]
fn a_conversation_over_a_carrier_of_any_size() {
    for buffer in [1, 2, 3, 7, 64, 1 << 20] {
        let (heard, bytes) = both(pair(buffer, None), push, serve);
        let answers = heard.unwrap().iter().map(Message::name).collect::<Vec<_>>();
        assert_eq!(answers, ["Ready", "Durable", "Pong", "Accepted"]);
        assert_eq!(bytes.unwrap(), [vec![1; 12], vec![2; 8], vec![3; 5]].concat());
    }
}

/// Bytes of the whole conversation, both ways.
fn length() -> u64 {
    let whole = |cut| both(pair(1 << 16, Some(cut)), push, serve);
    (1..4096).find(|cut| matches!(whole(*cut), (Ok(_), Ok(_)))).expect("a short conversation")
}

#[test]
fn a_link_cut_at_any_byte_is_an_error_worth_another_try() {
    let length = length();
    assert!((400..2000).contains(&length), "{length}");
    for cut in 0..length {
        for buffer in [5, 1 << 16] {
            let (client, server) = both(pair(buffer, Some(cut)), push, serve);
            assert!(client.is_err() || server.is_err(), "cut at {cut}");
            for e in [client.err(), server.err()].into_iter().flatten() {
                assert_eq!(e.kind(), Kind::Unreachable, "cut at {cut}: {e}");
                assert!(e.what_to_do().is_some());
            }
        }
    }
}

/// What a receiver makes of a stream that ends after these bytes, the preface being there.
fn ends_with(bytes: &[u8]) -> Result<Vec<Message>> {
    let (mut client, server) = pair(1 << 22, None);
    client.write.write_all(&Preface::ours().encode().unwrap()).unwrap();
    client.write.write_all(bytes).unwrap();
    drop(client.write);
    let mut connection = open(server, Side::Server)?;
    let mut heard = Vec::new();
    while let Some(message) = connection.receive()? {
        heard.push(message);
    }
    Ok(heard)
}

fn encoded(messages: &[Message]) -> Vec<u8> {
    let mut out = Vec::new();
    messages.iter().for_each(|message| message.encode(&mut out).unwrap());
    out
}

#[test]
fn an_end_is_clean_between_messages_alone() {
    let put = Message::Put { object: PACK, size: 8, from: 0 };
    let messages = [sample("Begin"), put, sample("Data"), sample("Have"), Message::Ping(1)];
    let bytes = encoded(&messages);
    let mut ends: Vec<usize> = (0..=messages.len()).map(|n| encoded(&messages[..n]).len()).collect();
    // Behind Put, Data is owed.
    ends.remove(2);
    for n in 0..=bytes.len() {
        match ends_with(&bytes[..n]) {
            Ok(heard) => assert!(ends.contains(&n) && heard[..] == messages[..heard.len()], "ended after {n}"),
            Err(e) => assert!(!ends.contains(&n) && e.kind() == Kind::Unreachable, "ended after {n}: {e}"),
        }
    }
}

#[test]
fn an_end_within_the_preface_is_worth_another_try() {
    let preface = Preface::ours().encode().unwrap();
    for n in 0..preface.len() {
        for side in [Side::Client, Side::Server] {
            let (mut there, here) = pair(1 << 16, None);
            there.write.write_all(&preface[..n]).unwrap();
            drop(there.write);
            assert_eq!(open(here, side).err().unwrap().kind(), Kind::Unreachable, "{n} bytes, {side:?}");
        }
    }
}

#[test]
fn what_a_newer_program_says_is_passed_over_or_refused() {
    let raw = |kind, body: &[u8]| [&Header { kind, body: body.len() }.encode()[..], body].concat();
    let begin = encoded(&[sample("Begin")]);
    let put = encoded(&[Message::Put { object: PACK, size: 8, from: 0 }]);
    let data = encoded(&[sample("Data")]);
    let optional = [raw(128, b"?"), raw(255, &[0; 100_000]), raw(200, b"")].concat();
    let heard = ends_with(&[&optional, &begin[..], &optional, &put, &optional, &data, &optional].concat()).unwrap();
    assert_eq!(heard.iter().map(Message::name).collect::<Vec<_>>(), ["Begin", "Put", "Data"]);
    let e = ends_with(&[&begin[..], &raw(77, b"?")].concat()).unwrap_err();
    assert_eq!(e.kind(), Kind::NewerFormat);
    assert!(e.to_string().ends_with("(77); update packmule on this side"), "{e}");
    // Cut within what is passed over.
    for n in [1, 4, 5, 50_000] {
        assert_eq!(ends_with(&raw(255, &[0; 100_000])[..n]).unwrap_err().kind(), Kind::Unreachable);
    }
    // A purpose that comes later.
    let mut later = begin;
    later[HEADER] = 9;
    assert_eq!(ends_with(&later).unwrap_err().kind(), Kind::NewerFormat);
}

#[test]
fn old_meets_new() {
    let preface = |lowest, highest, features: &[&str]| Preface {
        lowest,
        highest,
        features: features.iter().map(|name| (*name).to_owned()).collect(),
    };
    let meet = |client: Preface, server: Preface| {
        let agreed = |duplex, side, mine: &Preface| {
            Connection::open(duplex, side, mine).and_then(|mut connection| {
                connection.flush()?;
                Ok(connection.agreed().clone())
            })
        };
        both(pair(64, None), move |d| agreed(d, Side::Client, &client), move |d| agreed(d, Side::Server, &server))
    };
    let (client, server) = meet(preface(1, 1, &["a"]), preface(1, 4, &["a", "b"]));
    assert_eq!(client.unwrap(), Agreed { version: 1, features: vec!["a".into()] });
    assert_eq!(server.unwrap(), Agreed { version: 1, features: vec!["a".into()] });
    // Each side is told which one is to be updated.
    let (old, new) = meet(preface(1, 1, &[]), preface(2, 4, &[]));
    assert_eq!(old.as_ref().unwrap_err().kind(), Kind::NewerFormat);
    assert!(old.unwrap_err().to_string().ends_with("update packmule on this side"));
    assert!(new.unwrap_err().to_string().ends_with("update packmule on the other side"));
    let (new, old) = meet(preface(2, 4, &[]), preface(1, 1, &[]));
    assert!(new.unwrap_err().to_string().ends_with("update packmule on the other side"));
    assert!(old.unwrap_err().to_string().ends_with("update packmule on this side"));
}

#[test]
fn what_is_no_packmule_is_said_to_be_none() {
    let (mut there, here) = pair(1 << 16, None);
    there.write.write_all(b"HTTP/1.1 400 Bad Request\r\n").unwrap();
    let e = open(here, Side::Client).err().unwrap();
    assert_eq!((e.kind(), e.to_string().contains("does not speak packmule's protocol")), (Kind::Io, true));
}

#[test]
fn what_may_not_come_now_is_refused() {
    let put = |size| Message::Put { object: PACK, size, from: 0 };
    for wrong in [
        vec![sample("Data")],
        vec![Message::Cut],
        vec![put(7), sample("Data")],
        vec![put(9), sample("Data"), Message::Bye],
        vec![put(9), put(9)],
        vec![put(0), sample("Data")],
        // The server's to send.
        vec![sample("Ready")],
        vec![sample("Durable")],
        vec![sample("Chunks")],
    ] {
        let e = ends_with(&encoded(&wrong)).unwrap_err();
        assert_eq!(e.kind(), Kind::Io, "{wrong:?}");
        assert!(e.to_string().starts_with("the other side does not keep to the protocol"), "{e}");
    }
    let fine = [put(9), sample("Data"), Message::Ping(1), Message::Cut, put(8), sample("Data"), Message::Bye];
    assert_eq!(ends_with(&encoded(&fine)).unwrap(), fine);
    let fail = [put(9), sample("Data"), sample("Fail")];
    // It ends the conversation, and the stream with bytes outstanding.
    assert_eq!(ends_with(&encoded(&fail)).unwrap_err().kind(), Kind::Unreachable);
}

#[test]
fn a_wrong_turn_of_ones_own_is_a_bug_and_sends_nothing() {
    let (client, server) = pair(1 << 16, None);
    let (client, heard) = both(
        (client, server),
        |duplex| -> Result<()> {
            let mut connection = open(duplex, Side::Client)?;
            let bugs = [sample("Data"), Message::Cut, sample("Ready")];
            assert!(bugs.iter().all(|message| connection.send(message).unwrap_err().kind() == Kind::Bug));
            connection.send(&Message::Put { object: PACK, size: 3, from: 0 })?;
            assert_eq!(connection.send(&Message::Bye).unwrap_err().kind(), Kind::Bug);
            assert_eq!(connection.sender().send_data(&[0; 4]).unwrap_err().kind(), Kind::Bug);
            assert_eq!(connection.sender().owed(), 3);
            connection.send(&Message::Data(vec![1; 3]))?;
            let long = Message::Get { pieces: Vec::new() };
            assert_eq!(connection.send(&long).unwrap_err().kind(), Kind::Usage);
            connection.send(&Message::Bye)?;
            connection.flush()
        },
        |duplex| -> Result<Vec<Message>> {
            let mut connection = open(duplex, Side::Server)?;
            let mut heard = Vec::new();
            while let Some(message) = connection.receive()? {
                heard.push(message);
            }
            Ok(heard)
        },
    );
    client.unwrap();
    let names: Vec<_> = heard.unwrap().iter().map(Message::name).collect();
    assert_eq!(names, ["Put", "Data", "Bye"]);
}

#[test]
fn after_an_error_a_half_stays_unusable() {
    let (mut there, here) = pair(1 << 16, None);
    there.write.write_all(&Preface::ours().encode().unwrap()).unwrap();
    there.write.write_all(&encoded(&[sample("Data"), Message::Ping(1)])).unwrap();
    let (mut send, mut receive) = open(here, Side::Client).unwrap().split();
    assert_eq!(receive.receive().unwrap_err().kind(), Kind::Io);
    assert_eq!(receive.receive().unwrap_err().kind(), Kind::Unreachable, "what follows is not looked at");
    drop(there.read);
    send.send(&Message::Ping(1)).unwrap();
    assert_eq!(send.flush().unwrap_err().kind(), Kind::Unreachable);
    assert_eq!(send.send(&Message::Ping(1)).unwrap_err().kind(), Kind::Unreachable);
}

/// A carrier that notes where the bytes it is given lie.
struct Noting(mpsc::Sender<(usize, usize)>);

impl std::io::Write for Noting {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0.send((buf.as_ptr() as usize, buf.len())).unwrap();
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn large_data_is_handed_to_the_carrier_where_it_lies() {
    let (mut there, mut here) = pair(1 << 22, None);
    there.write.write_all(&Preface::ours().encode().unwrap()).unwrap();
    let (note, noted) = mpsc::channel();
    here.write = Box::new(Noting(note));
    let mut connection = open(here, Side::Client).unwrap();
    let bytes: Vec<u8> = (0..MAX_DATA * 2 + 70_000).map(|n| n as u8).collect();
    connection.send(&Message::Put { object: PACK, size: bytes.len() as u64, from: 0 }).unwrap();
    connection.sender().send_data(&bytes).unwrap();
    let from = bytes.as_ptr() as usize;
    let whole: Vec<_> = noted.try_iter().filter(|(at, _)| (from..from + bytes.len()).contains(at)).collect();
    assert_eq!(whole, [(from, MAX_DATA), (from + MAX_DATA, MAX_DATA), (from + 2 * MAX_DATA, 70_000)]);
}

#[test]
fn two_threads_share_a_connection() {
    let rounds = 400;
    let (client, server) = both(
        pair(100, None),
        move |duplex| {
            let (mut send, mut receive) = open(duplex, Side::Client).unwrap().split();
            let sender = thread::spawn(move || {
                for n in 0..rounds {
                    send.send(&Message::Ping(n)).unwrap();
                    send.flush().unwrap();
                }
            });
            let heard = (0..rounds).all(|n| receive.receive().unwrap() == Some(Message::Pong(n)));
            sender.join().unwrap();
            heard
        },
        |duplex| {
            let mut connection = open(duplex, Side::Server).unwrap();
            while let Ok(Some(Message::Ping(n))) = connection.receive() {
                connection.send(&Message::Pong(n)).unwrap();
                connection.flush().unwrap();
            }
        },
    );
    assert!(client);
    let () = server;
}
