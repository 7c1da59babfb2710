//! A network between hosts and this machine: a bridge, and a virtual cable into each host.

use std::net::Ipv4Addr;

use super::{Host, machine, machine_try, own_name, prepare};

/// A network 10.213.N.0/24. This machine is .1 in it (servers of the test listen there), hosts are .2, .3, ….
pub struct Network {
    number: u8,
    hosts: u8,
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
                    let network = Network { number, hosts: 0 };
                    machine(&["ip", "link", "set", &name, "alias", own_name().trim()]);
                    let address = format!("{}/24", network.machine_address());
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

    /// Connects a host (anew after each of its boots) and returns its address.
    #[track_caller]
    pub fn join(&mut self, host: &Host) -> Ipv4Addr {
        assert!(self.hosts < 250, "this network is full");
        self.hosts += 1;
        let address = Ipv4Addr::new(10, 213, self.number, self.hosts + 1);
        self.join_as(host, address);
        address
    }

    /// Connects a host with this address: the one it had before it was booted again.
    #[track_caller]
    pub fn join_as(&self, host: &Host, address: Ipv4Addr) {
        let (cable, pid) = (self.cable(host), host.pid1().to_string());
        machine(&[
            "ip", "link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", &pid,
        ]);
        machine(&["ip", "link", "set", &cable, "master", &self.bridge(), "up"]);
        let inside = format!("ip address add {address}/24 dev eth0; ip link set eth0 up");
        machine(&["nsenter", "-t", &pid, "-n", "sh", "-euc", &inside]);
    }

    /// Cuts a host off, silently: what is sent is lost, no connection is closed.
    #[track_caller]
    pub fn cut(&self, host: &Host) {
        machine(&["ip", "link", "set", &self.cable(host), "nomaster"]);
    }

    /// Ends a cut.
    #[track_caller]
    pub fn mend(&self, host: &Host) {
        machine(&[
            "ip",
            "link",
            "set",
            &self.cable(host),
            "master",
            &self.bridge(),
        ]);
    }

    fn bridge(&self) -> String {
        format!("stratanet{}", self.number)
    }

    /// This machine's end of a host's cable; it goes when the host's namespace goes.
    fn cable(&self, host: &Host) -> String {
        format!("sv{}", host.pid1())
    }
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(machine_try(&["ip", "link", "del", &self.bridge()]));
    }
}
