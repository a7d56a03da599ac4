//! Who has which address: the ledger of what interfaces hold. The store is the truth; this is rebuilt from it at every
//! start.
//!
//! One host routes the addresses of all accounts and regions, so that an address is held once, whatever subnets it lies
//! in. An address rests for a while after its task has stopped, so that nobody who still talks to the old task reaches
//! the next one; after a restart none rests, because nothing tells which were used.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};

use neargate_model::vpc::{RESERVED_FIRST, Vpc, address_in, subnet_block_of};
use neargate_model::{Cidr, Region, SecurityGroupId, SubnetId, TaskKey, TaskNetwork, Timestamp, VpcId};

/// How long an address rests: longer than most clients keep a name or a connection that is dead.
pub(super) const REST_MS: u64 = 60_000;
/// How long it rests where every other one is held or rests. What the host remembers of its connections is forgotten
/// before another task has it, so that this is only for those who hold on to it elsewhere.
pub(super) const SHORT_REST_MS: u64 = 1_000;

/// What a task wants of one subnet.
pub(crate) struct Place<'a> {
    pub(crate) subnet: &'a SubnetId,
    pub(crate) block: Cidr,
    /// Its block of IPv6, if the task is to have an address of it.
    pub(crate) block_v6: Option<Cidr>,
    pub(crate) vpc: &'a Vpc,
}

/// What a task gets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// In which of its places.
    pub(crate) place: usize,
    pub(crate) address: Ipv4Addr,
    /// The address of IPv6 that goes with it.
    pub(crate) address_v6: Option<Ipv6Addr>,
}

/// Where the task is that holds an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Whereabouts {
    pub(crate) vpc: VpcId,
    pub(crate) vpc_block: Cidr,
    pub(crate) region: Region,
}

/// Why a task gets no address.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoAddress {
    /// All addresses of the subnets are held, or have just begun to rest.
    Full,
    /// A subnet is being removed.
    SubnetGone(SubnetId),
    /// A security group is being removed.
    GroupGone(SecurityGroupId),
}

/// The ledger.
#[derive(Default)]
pub(crate) struct Addresses(Mutex<State>);

#[derive(Default)]
struct State {
    held: BTreeMap<TaskKey, Held>,
    /// Whose each address is.
    holders: HashMap<u32, TaskKey>,
    /// Addresses that are held or rest.
    busy: BTreeSet<u32>,
    /// Addresses that rest, and since when; the first one is ready first.
    resting: VecDeque<(Timestamp, u32)>,
    /// What is known of blocks that were looked at.
    pools: HashMap<Cidr, Pool>,
    subnets: Uses<SubnetId>,
    groups: Uses<SecurityGroupId>,
    /// Blocks of IPv6 of subnets.
    blocks_v6: Uses<Cidr>,
}

struct Held {
    address: u32,
    subnet: SubnetId,
    groups: Vec<SecurityGroupId>,
    block_v6: Option<Cidr>,
    vpc: VpcId,
    vpc_block: Cidr,
}

struct Pool {
    /// Where the search for a free address goes on: behind the last one given, so that the one that was free longest
    /// comes first.
    next: u32,
    /// How many of its addresses are busy.
    busy: u32,
}

/// How many interfaces use something, and what no interface may use any more.
struct Uses<Id> {
    counts: HashMap<Id, u32>,
    closed: HashSet<Id>,
}

impl<Id> Default for Uses<Id> {
    fn default() -> Self {
        Self { counts: HashMap::new(), closed: HashSet::new() }
    }
}

impl Addresses {
    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes an address for a task in the subnet that has most of them.
    pub(crate) fn take(
        &self,
        task: &TaskKey,
        places: &[Place<'_>],
        groups: &[SecurityGroupId],
        now: Timestamp,
    ) -> Result<Taken, NoAddress> {
        self.with(|state| {
            state.wake(now);
            if let Some(place) = places.iter().find(|place| state.subnets.closed.contains(place.subnet)) {
                return Err(NoAddress::SubnetGone(place.subnet.clone()));
            }
            if let Some(group) = groups.iter().find(|group| state.groups.closed.contains(*group)) {
                return Err(NoAddress::GroupGone((*group).clone()));
            }
            if places.iter().all(|place| state.free(place.block) == 0) {
                state.hurry(places, now);
            }
            let free = |(index, place): (usize, &Place<'_>)| (state.free(place.block), index);
            // The first of several that have as many.
            let best =
                places.iter().enumerate().map(free).max_by_key(|(free, index)| (*free, usize::MAX - index));
            let Some((1.., index)) = best else { return Err(NoAddress::Full) };
            let address = state.next_free(places[index].block).ok_or(NoAddress::Full)?;
            let Place { subnet, block_v6, vpc, .. } = &places[index];
            // What is being taken from the subnet nobody gets any more.
            let block_v6 = block_v6.filter(|block| !state.blocks_v6.closed.contains(block));
            let (subnet, groups) = ((*subnet).clone(), groups.to_vec());
            let (vpc, vpc_block) = (vpc.id.clone(), vpc.block);
            state.hold(task.clone(), Held { address, subnet, groups, block_v6, vpc, vpc_block });
            let address = Ipv4Addr::from_bits(address);
            let address_v6 = block_v6.and_then(|block| address_in(&block, address));
            Ok(Taken { place: index, address, address_v6 })
        })
    }

    /// Notes an address that a task was given earlier.
    pub(crate) fn note(&self, task: TaskKey, network: &TaskNetwork) {
        let TaskNetwork { address, address_v6, subnet, groups, vpc, vpc_block, .. } = network.clone();
        let block_v6 = address_v6.map(subnet_block_of);
        let held = Held { address: address.to_bits(), subnet, groups, block_v6, vpc, vpc_block };
        self.with(|state| state.hold(task, held));
    }

    /// Where the task is that holds an address.
    pub(crate) fn whereabouts(&self, address: Ipv4Addr) -> Option<Whereabouts> {
        self.with(|state| {
            let task = state.holders.get(&address.to_bits())?;
            let Held { vpc, vpc_block, .. } = state.held.get(task)?;
            let region = task.scope.region.clone();
            Some(Whereabouts { vpc: vpc.clone(), vpc_block: *vpc_block, region })
        })
    }

    /// Gives back what a task held, which then rests; the second time it does nothing.
    pub(crate) fn give_back(&self, task: &TaskKey, now: Timestamp) {
        self.with(|state| {
            if let Some(address) = state.let_go(task) {
                state.resting.push_back((now, address));
            }
        });
    }

    /// Gives back what a task was to hold that never came to be.
    pub(crate) fn forget(&self, task: &TaskKey) {
        self.with(|state| {
            if let Some(address) = state.let_go(task) {
                state.release(address);
            }
        });
    }

    /// Whose an address is.
    pub(crate) fn holder(&self, address: Ipv4Addr) -> Option<TaskKey> {
        self.with(|state| state.holders.get(&address.to_bits()).cloned())
    }

    /// Whether a task holds an address.
    pub(crate) fn is_held(&self, address: Ipv4Addr) -> bool {
        self.with(|state| state.holders.contains_key(&address.to_bits()))
    }

    /// How many addresses of a subnet's block are free.
    pub(crate) fn free(&self, block: Cidr, now: Timestamp) -> u32 {
        self.with(|state| {
            state.wake(now);
            state.free(block)
        })
    }

    /// Lets no interface into a subnet any more; `false` if one is in it.
    pub(crate) fn close_subnet(&self, id: &SubnetId) -> bool {
        self.with(|state| state.subnets.close(id))
    }

    /// Takes back [`Self::close_subnet`].
    pub(crate) fn open_subnet(&self, id: &SubnetId) {
        self.with(|state| state.subnets.closed.remove(id));
    }

    /// Gives no interface an address of a subnet's block of IPv6 any more; `false` if one has one.
    pub(crate) fn close_block_v6(&self, block: &Cidr) -> bool {
        self.with(|state| state.blocks_v6.close(block))
    }

    /// Takes back [`Self::close_block_v6`].
    pub(crate) fn open_block_v6(&self, block: &Cidr) {
        self.with(|state| state.blocks_v6.closed.remove(block));
    }

    /// Lets no interface into a group any more; `false` if one is in it.
    pub(crate) fn close_group(&self, id: &SecurityGroupId) -> bool {
        self.with(|state| state.groups.close(id))
    }

    /// Takes back [`Self::close_group`].
    pub(crate) fn open_group(&self, id: &SecurityGroupId) {
        self.with(|state| state.groups.closed.remove(id));
    }
}

impl State {
    /// Ends the rest of what has rested long enough.
    fn wake(&mut self, now: Timestamp) {
        while let Some((since, address)) = self.resting.front().copied() {
            if now.millis_since(since) < REST_MS {
                break;
            }
            self.resting.pop_front();
            self.release(address);
        }
    }

    /// Ends the rest of the address in these places that has rested longest.
    fn hurry(&mut self, places: &[Place<'_>], now: Timestamp) {
        let is_wanted = |(since, address): &(Timestamp, u32)| {
            now.millis_since(*since) >= SHORT_REST_MS
                && places.iter().any(|place| usable(place.block).contains(address))
        };
        if let Some(at) = self.resting.iter().position(is_wanted)
            && let Some((_, address)) = self.resting.remove(at)
        {
            self.release(address);
        }
    }

    fn hold(&mut self, task: TaskKey, held: Held) {
        self.let_go(&task);
        if self.busy.insert(held.address) {
            self.count(held.address, |busy| busy + 1);
        }
        self.subnets.add(&held.subnet);
        held.groups.iter().for_each(|group| self.groups.add(group));
        held.block_v6.iter().for_each(|block| self.blocks_v6.add(block));
        self.holders.insert(held.address, task.clone());
        self.held.insert(task, held);
    }

    /// Its address is still busy afterwards.
    fn let_go(&mut self, task: &TaskKey) -> Option<u32> {
        let Held { address, subnet, groups, block_v6, .. } = self.held.remove(task)?;
        self.subnets.remove(&subnet);
        groups.iter().for_each(|group| self.groups.remove(group));
        block_v6.iter().for_each(|block| self.blocks_v6.remove(block));
        self.holders.remove(&address);
        Some(address)
    }

    fn release(&mut self, address: u32) {
        if self.busy.remove(&address) {
            self.count(address, |busy| busy.saturating_sub(1));
        }
    }

    fn count(&mut self, address: u32, change: impl Fn(u32) -> u32) {
        for (block, pool) in &mut self.pools {
            if usable(*block).contains(&address) {
                pool.busy = change(pool.busy);
            }
        }
    }

    fn pool(&mut self, block: Cidr) -> &mut Pool {
        let range = usable(block);
        let busy = &self.busy;
        self.pools.entry(block).or_insert_with(|| Pool {
            next: *range.start(),
            busy: u32::try_from(busy.range(range).count()).unwrap_or(u32::MAX),
        })
    }

    fn free(&mut self, block: Cidr) -> u32 {
        let range = usable(block);
        let size = if range.is_empty() { 0 } else { range.end() - range.start() + 1 };
        size.saturating_sub(self.pool(block).busy)
    }

    fn next_free(&mut self, block: Cidr) -> Option<u32> {
        let range = usable(block);
        let next = self.pool(block).next;
        let mut candidates = (next..=*range.end()).chain(*range.start()..next);
        let found = candidates.find(|address| !self.busy.contains(address))?;
        self.pool(block).next = if found == *range.end() { *range.start() } else { found + 1 };
        Some(found)
    }
}

impl<Id: Clone + Eq + std::hash::Hash> Uses<Id> {
    fn add(&mut self, id: &Id) {
        *self.counts.entry(id.clone()).or_default() += 1;
    }

    fn remove(&mut self, id: &Id) {
        if let Some(count) = self.counts.get_mut(id) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(id);
            }
        }
    }

    fn close(&mut self, id: &Id) -> bool {
        !self.counts.contains_key(id) && {
            self.closed.insert(id.clone());
            true
        }
    }
}

/// The addresses of a subnet's block that interfaces may have; none of a block of IPv6.
pub(super) fn usable(block: Cidr) -> RangeInclusive<u32> {
    match (block.first(), block.last()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            first.to_bits().saturating_add(RESERVED_FIRST)..=last.to_bits().saturating_sub(1)
        }
        _ => RangeInclusive::new(1, 0),
    }
}

#[cfg(test)]
mod tests {
    use neargate_model::lifecycle::testing::scope;
    use neargate_model::vpc::interface_id;
    use neargate_model::{ClusterName, MacAddress, Tags, TaskId};

    use super::*;

    fn task(number: u32) -> TaskKey {
        let id = TaskId::new(format!("{number:032x}")).unwrap();
        TaskKey { scope: scope(), cluster: ClusterName::new("c").unwrap(), id }
    }

    fn subnet(number: u32) -> SubnetId {
        SubnetId::new(format!("subnet-{number:017x}")).unwrap()
    }

    fn group() -> SecurityGroupId {
        SecurityGroupId::new(format!("sg-{:017x}", 1)).unwrap()
    }

    fn block(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    fn vpc() -> Vpc {
        let id = VpcId::new(format!("vpc-{:017x}", 1)).unwrap();
        let default_group = group();
        Vpc {
            id,
            block: block("10.0.0.0/16"),
            block_v6: None,
            is_default: false,
            default_group,
            tags: Tags::new(),
        }
    }

    /// The interface of a task that was given an address earlier.
    fn network(last: u8) -> TaskNetwork {
        let address = Ipv4Addr::new(10, 0, 0, last);
        TaskNetwork {
            interface: interface_id(1),
            attachment: String::new(),
            vpc: vpc().id,
            vpc_block: vpc().block,
            subnet: subnet(9),
            zone: String::new(),
            address,
            address_v6: None,
            vpc_block_v6: None,
            mac: MacAddress::of(address),
            groups: Vec::new(),
        }
    }

    /// Takes an address in a `/28`, which has eleven.
    fn take(addresses: &Addresses, number: u32, at: i64) -> Result<u8, NoAddress> {
        let place = Place { subnet: &subnet(1), block: block("10.0.0.16/28"), block_v6: None, vpc: &vpc() };
        let taken = addresses.take(&task(number), &[place], &[group()], Timestamp(at));
        taken.map(|taken| taken.address.octets()[3])
    }

    #[test]
    fn addresses_go_round_and_rest() {
        let addresses = Addresses::default();
        let given: Vec<u8> = (0..11).map(|number| take(&addresses, number, 0).unwrap()).collect();
        assert_eq!(given, (20..=30).collect::<Vec<u8>>());
        assert_eq!(take(&addresses, 11, 0), Err(NoAddress::Full));
        addresses.give_back(&task(5), Timestamp(1_000));
        addresses.give_back(&task(5), Timestamp(9_000));
        assert_eq!(take(&addresses, 11, 1_999), Err(NoAddress::Full), "it rests");
        assert_eq!(addresses.free(block("10.0.0.16/28"), Timestamp(60_999)), 0);
        assert_eq!(addresses.free(block("10.0.0.16/28"), Timestamp(61_000)), 1);
        assert_eq!(take(&addresses, 11, 61_000), Ok(25));
        addresses.forget(&task(11));
        assert_eq!(take(&addresses, 12, 61_000), Ok(25), "what never came to be does not rest");
    }

    #[test]
    fn where_all_are_busy_none_rests_for_long() {
        let addresses = Addresses::default();
        (0..11).for_each(|number| assert!(take(&addresses, number, 0).is_ok()));
        addresses.give_back(&task(7), Timestamp(1_000));
        addresses.give_back(&task(3), Timestamp(1_500));
        assert_eq!(take(&addresses, 11, 2_499), Ok(27), "the one that has rested longest");
        assert_eq!(take(&addresses, 12, 2_499), Err(NoAddress::Full), "not the one that has just begun to");
        assert_eq!(take(&addresses, 12, 2_500), Ok(23));
    }

    #[test]
    fn the_emptiest_subnet_is_taken_and_the_first_of_equals() {
        let addresses = Addresses::default();
        let (a, b) = (subnet(1), subnet(2));
        let take = |number| {
            let places = [
                Place { subnet: &a, block: block("10.0.0.0/28"), block_v6: None, vpc: &vpc() },
                Place { subnet: &b, block: block("10.0.1.0/28"), block_v6: None, vpc: &vpc() },
            ];
            addresses.take(&task(number), &places, &[], Timestamp(0)).unwrap()
        };
        assert_eq!([take(0).place, take(1).place, take(2).place], [0, 1, 0]);
    }

    #[test]
    fn blocks_that_overlap_share_their_addresses() {
        let addresses = Addresses::default();
        addresses.note(task(1), &network(20));
        assert_eq!(addresses.free(block("10.0.0.0/24"), Timestamp(0)), 250);
        assert_eq!(take(&addresses, 2, 0), Ok(21));
        assert_eq!(addresses.free(block("10.0.0.0/24"), Timestamp(0)), 249);
        // One that another block keeps for itself counts only where it could be given.
        addresses.note(task(3), &network(31));
        assert_eq!(addresses.free(block("10.0.0.16/28"), Timestamp(0)), 9);
        assert_eq!(addresses.free(block("10.0.0.0/24"), Timestamp(0)), 248);
    }

    #[test]
    fn where_an_address_is_held_is_known_until_it_is_given_back() {
        let addresses = Addresses::default();
        let held_at = |last| addresses.whereabouts(Ipv4Addr::new(10, 0, 0, last));
        assert_eq!(held_at(20), None);
        take(&addresses, 1, 0).unwrap();
        let (Vpc { id, block, .. }, region) = (vpc(), scope().region);
        assert_eq!(held_at(20), Some(Whereabouts { vpc: id, vpc_block: block, region }));
        addresses.note(task(2), &network(31));
        assert!(held_at(31).is_some() && held_at(30).is_none());
        addresses.give_back(&task(1), Timestamp(0));
        addresses.forget(&task(2));
        assert_eq!((held_at(20), held_at(31)), (None, None));
    }

    #[test]
    fn what_is_used_cannot_be_closed_and_what_is_closed_not_used() {
        let addresses = Addresses::default();
        take(&addresses, 1, 0).unwrap();
        assert!(!addresses.close_subnet(&subnet(1)) && !addresses.close_group(&group()));
        addresses.give_back(&task(1), Timestamp(0));
        assert!(addresses.close_group(&group()));
        assert_eq!(take(&addresses, 2, 0), Err(NoAddress::GroupGone(group())));
        assert!(addresses.close_subnet(&subnet(1)));
        assert_eq!(take(&addresses, 2, 0), Err(NoAddress::SubnetGone(subnet(1))));
        addresses.open_subnet(&subnet(1));
        addresses.open_group(&group());
        assert_eq!(take(&addresses, 2, 0), Ok(21));
    }

    #[test]
    fn an_address_of_ipv6_comes_with_that_of_ipv4_until_the_block_goes() {
        let (addresses, block_v6) = (Addresses::default(), block("fd00:1:2:3::/64"));
        let take = |number| {
            let place = Place {
                subnet: &subnet(1),
                block: block("10.0.0.16/28"),
                block_v6: Some(block_v6),
                vpc: &vpc(),
            };
            let taken = addresses.take(&task(number), &[place], &[], Timestamp(0)).unwrap();
            taken.address_v6.map(|address| address.to_string())
        };
        assert_eq!(take(0).as_deref(), Some("fd00:1:2:3::a00:14"));
        assert!(!addresses.close_block_v6(&block_v6), "a task has an address of it");
        addresses.give_back(&task(0), Timestamp(0));
        assert!(addresses.close_block_v6(&block_v6));
        assert_eq!(take(1), None);
        addresses.open_block_v6(&block_v6);
        assert!(take(2).is_some());
    }
}
