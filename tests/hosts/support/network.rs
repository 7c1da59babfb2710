//! A network between hosts and this machine: a bridge, and a virtual cable into each host.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU8, Ordering};

use super::{machine, machine_try, own_name, prepare};

/// A network 10.213.N.0/24. This machine is .1 in it (servers of the test listen there), hosts are .2, .3, ….
pub struct Network {
    number: u8,
    hosts: AtomicU8,
}

impl Network {
    #[track_caller]
    pub fn new() -> Self {
        prepare();
        let mut why = String::new();
        for number in 1..=250 {
            let name = format!("stratanet{number}");
            // Whoever makes the bridge owns the number.
            match machine_try(&["ip", "link", "add", &name, "type", "bridge"]) {
                Ok(_) => {
                    let network = Network {
                        number,
                        hosts: AtomicU8::new(0),
                    };
                    machine(&["ip", "link", "set", &name, "alias", own_name().trim()]);
                    let address = format!("{}/24", network.machine_address());
                    // One of its own: else it takes one of its cables', and another one when that host is gone; who
                    // knew the old one does not reach this machine for half a minute.
                    let own = format!("02:00:0a:d5:{number:02x}:01");
                    machine(&["ip", "link", "set", &name, "address", &own]);
                    machine(&["ip", "address", "add", &address, "dev", &name]);
                    machine(&["ip", "link", "set", &name, "up"]);
                    return network;
                }
                Err(error) if error.contains("File exists") => {}
                Err(error) => {
                    why = error;
                    break;
                }
            }
        }
        panic!("could not make a bridge (is the kernel's bridge module there?): {why}");
    }

    /// This machine's address in the network.
    pub fn machine_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.number, 1)
    }

    /// A free address with its cable: for [`HostBuilder::cable`](super::HostBuilder::cable).
    #[track_caller]
    pub fn cable(&self) -> Cable {
        let host = self.hosts.fetch_add(1, Ordering::Relaxed) + 2;
        assert!(host < 250, "this network is full");
        Cable {
            bridge: self.bridge(),
            end: format!("sv{}-{host}", self.number),
            address: Ipv4Addr::new(10, 213, self.number, host),
        }
    }

    /// Everything in it, as `IPAddressAllow=` wants it.
    pub fn addresses(&self) -> String {
        format!("10.213.{}.0/24", self.number)
    }

    fn bridge(&self) -> String {
        format!("stratanet{}", self.number)
    }
}

/// A host's place in a network: the same after each of its boots.
#[derive(Debug, Clone)]
pub struct Cable {
    bridge: String,
    /// This machine's end; it goes when the host's namespace goes.
    end: String,
    pub address: Ipv4Addr,
}

impl Cable {
    /// As `boot.sh --cable` wants it.
    pub(super) fn words(&self) -> String {
        format!("{},{},{}/24", self.bridge, self.end, self.address)
    }

    /// Cuts the host off, silently: what is sent is lost, no connection is closed. Another boot mends it.
    #[track_caller]
    pub fn cut(&self) {
        machine(&["ip", "link", "set", &self.end, "nomaster"]);
    }

    /// Ends a cut.
    #[track_caller]
    pub fn mend(&self) {
        machine(&["ip", "link", "set", &self.end, "master", &self.bridge]);
    }
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // A dead host's namespace may be kept a while by connections that nobody answers: its cable goes now.
        for host in 2..self.hosts.load(Ordering::Relaxed) + 2 {
            let end = format!("sv{}-{host}", self.number);
            drop(machine_try(&["ip", "link", "del", &end]));
        }
        drop(machine_try(&["ip", "link", "del", &self.bridge()]));
    }
}
