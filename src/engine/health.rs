//! How store, agent and lease are, and what is lacking of them.

use crate::domain::Timestamp;

/// How the parts below are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// `None` = the store answers; else why not.
    pub store: Option<String>,
    /// Whether the agent is connected.
    pub agent: bool,
    /// Since when it is away; `None` = it is there, or was not since the daemon began.
    pub agent_left: Option<Timestamp>,
    /// Whether it is known what runs: compared with the rows since this host has joined.
    pub adopted: bool,
    /// `None` = this host may launch, as far as its fleet is concerned; else why not.
    pub lease: Option<String>,
}

impl Health {
    /// Why nothing can be launched now; empty = all is well.
    pub fn lacking(&self) -> Vec<String> {
        let mut all = Vec::new();
        if let Some(why) = &self.store {
            all.push(format!("the store does not answer: {why}"));
        }
        if !self.agent {
            all.push("the agent does not answer".to_owned());
        }
        if let Some(why) = &self.lease {
            all.push(format!("this host may not launch: {why}"));
        }
        if !self.adopted {
            all.push("what runs is not known yet".to_owned());
        }
        all
    }

    /// The agent has come.
    pub(super) fn agent_came(&mut self) {
        (self.agent, self.agent_left) = (true, None);
    }

    /// It is gone; since when, where it was there.
    pub(super) fn agent_went(&mut self, now: Timestamp) {
        if std::mem::take(&mut self.agent) {
            self.agent_left = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_when_the_agent_is_away() {
        let mut health = Health::default();
        health.agent_went(Timestamp(1));
        assert_eq!(health.agent_left, None, "it has not been there");
        health.agent_came();
        for (now, left) in [(2, 2), (3, 2)] {
            health.agent_went(Timestamp(now));
            assert!(!health.agent);
            assert_eq!(health.agent_left, Some(Timestamp(left)));
        }
        health.agent_came();
        assert_eq!((health.agent, health.agent_left), (true, None));
    }
}
