//! Secrets of the daemon, handed over by systemd: files in `$CREDENTIALS_DIRECTORY`
//! (`LoadCredential=` of systemd.exec(5)). Never shown, logged or passed on.

use crate::domain::audit::Key;
use crate::domain::notify::{Address, SECRET_MAX, SECRET_MIN};
use crate::domain::secret::Secret;
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// The largest credential, in bytes: systemd's own bound.
const CREDENTIAL_MAX: u64 = 1 << 20;

/// One that this release knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// The name of its file.
    pub name: &'static str,
    /// What it is, for `--print-config` and the manual.
    pub about: &'static str,
    /// Whether it must not be shown.
    secret: bool,
}

/// All of them.
pub const CREDENTIALS: [Kind; 10] = [
    Kind {
        name: "store-password",
        about: "The password of the role in store.url",
        secret: true,
    },
    Kind {
        name: "store-ca",
        about: "The authorities that sign the store's certificate (PEM); the system's where it is not given",
        secret: false,
    },
    Kind {
        name: "store-cert",
        about: "Our own certificate for the store (PEM), with store-key",
        secret: false,
    },
    Kind {
        name: "store-key",
        about: "The key of store-cert (PEM)",
        secret: true,
    },
    Kind {
        name: AUDIT_KEY,
        about: "The key of the audit: 32 to 4096 random bytes; audit.key_credential may name another one",
        secret: true,
    },
    Kind {
        name: "audit-key-previous",
        about: "The key that it has replaced, to be given until the daemon was started once with both",
        secret: true,
    },
    Kind {
        name: "amqp-password",
        about: "The password of the user in events.amqp_urls",
        secret: true,
    },
    Kind {
        name: "amqp-ca",
        about: "The authorities that sign the broker's certificate (PEM); the system's where it is not given",
        secret: false,
    },
    Kind {
        name: "amqp-cert",
        about: "Our own certificate for the broker (PEM), with amqp-key",
        secret: false,
    },
    Kind {
        name: "amqp-key",
        about: "The key of amqp-cert (PEM)",
        secret: true,
    },
];

/// Those of each notification rule; `NAME` stands for the rule's.
pub const NOTIFY_CREDENTIALS: [Kind; 2] = [
    Kind {
        name: "notify-NAME-url",
        about: "Where the messages of the notification rule are posted; goes before its url",
        secret: true,
    },
    Kind {
        name: "notify-NAME-secret",
        about: "What they are signed with: one line of 16 to 4096 bytes. Without it they are not signed",
        secret: true,
    },
];

/// The key of the audit, where nothing else is configured.
pub(super) const AUDIT_KEY: &str = "audit-key";

/// The keys of the audit.
#[derive(Debug, Clone, Default)]
pub struct AuditKeys(pub Vec<Key>);

impl AuditKeys {
    /// Reads the credential of this name and the one that it has replaced, if they are there. The
    /// error names the file, never what is in it.
    pub fn read(name: &str) -> Result<Self, String> {
        folder().map_or_else(
            || Ok(Self::default()),
            |folder| Self::read_in(&folder, name),
        )
    }

    fn read_in(folder: &Path, name: &str) -> Result<Self, String> {
        let previous = format!("{name}-previous");
        let mut keys = Vec::new();
        for name in [name, &previous] {
            if let Some(bytes) = bytes(folder, name)? {
                let key = Key::new(&bytes);
                keys.push(key.map_err(|e| format!("The credential {name}: {}", e.message))?);
            } else if keys.is_empty() {
                let there = folder.join(&previous).symlink_metadata().is_ok();
                return match there {
                    true => Err(lonely(&previous, name)),
                    false => Ok(Self::default()),
                };
            }
        }
        Ok(Self(keys))
    }
}

/// Refuses what is no name of a credential (systemd.exec(5)).
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    match (1..=200).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('.') {
        true => Ok(()),
        false => Err("give the name of a credential: letters, digits, “-”, “_” and “.”".to_owned()),
    }
}

/// What the store or the broker wants of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The password.
    pub password: Option<Secret>,
    /// The file with the authorities, PEM.
    pub ca: Option<PathBuf>,
    /// The files with our certificate and its key, PEM.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// The folder of this service's credentials, if it has some.
fn folder() -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from)
}

impl Credentials {
    /// Reads `store-*`. The error names the file, never what is in it.
    pub fn of_store() -> Result<Self, String> {
        Self::read("store")
    }

    /// Reads `amqp-*`, likewise.
    pub fn of_broker() -> Result<Self, String> {
        Self::read("amqp")
    }

    fn read(whose: &str) -> Result<Self, String> {
        folder().map_or_else(
            || Ok(Self::default()),
            |folder| Self::read_in(&folder, whose),
        )
    }

    fn read_in(folder: &Path, whose: &str) -> Result<Self, String> {
        let name = |what: &str| format!("{whose}-{what}");
        let file = |what: &str| {
            let name = name(what);
            text(folder, &name).map(|found| found.map(|_| folder.join(&name)))
        };
        let certificate = match (file("cert")?, file("key")?) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some((cert, key)),
            (Some(_), None) => return Err(lonely(&name("cert"), &name("key"))),
            (None, Some(_)) => return Err(lonely(&name("key"), &name("cert"))),
        };
        Ok(Self {
            password: line(folder, &format!("{whose}-password"))?.map(Secret::new),
            ca: file("ca")?,
            certificate,
        })
    }
}

/// What a notification rule wants of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NotifyCredentials {
    /// `notify-NAME-url`.
    pub url: Option<Address>,
    /// `notify-NAME-secret`.
    pub secret: Option<Secret>,
}

impl NotifyCredentials {
    /// Reads those of this rule that are there. The error names the credential, never what is in it.
    pub fn read(rule: &str) -> Result<Self, String> {
        folder().map_or_else(
            || Ok(Self::default()),
            |folder| Self::read_in(&folder, rule),
        )
    }

    fn read_in(folder: &Path, rule: &str) -> Result<Self, String> {
        let name = |kind: &Kind| kind.name.replace("NAME", rule);
        let [url, secret] = NOTIFY_CREDENTIALS.each_ref().map(name);
        let address = line(folder, &url)?
            .map(|text| Address::parse(&text))
            .transpose();
        let secret_given = line(folder, &secret)?;
        if secret_given
            .as_ref()
            .is_some_and(|s| !(SECRET_MIN..=SECRET_MAX).contains(&s.len()))
        {
            return Err(format!(
                "The credential {secret} has not {SECRET_MIN} to {SECRET_MAX} bytes."
            ));
        }
        Ok(Self {
            url: address.map_err(|why| format!("The credential {url}: {why}."))?,
            secret: secret_given.map(Secret::new),
        })
    }
}

fn lonely(there: &str, missing: &str) -> String {
    format!("The credential {there} is there, but not {missing}; give both or none.")
}

/// A password: without the end of line that editors put there.
fn line(folder: &Path, name: &str) -> Result<Option<String>, String> {
    let Some(mut text) = text(folder, name)? else {
        return Ok(None);
    };
    if text.ends_with('\n') {
        text.pop();
    }
    if text.ends_with('\r') {
        text.pop();
    }
    match text.is_empty() || text.contains(['\n', '\0']) {
        true => Err(format!("The credential {name} is not one line of text.")),
        false => Ok(Some(text)),
    }
}

fn unreadable(folder: &Path, name: &str, why: &dyn fmt::Display) -> String {
    let path = folder.join(name);
    format!("The credential {} can't be read: {why}.", path.display())
}

fn text(folder: &Path, name: &str) -> Result<Option<String>, String> {
    let text = bytes(folder, name)?.map(String::from_utf8).transpose();
    text.map_err(|_| unreadable(folder, name, &"it is not text"))
}

fn bytes(folder: &Path, name: &str) -> Result<Option<Vec<u8>>, String> {
    let path = folder.join(name);
    let failed = |why: &dyn fmt::Display| unreadable(folder, name, why);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(&error)),
    };
    let mut bytes = Vec::new();
    file.take(CREDENTIAL_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| failed(&e))?;
    if bytes.len() as u64 > CREDENTIAL_MAX {
        return Err(failed(&"it has more than 1 MiB"));
    }
    Ok(Some(bytes))
}

/// For `--print-config`: which credentials are there and where they come from, as comments.
pub(super) fn print() -> String {
    print_in(folder().as_deref())
}

fn print_in(folder: Option<&Path>) -> String {
    let mut out =
        "# Credentials (LoadCredential= in a drop-in of stratavored.service). Need a restart\n"
            .to_owned();
    for kind in CREDENTIALS {
        out.push_str(&print_one(folder, kind.name, &kind));
    }
    out
}

fn print_one(folder: Option<&Path>, name: &str, kind: &Kind) -> String {
    let path = folder.map(|folder| folder.join(name));
    let found = path.filter(|path| path.symlink_metadata().is_ok());
    let value = match (&found, folder) {
        (Some(path), _) => format!(
            "{} ({})",
            if kind.secret { "***" } else { "PEM" },
            path.display()
        ),
        (None, Some(_)) => "not given".to_owned(),
        (None, None) => "not to be seen here: only the service has credentials".to_owned(),
    };
    format!("#   {name}: {value}. {}\n", kind.about)
}

/// The same of the notification rules of these names.
pub(super) fn print_notify<'a>(rules: impl Iterator<Item = &'a String>) -> String {
    let folder = folder();
    let of_rule = |rule: &String| {
        let one =
            |kind: &Kind| print_one(folder.as_deref(), &kind.name.replace("NAME", rule), kind);
        NOTIFY_CREDENTIALS.iter().map(one).collect::<String>()
    };
    rules.map(of_rule).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> std::io::Result<PathBuf> {
        let folder = std::env::temp_dir().join(format!("stratavore-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    #[test]
    fn keys_of_the_audit() -> Result<(), Box<dyn std::error::Error>> {
        let folder = scratch("audit-credentials")?;
        let read = |name: &str| AuditKeys::read_in(&folder, name);
        assert!(read("audit-key")?.0.is_empty());
        std::fs::write(folder.join("audit-key-previous"), [b'0'; 20])?;
        assert!(read("audit-key").is_err_and(|e| e.contains("but not audit-key")));
        std::fs::write(folder.join("audit-key"), (0..32).collect::<Vec<u8>>())?;
        let short = read("audit-key").err().unwrap_or_default();
        assert!(
            short.contains("audit-key-previous: ") && short.contains("32"),
            "{short}"
        );
        std::fs::write(
            folder.join("audit-key-previous"),
            "\u{ff}".repeat(16) + "\n",
        )?;
        let keys = read("audit-key")?.0;
        assert_eq!(keys.len(), 2);
        assert_ne!(keys[0].id(), keys[1].id());
        assert!(read("other")?.0.is_empty());
        for wrong in ["", "a/b", "..", "a b", &"x".repeat(201)] {
            assert!(check_name(wrong).is_err(), "{wrong}");
        }
        assert_eq!(check_name("audit-key.2"), Ok(()));
        std::fs::remove_dir_all(&folder)?;
        Ok(())
    }

    #[test]
    fn what_notification_rules_want() -> Result<(), Box<dyn std::error::Error>> {
        let folder = scratch("notify-credentials")?;
        let read = |rule: &str| NotifyCredentials::read_in(&folder, rule);
        assert_eq!(read("ops")?, NotifyCredentials::default());
        let write = |name: &str, text: &str| std::fs::write(folder.join(name), text);
        write("notify-ops-url", "https://hooks.example/hunter2\n")?;
        write("notify-ops-secret", "hunter2 hunter2 hunter2\n")?;
        let given = read("ops")?;
        assert!(given.url.is_some() && !format!("{given:?}").contains("hunter2"));
        assert_eq!(
            given.secret.as_ref().map(Secret::reveal),
            Some("hunter2 hunter2 hunter2")
        );
        assert_eq!(read("other")?, NotifyCredentials::default());
        for (name, text, part) in [
            (
                "notify-ops-url",
                "hunter2",
                "The credential notify-ops-url: give an address",
            ),
            ("notify-ops-secret", "hunter2", "has not 16 to 4096 bytes"),
        ] {
            write(name, text)?;
            let said = read("ops").err().unwrap_or_default();
            assert!(said.contains(part) && !said.contains("hunter2"), "{said}");
        }
        std::fs::remove_dir_all(&folder)?;
        Ok(())
    }

    #[test]
    fn secrets_are_read_and_never_shown() -> Result<(), Box<dyn std::error::Error>> {
        let folder = scratch("store-credentials")?;
        assert_eq!(
            Credentials::read_in(&folder, "store")?,
            Credentials::default()
        );
        std::fs::write(folder.join("store-password"), "hunter2 \n")?;
        std::fs::write(folder.join("store-ca"), "-----BEGIN")?;
        let read = Credentials::read_in(&folder, "store")?;
        assert_eq!(read.ca, Some(folder.join("store-ca")));
        assert_eq!(read.password.as_ref().map(Secret::reveal), Some("hunter2 "));
        assert!(!format!("{read:?}").contains("hunter2"));
        let printed = print_in(Some(&folder));
        assert!(
            printed.contains("store-password: *** (") && printed.contains("store-key: not given"),
            "{printed}"
        );
        assert!(
            printed.lines().all(|l| l.starts_with('#')) && !printed.contains("hunter2"),
            "{printed}"
        );
        assert!(print_in(None).contains("only the service"));
        for (name, content, part) in [
            ("store-password", &b"two\nlines"[..], "one line"),
            ("store-password", b"", "one line"),
            ("store-password", b"hunter2\xff", "not text"),
            ("store-password", &[b'x'; (1 << 20) + 1], "more than 1 MiB"),
            ("store-key", b"k", "give both"),
        ] {
            for kind in CREDENTIALS {
                std::fs::remove_file(folder.join(kind.name)).ok();
            }
            std::fs::write(folder.join(name), content)?;
            let error = Credentials::read_in(&folder, "store")
                .err()
                .unwrap_or_default();
            assert!(
                error.contains(part) && !error.contains("hunter2"),
                "{error}"
            );
        }
        std::fs::remove_dir_all(&folder)?;
        Ok(())
    }
}
