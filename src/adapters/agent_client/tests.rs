//! The client against an agent spoken by hand.

use super::*;
use crate::wire::{FromAgent, Hello, Notice, PAGE, Reply, Request, VERSION, decode, encode};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::path::PathBuf;

type Outcome = std::result::Result<(), Box<dyn std::error::Error>>;

/// The agent's side of the socket, spoken by hand.
struct Fake {
    path: PathBuf,
    listener: OwnedFd,
}

struct Peer(OwnedFd);

impl Fake {
    fn new(name: &str) -> std::io::Result<Self> {
        let path =
            std::env::temp_dir().join(format!("stratavore-{name}-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let flags = SocketFlags::CLOEXEC;
        let listener =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::net::bind(&listener, &SocketAddrUnix::new(path.as_path())?)?;
        rustix::net::listen(&listener, 4)?;
        Ok(Self { path, listener })
    }

    fn greet(&self) -> std::io::Result<Peer> {
        let peer = Peer(rustix::net::accept_with(
            &self.listener,
            SocketFlags::CLOEXEC,
        )?);
        let hello = Hello {
            v: VERSION,
            program: "fake".to_owned(),
            knows: Vec::new(),
        };
        let (seq, order) = peer.order()?;
        assert!(matches!(order, Order::Hello(_)));
        peer.say(
            seq,
            Ok(Answer::Hello {
                hello,
                boot_id: "boot".to_owned(),
            }),
        )?;
        Ok(peer)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Peer {
    fn order(&self) -> std::io::Result<(u64, Order)> {
        let packet = seqpacket::recv(&self.0)?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
        let request: Request = decode(&packet.bytes).map_err(std::io::Error::other)?;
        Ok((request.seq, request.order))
    }

    fn say(&self, seq: u64, result: std::result::Result<Answer, Refusal>) -> std::io::Result<()> {
        self.send(&FromAgent::Reply(Reply { seq, result }))
    }

    fn send(&self, message: &FromAgent) -> std::io::Result<()> {
        seqpacket::send(
            &self.0,
            &encode(message).map_err(std::io::Error::other)?,
            &[],
        )
    }
}

fn id(n: usize) -> RunnerId {
    RunnerId::from_uuid(uuid::Uuid::from_u128(n as u128))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_find_their_orders_and_a_lost_connection_comes_back() -> Outcome {
    let fake = Fake::new("orders")?;
    let (client, mut notices) = AgentClient::start(&fake.path, Unenforced::Refuse);
    let agent = std::thread::spawn(move || -> std::io::Result<()> {
        let peer = fake.greet()?;
        let (first, second) = (peer.order()?, peer.order()?);
        let refuse = |order: &Order| {
            let message = format!("{order:?}");
            Err(Refusal {
                code: RefusalCode::NoSuchRunner,
                message,
            })
        };
        peer.say(second.0, refuse(&second.1))?;
        peer.say(first.0, refuse(&first.1))?;
        peer.order()?;
        drop(peer);
        let peer = fake.greet()?;
        let (seq, _) = peer.order()?;
        peer.say(seq, Ok(Answer::Done))
    });
    assert!(matches!(notices.recv().await, Some(HostNotice::Connected)));
    let (one, two) = tokio::join!(client.go(id(1)), client.kill(id(2), 9));
    let refused = |r: Result<()>| matches!(r, Err(HostError::Refused(e)) if e.kind == ErrorKind::NoSuchRunner);
    assert!(refused(one) && refused(two));
    assert!(matches!(
        client.freeze(id(3)).await,
        Err(HostError::Unavailable(_))
    ));
    assert!(matches!(
        notices.recv().await,
        Some(HostNotice::Disconnected)
    ));
    assert!(matches!(
        client.thaw(id(3)).await,
        Err(HostError::Unavailable(_))
    ));
    assert!(matches!(notices.recv().await, Some(HostNotice::Connected)));
    client.thaw(id(3)).await?;
    agent.join().map_err(|_| "the fake agent panicked")??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_is_slow_delays_no_answer_and_is_told_to_look_for_itself() -> Outcome {
    let fake = Fake::new("slow")?;
    let (client, mut notices) = AgentClient::start(&fake.path, Unenforced::Refuse);
    let agent = std::thread::spawn(move || -> std::io::Result<()> {
        let peer = fake.greet()?;
        let (seq, _) = peer.order()?;
        for n in 0..10_000 {
            peer.send(&FromAgent::Notice(Notice::Lost { id: id(n) }))?;
        }
        peer.say(seq, Ok(Answer::Done))?;
        // Until the client has gone.
        while peer.order().is_ok() {}
        Ok(())
    });
    assert!(matches!(notices.recv().await, Some(HostNotice::Connected)));
    client.go(id(1)).await?;
    let mut again = false;
    loop {
        match notices.recv().await.ok_or("no more notices")? {
            HostNotice::Connected => again = true,
            HostNotice::Lost(last) if last == id(9_999) => break,
            _ => {}
        }
    }
    assert!(again);
    drop(client);
    agent.join().map_err(|_| "the fake agent panicked")??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_become_one_world() -> Outcome {
    let fake = Fake::new("pages")?;
    let (client, mut notices) = AgentClient::start(&fake.path, Unenforced::Refuse);
    let seen = |n| Seen {
        id: id(n),
        scope: true,
        shim: true,
        gated: false,
        frozen: false,
        record: None,
    };
    let agent = std::thread::spawn(move || -> std::io::Result<()> {
        let peer = fake.greet()?;
        for page in 0..3 {
            let (seq, order) = peer.order()?;
            let expected = (page > 0).then(|| id(page * PAGE - 1));
            assert!(matches!(order, Order::Inventory { after } if after == expected));
            let runners = (page * PAGE..(page + 1) * PAGE).map(seen).collect();
            peer.say(
                seq,
                Ok(Answer::Inventory {
                    runners,
                    more: page < 2,
                }),
            )?;
        }
        Ok(())
    });
    assert!(matches!(notices.recv().await, Some(HostNotice::Connected)));
    let world = client.inventory().await?;
    assert_eq!(
        (world.boot_id.as_str(), world.runners.len()),
        ("boot", 3 * PAGE)
    );
    agent.join().map_err(|_| "the fake agent panicked")??;
    Ok(())
}
