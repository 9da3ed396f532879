//! Hosts of their own on one machine: network namespaces on a bridge, with cables that can be cut. Needs root and Debian's `iproute2`.
//!
//! A cut cable is not a closed connection: nobody is told, packets just don't arrive.

use crate::command::run;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

/// A bridge and the hosts on it. Gone when dropped.
pub struct Network {
    /// Names everything that this network makes on the machine.
    tag: String,
    subnet: u8,
    hosts: u8,
}

/// One host: a network namespace with one cable.
#[derive(Debug, Clone)]
pub struct Host {
    /// The name of its namespace.
    pub namespace: String,
    /// Its address; the tests reach it, too.
    pub address: Ipv4Addr,
    cable: String,
}

fn ip(arguments: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(arguments.split_whitespace());
    command
}

impl Network {
    /// A network without hosts, in a subnet that nobody else on this machine uses. `None`, and a word about it, for users other than root.
    pub fn new() -> Option<Network> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("left out: network namespaces need root");
            return None;
        }
        static NEXT: AtomicU8 = AtomicU8::new(0);
        for _ in 0..u8::MAX {
            let subnet = (std::process::id() as u8).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
            let tag = format!("tombolo{subnet}");
            if run(&mut ip(&format!("link add {tag} type bridge"))).code == Some(0) {
                run(&mut ip(&format!("address add 10.213.{subnet}.254/24 dev {tag}"))).success();
                run(&mut ip(&format!("link set {tag} up"))).success();
                return Some(Network { tag, subnet, hosts: 0 });
            }
        }
        panic!("no bridge can be made");
    }

    /// Another host.
    pub fn host(&mut self) -> Host {
        self.hosts += 1;
        let (number, tag) = (self.hosts, &self.tag);
        let (namespace, cable) = (format!("{tag}-{number}"), format!("{tag}h{number}"));
        let address = Ipv4Addr::new(10, 213, self.subnet, number);
        for step in [
            format!("netns add {namespace}"),
            format!("link add {cable} type veth peer name eth0 netns {namespace}"),
            format!("link set {cable} master {tag} up"),
            format!("-n {namespace} address add {address}/24 dev eth0"),
            format!("-n {namespace} link set eth0 up"),
            format!("-n {namespace} link set lo up"),
        ] {
            run(&mut ip(&step)).success();
        }
        Host { namespace, address, cable }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // What can't be removed stays until the machine restarts; the test's outcome matters more.
        for number in 1..=self.hosts {
            let _ = run(&mut ip(&format!("netns delete {}-{number}", self.tag)));
        }
        let _ = run(&mut ip(&format!("link delete {}", self.tag)));
    }
}

impl Host {
    /// Cuts its cable.
    pub fn cut(&self) {
        run(&mut ip(&format!("link set {} down", self.cable))).success();
    }

    /// Mends its cable.
    pub fn mend(&self) {
        run(&mut ip(&format!("link set {} up", self.cable))).success();
    }

    /// From now on packets between this host and `other` get lost, those of others don't.
    pub fn part_from(&self, other: &Host) {
        run(&mut ip(&format!("-n {} route add blackhole {}/32", self.namespace, other.address))).success();
        run(&mut ip(&format!("-n {} route add blackhole {}/32", other.namespace, self.address))).success();
    }

    /// Bounds the rate at which bytes reach it.
    pub fn limit(&self, mbit: u32) {
        let mut command = Command::new("tc");
        command.args(["qdisc", "replace", "dev", &self.cable, "root", "tbf", "burst", "64k", "latency", "100ms"]);
        run(command.args(["rate", &format!("{mbit}mbit")])).success();
    }

    /// Bytes that have reached it so far.
    pub fn received_bytes(&self) -> u64 {
        let path = format!("/sys/class/net/{}/statistics/tx_bytes", self.cable);
        let text = std::fs::read_to_string(&path).expect("the cable's counter");
        text.trim().parse().expect("a number")
    }
}
