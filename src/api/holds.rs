//! Holds on the bus. Whoever may manage budgets may hold, too; polkit's rules see the
//! project where it is about one.

use super::auth::{Details, Verb};
use super::convert::{self, Dict};
use super::core::{Call, Core};
use super::errors::Result;
use super::options;
use super::values::{Options, boolean, in_order, text, time, unknown};
use crate::domain::event::Actor;
use crate::domain::hold::{self, Hold, HoldScope};
use crate::domain::{ProjectName, kinds};

impl Core {
    pub(super) async fn set_hold(
        &self,
        call: Call<'_>,
        scope: &str,
        options: &Options,
    ) -> Result<()> {
        let scope: HoldScope = scope.parse()?;
        let (mut until, mut freeze, mut reason) = (None, false, String::new());
        for (key, value) in in_order(options) {
            match key {
                "until" => until = time(key, value)?.set(),
                "freeze" => freeze = boolean(key, value)?,
                "reason" => {
                    text(key, value)?.clone_into(&mut reason);
                    hold::check_reason(&reason)?;
                }
                _ => return Err(unknown(key, &["until", "freeze", "reason"]).into()),
            }
        }
        let actor = self.policies_of(&call, scope.project()).await?;
        let user = actor.user.clone();
        let done = self.engine();
        done.set_hold(scope.clone(), until, freeze, reason, actor)
            .await?;
        tracing::info!(
            message_id = kinds::POLICY_SET.id,
            project = scope.project().map(ProjectName::as_str),
            uid = call.uid,
            user,
            "Hold set: {scope}"
        );
        Ok(())
    }

    pub(super) async fn release_hold(
        &self,
        call: Call<'_>,
        scope: &str,
        options: &Options,
    ) -> Result<()> {
        options::none(options)?;
        let scope: HoldScope = scope.parse()?;
        let actor = self.policies_of(&call, scope.project()).await?;
        let user = actor.user.clone();
        self.engine().release_hold(scope.clone(), actor).await?;
        tracing::info!(
            message_id = kinds::POLICY_SET.id,
            project = scope.project().map(ProjectName::as_str),
            uid = call.uid,
            user,
            "Hold released: {scope}"
        );
        Ok(())
    }

    pub(super) async fn list_holds(&self) -> Result<Vec<Dict>> {
        let holds = self.engine().holds().await?;
        Ok(holds.iter().map(hold_dict).collect())
    }

    pub(super) async fn policies_of(
        &self,
        call: &Call<'_>,
        project: Option<&ProjectName>,
    ) -> Result<Actor> {
        let details = Details {
            project: project.map(ToString::to_string).unwrap_or_default(),
            host: self.identity().host_name.clone(),
            ..Details::default()
        };
        self.authorise(call, Verb::ManageBudgets, details).await?;
        Ok(self.actor(call).await)
    }
}

fn hold_dict(hold: &Hold) -> Dict {
    let mut dict = Dict::new();
    convert::put(&mut dict, "scope", hold.scope.to_string());
    if let Some(until) = hold.until {
        convert::put(&mut dict, "until", until.0);
    }
    convert::put(&mut dict, "freeze", hold.freeze);
    convert::put(&mut dict, "reason", hold.reason.clone());
    convert::put(&mut dict, "set_at", hold.set_at.0);
    convert::put(&mut dict, "actor", convert::actor(&hold.actor));
    dict
}
