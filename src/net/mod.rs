//! The switch between guests' network cards, and to the machine's own.
//!
//! Pure: it decides where a frame goes ([`Switch::forward`]), and moves no byte of it. A frame's first bytes are copied and
//! parsed once ([`Header::parse`]); who delivers it makes the [`TagChange`] of each copy. It follows IEEE 802.1Q (a VLAN bridge),
//! and IEEE 802.3 for frames.
//!
//! What holds whatever is sent:
//!
//! - A frame goes to ports of the same network and the same VLAN, never back to where it came from.
//! - A port sends from its own address alone, unless it may `spoof`; and then, too, never from another port's own.
//! - What guests make up fills tables of their own ports only.
//! - What goes to many, and what a port's rate does not allow, is limited before it is copied.
//!
//! Not here: spanning trees (no two uplinks join the same network), multicast snooping, priorities, S-VLANs (a provider's tag,
//! and a tag in a tag, are dropped, so that no frame leaves with a VLAN that nobody checked).
//!
//! | module | what it is |
//! |---|---|
//! | `mac` | addresses |
//! | `frame` | a frame's header, and its tag |
//! | `flow` | which conversation it belongs to |
//! | `port` | what is asked of a port |
//! | `switch` | all networks |
//! | `segment` | one network: the way of a frame |
//! | `fixed` | ports' own addresses |
//! | `stations` | learned addresses |
//! | `meter` | limits |
//! | `counters` | what went through |
//! | `set` | ports and sets of them |

mod counters;
mod fixed;
mod flow;
mod frame;
mod mac;
mod meter;
mod port;
mod segment;
mod set;
mod stations;
mod switch;

pub use counters::{Counts, DropReason};
pub use flow::{FLOW, flow};
pub use frame::{HEADER, Head, Header, Tag, TagChange};
pub use mac::{BadMac, MacAddr};
pub use meter::Bucket;
pub use port::{
    BURSTS, DEFAULT_STORM, DEFAULT_VID, MAX_TRUNK, PortConfig, PortError, RATES, Rate, STORMS,
    VIDS, Vlans,
};
pub use set::{MAX_PORTS, PortId};
pub use stations::Station;
pub use switch::{Copies, Left, MAX_NETWORKS, Plan, PlanError, PortState, Switch};

#[cfg(test)]
mod tests;
