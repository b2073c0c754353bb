//! Dropped packets: whose they are, and of which connection.

use datapath_abi::conn::{ConnKey, PATH_LOW_EGRESS, PATH_LOW_INGRESS};
use datapath_abi::drops::DropEvent;
use model::{FlowId, Protocol};

use super::Accountant;
use crate::drops::{self, IPV4, IPV6};
use crate::kernel::Kernel;
use crate::view;

impl Accountant {
    /// Takes a drop in the agent's own namespace, or in that of a pod of this node: there it is told
    /// of the pod's interface, for the one inside the pod has a number of the pod's own.
    pub(crate) fn take_drop(&mut self, kernel: &dyn Kernel, event: &DropEvent) {
        let mut event = *event;
        if event.netns != self.settings.netns {
            let Some(ifindex) = self.view.ports.of_netns(event.netns) else { return };
            event.ifindex = ifindex;
        }
        let time = kernel.epoch_from_ktime(event.time_ns);
        // What the policy refuses has rows of its own in `flows`.
        let own = kernel.policy().is_some()
            && kernel.drop_reason(event.reason).is_some_and(|reason| drops::by_classifier(&reason));
        if !own {
            self.denied.note(&event, time);
        }
        let flow = self.flow_of(&event);
        self.pending.drop(&event, time, flow, own);
    }

    /// The connection that the packet belonged to. For TCP it must be known, because its initial
    /// sequence number is part of the name.
    fn flow_of(&self, event: &DropEvent) -> Option<FlowId> {
        let protocol = Protocol(event.protocol);
        let ip = event.ethertype == IPV4 || event.ethertype == IPV6;
        let source = (event.source, event.source_port);
        let destination = (event.destination, event.destination_port);
        let initial_seq = match protocol {
            _ if !ip => return None,
            Protocol::UDP | Protocol::SCTP => 0,
            Protocol::TCP => self.initial_seq(event.ifindex, source, destination)?,
            _ => return None,
        };
        let end = |(bytes, port): ([u8; 16], u16)| (view::address(&bytes), port);
        Some(FlowId::new(event.protocol, end(source), end(destination), initial_seq))
    }

    fn initial_seq(&self, ifindex: u32, a: ([u8; 16], u16), b: ([u8; 16], u16)) -> Option<u32> {
        let (low, high) = if a <= b { (a, b) } else { (b, a) };
        [PATH_LOW_INGRESS, PATH_LOW_EGRESS].into_iter().find_map(|path| {
            let key = ConnKey {
                low_addr: low.0,
                high_addr: high.0,
                low_port: low.1,
                high_port: high.1,
                link: ConnKey::link(ifindex, path, Protocol::TCP.0),
            };
            self.book.accounts.get(&key).map(|account| account.memory.initial_seq)
        })
    }
}
