//! Methods of `org.stratavore1.Manager` about budgets of tokens, and what is reported of their use.

use crate::api::convert::Dict;
use crate::api::core::Core;
use crate::api::errors::Result;
use crate::api::values::Options;
use zbus::interface;
use zbus::message::Header;

/// This block of the interface.
#[derive(Debug)]
pub(in crate::api) struct Budgets(pub(super) Core);

#[interface(name = "org.stratavore1.Manager")]
impl Budgets {
    /// Sets a budget: a cap on the tokens that its runners use in a period, on all hosts together.
    /// A launch reserves what it may use in every budget it belongs to and is refused where that
    /// does not fit. Scope and period are the budget's name: what is there is changed, its use stays.
    ///
    /// The scope is fleet, project:NAME or session:NAME; the period hour, day, week, month or none.
    /// Settings, those not given stay as they are: limit t, tokens, or an s such as "2M" (powers of
    /// 1000), needed for a new budget; timezone s, on whose clock periods begin, "UTC" for a new one;
    /// on-exhausted s, what happens to running work when it is used up: deny (it goes on, which a
    /// new one has), freeze or stop; count s, which tokens count, with commas between them: input,
    /// output, cache-read, cache-write; all of them for a new one.
    async fn set_budget(
        &self,
        #[zbus(header)] header: Header<'_>,
        scope: &str,
        period: &str,
        settings: Options,
        options: Options,
    ) -> Result<()> {
        let call = self.0.enter(&header).await?;
        self.0
            .set_budget(call, scope, period, &settings, &options)
            .await
    }

    /// Removes a budget; what it froze goes on.
    async fn remove_budget(
        &self,
        #[zbus(header)] header: Header<'_>,
        scope: &str,
        period: &str,
        options: Options,
    ) -> Result<()> {
        let call = self.0.enter(&header).await?;
        self.0.remove_budget(call, scope, period, &options).await
    }

    /// All budgets in their present period, by scope and period: scope, period, limit, used,
    /// reserved (what live runners may still use), overrun (how much of used went past the
    /// reservations of its runners), timezone, on_exhausted, count, told (the thresholds reached in
    /// this period: 50, 80, 100, exceeded), period_start, period_end (unless it never ends), created_at.
    #[zbus(out_args("budgets"))]
    async fn list_budgets(&self, #[zbus(header)] header: Header<'_>) -> Result<Vec<Dict>> {
        let _call = self.0.enter(&header).await?;
        self.0.list_budgets().await
    }

    /// Tells what a runner has used of a model, in tokens since it began: totals, which only grow.
    /// The larger number counts, so a report may come twice, late, or without some of the counters.
    /// All its budgets are charged at once. Returns the runner's id.
    ///
    /// Usage, at least one of: input t, output t, cache-read t, cache-write t; or s, such as "12k".
    /// A runner reports for itself alone: the caller is found by its process, which is in the runner's
    /// scope, and an empty runner means that one. Whoever else reports needs report-usage.
    #[zbus(out_args("id"))]
    async fn report_usage(
        &self,
        #[zbus(header)] header: Header<'_>,
        runner: &str,
        usage: Options,
        options: Options,
    ) -> Result<String> {
        let call = self.0.enter(&header).await?;
        let id = self.0.report_usage(call, runner, &usage, &options).await?;
        Ok(id.to_string())
    }
}
