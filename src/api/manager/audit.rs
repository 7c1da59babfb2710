//! Methods of `org.stratavore1.Manager` about the audit.

use crate::api::convert::Dict;
use crate::api::core::Core;
use crate::api::errors::Result;
use crate::api::values::Options;
use zbus::message::Header;
use zbus::{OwnedFd, interface};

/// This block of the interface.
#[derive(Debug)]
pub(in crate::api) struct Audit(pub(super) Core);

#[interface(name = "org.stratavore1.Manager")]
impl Audit {
    /// Looks at the whole audit of a host (id, name or a unique prefix of the id; empty: this one), with
    /// the key of this host and all anchors it knows: verdict (a word), message (a sentence), host,
    /// entries, first, last, mac (of the last), anchors (compared), n (what the verdict is about),
    /// unsigned_keys (entries at which a key was replaced without the former one).
    ///
    /// The verdict is whole, or empty, changed, checkpoint-changed, removed, cut, short, rewritten,
    /// head-differs, wrong-key. Option: anchors as, "N:MAC", others that it must agree with.
    #[zbus(out_args("report"))]
    async fn verify_audit(
        &self,
        #[zbus(header)] header: Header<'_>,
        host: &str,
        options: Options,
    ) -> Result<Dict> {
        let call = self.0.enter(&header).await?;
        self.0.verify_audit(call, host, &options).await
    }

    /// The audit of a host (as for VerifyAudit) as a file that stratavorectl audit verify takes: a pipe
    /// that it can be read from. It ends with the last entry of now.
    #[zbus(out_args("audit"))]
    async fn export_audit(
        &self,
        #[zbus(header)] header: Header<'_>,
        host: &str,
        options: Options,
    ) -> Result<OwnedFd> {
        let call = self.0.enter(&header).await?;
        self.0.export_audit(call, host, &options).await
    }

    /// "ok"; "unconfigured": there is no key, and no audit is kept.
    #[zbus(property(emits_changed_signal = "const"))]
    fn audit(&self) -> String {
        self.0.audit().to_owned()
    }
}
