//! Notifications of a real host to a real receiver: once, signed, over restarts; and a receiver that does harm to nobody.

use crate::fixture::{Plan, SOON, Site};
use crate::support::wait_for;
use serde_json::Value;

const SECRET: &str = "a secret of the receiver";
/// Takes everything and writes down what it got, whether the signature is right among it. Below /slow it says nothing.
const RECEIVER: &str = r#"
import hashlib, hmac, http.server, json, sys, threading, time
class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length']))
        if self.path.startswith('/slow'):
            time.sleep(1000)
        signed = self.headers['Stratavore-Timestamp'].encode() + b'.' + body
        mac = 'v1=' + hmac.new(b'a secret of the receiver', signed, 'sha256').hexdigest()
        got = {'path': self.path, 'id': self.headers['Stratavore-Message'], 'title': self.headers['Title'], 'body': body.decode(),
               'good': hmac.compare_digest(mac, self.headers['Stratavore-Signature'] or ''),
               'age': abs(time.time() - int(self.headers['Stratavore-Timestamp']))}
        with open('/srv/got', 'a') as file:
            file.write(json.dumps(got) + '\n')
        self.send_response(204 if self.path != '/moved' else 302)
        self.send_header('Location', 'http://127.0.0.1:8099/elsewhere')
        self.end_headers()
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(('127.0.0.1', 8099), Hook).serve_forever()
"#;

const CONFIG: &str = r#"
[notify.rules.ops]
types = ["runner.ended"]
[notify.rules.phone]
url = "http://127.0.0.1:8099/topic"
format = "ntfy"
types = ["runner.ended"]
causes = ["exit-code"]
[notify.rules.slow]
url = "http://127.0.0.1:8099/slow/hunter3"
types = ["*"]
[notify.rules.moved]
url = "http://127.0.0.1:8099/moved"
types = ["project.removed"]
[notify.rules.nowhere]
types = ["project.removed"]
"#;

fn got(site: &Site) -> Vec<Value> {
    let lines = site.file("/srv/got");
    // The last one may be just being written.
    let (whole, _) = lines.rsplit_once('\n').unwrap_or_default();
    whole
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[track_caller]
fn wait_got(site: &Site, what: &str, count: usize, is: impl Fn(&Value) -> bool) -> Vec<Value> {
    wait_for(what, SOON, || {
        let all = got(site);
        let found: Vec<_> = all.iter().filter(|m| is(m)).cloned().collect();
        (found.len() >= count)
            .then_some(found)
            .ok_or_else(|| format!("{all:#?}\n{}", site.log()))
    })
}

fn shown(site: &Site, rule: &str) -> Value {
    let out = site
        .ctl("root", &format!("-o json notify show {rule}"))
        .ok()
        .out();
    serde_json::from_str(&out).unwrap()
}

#[test]
fn a_failure_is_told_once_and_signed() {
    let site = Site::with(Plan {
        name: "notify",
        config: CONFIG,
        ..Plan::default()
    });
    let before = site.ctl("root", "notify test ops").code(1).err();
    assert!(
        before.contains(
            "there is no address: give notify.rules.ops.url or the credential notify-ops-url"
        ),
        "{before}"
    );
    site.root(&format!(
        "mkdir -p /etc/systemd/system/stratavored.service.d
         printf 'http://127.0.0.1:8099/hook/hunter2' >/root/url; printf '{SECRET}\\n' >/root/secret
         printf '[Service]\\nLoadCredential=notify-ops-url:/root/url\\nLoadCredential=notify-ops-secret:/root/secret\\n' >/etc/systemd/system/stratavored.service.d/notify.conf
         cat >/srv/receiver.py <<'EOF'\n{RECEIVER}\nEOF
         systemctl daemon-reload && systemctl restart stratavored && systemd-run -u receiver python3 /srv/receiver.py"
    ))
    .ok();
    site.wait_up();
    wait_for("the receiver is there", SOON, || {
        let out = site.ctl("root", "notify test ops");
        out.success().then_some(()).ok_or_else(|| out.to_string())
    });
    let tests = wait_got(&site, "the test", 1, |m| m["path"] == "/hook/hunter2");
    assert_eq!(tests[0]["good"], true, "{tests:#?}");
    assert!(
        tests[0]["body"]
            .as_str()
            .unwrap()
            .contains("Test of a notification from")
    );

    let id = site.run("-- sh -c 'exit 3'");
    site.ended(&id);
    let about = |m: &Value| m["body"].as_str().unwrap().contains(&id);
    let told = wait_got(&site, "both are told", 2, about);
    let by_path = |path: &str| told.iter().find(|m| m["path"] == path).unwrap();
    let ops = by_path("/hook/hunter2");
    assert_eq!(ops["good"], true);
    assert!(ops["age"].as_f64().unwrap() < 60.0, "{ops}");
    let body: Value = serde_json::from_str(ops["body"].as_str().unwrap()).unwrap();
    assert_eq!(body["event"]["type"], "org.stratavore.runner.ended");
    assert_eq!(body["event"]["data"]["exit"]["cause"], "exit-code");
    let phone = by_path("/topic");
    assert_eq!(phone["good"], false, "it has no secret");
    assert!(
        phone["title"]
            .as_str()
            .unwrap()
            .starts_with("p: a runner ended, exit-code"),
        "{phone}"
    );

    // What went well is told to nobody, nor is anything again after a restart or a kill of the daemon.
    let well = site.run("-- true");
    site.ended(&well);
    site.root("systemctl restart stratavored").ok();
    site.wait_up();
    site.root("systemctl kill -s KILL stratavored").ok();
    site.wait_up();
    let next = site.run("-- sh -c 'exit 4'");
    site.ended(&next);
    wait_got(&site, "the next one", 2, |m| {
        m["body"].as_str().unwrap().contains(&next)
    });
    assert_eq!(got(&site).iter().filter(|m| about(m)).count(), 2);
    assert!(
        !got(&site)
            .iter()
            .any(|m| m["body"].as_str().unwrap().contains(&well))
    );

    // The slow one holds up nobody, and shows.
    let slow = wait_for("the slow one fails", SOON, || {
        let slow = shown(&site, "slow");
        let timed_out = slow["last_failure_message"] == "no answer within 10 s";
        timed_out
            .then_some(slow.clone())
            .ok_or_else(|| slow.to_string())
    });
    assert_eq!(slow["state"], "failing");
    assert_eq!(slow["to"], "http://127.0.0.1:8099");
    // Redirects are not followed.
    let moved = site.ctl("root", "notify test moved").code(1).err();
    assert!(moved.contains("redirect (302)"), "{moved}");
    assert!(!got(&site).iter().any(|m| m["path"] == "/elsewhere"));
    let ops = shown(&site, "ops");
    assert_eq!(
        (&ops["state"], &ops["failed"]),
        (&"ok".into(), &0.into()),
        "{ops}"
    );

    // All that can be seen of it, and that nothing of it is secret.
    let status = site.ctl("alice", "status").ok().out();
    assert!(status.contains("failing"), "{status}");
    let unit = wait_for("the unit's status tells it", SOON, || {
        let text = site.root("systemctl show -p StatusText stratavored").out();
        let told = text.contains("notifications do not arrive: ") && text.contains("slow");
        told.then_some(text.clone()).ok_or(text)
    });
    let doctor = site.ctl("root", "doctor").out();
    assert!(doctor.contains("notification rule"), "{doctor}");
    let metrics = site.root("python3 -c \"import urllib.request as r; print(r.urlopen('http://127.0.0.1:9791/metrics').read().decode())\"").ok().out();
    assert!(
        metrics.contains("stratavore_notifications_total{result=\"sent\",rule=\"ops\"}"),
        "{metrics}"
    );
    let journal = site.journal("-o verbose -u stratavored");
    assert!(journal.contains("STRATAVORE_NOTIFY_RULE=slow"), "{journal}");
    let list = site.ctl("root", "notify list").ok().out();
    let printed = site.root("stratavored --print-config").ok().out();
    let listed = site.ctl("root", "-o json notify list").ok().out();
    assert!(printed.contains("http://127.0.0.1:8099/***"), "{printed}");
    for text in [
        &status, &unit, &doctor, &metrics, &journal, &list, &printed, &listed,
    ] {
        assert!(!text.contains("hunter") && !text.contains(SECRET), "{text}");
    }
    // Rules are an administrator's.
    for words in [
        "notify list",
        "notify show ops",
        "notify test",
        "notify test ops",
    ] {
        site.ctl("alice", words).code(4);
    }
    site.ctl("root", "notify show none").code(5);
    site.ctl("root", "notify test none").code(5);
}
