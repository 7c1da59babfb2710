//! What tells whether a launch with a request id that was used before asks for the same, and whether
//! one that waited is still what was asked for.

use super::LaunchRequest;
use crate::domain::RunnerSpec;

/// SHA-256 over everything a launch asks for. The values of its environment are in it too, so
/// that the same request id with another value is noticed; they can't be had back from it.
pub(super) fn of(request: &LaunchRequest) -> String {
    use sha2::{Digest, Sha256};
    let setenv: Vec<_> = request.setenv.iter().map(|e| (&e.name, &e.value)).collect();
    // Serialising plain data can't fail; an empty text would only make repetitions conflict. What
    // came in a later release counts only where it is used: a request may be repeated after an
    // upgrade. Of streams it is which are given; their numbers differ each time.
    let text = match (request.streams.given(), &request.inputs) {
        (given, files) if request.queue => {
            serde_json::to_vec(&(&request.spec, setenv, given, files, "queue"))
        }
        ([false, false, false], files) if files.is_empty() => {
            serde_json::to_vec(&(&request.spec, setenv))
        }
        (given, files) if files.is_empty() => serde_json::to_vec(&(&request.spec, setenv, given)),
        (given, files) => serde_json::to_vec(&(&request.spec, setenv, given, files)),
    };
    hex(&Sha256::digest(text.unwrap_or_default()))
}

/// SHA-256 over what runs and as whom: what of a launch that waits never changes.
pub(super) fn identity(spec: &RunnerSpec) -> String {
    use sha2::{Digest, Sha256};
    let said = (
        &spec.project,
        spec.uid,
        &spec.user,
        &spec.command,
        &spec.working_directory,
        &spec.placed,
    );
    hex(&Sha256::digest(
        serde_json::to_vec(&said).unwrap_or_default(),
    ))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
