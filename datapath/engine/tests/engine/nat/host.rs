//! The node as the engine's host.

use super::*;

impl Host for Node {
    type Shared = Atomics;

    fn jiffies(&self) -> u64 {
        self.sim.jiffies()
    }

    fn now_ns(&self) -> u64 {
        self.sim.now_ns()
    }

    fn cookie(&self) -> u64 {
        0
    }

    fn find(&self, key: &ConnKey) -> Option<&ConnCells<Atomics>> {
        self.sim.find(key)
    }

    fn insert(&self, key: &ConnKey, fill: impl FnOnce(&mut ConnValue)) -> Result<(), Refusal> {
        self.sim.insert(key, fill)
    }

    fn unattributed(&self, frame: &Frame, cause: usize) {
        self.sim.unattributed(frame, cause);
    }

    fn put_fragment(&self, key: &FragmentKey, ports: FragmentPorts) {
        self.sim.put_fragment(key, ports);
    }

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts> {
        self.sim.fragment(key)
    }

    fn event(&self, _: u32, _: u32, _: u64, _: u64, _: &ConnKey) {}

    fn dns(&self, _: u64, _: &ConnKey, _: u32, _: u32) {}
}

impl Tables for Node {
    fn peer(&self, _: &[u8; 16]) -> Option<Peer> {
        None
    }

    fn side(&self, _: u32, _: usize) -> Option<&PolicySide> {
        None
    }

    fn interval(&self, _: u32) -> Option<Interval> {
        None
    }

    fn rule(&self, _: u32) -> Option<Rule> {
        None
    }

    fn class(&self, _: u32) -> Option<&Class> {
        None
    }

    fn flags(&self) -> u32 {
        0
    }
}

impl Enforcer for Node {
    fn revision(&self) -> u32 {
        1
    }

    fn subject(&self, _: u32) -> Option<Subject> {
        None
    }

    fn place(&self, _: u32) -> usize {
        0
    }

    fn refused(&self, _: &DeniedKey, _: &DeniedCounter) -> bool {
        true
    }

    fn audited(&self, _: &DeniedKey, _: &DeniedCounter) {}
}

impl Services for Node {
    fn served(&self, ifindex: u32) -> Option<&Served> {
        self.served.get(ifindex as usize - 1)
    }

    fn frontend(&self, key: &FrontendKey) -> Option<&Frontend> {
        self.frontends.get(key)
    }

    fn slot(&self, index: u32) -> Option<u32> {
        Some(index)
    }

    fn backend(&self, index: u32) -> Option<&Backend> {
        self.backends.get(index as usize)
    }

    fn service_settings(&self) -> Option<&ServiceSettings> {
        Some(&self.settings)
    }

    fn local(&self, key: &LocalKey) -> Option<u32> {
        self.locals.get(key).copied()
    }

    fn prefix(&self, address: &[u8; 16]) -> u32 {
        match ip(address) {
            ip if self.nodes.contains(&ip) => NATIVE | NODE,
            IpAddr::V4(ip) if ip.octets()[..2] == [10, 244] => MASQUERADED | NATIVE,
            IpAddr::V6(ip) if ip.segments()[0] == 0xfd44 => MASQUERADED | NATIVE,
            _ => 0,
        }
    }

    fn translation(&self, key: &ConnKey) -> Option<&Translation> {
        self.translations.borrow().get(key).copied()
    }

    fn put_translation(&self, key: &ConnKey, value: &Translation) -> Result<(), Refusal> {
        let mut translations = self.translations.borrow_mut();
        if translations.contains_key(key) {
            return Err(Refusal::Exists);
        }
        if translations.len() >= self.room {
            return Err(Refusal::Full);
        }
        translations.insert(*key, Box::leak(Box::new(*value)));
        Ok(())
    }

    fn remove_translation(&self, key: &ConnKey) {
        self.translations.borrow_mut().remove(key);
    }

    fn random(&self) -> u32 {
        self.any() as u32
    }

    fn count(&self, what: impl FnOnce(&mut ServiceCounters)) {
        what(&mut self.counters.borrow_mut());
    }
}
