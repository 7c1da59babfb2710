//! What the interface says about itself, and that the shipped XML says the same.
//! `UPDATE_GOLDEN=1 cargo test --test api` writes the files anew.

use super::bus::{World, none};
use std::path::Path;
use zbus::fdo::IntrospectableProxy;

async fn introspect(world: &World, path: &str) -> String {
    let client = world.client().await;
    let proxy = IntrospectableProxy::builder(&client)
        .destination("org.stratavore1")
        .path(path)
        .build()
        .await
        .unwrap();
    proxy.introspect().await.unwrap()
}

/// One interface of an introspection, as a document of its own.
fn only(xml: &str, interface: &str) -> String {
    let head = format!("  <interface name=\"{interface}\">\n");
    let tail = "  </interface>\n";
    let from = xml
        .find(&head)
        .unwrap_or_else(|| panic!("no {interface} in {xml}"));
    let to = from + xml[from..].find(tail).unwrap() + tail.len();
    format!(
        "<!DOCTYPE node PUBLIC \"-//freedesktop//DTD D-BUS Object Introspection 1.0//EN\"\n \"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd\">\n<node>\n{}</node>\n",
        &xml[from..to]
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_interfaces_are_the_live_ones() {
    let world = World::new().await;
    let manager = world.manager().await;
    let project = manager.create_project("p", &none()).await.unwrap();
    let (_, runner) = manager.launch("p", &["sleep"], &none()).await.unwrap();
    for (interface, path) in [
        ("org.stratavore1.Manager", "/org/stratavore1"),
        ("org.stratavore1.Runner", runner.as_str()),
        ("org.stratavore1.Project", project.as_str()),
    ] {
        let live = only(&introspect(&world, path).await, interface);
        for comment in live.split("<!--").skip(1) {
            let comment = comment.split("-->").next().unwrap();
            assert!(!comment.contains("--"), "no XML comment: {comment}");
        }
        let file = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("systemd/dbus/interfaces")
            .join(format!("{interface}.xml"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&file, &live).unwrap();
        }
        let shipped = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(shipped, live, "{} is not what is served", file.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_top_stays_short_however_many_runners_there_are() {
    let world = World::new().await;
    let manager = world.manager().await;
    manager.create_project("p", &none()).await.unwrap();
    for _ in 0..20 {
        manager.launch("p", &["sleep"], &none()).await.unwrap();
    }
    for path in ["/", "/org", "/org/stratavore1"] {
        let xml = introspect(&world, path).await;
        assert!(!xml.contains("org.stratavore1.Runner\""), "{xml}");
        assert!(xml.matches("<node name=").count() <= 2, "{xml}");
    }
    let top = introspect(&world, "/org/stratavore1").await;
    for interface in [
        "org.stratavore1.Manager",
        "org.freedesktop.DBus.ObjectManager",
        "org.freedesktop.DBus.Properties",
    ] {
        assert!(top.contains(interface), "{interface}");
    }
}
