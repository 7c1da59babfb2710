//! Hosts as places for a launch, on the bus.

use super::convert::{self, Dict};
use super::core::Core;
use super::errors::Result;
use super::values::{Options, in_order, labels, limit, unknown};
use crate::domain::Limits;
use crate::domain::placement::{Place, Wanted};
use crate::domain::units::INFINITY;

impl Core {
    pub(super) async fn rank_hosts(&self, options: &Options) -> Result<Vec<Dict>> {
        let mut wanted = Wanted::default();
        let mut limits = Limits::default();
        for (key, value) in in_order(options) {
            match key {
                "label" => wanted.labels = labels(key, value)?,
                "memory-max" => limit(&mut limits, key, value)?,
                _ => return Err(unknown(key, &["label", "memory-max"]).into()),
            }
        }
        wanted.memory = limits.memory_max.filter(|m| *m != INFINITY);
        let places = self.engine().places(&wanted).await?;
        Ok(places.into_iter().map(place_dict).collect())
    }
}

fn place_dict(place: Place) -> Dict {
    let mut dict = Dict::new();
    convert::put(&mut dict, "host", place.host);
    convert::put(&mut dict, "name", place.name);
    convert::put(&mut dict, "fits", place.fits);
    convert::put(&mut dict, "why", place.why);
    dict
}
