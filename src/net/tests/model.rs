//! A learning VLAN bridge as the standard tells it, without any thought of speed: whole frames in, whole frames out.

use std::collections::{BTreeMap, HashMap};

use super::*;

/// A port as the model knows it.
#[derive(Clone, Debug)]
pub struct Station {
    /// Its own address; the uplink has none.
    pub mac: Option<MacAddr>,
    /// The VLANs it has with tags, and the one without.
    pub tagged: Vec<u16>,
    pub native: Option<u16>,
    pub spoof: bool,
}

impl Station {
    pub fn has(&self, vid: u16) -> bool {
        self.native == Some(vid) || self.tagged.contains(&vid)
    }
}

/// One network.
#[derive(Debug)]
pub struct Bridge {
    pub ports: Vec<Station>,
    /// By VLAN and address: the port, and the second it was heard there last.
    learned: HashMap<(u16, MacAddr), (usize, u64)>,
}

impl Bridge {
    pub fn new((configs, uplink): &Network) -> Self {
        let station = |config: &PortConfig| {
            let (tagged, native) = match &config.vlans {
                Vlans::Access(vid) => (Vec::new(), Some(*vid)),
                Vlans::Trunk { tagged, native } => (tagged.clone(), *native),
            };
            Station { mac: Some(config.mac), tagged, native, spoof: config.spoof }
        };
        let mut ports: Vec<_> = configs.iter().map(station).collect();
        if *uplink {
            let tagged = (1..4095).filter(|vid| ports.iter().any(|port| port.has(*vid))).collect();
            ports.push(Station { mac: None, tagged, native: Some(1), spoof: true });
        }
        Self { ports, learned: HashMap::new() }
    }

    /// The VLAN of a frame that comes in by `from`.
    pub fn vlan(&self, from: usize, frame: &[u8]) -> Option<u16> {
        let port = &self.ports[from];
        let vid = match frame[12..14] {
            [0x81, 0] => u16::from_be_bytes([frame[14], frame[15]]) & 0xfff,
            _ => 0,
        };
        if vid == 0 {
            return port.native;
        }
        // The uplink has its native VLAN with tags too.
        port.tagged.contains(&vid).then_some(vid)
    }

    /// Whose own address this is in a VLAN.
    pub fn owner(&self, mac: MacAddr, vid: u16) -> Option<usize> {
        self.ports.iter().position(|port| port.mac == Some(mac) && port.has(vid))
    }

    /// What goes out, by port; nothing, if nothing does.
    pub fn forward(&mut self, from: usize, frame: &[u8], second: u64) -> BTreeMap<usize, Vec<u8>> {
        let nothing = BTreeMap::new();
        let to = MacAddr(frame[..6].try_into().unwrap());
        let source = MacAddr(frame[6..12].try_into().unwrap());
        let is_tagged = frame[12..14] == [0x81, 0];
        let ethertype = if is_tagged { &frame[16..18] } else { &frame[12..14] };
        if [[0x81, 0], [0x88, 0xa8]].iter().any(|tag| ethertype == tag) {
            return nothing;
        }
        if source.0[0] & 1 == 1 || source.0 == [0; 6] {
            return nothing;
        }
        if to.0[..5] == [1, 0x80, 0xc2, 0, 0] && to.0[5] < 16 {
            return nothing;
        }
        let Some(vid) = self.vlan(from, frame) else { return nothing };

        let port = &self.ports[from];
        if port.mac != Some(source) {
            if !port.spoof || self.owner(source, vid).is_some() {
                return nothing;
            }
            self.learned.insert((vid, source), (from, second));
        }

        let heard = self.learned.get(&(vid, to));
        let heard = heard.filter(|(_, at)| second.saturating_sub(*at) < 300).map(|(port, _)| *port);
        let members = (0..self.ports.len()).filter(|index| self.ports[*index].has(vid));
        let known = self.owner(to, vid).or(heard);
        let to: Vec<_> = known.map_or_else(|| members.collect(), |known| vec![known]);

        let untagged = match is_tagged {
            true => [&frame[..12], &frame[16..]].concat(),
            false => frame.to_vec(),
        };
        let priority = if is_tagged { frame[14] & 0xf0 } else { 0 };
        let [high, low] = vid.to_be_bytes();
        let tag = [0x81, 0, priority | high, low];
        let tagged = [&untagged[..12], &tag, &untagged[12..]].concat();
        let sent = |index: usize| match self.ports[index].native == Some(vid) {
            true => (index, untagged.clone()),
            false => (index, tagged.clone()),
        };
        to.into_iter().filter(|index| *index != from).map(sent).collect()
    }
}
