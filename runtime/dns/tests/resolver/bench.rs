//! A resolver, tasks that ask it, and somebody whom it asks.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use neargate_dns::{PrivateNames, Resolver, Servers, serve};
use neargate_model::names::{PrivateAnswer, PrivateData, PrivateRecord, PrivateZone, RecordKind};
use simple_dns::rdata::{A, CNAME, RData, SOA};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, Question, RCODE, ResourceRecord, TYPE};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A task.
pub(crate) const TASK: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Another one.
pub(crate) const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
/// Somebody who is none.
pub(crate) const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

/// What the resolver outside does when it is asked for a name. Of one without a script it says that there is none.
#[derive(Clone)]
pub(crate) enum Script {
    /// Has these addresses, for so many seconds.
    Addresses(Vec<Ipv4Addr>, u32),
    /// Has a chain of so many aliases before an address.
    Chain(usize),
    /// Has so many addresses that a datagram cannot take them.
    Many(u8),
    /// Fails.
    Fails,
    /// Says nothing.
    Silent,
    /// Answers at first in another's place: with a wrong number, and with a wrong name.
    Forged,
    /// Does not repeat the letters as they were.
    LowerCase,
    /// Sends this.
    Bytes(Vec<u8>),
    /// Has an alias for whoever asks.
    Loopback,
    /// Takes a message with EDNS for a damaged one, and sends back its number alone.
    OldServer,
}

pub(crate) struct Bench {
    pub(crate) address: SocketAddr,
    pub(crate) resolver: Arc<Resolver>,
    /// How often the resolver outside was asked.
    pub(crate) asked: Arc<AtomicUsize>,
    scripts: Arc<Mutex<HashMap<String, Script>>>,
    _tasks: JoinSet<()>,
}

struct Zone;

impl PrivateNames for Zone {
    fn knows(&self, client: Ipv4Addr) -> bool {
        [TASK, OTHER].contains(&client)
    }

    fn look_up(&self, client: Ipv4Addr, name: &str, kind: RecordKind) -> PrivateAnswer {
        let zone = || PrivateZone { name: "ns.local".to_owned(), ttl_s: 15 };
        let record = |data| PrivateAnswer::Found(vec![PrivateRecord { ttl_s: 20, data }]);
        if client != TASK || !name.ends_with("ns.local") {
            return PrivateAnswer::Elsewhere;
        }
        match (name, kind) {
            ("web.ns.local", RecordKind::A) => {
                record(PrivateData::Address(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 5))))
            }
            ("web.ns.local", RecordKind::Srv) => record(PrivateData::Service {
                priority: 1,
                weight: 1,
                port: 80,
                target: "one.web.ns.local".to_owned(),
            }),
            ("web.ns.local", _) => PrivateAnswer::NoSuchRecord(zone()),
            ("alias.ns.local", _) => record(PrivateData::Alias("www.example.com".to_owned())),
            ("near.ns.local", _) => record(PrivateData::Alias("web.ns.local".to_owned())),
            ("round.ns.local", _) => record(PrivateData::Alias("round.ns.local".to_owned())),
            _ => PrivateAnswer::NoSuchName(zone()),
        }
    }
}

impl Bench {
    /// With a resolver outside that knows these names.
    pub(crate) async fn new(scripts: &[(&str, Script)]) -> Self {
        let scripts = scripts.iter().map(|(name, script)| ((*name).to_owned(), script.clone())).collect();
        let (scripts, asked) = (Arc::new(Mutex::new(scripts)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = JoinSet::new();
        let outside = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let at = outside.local_addr().unwrap();
        let datagrams = UdpSocket::bind(at).await.unwrap();
        tasks.spawn(outside_datagrams(datagrams, scripts.clone(), asked.clone()));
        tasks.spawn(outside_connections(outside, scripts.clone()));
        let (udp, tcp) = pair().await;
        let address = tcp.local_addr().unwrap();
        let resolver = Arc::new(Resolver::new(Arc::new(Zone), Servers::Named(vec![at])));
        tasks.spawn(serve(udp, tcp, resolver.clone(), CancellationToken::new()));
        Self { address, resolver, asked, scripts, _tasks: tasks }
    }

    pub(crate) fn script(&self, name: &str, script: Script) {
        self.scripts.lock().unwrap().insert(name.to_owned(), script);
    }

    pub(crate) fn times_asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    pub(crate) async fn socket(&self, task: Ipv4Addr) -> UdpSocket {
        let socket = UdpSocket::bind((task, 0)).await.unwrap();
        socket.connect(self.address).await.unwrap();
        socket
    }

    /// The bytes of the answer to a message over UDP; none if nothing comes.
    pub(crate) async fn datagram(&self, task: Ipv4Addr, message: &[u8]) -> Option<Vec<u8>> {
        let socket = self.socket(task).await;
        socket.send(message).await.unwrap();
        receive(&socket, Duration::from_secs(6)).await
    }

    pub(crate) async fn connect(&self, task: Ipv4Addr) -> TcpStream {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((task, 0).into()).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    /// What a task is told of a name over UDP: the code and the records, as text.
    pub(crate) async fn ask(&self, task: Ipv4Addr, name: &str, kind: TYPE) -> String {
        let answer = self.datagram(task, &query(name, kind)).await;
        answer.map_or_else(|| "silence".to_owned(), |answer| describe(&answer))
    }

    /// The same over TCP.
    pub(crate) async fn ask_over_tcp(&self, task: Ipv4Addr, name: &str, kind: TYPE) -> String {
        let mut stream = self.connect(task).await;
        describe(&exchange(&mut stream, &query(name, kind)).await.unwrap())
    }
}

/// What comes within some time, if anything does.
pub(crate) async fn receive(socket: &UdpSocket, patience: Duration) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 65_536];
    let received = tokio::time::timeout(patience, socket.recv(&mut buffer)).await.ok()?;
    received.ok().map(|length| buffer[..length].to_vec())
}

pub(crate) async fn exchange(stream: &mut TcpStream, message: &[u8]) -> std::io::Result<Vec<u8>> {
    let length = u16::try_from(message.len()).unwrap();
    stream.write_all(&[&length.to_be_bytes()[..], message].concat()).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

pub(crate) fn query(name: &str, kind: TYPE) -> Vec<u8> {
    let mut packet = Packet::new_query(7);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new_unchecked(name);
    packet.questions.push(Question::new(name, QTYPE::TYPE(kind), CLASS::IN.into(), false));
    packet.build_bytes_vec().unwrap()
}

/// `ok 192.0.2.1 30`, `ok aa -> web.ns.local 10.0.0.5 20`, `NameError soa 15`, `cut`.
fn describe(message: &[u8]) -> String {
    let packet = Packet::parse(message).unwrap();
    assert_eq!(packet.id(), 7);
    if packet.has_flags(PacketFlag::TRUNCATION) {
        return "cut".to_owned();
    }
    let mut told = match packet.rcode() {
        RCODE::NoError => "ok".to_owned(),
        other => format!("{other:?}"),
    };
    if packet.has_flags(PacketFlag::AUTHORITATIVE_ANSWER) {
        told.push_str(" aa");
    }
    for record in &packet.answers {
        told.push_str(&match &record.rdata {
            RData::A(a) => format!(" {} {}", Ipv4Addr::from_bits(a.address), record.ttl),
            RData::CNAME(target) => format!(" -> {}", target.0),
            RData::SRV(srv) => format!(" {}:{} {}", srv.target, srv.port, record.ttl),
            other => format!(" {:?}", other.type_code()),
        });
    }
    for record in &packet.name_servers {
        if let RData::SOA(soa) = &record.rdata {
            told.push_str(&format!(" soa {}", soa.minimum));
        }
    }
    told
}

/// A socket and a listener with the same port.
async fn pair() -> (UdpSocket, TcpListener) {
    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let udp = UdpSocket::bind(tcp.local_addr().unwrap()).await.unwrap();
    (udp, tcp)
}

type Scripts = Arc<Mutex<HashMap<String, Script>>>;

async fn outside_datagrams(socket: UdpSocket, scripts: Scripts, asked: Arc<AtomicUsize>) {
    let mut buffer = [0; 4096];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
        asked.fetch_add(1, Ordering::Relaxed);
        for message in answers(&buffer[..length], &scripts, 512) {
            socket.send_to(&message, from).await.unwrap();
        }
    }
}

async fn outside_connections(listener: TcpListener, scripts: Scripts) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut message = vec![0; stream.read_u16().await.unwrap().into()];
        stream.read_exact(&mut message).await.unwrap();
        for answer in answers(&message, &scripts, 65_535) {
            let length = u16::try_from(answer.len()).unwrap();
            let _ = stream.write_all(&[&length.to_be_bytes()[..], &answer].concat()).await;
        }
    }
}

/// What is answered to a message, by the script of the name in it.
fn answers(message: &[u8], scripts: &Scripts, bytes_max: usize) -> Vec<Vec<u8>> {
    let asked = Packet::parse(message).unwrap();
    let name = asked.questions[0].qname.clone();
    let script = scripts.lock().unwrap().get(&name.to_string().to_lowercase()).cloned();
    let reply = |id: u16, name: &Name<'_>, records: Vec<ResourceRecord<'_>>| {
        let mut reply = Packet::new_reply(id);
        reply.questions.push(Question { qname: name.clone().into_owned(), ..asked.questions[0].clone() });
        reply.answers = records.into_iter().map(ResourceRecord::into_owned).collect();
        let bytes = reply.build_bytes_vec_compressed().unwrap();
        if bytes.len() <= bytes_max {
            return bytes;
        }
        reply.answers.clear();
        reply.set_flags(PacketFlag::TRUNCATION);
        reply.build_bytes_vec_compressed().unwrap()
    };
    let address = |owner: &Name<'_>, address: Ipv4Addr, ttl: u32| {
        ResourceRecord::new(
            owner.clone().into_owned(),
            CLASS::IN,
            ttl,
            RData::A(A { address: address.to_bits() }),
        )
    };
    let one = Ipv4Addr::new(192, 0, 2, 1);
    match script {
        None => vec![missing(&asked)],
        Some(Script::Silent) => Vec::new(),
        Some(Script::Bytes(bytes)) => vec![bytes],
        Some(Script::Loopback) => {
            let data = RData::CNAME(CNAME(Name::new_unchecked("localhost")));
            vec![reply(asked.id(), &name, vec![ResourceRecord::new(name.clone(), CLASS::IN, 30, data)])]
        }
        Some(Script::OldServer) if asked.opt().is_some() => {
            let mut damaged = Packet::new_reply(asked.id());
            *damaged.rcode_mut() = RCODE::FormatError;
            vec![damaged.build_bytes_vec().unwrap()]
        }
        Some(Script::OldServer) => vec![reply(asked.id(), &name, vec![address(&name, one, 30)])],
        Some(Script::Fails) => {
            let mut failed = Packet::new_reply(asked.id());
            failed.questions = asked.questions.clone();
            *failed.rcode_mut() = RCODE::ServerFailure;
            vec![failed.build_bytes_vec().unwrap()]
        }
        Some(Script::Addresses(addresses, ttl)) => {
            let records = addresses.into_iter().map(|one| address(&name, one, ttl)).collect();
            vec![reply(asked.id(), &name, records)]
        }
        Some(Script::Many(count)) => {
            let records = (0..count).map(|last| address(&name, Ipv4Addr::new(192, 0, 2, last), 30)).collect();
            vec![reply(asked.id(), &name, records)]
        }
        Some(Script::Chain(links)) => {
            let link =
                |number: usize| Name::new(Box::leak(format!("l{number}.example").into_boxed_str())).unwrap();
            let owner = |number: usize| if number == 0 { name.clone().into_owned() } else { link(number) };
            let alias = |number: usize| {
                let data = RData::CNAME(CNAME(link(number + 1)));
                ResourceRecord::new(owner(number), CLASS::IN, 30, data)
            };
            let mut records: Vec<_> = (0..links).map(alias).collect();
            records.push(address(&owner(links), one, 30));
            vec![reply(asked.id(), &name, records)]
        }
        Some(Script::Forged) => {
            let evil = address(&name, Ipv4Addr::new(192, 0, 2, 66), 30);
            let other = Name::new_unchecked("evil.example");
            vec![
                reply(asked.id().wrapping_add(1), &name, vec![evil.clone()]),
                reply(asked.id(), &other, vec![evil]),
                reply(asked.id(), &name, vec![address(&name, one, 30)]),
            ]
        }
        Some(Script::LowerCase) => {
            let lower = name.to_string().to_lowercase();
            let lower = Name::new(&lower).unwrap();
            // Over TCP, where nobody else can answer, it is right.
            let last = if bytes_max > 512 { 1 } else { 66 };
            vec![reply(asked.id(), &lower, vec![address(&lower, Ipv4Addr::new(192, 0, 2, last), 30)])]
        }
    }
}

fn missing(asked: &Packet<'_>) -> Vec<u8> {
    let mut reply = Packet::new_reply(asked.id());
    reply.questions = asked.questions.clone();
    *reply.rcode_mut() = RCODE::NameError;
    let zone = Name::new_unchecked("example.com");
    let soa = SOA {
        mname: zone.clone(),
        rname: zone.clone(),
        serial: 1,
        refresh: 1,
        retry: 1,
        expire: 1,
        minimum: 40,
    };
    reply.name_servers.push(ResourceRecord::new(zone, CLASS::IN, 50, RData::SOA(soa)));
    reply.build_bytes_vec_compressed().unwrap()
}
