//! The queue by itself, then whole machines: shares, latency, reservations, caps.

mod machine;
mod model;
mod queue;
mod shares;
mod sim;
mod small;
