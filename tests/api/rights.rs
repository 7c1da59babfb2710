//! What polkit is asked, and what becomes of its answers: a polkit of the test's own, and
//! callers that are not root.

use super::bus::{World, given, none, refusal};
use std::collections::HashMap;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use stratavore::api::{self, Bus};
use stratavore::domain::event::Actor;
use zbus::{Connection, OwnedVariant, interface};

/// nobody: known to every system, and owns nothing.
const STRANGER: u32 = 65_534;

#[derive(Debug, Clone, Default)]
struct Said {
    /// Actions with their details, as they were asked for.
    asked: Vec<(String, HashMap<String, String>, u32)>,
    /// The answer: authorised, challenge.
    answer: (bool, bool),
}

struct FakePolkit(Arc<Mutex<Said>>);

#[interface(name = "org.freedesktop.PolicyKit1.Authority")]
impl FakePolkit {
    async fn check_authorization(
        &self,
        subject: (String, HashMap<String, OwnedVariant>),
        action: String,
        details: HashMap<String, String>,
        flags: u32,
        _cancellation: String,
    ) -> ((bool, bool, HashMap<String, String>),) {
        assert_eq!(subject.0, "system-bus-name");
        let mut said = self.0.lock().unwrap();
        said.asked.push((action, details, flags));
        let (yes, challenge) = said.answer;
        ((yes, challenge, HashMap::new()),)
    }

    #[zbus(signal)]
    async fn changed(emitter: &zbus::object_server::SignalEmitter<'_>) -> zbus::Result<()>;
}

struct Site {
    world: World,
    said: Arc<Mutex<Said>>,
    polkit: Connection,
}

impl Site {
    async fn new() -> Self {
        let world = World::on(Bus::System).await;
        let said = Arc::new(Mutex::new(Said::default()));
        let polkit = world.client().await;
        polkit
            .object_server()
            .at(
                "/org/freedesktop/PolicyKit1/Authority",
                FakePolkit(Arc::clone(&said)),
            )
            .await
            .unwrap();
        polkit
            .request_name("org.freedesktop.PolicyKit1")
            .await
            .unwrap();
        Self {
            world,
            said,
            polkit,
        }
    }

    fn answer(&self, yes: bool, challenge: bool) {
        let mut said = self.said.lock().unwrap();
        said.answer = (yes, challenge);
        said.asked.clear();
    }

    fn asked(&self) -> Vec<(String, HashMap<String, String>, u32)> {
        std::mem::take(&mut self.said.lock().unwrap().asked)
    }

    /// A call as the stranger: output and error.
    async fn call(&self, flags: &[&str], method: &str, arguments: &[&str]) -> (bool, String) {
        let mut command = match rustix::process::getuid().is_root() {
            true => {
                let mut command = Command::new("setpriv");
                let id = STRANGER.to_string();
                command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "busctl"]);
                command
            }
            false => Command::new("busctl"),
        };
        command
            .arg(format!("--address={}", self.world.address))
            .args(flags)
            .args([
                "call",
                "org.stratavore1",
                "/org/stratavore1",
                "org.stratavore1.Manager",
                method,
            ])
            .args(arguments);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.success(),
            text(&output.stdout) + &text(&output.stderr),
        )
    }

    /// A runner that is not the stranger's.
    async fn runner(&self) -> String {
        let name: stratavore::domain::ProjectName = "p".parse().unwrap();
        let engine = &self.world.engine;
        let _ = engine
            .create_project(name.clone(), Default::default(), Actor::host())
            .await;
        let spec = stratavore::domain::RunnerSpec {
            project: name,
            command: vec!["hidden-command".to_owned()],
            name: Some("theirs".to_owned()),
            uid: 0,
            user: "root".to_owned(),
            working_directory: None,
            labels: Default::default(),
            limits: Default::default(),
            log_file_max: None,
            priority: 0,
            tokens: None,
            session: None,
            placed: None,
        };
        let request = stratavore::engine::LaunchRequest {
            spec,
            setenv: Vec::new(),
            request_id: None,
            inputs: Default::default(),
            streams: Default::default(),
            queue: false,
            order: None,
        };
        let launched = engine.launch(request, Actor::host()).await.unwrap();
        launched.runner.id.to_string()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn polkit_decides_about_strangers_and_is_told_whom_it_is_about() {
    let site = Site::new().await;
    let id = site.runner().await;
    for (method, arguments, action) in [
        ("Stop", vec!["sa{sv}", &id, "0"], "control-any"),
        ("Kill", vec!["sia{sv}", &id, "9", "0"], "control-any"),
        ("Freeze", vec!["sa{sv}", "theirs", "0"], "control-any"),
        ("Thaw", vec!["sa{sv}", &id[..18], "0"], "control-any"),
        (
            "SetLimits",
            vec!["sa{sv}a{sv}", &id, "1", "tasks-max", "t", "5", "0"],
            "control-any",
        ),
        (
            "Launch",
            vec!["sasa{sv}", "p", "1", "x", "1", "uid", "s", "root"],
            "launch-as-other",
        ),
        ("CreateProject", vec!["sa{sv}", "q", "0"], "manage-projects"),
        (
            "SetProject",
            vec!["sa{sv}", "p", "1", "description", "s", "x"],
            "manage-projects",
        ),
        ("RemoveProject", vec!["sa{sv}", "q", "0"], "manage-projects"),
    ] {
        let action = format!("org.stratavore1.{action}");
        site.answer(false, false);
        let (done, text) = site.call(&[], method, &arguments).await;
        assert!(!done && text.contains(&action), "{method}: {text}");
        let asked = site.asked();
        assert_eq!(asked.len(), 1, "{method}: asked once");
        assert_eq!(asked[0].0, action);
        let host = asked[0].1.get("host").map(String::as_str);
        assert_eq!(host, Some("testhost"), "{method}");
        if action.ends_with("control-any") {
            assert_eq!(asked[0].1["owner"], "root");
            assert_eq!(asked[0].1["runner"], id);
            assert_eq!(asked[0].1["project"], "p");
        }
        // A password would do: who does not let us ask is told so, others are asked.
        site.answer(false, true);
        let silent = ["--allow-interactive-authorization=no"];
        let (done, text) = site.call(&silent, method, &arguments).await;
        assert!(
            !done && text.to_lowercase().contains("interactive auth"),
            "{method}: {text}"
        );
        assert_eq!(site.asked()[0].2, 0, "{method}");
        let asking = ["--allow-interactive-authorization=yes"];
        let (done, _) = site.call(&asking, method, &arguments).await;
        assert!(!done);
        assert_eq!(site.asked()[0].2, 1, "{method}: the person may be asked");
    }
    assert_eq!(site.world.host.count(), 1, "nothing was done");
    site.answer(true, false);
    let (done, text) = site.call(&[], "Stop", &["sa{sv}", &id, "0"]).await;
    assert!(done, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_shows_the_public_part_and_lists_ask_nobody() {
    let site = Site::new().await;
    site.runner().await;
    site.answer(false, true);
    // Who lets us ask is asked about one runner; about a list, nobody is.
    for (method, arguments, asked_for) in [
        ("Describe", vec!["s", "theirs"], vec![0, 1]),
        ("ListRunners", vec!["a{sv}", "0"], vec![0]),
    ] {
        let asking = ["--allow-interactive-authorization=yes"];
        let (done, text) = site.call(&asking, method, &arguments).await;
        assert!(
            done && text.contains("theirs") && !text.contains("hidden"),
            "{text}"
        );
        let asked = site.asked();
        assert_eq!(asked[0].0, "org.stratavore1.view");
        assert_eq!(
            asked.iter().map(|a| a.2).collect::<Vec<_>>(),
            asked_for,
            "{method}"
        );
        assert_eq!(
            asked[0].1.get("runner"),
            None,
            "decided per project and owner"
        );
    }
    site.answer(true, false);
    let (_, text) = site.call(&[], "Describe", &["s", "theirs"]).await;
    assert!(text.contains("hidden-command"), "{text}");
    FakePolkit::changed(
        &zbus::object_server::SignalEmitter::new(
            &site.polkit,
            "/org/freedesktop/PolicyKit1/Authority",
        )
        .unwrap(),
    )
    .await
    .unwrap();
}

/// A thousand launches of one user that the store does not answer, over several connections: what is more than a user
/// may have is refused at once, and the next one's launch is through before any of them.
#[tokio::test(flavor = "multi_thread")]
async fn one_user_does_not_hold_up_the_others() {
    const CONNECTIONS: usize = 5;
    if !rustix::process::getuid().is_root() {
        // There are not two users to be had.
        return;
    }
    let site = Site::new().await;
    site.runner().await;
    site.answer(true, false);
    // The bus has said whose every connection is.
    let mut managers = Vec::new();
    for _ in 0..CONNECTIONS {
        let manager = site.world.manager().await;
        manager.list_projects().await.unwrap();
        managers.push(manager);
    }
    let held = Duration::from_secs(60);
    site.world.store.slow(held);
    let begun = std::time::Instant::now();
    let mut theirs = tokio::task::JoinSet::new();
    for manager in &managers {
        for _ in 0..api::CALLS_MAX {
            let manager = manager.clone();
            theirs.spawn(async move { manager.launch("p", &["x"], &none()).await.map(drop) });
        }
    }
    for _ in 0..CONNECTIONS * api::CALLS_MAX - api::USER_CALLS_MAX {
        let (name, message) = refusal(theirs.join_next().await.unwrap().unwrap());
        assert_eq!(name, "org.stratavore1.Error.LimitsExceeded", "{message}");
        assert!(message.contains("This user has 1024 calls"), "{message}");
    }
    site.world.store.slow(Duration::ZERO);
    for method in [
        ("Launch", vec!["sasa{sv}", "p", "1", "x", "0"]),
        ("ListRunners", vec!["a{sv}", "0"]),
    ] {
        let (done, text) = site.call(&[], method.0, &method.1).await;
        assert!(done, "{method:?}: {text}");
    }
    assert!(
        theirs.try_join_next().is_none() && begun.elapsed() < held,
        "all of the first user's still wait"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_polkit_root_and_owners_go_on() {
    let site = Site::new().await;
    let id = site.runner().await;
    site.polkit
        .release_name("org.freedesktop.PolicyKit1")
        .await
        .unwrap();
    let (done, text) = site.call(&[], "Stop", &["sa{sv}", &id, "0"]).await;
    assert!(!done && text.contains("polkit can't be asked"), "{text}");
    let (done, text) = site.call(&[], "Describe", &["s", "theirs"]).await;
    assert!(done && !text.contains("hidden"), "{text}");
    let (done, text) = site.call(&[], "ListRunners", &["a{sv}", "0"]).await;
    assert!(done && text.contains("theirs"), "{text}");
    if rustix::process::getuid().is_root() {
        let manager = site.world.manager().await;
        let limits = given([("tasks-max", 5u64.into())]);
        manager.set_limits(&id, &limits, &none()).await.unwrap();
        manager.stop(&id, &none()).await.unwrap();
    }
    assert!(site.asked().is_empty());
}
