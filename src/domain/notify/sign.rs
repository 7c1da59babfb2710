//! What proves to a receiver that a message is from this host, and of now.

use super::super::secret::Secret;
use hmac::{Hmac, KeyInit, Mac as _};
use sha2::Sha256;

/// The shortest secret, in bytes.
pub const SECRET_MIN: usize = 16;
/// The longest.
pub const SECRET_MAX: usize = 4_096;

/// `v1=` and the HMAC-SHA256 in hex of `<seconds since 1970>.<body>`. A receiver makes the same and
/// compares; and it refuses an old time, so that nobody can send a message again later.
pub fn signature(secret: &Secret, seconds: u64, body: &str) -> String {
    use std::fmt::Write;
    let mut out = "v1=".to_owned();
    // A key of any length will do for HMAC.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.reveal().as_bytes()) else {
        return out;
    };
    mac.update(format!("{seconds}.").as_bytes());
    mac.update(body.as_bytes());
    for byte in mac.finalize().into_bytes() {
        let _ = write!(out, "{byte:02x}");
    }
    out
}
