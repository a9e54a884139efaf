//! Bytes: all of them, in order, in bounded memory, and ends that are told apart.

use super::*;

const MIB: u64 = 1 << 20;

#[test]
fn echo_of_64_mib() {
    let rig = rig(echo);
    let link = rig.link();
    let Duplex { mut read, mut write } = link.channel().unwrap();
    in_time("echo", move || {
        let writer = std::thread::spawn(move || write_pattern(&mut write, 64 * MIB).unwrap());
        assert_eq!(read_pattern(&mut read).unwrap(), 64 * MIB);
        writer.join().unwrap();
    });
    link.close();
}

/// Who does not read holds up who writes, after no more than a window and what is on its way, in both directions.
#[test]
fn a_slow_reader_holds_the_writer_up() {
    let written = Arc::new(AtomicUsize::new(0));
    let count = written.clone();
    let rig = rig(move |_, mut channel, _| {
        // Writes without reading until that is held up, then reads everything.
        let reader = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(1500));
            read_pattern(&mut channel.read).unwrap()
        });
        for _ in 0..64 {
            if channel.write.write_all(&[7; MIB as usize]).is_err() {
                return;
            }
            count.fetch_add(MIB as usize, Ordering::SeqCst);
        }
        drop(channel.write);
        assert_eq!(reader.join().unwrap(), 64 * MIB);
    });
    let link = rig.link();
    let Duplex { mut read, mut write } = link.channel().unwrap();
    let own = Arc::new(AtomicUsize::new(0));
    let (counted, theirs) = (own.clone(), written.clone());
    in_time("slow reader", move || {
        let writer = std::thread::spawn(move || {
            let mut buf = vec![0; 64 << 10];
            for at in 0..1024u64 {
                pattern(at << 16, &mut buf);
                write.write_all(&buf).unwrap();
                counted.fetch_add(buf.len(), Ordering::SeqCst);
            }
        });
        std::thread::sleep(Duration::from_secs(1));
        // Nobody has read: the first window is 1 MiB, and a window grows only by being used.
        for (who, bytes) in [("client", &own), ("server", &theirs)] {
            let bytes = bytes.load(Ordering::SeqCst);
            assert!(bytes as u64 <= 2 * MIB, "the {who} could write {bytes} bytes that nobody reads");
        }
        let mut all = Vec::new();
        read.read_to_end(&mut all).unwrap();
        assert!(all.len() as u64 == 64 * MIB && all.iter().all(|b| *b == 7));
        writer.join().unwrap();
    });
    link.close();
}

/// Both ends write as much as they can before they read: neither the channel nor the sockets below may stand still.
#[test]
fn two_channels_of_which_one_is_not_read() {
    let rig = rig(|caller, mut channel, stop| {
        let mut which = [0];
        channel.read.read_exact(&mut which).unwrap();
        match which[0] {
            // Never reads, and writes until nobody takes any more.
            b'm' => while channel.write.write_all(&[0; 64 << 10]).is_ok() {},
            _ => echo(caller, channel, stop),
        }
    });
    let link = rig.link();
    let (mute, talk) = (link.channel().unwrap(), link.channel().unwrap());
    let error = link.channel().err().unwrap();
    assert!(error.to_string().contains("two channels"), "{error}");
    in_time("the other channel", move || {
        let Duplex { read: unread, mut write } = mute;
        write.write_all(b"m").unwrap();
        write.flush().unwrap();
        let stuck = std::thread::spawn(move || while write.write_all(&[0; 64 << 10]).is_ok() {});
        std::thread::sleep(Duration::from_millis(200));
        let Duplex { mut read, mut write } = talk;
        write.write_all(b"t").unwrap();
        let writer = std::thread::spawn(move || write_pattern(&mut write, 32 * MIB).unwrap());
        assert_eq!(read_pattern(&mut read).unwrap(), 32 * MIB);
        writer.join().unwrap();
        assert!(!stuck.is_finished());
        // Not reading any more tells the other side so, which ends its service and with it this writer.
        drop(unread);
        stuck.join().unwrap();
    });
}

#[test]
fn small_messages_and_a_clean_end() {
    let rig = rig(echo);
    let link = rig.link();
    let mut channel = link.channel().unwrap();
    in_time("small messages", move || {
        for n in 0..2000u32 {
            channel.write.write_all(&n.to_le_bytes()).unwrap();
            channel.write.flush().unwrap();
            let mut back = [0; 4];
            channel.read.read_exact(&mut back).unwrap();
            assert_eq!(back, n.to_le_bytes());
        }
        // Unflushed bytes go out with the end.
        channel.write.write_all(b"the last").unwrap();
        drop(channel.write);
        let mut rest = String::new();
        channel.read.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "the last");
    });
}

/// Many packets of a byte each wait as bytes, not as packets; and more of them than fit russh's queue.
#[test]
fn many_small_packets_wait_together() {
    let rig = rig(|_, mut channel, _| {
        for n in 0..20_000u64 {
            let mut byte = [0];
            pattern(n, &mut byte);
            channel.write.write_all(&byte).and_then(|()| channel.write.flush()).unwrap();
        }
    });
    let link = rig.link();
    let mut channel = link.channel().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(in_time("reading", move || read_pattern(&mut channel.read).unwrap()), 20_000);
}

#[test]
fn channels_one_after_the_other() {
    let rig = rig(echo);
    let link = rig.link();
    for _ in 0..50 {
        let Duplex { mut read, mut write } = link.channel().unwrap();
        write.write_all(b"hello").unwrap();
        drop(write);
        let mut back = Vec::new();
        read.read_to_end(&mut back).unwrap();
        assert_eq!(back, b"hello");
    }
    link.close();
    eventually("the last channel's end", || rig.idle());
    assert_eq!(rig.server.as_ref().unwrap().free_memory(), Limits::default().memory);
}

#[test]
fn a_panic_is_an_error_there_and_nothing_elsewhere() {
    let rig = rig(|_, mut channel, _| {
        let mut first = [0];
        channel.read.read_exact(&mut first).unwrap();
        if first[0] == b'!' {
            channel.write.write_all(b"half an ans").unwrap();
            panic!("on purpose");
        }
        channel.write.write_all(b"fine").unwrap();
    });
    let link = rig.link();
    let (mut bad, mut good) = (link.channel().unwrap(), link.channel().unwrap());
    bad.write.write_all(b"!").and_then(|()| bad.write.flush()).unwrap();
    let error = in_time("the panicked channel", move || bad.read.read_to_end(&mut Vec::new()).unwrap_err());
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    good.write.write_all(b".").and_then(|()| good.write.flush()).unwrap();
    let mut answer = String::new();
    good.read.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "fine");
    eventually("the event", || rig.events().contains("Panicked"));
}

#[test]
fn a_client_that_goes_away_is_an_error_for_the_service() {
    let (told, hears) = std::sync::mpsc::channel();
    let told = Mutex::new(told);
    let rig = rig(move |_, mut channel, _| {
        let told = told.lock().clone();
        let reads = read_pattern(&mut channel.read).map_err(|e| e.kind());
        let writes = (0..1000).try_for_each(|_| channel.write.write_all(&[0; 64 << 10])).map_err(|e| e.kind());
        told.send((reads, writes)).unwrap();
    });
    let link = rig.link();
    let mut channel = link.channel().unwrap();
    write_pattern(&mut channel.write, MIB / 2).unwrap();
    link.cut();
    let reset = std::io::ErrorKind::ConnectionReset;
    assert_eq!(hears.recv_timeout(LONG).unwrap(), (Err(reset), Err(reset)));
    assert!(in_time("own reader", move || channel.read.read(&mut [0])).is_err());
}

#[test]
fn what_was_written_goes_out_before_a_link_closes() {
    let got = Arc::new(AtomicUsize::new(0));
    let count = got.clone();
    let rig = rig(move |_, mut channel, _| {
        std::thread::sleep(Duration::from_millis(300));
        count.store(read_pattern(&mut channel.read).unwrap() as usize, Ordering::SeqCst);
    });
    let link = rig.link();
    let mut channel = link.channel().unwrap();
    let size = MIB - 7;
    write_pattern(&mut channel.write, size).unwrap();
    drop(channel);
    link.close();
    eventually("everything", || got.load(Ordering::SeqCst) as u64 == size);
}

#[test]
fn the_memory_of_all_channels_is_one_budget() {
    let limits = Limits { memory: 2 * MIB, ..Limits::default() };
    let rig = rig_with(limits, |_, channel, stop| {
        while !stop.is_set() {
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(channel);
    });
    let links: Vec<_> = (0..4).map(|_| rig.link()).collect();
    let total = Arc::new(AtomicUsize::new(0));
    for link in &links {
        for _ in 0..2 {
            let (mut channel, total) = (link.channel().unwrap(), total.clone());
            std::thread::spawn(move || {
                while channel.write.write_all(&[0; 16 << 10]).and_then(|()| channel.write.flush()).is_ok() {
                    total.fetch_add(16 << 10, Ordering::SeqCst);
                }
            });
        }
    }
    std::thread::sleep(Duration::from_secs(1));
    let sent = total.load(Ordering::SeqCst) as u64;
    assert!((2 * MIB..=2 * MIB + 8 * (256 << 10)).contains(&sent), "{sent}");
}

/// Both ends write all the time, more than the kernel holds: russh, which does not read while it writes, would stand still.
#[test]
fn both_ends_write_at_once() {
    fn both(channel: Duplex) {
        let Duplex { mut read, mut write } = channel;
        let writer = std::thread::spawn(move || write_pattern(&mut write, 64 * MIB).unwrap());
        assert_eq!(read_pattern(&mut read).unwrap(), 64 * MIB);
        writer.join().unwrap();
    }
    let rig = rig(|_, channel, _| both(channel));
    let link = rig.link();
    link.squeeze();
    rig.server.as_ref().unwrap().squeeze();
    let (first, second) = (link.channel().unwrap(), link.channel().unwrap());
    in_time("both", move || {
        let other = std::thread::spawn(move || both(second));
        both(first);
        other.join().unwrap();
    });
}

/// Keys are changed while both channels are full in both directions.
#[test]
fn new_keys_under_load() {
    let rig = rig(echo);
    let link = rig.link();
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let Duplex { mut read, mut write } = link.channel().unwrap();
            std::thread::spawn(move || {
                let writer = std::thread::spawn(move || write_pattern(&mut write, 32 * MIB).unwrap());
                assert_eq!(read_pattern(&mut read).unwrap(), 32 * MIB);
                writer.join().unwrap();
            })
        })
        .collect();
    in_time("both", move || {
        while threads.iter().any(|t| !t.is_finished()) {
            link.rekey();
            std::thread::sleep(Duration::from_millis(20));
        }
        threads.into_iter().for_each(|t| t.join().unwrap());
    });
}

/// 64 MiB over 200 ms there and back: a window that stayed at its first mebibyte would take 13 s each way.
#[test]
fn windows_grow_to_fill_a_long_link() {
    let rig = rig(|_, mut channel, _| {
        let size = read_pattern(&mut channel.read).unwrap();
        write_pattern(&mut channel.write, size).unwrap();
    });
    let relay = raw::Relay::start(rig.address(), Duration::from_millis(100));
    let mut target = rig.target();
    target.address.port = relay.port();
    let link = connect(&target, LONG).unwrap();
    let Duplex { mut read, mut write } = link.channel().unwrap();
    let started = Instant::now();
    in_time("there and back", move || {
        write_pattern(&mut write, 64 * MIB).unwrap();
        drop(write);
        assert_eq!(read_pattern(&mut read).unwrap(), 64 * MIB);
    });
    let took = started.elapsed();
    assert!(took < Duration::from_secs(13), "{took:?}");
    eprintln!("64 MiB there and back over 200 ms: {took:?}");
}
