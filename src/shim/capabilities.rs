//! Which capabilities are left.

use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

/// Gives up all others for good; nothing is handed on to what is exec'd without being root.
pub(super) fn keep(these: CapabilitySet) -> rustix::io::Result<()> {
    let sets = CapabilitySets {
        effective: these,
        permitted: these,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets)
}
