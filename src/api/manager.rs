//! `org.stratavore1.Manager`, put together of several blocks. The library makes an interface of one
//! impl block, and this one is too long for a file; so each block is an interface of its own with
//! the same name, and here they are one: what one of them does not know is asked of the next.
//!
//! The comments of the methods become the introspection's, so two hyphens may not stand together in them.

mod audit;
mod budgets;
mod facts;
mod hosts;
mod notify;
mod outbox;
mod projects;
mod runners;

pub(super) use facts::Facts;

use super::MANAGER;
use super::core::Core;
use async_trait::async_trait;
use std::collections::HashMap;
use std::fmt::Write;
use zbus::message::{Header, Message};
use zbus::names::{InterfaceName, MemberName};
use zbus::object_server::{DispatchResult, Interface, SignalEmitter};
use zbus::{BoxDBusError, Connection, ObjectServer, OwnedVariant, Variant, fdo};

/// The object at `/org/stratavore1`.
#[derive(Debug)]
pub(super) struct Manager {
    runners: runners::Runners,
    projects: projects::Projects,
    hosts: hosts::Hosts,
    budgets: budgets::Budgets,
    audit: audit::Audit,
    notify: notify::Notify,
    outbox: outbox::Outbox,
    facts: Facts,
}

impl Manager {
    pub(super) fn new(core: &Core) -> Self {
        Self {
            runners: runners::Runners(core.clone()),
            projects: projects::Projects(core.clone()),
            hosts: hosts::Hosts(core.clone()),
            budgets: budgets::Budgets(core.clone()),
            audit: audit::Audit(core.clone()),
            notify: notify::Notify(core.clone()),
            outbox: outbox::Outbox(core.clone()),
            facts: Facts(core.clone()),
        }
    }

    /// The blocks, in the order of the introspection.
    fn blocks(&self) -> [&dyn Interface; 8] {
        [
            &self.runners,
            &self.projects,
            &self.hosts,
            &self.budgets,
            &self.audit,
            &self.notify,
            &self.outbox,
            &self.facts,
        ]
    }
}

// No block has a method or property that needs `&mut self`, so the `_mut` half is never asked.
#[async_trait]
impl Interface for Manager {
    fn name() -> InterfaceName<'static> {
        InterfaceName::from_static_str_unchecked(MANAGER)
    }

    async fn get(
        &self,
        property_name: &str,
        server: &ObjectServer,
        connection: &Connection,
        header: Option<&Header<'_>>,
        emitter: &SignalEmitter<'_>,
    ) -> Option<Result<OwnedVariant, BoxDBusError>> {
        for block in self.blocks() {
            let got = block
                .get(property_name, server, connection, header, emitter)
                .await;
            if got.is_some() {
                return got;
            }
        }
        None
    }

    async fn get_all(
        &self,
        server: &ObjectServer,
        connection: &Connection,
        header: Option<&Header<'_>>,
        emitter: &SignalEmitter<'_>,
    ) -> fdo::Result<HashMap<String, OwnedVariant>> {
        let mut all = HashMap::new();
        for block in self.blocks() {
            all.extend(block.get_all(server, connection, header, emitter).await?);
        }
        Ok(all)
    }

    fn set<'call>(
        &'call self,
        _property_name: &'call str,
        _value: &'call Variant<'_>,
        _server: &'call ObjectServer,
        _connection: &'call Connection,
        _header: Option<&'call Header<'_>>,
        _emitter: &'call SignalEmitter<'_>,
    ) -> DispatchResult<'call> {
        DispatchResult::NotFound
    }

    async fn set_mut(
        &mut self,
        _property_name: &str,
        _value: &Variant<'_>,
        _server: &ObjectServer,
        _connection: &Connection,
        _header: Option<&Header<'_>>,
        _emitter: &SignalEmitter<'_>,
    ) -> Option<Result<(), BoxDBusError>> {
        None
    }

    fn call<'call>(
        &'call self,
        server: &'call ObjectServer,
        connection: &'call Connection,
        message: &'call Message,
        name: MemberName<'call>,
    ) -> DispatchResult<'call> {
        for block in self.blocks() {
            let done = block.call(server, connection, message, name.clone());
            if !matches!(done, DispatchResult::NotFound) {
                return done;
            }
        }
        DispatchResult::NotFound
    }

    fn call_mut<'call>(
        &'call mut self,
        _server: &'call ObjectServer,
        _connection: &'call Connection,
        _message: &'call Message,
        _name: MemberName<'call>,
    ) -> DispatchResult<'call> {
        DispatchResult::NotFound
    }

    fn introspect_to_writer(&self, writer: &mut dyn Write, level: usize) {
        // Each block writes the whole element: of its lines the first and the last are ours.
        // Whoever introspects writes to a String, and that can't fail.
        let _ = writeln!(writer, "{:level$}<interface name=\"{MANAGER}\">", "");
        for block in self.blocks() {
            let mut whole = String::new();
            block.introspect_to_writer(&mut whole, level);
            let inner = whole
                .split_once('\n')
                .and_then(|(_, rest)| rest.trim_end().rsplit_once('\n'));
            let _ = writeln!(writer, "{}", inner.map_or("", |(lines, _)| lines));
        }
        let _ = writeln!(writer, "{:level$}</interface>", "");
    }
}
