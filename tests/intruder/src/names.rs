//! Row 84: what the resolver of tasks does with those that ask too much, or what is no question.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::kernel::say;

const RESOLVER: (&str, u16) = ("169.254.169.253", 53);
/// Nothing that is answered takes longer: nobody else is asked.
const PATIENCE: Duration = Duration::from_secs(2);
/// Questions of the flood, which are sent as fast as they can be.
const FLOOD: u32 = 20_000;
/// Every so many of them are for a name that others have to be asked for, another one each time.
const STRANGE: u32 = 40;
/// Connections that are held at a time.
const CONNECTIONS: usize = 50;

/// A question for addresses of a name.
fn question(name: &str) -> Vec<u8> {
    let mut message = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0".to_vec();
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend(b"\0\0\x01\0\x01");
    message
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    socket.connect(RESOLVER).expect("a way to the resolver");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    socket
}

/// The code of the answer to a message, or that there is none.
fn ask(message: &[u8]) -> String {
    let (socket, mut buffer) = (socket(), [0; 4096]);
    if let Err(error) = socket.send(message) {
        return format!("not sent: {error}");
    }
    match socket.recv(&mut buffer) {
        Ok(length) if length >= 12 => format!("code {}", buffer[3] & 0b1111),
        Ok(_) => "no answer".to_owned(),
        Err(_) => "silence".to_owned(),
    }
}

/// Messages that are no honest question, one after the other.
pub(crate) fn names() {
    let with = |name: &str, change: fn(&mut Vec<u8>)| {
        let mut message = question(name);
        change(&mut message);
        ask(&message)
    };
    say("a question", with("localhost", |_| {}));
    say("an answer", with("localhost", |message| message[2] |= 0x80));
    say("two questions", with("localhost", |message| message[5] = 2));
    say("all records", with("localhost", |message| set_kind(message, 255)));
    say("the whole zone", with("localhost", |message| set_kind(message, 252)));
    say("an update", with("localhost", |message| message[2] |= 5 << 3));
    say("another class", with("localhost", |message| *message.last_mut().expect("a class") = 3));
    // A name that is a pointer to itself, to what comes later, and to a pointer that leads back.
    for (what, pointer) in [("to itself", [0xc0, 12]), ("forwards", [0xc0, 14]), ("to the end", [0xff, 0xff])] {
        let message = [b"\0\x07\x01\0\0\x01\0\0\0\0\0\0", &pointer[..], b"\0\x01\0\x01"].concat();
        say(&format!("a pointer {what}"), ask(&message));
    }
    let round = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x01a\xc0\x10\xc0\x0c\0\x01\0\x01";
    say("pointers that lead round", ask(round));
    say("65,535 records", with("localhost", |message| message[6..8].fill(0xff)));
    say("half a message", with("localhost", |message| message.truncate(15)));
    say("nothing", ask(b""));
    say("4 KiB of it", ask(&[0xc0; 4096]));
    let mut stream = TcpStream::connect(RESOLVER).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    // What is sent may be refused before all of it is there.
    let _ = stream.write_all(&[&[0xff, 0xff][..], &[0; 65_535]].concat());
    say("64 KiB over TCP", if matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_)) { "closed" } else { "answered" });
    say("a question after that", with("localhost", |_| {}));
}

fn set_kind(message: &mut [u8], kind: u8) {
    let at = message.len() - 3;
    message[at] = kind;
}

/// Asks as much as it can, and holds as many connections as it gets.
pub(crate) fn names_flood() {
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        if let Ok(mut stream) = TcpStream::connect(RESOLVER) {
            let message = question("localhost");
            let _ = stream.set_read_timeout(Some(PATIENCE));
            let _ = stream.write_all(&[&(message.len() as u16).to_be_bytes()[..], &message].concat());
            if stream.read(&mut [0; 512]).is_ok_and(|length| length > 0) {
                held.push(stream);
            }
        }
    }
    say("connections that are answered", held.len());
    let socket = socket();
    socket.set_nonblocking(true).expect("a socket that does not wait");
    let (start, mut answered) = (Instant::now(), 0_u32);
    for number in 0..FLOOD {
        let strange = format!("n{number}.example.com");
        let name = if number % STRANGE == 0 { &strange } else { "localhost" };
        let _ = socket.send(&question(name));
        while socket.recv(&mut [0; 512]).is_ok() {
            answered += 1;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let most = 1024.0 * (1.0 + seconds) + 8.0;
    say("a flood", if f64::from(answered) <= most { "cut down" } else { "answered" });
    println!("held");
    loop {
        let _ = socket.send(&question("localhost"));
        let _ = socket.recv(&mut [0; 512]);
        std::thread::sleep(Duration::from_micros(100));
    }
}
