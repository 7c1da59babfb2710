//! A role for each host, as stratavore-security(7) and README say it: what stands there is run here.

use super::conformance::hosts::{MINUTE, about, beat, join};
use super::conformance::{admit, alice, capped, launch, live, project, refused};
use super::*;
use crate::domain::host::Standing;
use crate::domain::{Cause, ErrorKind, State};
use crate::ports::{Hosts, NewRunner};
use std::path::Path;
use std::time::Instant;

fn document(file: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

/// The statements of the page's section on hosts, in the groups in which it shows them.
fn of_the_page() -> Vec<String> {
    let page = document("systemd/man/stratavore-security.7");
    let (_, section) = page.split_once(".SH \"HOSTS\"").unwrap();
    let (section, _) = section.split_once(".SH").unwrap();
    let examples = section.split(".nf\n").skip(1);
    let plain = |text: &str| text.replace("\\-", "-");
    examples
        .map(|text| plain(text.split_once(".fi").unwrap().0))
        .collect()
}

/// The statements that make role and database.
fn of_readme() -> String {
    let readme = document("README.md");
    let (_, fleet) = readme.split_once("\n## A fleet\n").unwrap();
    let mut blocks = fleet.split("```").skip(1).step_by(2);
    let made = blocks.find(|block| block.contains("CREATE ROLE"));
    let (_, statements) = made.unwrap().split_once('\n').unwrap();
    statements.to_owned()
}

fn statements(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive(";\n").filter(|s| !s.trim().is_empty())
}

/// A launch of its own host.
fn on(n: u64, host: &str) -> NewRunner {
    NewRunner {
        host: host.to_owned(),
        ..launch(n, "p")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_host_whose_role_is_revoked_writes_nothing_more_and_the_others_go_on() {
    let cluster = tokio::task::spawn_blocking(|| Cluster::new(&[]))
        .await
        .unwrap();
    let run = |database: &str, text: &str| {
        for statement in statements(text) {
            cluster.sql(database, statement);
        }
    };
    let as_user = |user: &str| PostgresOptions {
        user: user.to_owned(),
        ..cluster.options("stratavore")
    };
    run("postgres", &of_readme());
    // One daemon is started under the owner's name.
    let owner = PostgresStore::open(as_user("stratavore"), 2).await.unwrap();
    project(&owner, "p", capped(10)).await;
    owner.close().await;

    let [group, role, revoke, drop_role] = &of_the_page()[..] else {
        panic!("{:?}", of_the_page());
    };
    run("stratavore", group);
    run("stratavore", role);
    run("stratavore", &role.replace("web1", "web2"));
    // A later release brings tables.
    cluster.sql(
        "stratavore",
        "SET ROLE stratavore; CREATE TABLE later (n BIGINT)",
    );
    cluster.sql(
        "stratavore",
        "SET ROLE web2; INSERT INTO later VALUES (1); SELECT * FROM later",
    );

    let web1 = PostgresStore::open(as_user("web1"), 2).await.unwrap();
    let web2 = PostgresStore::open(as_user("web2"), 2).await.unwrap();
    join(&web1, "h1", "one", MINUTE).await;
    join(&web2, "h2", "two", MINUTE).await;
    admit(&web1, on(1, "h1")).await;
    admit(&web1, on(2, "h1")).await;
    admit(&web2, on(3, "h2")).await;
    assert_eq!(live(&web2, "p").await, 3);

    run("stratavore", revoke);
    let begun = Instant::now();
    let mut n = 10;
    let said = loop {
        n += 1;
        let Err(StoreError::Unavailable(why)) = web1.admit(on(n, "h1")).await else {
            panic!("it was written");
        };
        // At first it hears that its connection was ended.
        if why.contains("does not let user web1 in") {
            break why;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{why}");
    };
    assert!(said.contains("ALTER ROLE web1 LOGIN"), "{said}");
    let renewed = web1.join(about("h1", "one"), beat(MINUTE, None)).await;
    assert!(
        matches!(renewed, Err(StoreError::Unavailable(_))),
        "{renewed:?}"
    );
    let again = PostgresStore::open(as_user("web1"), 2).await;
    assert!(
        again
            .unwrap_err()
            .to_string()
            .contains("does not let user web1 in")
    );
    admit(&web2, on(4, "h2")).await;

    // What it held is its until somebody says that it is gone, and then it is nobody's.
    assert_eq!(live(&web2, "p").await, 4);
    refused(web2.forget("h1", alice()).await, ErrorKind::Conflict);
    let ran_out = "UPDATE hosts SET lease_until = renewed_at WHERE host = 'h1'";
    cluster.sql("stratavore", ran_out);
    web2.forget("h1", alice()).await.unwrap();
    assert_eq!(live(&web2, "p").await, 2);
    for id in [1, 2] {
        let row = web2.runner(launch(id, "p").id).await.unwrap().unwrap();
        assert_eq!(row.state(), State::Ended);
        assert_eq!(row.exit.map(|e| e.cause), Some(Cause::HostLost));
    }
    for id in 11..=n {
        assert!(web2.runner(launch(id, "p").id).await.unwrap().is_none());
    }
    let (_, hosts) = web2.hosts().await.unwrap();
    let standing = |host: &str| {
        hosts
            .iter()
            .find(|h| h.about.host == host)
            .map(|h| h.standing)
    };
    assert_eq!(standing("h1"), Some(Standing::Left));
    assert_eq!(standing("h2"), Some(Standing::Up));

    // Nothing is left of the role, and with a new one its host joins anew.
    run("stratavore", drop_role);
    run("stratavore", role);
    let back = PostgresStore::open(as_user("web1"), 2).await.unwrap();
    join(&back, "h1", "one", MINUTE).await;
    admit(&back, on(20, "h1")).await;
    assert_eq!(live(&web2, "p").await, 3);
}
