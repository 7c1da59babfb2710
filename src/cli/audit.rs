//! `audit`: looked at by the daemon, or here with the key; and written to a file.

use super::Global;
use super::args::{Audit, Export, Verify};
use super::client::{Client, text};
use super::failure::{FAILED, Failure, NO_SUCH, Result, USAGE};
use super::json::plain;
use super::out::Out;
use super::remote::Remote;
use super::text::clean;
use crate::api::proxy::{Dict, Given};
use crate::domain::audit::file::{Header, LINE_MAX};
use crate::domain::audit::verify::{Report, Verifier};
use crate::domain::audit::{Anchor, Entry, KEY_MAX, Key, Mac, Source, not_kept};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Anchors that are compared with; more are left out, the oldest first.
const ANCHORS_MAX: usize = 10_000;

/// What is wrong with it shows before anything is connected to.
pub(super) fn check(host: Option<&Remote>, args: &Audit) -> Result<()> {
    match args {
        Audit::Verify(verify) if verify.file.is_some() && verify.key.is_empty() => {
            Err(Failure::new(
                USAGE,
                "An exported audit is looked at with its key: give it with --key FILE. Root has it where the daemon's credential audit-key comes from, usually /etc/credstore/stratavore.audit-key.",
            ))
        }
        Audit::Verify(verify) if verify.key.is_empty() || verify.file.is_some() => Ok(()),
        Audit::Verify(_) => Remote::no_descriptors(host, "audit verify --key …"),
        Audit::Export(_) => Remote::no_descriptors(host, "audit export"),
    }
}

/// Does it; with a file and its key alone without a daemon.
pub(super) async fn audit(global: &Global, args: &Audit) -> Result<u8> {
    let args = match args {
        Audit::Export(args) => return export(global, args).await,
        Audit::Verify(args) => args,
    };
    let (keys, anchors) = (keys(&args.key)?, anchors(&args.anchor)?);
    match &args.file {
        Some(file) => {
            let opened = File::open(file).map_err(|e| unreadable(file, &e))?;
            let report = look(opened, &keys, &anchors).map_err(|f| {
                Failure::new(f.status, format!("{}: {}", file.display(), f.message))
            })?;
            told(global, &report_json(&report, Source::File))
        }
        None => verify(global, args, keys, anchors).await,
    }
}

async fn verify(
    global: &Global,
    args: &Verify,
    keys: Vec<Key>,
    anchors: Vec<Anchor>,
) -> Result<u8> {
    let client = &Client::connect(global).await?;
    let host = args.of.as_deref().unwrap_or_default();
    if !keys.is_empty() {
        let audit = exported(client, host).await?;
        let looked = tokio::task::spawn_blocking(move || look(audit.into(), &keys, &anchors));
        let report = looked
            .await
            .map_err(|e| Failure::new(FAILED, e.to_string()))??;
        return told(global, &report_json(&report, Source::Store));
    }
    let mut options = Given::new();
    if !anchors.is_empty() {
        let id = id_of(client, host).await?;
        let own = |a: &&Anchor| a.host == id;
        let words: Vec<String> = anchors
            .iter()
            .filter(own)
            .map(|a| format!("{}:{}", a.n, a.mac))
            .collect();
        if words.is_empty() {
            return Err(no_anchor(&of_host(&id)));
        }
        options.insert("anchors", words.into());
    }
    let report: Dict = client.call("VerifyAudit", &(host, &options)).await?;
    told(global, &report_of(&report))
}

async fn export(global: &Global, args: &Export) -> Result<u8> {
    let host = args.of.as_deref().unwrap_or_default();
    let mut to: Box<dyn Write + Send> = match &args.file {
        None if std::io::stdout().is_terminal() => {
            return Err(Failure::new(
                USAGE,
                "An audit is no text for a terminal; name a file: stratavorectl audit export FILE",
            ));
        }
        None => Box::new(std::io::stdout()),
        Some(file) => {
            let mut how = OpenOptions::new();
            let opened = how.write(true).create_new(true).mode(0o600).open(file);
            Box::new(opened.map_err(|e| {
                Failure::new(FAILED, format!("{} can't be made: {e}.", file.display()))
            })?)
        }
    };
    let audit = match Client::connect(global).await {
        Ok(client) => exported(&client, host).await,
        Err(failure) => Err(failure),
    };
    if audit.is_err() {
        args.file.iter().for_each(|file| {
            let _ = std::fs::remove_file(file);
        });
    }
    let audit = File::from(audit?);
    let copied = tokio::task::spawn_blocking(move || copy(audit, &mut to));
    copied
        .await
        .map_err(|e| Failure::new(FAILED, e.to_string()))??;
    Ok(0)
}

/// Writes it all, and sees to it that it was all: its first line says where it ends. What there is stays, as
/// it may be evidence.
fn copy(audit: impl std::io::Read, to: &mut impl Write) -> Result<()> {
    let mut lines = BufReader::new(audit);
    let (first, _) = line(&mut lines)?.unwrap_or_default();
    to.write_all(first.as_bytes())?;
    let (mut previous, mut last) = (String::new(), String::new());
    while let Some((line, _)) = line(&mut lines)? {
        to.write_all(line.as_bytes())?;
        previous = std::mem::replace(&mut last, line);
    }
    to.flush()?;
    let header = header(&first)?;
    let end = header.head.map_or(0, |head| head.n);
    // The last line may have broken off itself.
    let entry = Entry::parse(&last).or_else(|| Entry::parse(&previous));
    let last = entry.map_or(header.checkpoint.map_or(0, |c| c.n), |entry| entry.n);
    match last < end {
        true => Err(Failure::new(
            FAILED,
            format!(
                "The export ends at entry {last} of {end}: it broke off, or the newest entries are gone. Export again, to another file; stratavorectl audit verify tells which."
            ),
        )),
        false => Ok(()),
    }
}

async fn exported(client: &Client, host: &str) -> Result<OwnedFd> {
    let none = Given::new();
    let audit: zbus::OwnedFd = client.call("ExportAudit", &(host, &none)).await?;
    Ok(audit.into())
}

/// The id of a host of the fleet; of this one for "".
async fn id_of(client: &Client, host: &str) -> Result<String> {
    let manager = client.manager();
    if host.is_empty() {
        return manager.host_id().await.map_err(|e| Failure::of_call(&e));
    }
    let hosts = manager.list_hosts().await;
    let hosts = hosts.map_err(|e| Failure::of_call(&e))?;
    let found = hosts
        .iter()
        .find(|h| text(h, "name") == host || text(h, "id").starts_with(host));
    Ok(found.map_or(host, |h| text(h, "id")).to_owned())
}

fn unreadable(file: &Path, error: &std::io::Error) -> Failure {
    Failure::new(
        FAILED,
        format!("{} can't be read: {error}.", file.display()),
    )
}

fn of_host(host: &str) -> String {
    format!("the lines is an anchor of host {host}")
}

fn no_anchor(which: &str) -> Failure {
    Failure::new(
        FAILED,
        format!(
            "None of {which}. Make some: journalctl -o json -u stratavored, or stratavorectl events -o jsonl --type audit.anchored"
        ),
    )
}

/// What is in them is in no message.
fn keys(files: &[PathBuf]) -> Result<Vec<Key>> {
    let read = |file: &PathBuf| {
        let opened = File::open(file).map_err(|e| unreadable(file, &e))?;
        let mut secret = Vec::new();
        opened
            .take(KEY_MAX as u64 + 1)
            .read_to_end(&mut secret)
            .map_err(|e| unreadable(file, &e))?;
        Key::new(&secret)
            .map_err(|e| Failure::new(FAILED, format!("{}: {}", file.display(), e.message)))
    };
    files.iter().map(read).collect()
}

/// The newest there are, of each host.
fn anchors(files: &[PathBuf]) -> Result<Vec<Anchor>> {
    let mut all: BTreeMap<String, BTreeMap<u64, Mac>> = BTreeMap::new();
    let mut odd = Vec::new();
    for file in files {
        let opened = File::open(file).map_err(|e| unreadable(file, &e))?;
        let mut lines = BufReader::new(opened);
        while let Some((line, _)) = line(&mut lines).map_err(|e| unreadable(file, &e))? {
            for anchor in Anchor::all(&line) {
                let of = all.entry(anchor.host.clone()).or_default();
                match of.insert(anchor.n, anchor.mac) {
                    // Two that differ: the verdict says so.
                    Some(other) if other != anchor.mac && odd.len() < ANCHORS_MAX => {
                        odd.push(Anchor {
                            mac: other,
                            ..anchor
                        })
                    }
                    _ if of.len() > ANCHORS_MAX => drop(of.pop_first()),
                    _ => {}
                }
            }
        }
    }
    let of = |(host, of): (String, BTreeMap<u64, Mac>)| {
        of.into_iter().map(move |(n, mac)| Anchor {
            host: host.clone(),
            n,
            mac,
        })
    };
    odd.extend(all.into_iter().flat_map(of));
    match odd.is_empty() && !files.is_empty() {
        true => {
            let files: Vec<_> = files.iter().map(|f| f.display().to_string()).collect();
            let which = format!("the lines of {} is an anchor", files.join(", "));
            Err(no_anchor(&which))
        }
        false => Ok(odd),
    }
}

/// The next line, and whether it has an end; `None` = there is none.
fn line(from: &mut impl BufRead) -> std::io::Result<Option<(String, bool)>> {
    let mut bytes = Vec::new();
    let read = from
        .take(LINE_MAX as u64 + 1)
        .read_until(b'\n', &mut bytes)?;
    if read > LINE_MAX {
        let why = format!("a line has more than {LINE_MAX} bytes");
        return Err(std::io::Error::other(why));
    }
    let whole = bytes.ends_with(b"\n");
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok((read > 0).then_some((text, whole)))
}

/// A file that is none was asked for rightly.
fn header(line: &str) -> Result<Header> {
    Header::parse(line).map_err(|e| Failure::new(FAILED, e.message))
}

/// Line by line, however long it is.
fn look(audit: File, keys: &[Key], anchors: &[Anchor]) -> Result<Report> {
    let failed = |e: std::io::Error| Failure::new(FAILED, format!("It can't be read: {e}."));
    let mut lines = BufReader::new(audit);
    let (first, _) = line(&mut lines).map_err(failed)?.unwrap_or_default();
    let header = header(&first)?;
    let host = header.host.as_str();
    if !anchors.is_empty() && anchors.iter().all(|a| a.host != host) {
        return Err(no_anchor(&of_host(host)));
    }
    let (checkpoint, head) = (header.checkpoint.as_ref(), header.head.as_ref());
    let mut verifier = Verifier::new(host, keys, checkpoint, head, anchors.to_vec());
    while let Some((line, whole)) = line(&mut lines).map_err(failed)? {
        match Entry::parse(&line) {
            Some(entry) => verifier.feed(&entry),
            None if whole => verifier.unreadable(),
            None => verifier.torn(),
        }
    }
    Ok(verifier.finish())
}

fn report_json(report: &Report, source: Source) -> Value {
    let mut value = json!(report);
    value["message"] = json!(report.verdict.told(source));
    value
}

fn report_of(dict: &Dict) -> Value {
    let parts = dict.iter().map(|(key, value)| (key.clone(), plain(value)));
    Value::Object(parts.collect())
}

/// Prints it; 0 if it is whole.
fn told(global: &Global, report: &Value) -> Result<u8> {
    let out = Out::new(global);
    let word = |key: &str| clean(report[key].as_str().unwrap_or_default());
    // That there is none is said as by the export.
    let status = match report["verdict"].as_str() {
        Some("whole") => 0,
        Some("empty") => NO_SUCH,
        _ => FAILED,
    };
    if out.is_json() {
        out.object(report)?;
        return Ok(status);
    }
    if status == NO_SUCH {
        return Err(Failure::from(not_kept(&word("host"))));
    }
    if status != 0 {
        return Err(Failure::new(
            status,
            sentence(&word("host"), &word("message")),
        ));
    }
    if !global.quiet {
        let keys = report["unsigned_keys"].as_array();
        let keys = match keys.and_then(|keys| keys.first()) {
            None => String::new(),
            Some(n) => format!(" At entry {n} its key was replaced without the former one."),
        };
        out.line(&format!(
            "The audit of host {} is whole: entries {} to {}, compared with {}.{keys} Keep this: {}",
            word("host"),
            report["first"],
            report["last"],
            anchors_of(report["anchors"].as_u64().unwrap_or_default()),
            json!({ "host": report["host"], "n": report["last"], "mac": report["mac"] }),
        ))?;
    }
    Ok(0)
}

fn sentence(host: &str, message: &str) -> String {
    format!("The audit of host {host} {message}")
}

fn anchors_of(count: u64) -> String {
    match count {
        1 => "1 anchor".to_owned(),
        n => format!("{n} anchors"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;
    use crate::domain::audit::Verdict;
    use crate::domain::audit::{Head, Note};

    #[test]
    fn an_export_that_broke_off_is_said_to_have() {
        let key = Key::new(&(0..40).collect::<Vec<u8>>()).unwrap();
        let mut head = Head::none();
        let entries: Vec<String> = (1..4)
            .map(|n| {
                let note = Note::begun("h", &key, None, Timestamp(n));
                head.append(&key, "h", note).line()
            })
            .collect();
        let header = Header::new("h".to_owned(), Timestamp(9), None, Some(head)).line();
        let copied = |lines: &[String]| {
            let (text, mut to) = (format!("{header}{}", lines.concat()), Vec::new());
            let done = copy(text.as_bytes(), &mut to);
            assert_eq!(to, text.as_bytes(), "all there is was written");
            done
        };
        assert!(copied(&entries).is_ok());
        let broken = copied(&entries[..2]).unwrap_err().message;
        assert!(broken.contains("ends at entry 2 of 3"), "{broken}");
        assert!(copied(&[]).is_err());
        let half = [
            entries[0].clone(),
            entries[1].clone(),
            entries[2][..9].to_owned(),
        ];
        let broken = copied(&half).unwrap_err().message;
        assert!(broken.contains("ends at entry 2 of 3"), "{broken}");
    }

    #[test]
    fn what_is_wrong_is_a_sentence() {
        let lost = Verdict::Removed { from: 2, to: 4 };
        let said = sentence("h", &lost.told(Source::File));
        assert!(
            said.starts_with("The audit of host h lacks the entries 2 to 4"),
            "{said}"
        );
        assert_eq!(
            (anchors_of(1), anchors_of(0)),
            ("1 anchor".into(), "0 anchors".into())
        );
    }

    #[test]
    fn a_file_without_an_anchor_is_named() {
        let file = std::env::temp_dir().join(format!("stratavore-anchors-{}", std::process::id()));
        std::fs::write(&file, "root:x:0:0\n").unwrap();
        let refused = anchors(std::slice::from_ref(&file)).unwrap_err().message;
        std::fs::remove_file(&file).unwrap();
        let begin = format!("None of the lines of {} is an anchor. ", file.display());
        assert!(refused.starts_with(&begin), "{refused}");
    }

    #[test]
    fn an_audit_that_is_not_kept_is_no_such_thing() {
        let failure = Failure::from(not_kept("h"));
        assert_eq!(failure.status, NO_SUCH);
    }
}
