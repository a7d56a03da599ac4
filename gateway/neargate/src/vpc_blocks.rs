//! Which addresses tasks get: blocks that the host does not route elsewhere.

use std::net::{IpAddr, Ipv4Addr};

use neargate_model::Cidr;

/// The block of the default VPC of Amazon VPC.
const USUAL: (Ipv4Addr, u8) = (Ipv4Addr::new(172, 31, 0, 0), 16);
/// Where the kernel tells its routes.
const ROUTES: &str = "/proc/net/route";

/// Blocks for default VPCs, the best first: `wanted` if there is one, or else the usual one and after it other private
/// ones (RFC 1918), as far as the host routes nothing in them.
pub(crate) fn candidates(wanted: Option<Cidr>) -> Vec<Cidr> {
    let routes = std::fs::read_to_string(ROUTES).map(|text| routes(&text)).unwrap_or_default();
    let is_free = |block: &Cidr| !routes.iter().any(|route| route.overlaps(block));
    wanted.into_iter().chain(private().filter(is_free)).collect()
}

/// Blocks for tasks under `bridge`: the same but for the first, which the default VPC gets.
pub(crate) fn for_bridge(wanted: Option<Cidr>) -> Vec<Cidr> {
    candidates(wanted).into_iter().skip(1).collect()
}

fn private() -> impl Iterator<Item = Cidr> {
    let usual = block(USUAL.0, USUAL.1);
    let of_172 = (16..31).rev().map(|second| block(Ipv4Addr::new(172, second, 0, 0), 16));
    let of_10 = (0..=255).rev().map(|second| block(Ipv4Addr::new(10, second, 0, 0), 16));
    std::iter::once(usual).chain(of_172).chain(of_10)
}

fn block(first: Ipv4Addr, prefix: u8) -> Cidr {
    Cidr::containing(IpAddr::V4(first), prefix).unwrap_or(Cidr::ANYWHERE_V4)
}

/// The blocks that are routed, but for the default route (proc_net(5)): words are hexadecimal, in the machine's order.
fn routes(text: &str) -> Vec<Cidr> {
    let route = |line: &str| {
        let mut words = line.split_whitespace();
        let word = |text: &str| {
            u32::from_str_radix(text, 16).ok().map(|word| u32::from_be_bytes(word.to_ne_bytes()))
        };
        let (first, mask) = (word(words.nth(1)?)?, word(words.nth(5)?)?);
        let prefix = u8::try_from(mask.leading_ones()).ok()?;
        (prefix > 0).then(|| block(Ipv4Addr::from_bits(first), prefix))
    };
    text.lines().skip(1).filter_map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn routed_blocks_are_left_out() {
        let text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth0\t00101FAC\t00000000\t0001\t0\t0\t0\t00F0FFFF\t0\t0\t0\n";
        assert_eq!(routes(text), ["172.31.16.0/20".parse().unwrap()]);
        let free: Vec<Cidr> =
            private().filter(|block| !routes(text).iter().any(|route| route.overlaps(block))).collect();
        assert_eq!(free[0], "172.30.0.0/16".parse().unwrap());
    }

    #[test]
    fn what_is_wanted_comes_first() {
        let wanted = "10.9.0.0/16".parse().unwrap();
        assert_eq!(candidates(Some(wanted))[0], wanted);
        assert!(candidates(None).len() > 1);
    }
}
