//! The notification rules: what the configuration says, with the credentials.

use crate::config::{Config, NotifyCredentials};
use crate::engine::Subscriber;

/// All rules. What is wrong with one is no reason not to start: the rule says it itself.
pub(super) fn subscribers(config: &Config) -> Vec<Subscriber> {
    let one = |(name, notify): (&String, &crate::config::Notify)| {
        let read = NotifyCredentials::read(name);
        let (to, secret) = match read {
            Err(why) => (Err(why.trim_end_matches('.').to_owned()), None),
            Ok(given) => {
                let to = given.url.or_else(|| notify.url.clone()).ok_or_else(|| {
                    format!(
                        "there is no address: give notify.rules.{name}.url or the credential notify-{name}-url"
                    )
                });
                (to, given.secret)
            }
        };
        Subscriber {
            name: name.clone(),
            rule: notify.rule.clone(),
            format: notify.format,
            to,
            secret,
        }
    };
    config.notify.iter().map(one).collect()
}
