//! The objects: which there are, under which paths, and how they are introspected.
//!
//! ObjectManager and, above the runners, Introspectable are our own: the library's would ask
//! every property getter of every runner, and print every runner's interface in full.

use super::convert::Dict;
use super::core::Core;
use super::errors::Result;
use super::manager::Manager;
use super::project::{self, ProjectObject, ShownProject};
use super::runner::{self, RunnerObject, Shown};
use super::{PATH, PROJECT, RUNNER};
use crate::domain::{Error, ErrorKind, Project, ProjectName, Runner, RunnerId, State};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use zbus::message::Header;
use zbus::object_server::{Interface, SignalEmitter};
use zbus::{Connection, ObjectPath, ObjectServer, OwnedObjectPath, interface};

/// What the runners are below.
const RUNNERS: &str = "/org/stratavore1/runner";
/// What the projects are below.
const PROJECTS: &str = "/org/stratavore1/project";

/// What has an object now.
#[derive(Debug, Default)]
pub(super) struct Garden {
    runners: Mutex<BTreeMap<RunnerId, Shown>>,
    projects: Mutex<BTreeMap<ProjectName, ShownProject>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Garden {
    /// How many runners have an object.
    pub(super) fn count(&self) -> u32 {
        u32::try_from(lock(&self.runners).len()).unwrap_or(u32::MAX)
    }

    /// How many runners of a project have one.
    pub(super) fn live_of(&self, project: &ProjectName) -> u32 {
        let runners = lock(&self.runners);
        let all = runners.values().map(runner::now);
        u32::try_from(all.filter(|r| r.spec.project == *project).count()).unwrap_or(u32::MAX)
    }

    pub(super) fn runner(&self, id: RunnerId) -> Option<Shown> {
        lock(&self.runners).get(&id).cloned()
    }

    pub(super) fn runners(&self) -> Vec<RunnerId> {
        lock(&self.runners).keys().copied().collect()
    }

    pub(super) fn project(&self, name: &ProjectName) -> Option<ShownProject> {
        lock(&self.projects).get(name).cloned()
    }

    pub(super) fn projects(&self) -> Vec<ProjectName> {
        lock(&self.projects).keys().cloned().collect()
    }
}

/// The path of a runner's object.
pub(super) fn runner_path(id: RunnerId) -> OwnedObjectPath {
    ObjectPath::from_string_unchecked(format!("{PATH}/runner/{}", id.path_element())).into()
}

/// The path of a project's object.
pub(super) fn project_path(name: &ProjectName) -> OwnedObjectPath {
    ObjectPath::from_string_unchecked(format!("{PATH}/project/{}", name.path_element())).into()
}

/// There is no object of a runner that waits or has ended.
pub(super) fn not_live(id: RunnerId, state: State) -> Error {
    let why = match state {
        State::Queued => "waits for its turn and has no object yet; Describe tells about it.",
        _ => "has ended and has no object any more; Describe still tells about it.",
    };
    Error::new(ErrorKind::WrongState, format!("Runner {id} {why}"))
}

/// Adds the object of a runner.
pub(super) async fn add_runner(
    connection: &Connection,
    core: &Core,
    runner: Arc<Runner>,
) -> zbus::Result<()> {
    let id = runner.id;
    let shown = Arc::new(RwLock::new(runner));
    lock(&core.garden().runners).insert(id, Arc::clone(&shown));
    let object = RunnerObject {
        core: core.clone(),
        id,
        shown,
    };
    let server = connection.object_server();
    server.at(runner_path(id), object).await.map(drop)
}

/// Removes the object of a runner.
pub(super) async fn remove_runner(
    connection: &Connection,
    core: &Core,
    id: RunnerId,
) -> zbus::Result<()> {
    lock(&core.garden().runners).remove(&id);
    core.forget(id);
    let server = connection.object_server();
    let removed = server.remove::<RunnerObject, _>(runner_path(id)).await;
    removed.map(drop)
}

/// Adds the object of a project.
pub(super) async fn add_project(
    connection: &Connection,
    core: &Core,
    project: Project,
) -> zbus::Result<()> {
    let path = project_path(&project.name);
    let name = project.name.clone();
    let shown = Arc::new(RwLock::new(Arc::new(project)));
    lock(&core.garden().projects).insert(name, Arc::clone(&shown));
    let object = ProjectObject {
        core: core.clone(),
        shown,
    };
    connection.object_server().at(path, object).await.map(drop)
}

/// Removes the object of a project.
pub(super) async fn remove_project(
    connection: &Connection,
    core: &Core,
    name: &ProjectName,
) -> zbus::Result<()> {
    lock(&core.garden().projects).remove(name);
    let server = connection.object_server();
    let removed = server.remove::<ProjectObject, _>(project_path(name)).await;
    removed.map(drop)
}

/// Puts the objects there that are always there.
pub(super) async fn plant(connection: &Connection, core: &Core) -> zbus::Result<()> {
    let server = connection.object_server();
    server.at(PATH, Manager::new(core)).await?;
    // Without an interface of their own these would come and go with what is below them.
    for path in [RUNNERS, PROJECTS] {
        server.at(path, Folder).await?;
    }
    for path in ["/", "/org", PATH, RUNNERS, PROJECTS] {
        server.remove_named(path, Introspection::name()).await?;
        server.at(path, Introspection(core.clone())).await?;
    }
    // Last: what was done above is no news for anybody.
    server.at(PATH, Objects(core.clone())).await?;
    Ok(())
}

/// The properties of every object by path and interface.
type Managed = HashMap<OwnedObjectPath, HashMap<String, Dict>>;

/// `org.freedesktop.DBus.ObjectManager`. Its signals come from the object server.
#[derive(Debug)]
struct Objects(Core);

#[interface(
    name = "org.freedesktop.DBus.ObjectManager",
    introspection_docs = false
)]
impl Objects {
    #[zbus(out_args("objects"))]
    async fn get_managed_objects(&self, #[zbus(header)] header: Header<'_>) -> Result<Managed> {
        let _call = self.0.enter(&header).await?;
        let garden = self.0.garden();
        let mut out = Managed::new();
        let runners: Vec<_> = lock(&garden.runners).values().map(runner::now).collect();
        for runner in runners {
            let interfaces = HashMap::from([(RUNNER.to_owned(), runner::properties(&runner))]);
            out.insert(runner_path(runner.id), interfaces);
        }
        let projects: Vec<_> = lock(&garden.projects).values().map(project::now).collect();
        for project in projects {
            let interfaces = HashMap::from([(PROJECT.to_owned(), project::properties(&project))]);
            out.insert(project_path(&project.name), interfaces);
        }
        Ok(out)
    }

    #[zbus(signal)]
    async fn interfaces_added(
        emitter: &SignalEmitter<'_>,
        object: ObjectPath<'_>,
        interfaces: HashMap<String, Dict>,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn interfaces_removed(
        emitter: &SignalEmitter<'_>,
        object: ObjectPath<'_>,
        interfaces: Vec<String>,
    ) -> zbus::Result<()>;
}

/// Keeps a path that only leads to others.
#[derive(Debug)]
struct Folder;

#[interface(name = "org.stratavore1.Folder", introspection_docs = false)]
impl Folder {}

/// `org.freedesktop.DBus.Introspectable` of an object with many below it: they are named only.
#[derive(Debug)]
struct Introspection(Core);

#[interface(
    name = "org.freedesktop.DBus.Introspectable",
    introspection_docs = false
)]
impl Introspection {
    #[zbus(out_args("xml_data"))]
    async fn introspect(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(object_server)] server: &ObjectServer,
    ) -> Result<String> {
        let _call = self.0.enter(&header).await?;
        let mut xml = String::from(HEAD);
        let garden = self.0.garden();
        let children: Vec<String> = match header.path().map(|p| p.as_str()) {
            Some("/") => vec!["org".to_owned()],
            Some("/org") => vec!["stratavore1".to_owned()],
            Some(RUNNERS) => {
                let all = garden.runners().into_iter();
                all.map(|id| id.path_element().to_string()).collect()
            }
            Some(PROJECTS) => {
                let all = garden.projects().into_iter();
                all.map(|name| name.path_element().to_string()).collect()
            }
            _ => {
                if let Ok(objects) = server.interface::<_, Objects>(PATH).await {
                    objects.get().await.introspect_to_writer(&mut xml, 2);
                }
                if let Ok(manager) = server.interface::<_, Manager>(PATH).await {
                    manager.get().await.introspect_to_writer(&mut xml, 2);
                }
                vec!["project".to_owned(), "runner".to_owned()]
            }
        };
        for child in children {
            // Writing to a String can't fail.
            let _ = writeln!(xml, "  <node name=\"{child}\"/>");
        }
        xml.push_str("</node>\n");
        Ok(xml)
    }
}

const HEAD: &str = r#"<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">
<node>
  <interface name="org.freedesktop.DBus.Introspectable">
    <method name="Introspect">
      <arg name="xml_data" type="s" direction="out"/>
    </method>
  </interface>
  <interface name="org.freedesktop.DBus.Peer">
    <method name="GetMachineId">
      <arg name="machine_uuid" type="s" direction="out"/>
    </method>
    <method name="Ping">
    </method>
  </interface>
  <interface name="org.freedesktop.DBus.Properties">
    <method name="Get">
      <arg name="interface_name" type="s" direction="in"/>
      <arg name="property_name" type="s" direction="in"/>
      <arg name="value" type="v" direction="out"/>
    </method>
    <method name="Set">
      <arg name="interface_name" type="s" direction="in"/>
      <arg name="property_name" type="s" direction="in"/>
      <arg name="value" type="v" direction="in"/>
    </method>
    <method name="GetAll">
      <arg name="interface_name" type="s" direction="in"/>
      <arg name="properties" type="a{sv}" direction="out"/>
    </method>
    <signal name="PropertiesChanged">
      <arg name="interface_name" type="s"/>
      <arg name="changed_properties" type="a{sv}"/>
      <arg name="invalidated_properties" type="as"/>
    </signal>
  </interface>
"#;
