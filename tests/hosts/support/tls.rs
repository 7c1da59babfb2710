//! Certificates of the test's own, made by openssl.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use super::{machine, prepare, run_folder, unique};

/// A certificate authority nobody else trusts. Its keys are gone when it is dropped.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
}

/// A certificate and its private key, both PEM.
#[derive(Debug, Clone)]
pub struct Certified {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    #[track_caller]
    pub fn new() -> Self {
        prepare();
        let folder = run_folder().join(format!("tls-{}-{}", std::process::id(), unique()));
        std::fs::create_dir_all(&folder).expect("a folder for certificates");
        std::fs::write(folder.join("owner"), super::own_name()).expect("the owner of a folder");
        let authority = Authority { folder };
        authority.openssl(&format!(
            "{KEY} -x509 -keyout ca.key -out ca.pem -days 3650 -subj '/CN=test authority' \
             -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign"
        ));
        authority
    }

    /// What those who are to trust it need.
    pub fn pem(&self) -> String {
        self.read("ca.pem")
    }

    /// For a server that is reached at these addresses, or by the names of README's.
    #[track_caller]
    pub fn server(&self, addresses: &[Ipv4Addr]) -> Certified {
        let names: Vec<String> = addresses.iter().map(|a| format!("IP:{a}")).collect();
        let names = format!(
            "subjectAltName=DNS:localhost,DNS:db1.example.org,DNS:db2.example.org,{}",
            names.join(",")
        );
        self.certify("server", &format!("{names}\nextendedKeyUsage=serverAuth"))
    }

    /// For a client who shows who it is by a certificate.
    #[track_caller]
    pub fn client(&self, name: &str) -> Certified {
        self.certify(name, "extendedKeyUsage=clientAuth")
    }

    fn certify(&self, name: &str, extensions: &str) -> Certified {
        let file = format!("{}", unique());
        std::fs::write(
            self.folder.join(format!("{file}.ext")),
            format!("{extensions}\n"),
        )
        .expect("a file of extensions");
        self.openssl(&format!(
            "{KEY} -keyout {file}.key -out {file}.csr -subj '/CN={name}' && openssl x509 -req -in {file}.csr \
             -CA ca.pem -CAkey ca.key -set_serial {file} -days 3650 -extfile {file}.ext -out {file}.pem"
        ));
        Certified {
            certificate: self.read(&format!("{file}.pem")),
            key: self.read(&format!("{file}.key")),
        }
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.join(name)).expect("a file of the authority")
    }

    #[track_caller]
    fn openssl(&self, command: &str) {
        let script = format!(
            "command -v openssl >/dev/null || {{ echo 'openssl is missing. Get it with: tests/setup.sh test' >&2; exit 1; }}\n\
             cd '{}' && {command}",
            self.folder.display()
        );
        machine(&["sh", "-euc", &script]);
    }
}

const KEY: &str = "openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.folder));
    }
}
