//! Says what each way to the network answers: a name and `ok` or an error code per line.
//!
//! Arguments: addresses to connect to by TCP and to send to by UDP, and names to look up, as
//! `tcp=ADDR:PORT`, `udp=ADDR:PORT`, `bind=ADDR:PORT`, `name=NAME`.

use std::net::{IpAddr, SocketAddr};

use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::ip_name_lookup::resolve_addresses;
use wasip2::sockets::network::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress,
};
use wasip2::sockets::tcp_create_socket::create_tcp_socket;
use wasip2::sockets::udp::OutgoingDatagram;
use wasip2::sockets::udp_create_socket::create_udp_socket;

fn main() {
    for argument in std::env::args().skip(1) {
        let (what, of) = argument.split_once('=').expect("what=of");
        let said = match what {
            "tcp" => tcp(of.parse().expect("an address")).map(|()| "ok".to_owned()),
            "udp" => udp(of.parse().expect("an address")).map(|()| "ok".to_owned()),
            "bind" => bind(of.parse().expect("an address")).map(|()| "ok".to_owned()),
            "name" => name(of),
            _ => panic!("no such test: {what}"),
        };
        println!("{argument} {}", said.unwrap_or_else(|code| format!("{code:?}")));
    }
}

fn family(address: SocketAddr) -> IpAddressFamily {
    if address.is_ipv4() { IpAddressFamily::Ipv4 } else { IpAddressFamily::Ipv6 }
}

fn wasi(address: SocketAddr) -> IpSocketAddress {
    let port = address.port();
    match address.ip() {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (a, b, c, d) })
        }
        IpAddr::V6(ip) => {
            let [a, b, c, d, e, f, g, h] = ip.segments();
            let address = (a, b, c, d, e, f, g, h);
            IpSocketAddress::Ipv6(Ipv6SocketAddress { port, flow_info: 0, address, scope_id: 0 })
        }
    }
}

fn tcp(address: SocketAddr) -> Result<(), ErrorCode> {
    let socket = create_tcp_socket(family(address))?;
    socket.start_connect(&instance_network(), wasi(address))?;
    loop {
        match socket.finish_connect() {
            Err(ErrorCode::WouldBlock) => socket.subscribe().block(),
            ended => return ended.map(drop),
        }
    }
}

fn bind(address: SocketAddr) -> Result<(), ErrorCode> {
    let socket = create_tcp_socket(family(address))?;
    socket.start_bind(&instance_network(), wasi(address))?;
    socket.finish_bind()?;
    socket.start_listen()?;
    socket.finish_listen()
}

fn udp(address: SocketAddr) -> Result<(), ErrorCode> {
    let socket = create_udp_socket(family(address))?;
    let any = SocketAddr::new(if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() }, 0);
    socket.start_bind(&instance_network(), wasi(any))?;
    socket.finish_bind()?;
    let (_in, out) = socket.stream(None)?;
    out.subscribe().block();
    out.check_send()?;
    let datagram = OutgoingDatagram { data: b"hello".to_vec(), remote_address: Some(wasi(address)) };
    match out.send(&[datagram])? {
        1 => Ok(()),
        _ => Err(ErrorCode::Unknown),
    }
}

fn name(name: &str) -> Result<String, ErrorCode> {
    let lookup = resolve_addresses(&instance_network(), name)?;
    let mut found = Vec::new();
    loop {
        match lookup.resolve_next_address() {
            Ok(Some(address)) => found.push(match address {
                IpAddress::Ipv4((a, b, c, d)) => IpAddr::from([a, b, c, d]).to_string(),
                IpAddress::Ipv6((a, b, c, d, e, f, g, h)) => IpAddr::from([a, b, c, d, e, f, g, h]).to_string(),
            }),
            Ok(None) => return Ok(found.join(",")),
            Err(ErrorCode::WouldBlock) => lookup.subscribe().block(),
            Err(code) => return Err(code),
        }
    }
}
