//! `wasi:sockets` and outgoing `wasi:http`: refused unless `--net host`, and then by one policy.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use neargate_tests::cli::Cli;

use crate::suite::{Case, Needs};
use crate::{component, module, text};

pub(crate) const CASES: &[Case] = &[
    ("network/refused_by_default", Needs::Wasm, refused_by_default),
    ("network/host_allows", Needs::Wasm, host_allows),
    ("network/host_keeps_metadata_away", Needs::Wasm, host_keeps_metadata_away),
    ("network/preview_1_has_none", Needs::Wasm, preview_1_has_none),
    ("network/fetch_from_a_component", Needs::Wasm, fetch_from_a_component),
];

/// A listener that answers every connection with the first line it gets, and counts them.
fn echo_server() -> Result<(String, thread::JoinHandle<String>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    let thread = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut line = String::new();
        BufReader::new(stream.try_clone().expect("a second handle")).read_line(&mut line).expect("a line");
        stream.write_all(format!("you said {line}").as_bytes()).expect("a reader");
        line
    });
    Ok((address, thread))
}

fn answer(cli: &Cli, network: &[&str], arguments: &[&str]) -> Result<String> {
    let image = component()?;
    let finished = cli.run(&[network, &["--quiet", &image, "--"], arguments].concat())?;
    anyhow::ensure!(finished.code == 0, "{arguments:?} ended with {}: {}", finished.code, finished.stderr);
    Ok(finished.text().trim_end().to_owned())
}

fn refused_by_default() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?.to_string();
    let datagrams = UdpSocket::bind("127.0.0.1:0")?;
    datagrams.set_nonblocking(true)?;
    let to = datagrams.local_addr()?.to_string();
    for network in [&[][..], &["--net", "none"]] {
        for attempt in [["connect", &address], ["listen", "127.0.0.1:0"], ["send", &to]] {
            let answer = answer(&cli, network, &attempt)?;
            assert!(answer.contains("Permission denied"), "{attempt:?} gave {answer:?}");
        }
        assert_eq!(answer(&cli, network, &["resolve", "localhost"])?, "not found");
        let answer = answer(&cli, network, &["fetch", &address, "/"])?;
        assert!(answer.contains("Denied") || answer.contains("Prohibited"), "a request gave {answer:?}");
    }
    let reached = listener.accept().map(|_| "a connection arrived");
    assert!(reached.is_err(), "{reached:?}");
    let reached = datagrams.recv(&mut [0; 16]).map(|_| "a datagram arrived");
    assert!(reached.is_err(), "{reached:?}");
    Ok(())
}

fn host_allows() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    let host = ["--net", "host"];
    let (address, served) = echo_server()?;
    assert_eq!(answer(&cli, &host, &["connect", &address])?, "you said hello from the guest");
    assert_eq!(served.join().unwrap(), "hello from the guest\n");
    assert_eq!(answer(&cli, &host, &["listen", "127.0.0.1:0"])?, "listens");
    let datagrams = UdpSocket::bind("127.0.0.1:0")?;
    datagrams.set_read_timeout(Some(Duration::from_secs(20)))?;
    assert_eq!(answer(&cli, &host, &["send", &datagrams.local_addr()?.to_string()])?, "sent 8");
    let mut received = [0; 16];
    let length = datagrams.recv(&mut received)?;
    assert_eq!(&received[..length], b"datagram");
    let resolved = answer(&cli, &host, &["resolve", "localhost"])?;
    assert!(resolved.split(' ').any(|address| address == "127.0.0.1"), "localhost is {resolved:?}");
    assert_eq!(answer(&cli, &host, &["resolve", "127.0.0.1"])?, "127.0.0.1");
    Ok(())
}

/// Where a cloud's machine keeps its credentials is not for tasks, however the address is written.
fn host_keeps_metadata_away() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    let host = ["--net", "host"];
    for address in ["169.254.169.254:80", "169.254.170.2:80", "[::ffff:169.254.169.254]:80", "[fe80::1]:80"] {
        let refused = answer(&cli, &host, &["connect", address])?;
        // WASI has no IPv4 addresses in IPv6 form.
        let is_refused = ["Permission denied", "Invalid argument"].iter().any(|text| refused.contains(text));
        assert!(is_refused, "a connection to {address} gave {refused:?}");
        let refused = answer(&cli, &host, &["fetch", address, "/latest/meta-data/"])?;
        assert!(refused.contains("Denied") || refused.contains("Prohibited"), "{address} gave {refused:?}");
    }
    Ok(())
}

fn preview_1_has_none() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    let finished = cli.run(&["--quiet", "--net", "host", &module()?, "--", "connect", "127.0.0.1:1"])?;
    assert!(finished.text().contains("not supported"), "{:?}", finished.text());
    Ok(())
}

/// A component asks another one that serves: both ends of `wasi:http`.
fn fetch_from_a_component() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    let service = cli.serve(&[&text(&neargate_tests::fixtures::guest("service", "wasm32-wasip2")?)])?;
    let host = ["--net", "host"];
    assert_eq!(answer(&cli, &host, &["fetch", service.address(), "/status?203"])?, "203");
    assert_eq!(answer(&cli, &host, &["fetch", service.address(), "/count"])?, "200 1");
    Ok(())
}
