//! Inlining: small outputs copied from the CAS into an `ActionResult`, for callers that asked.
//!
//! Used for results of runs and for hits alike. What nobody asked for is taken out, so that a
//! stored result with bytes inside never surprises a client. The hints are only hints: an output
//! that does not fit, or cannot be read, stays a digest.

use std::collections::HashSet;

use farmhand_proto::reapi;
use prost::Message;

use crate::cas::ContentAddressableStorage;
use crate::digest::{Digest, DigestFunction};
use crate::worker::outputs::MAX_RESULT;

/// Bytes inlined into one result at most; messages must stay below 4 MiB in all.
pub const INLINE_LIMIT: u64 = 1024 * 1024;

/// What a caller wants inlined (`inline_stdout` and its siblings in `ExecuteRequest` and
/// `GetActionResultRequest`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InlineHints {
    /// The standard output.
    pub stdout: bool,
    /// The standard error.
    pub stderr: bool,
    /// Output files, by their paths exactly as in the Command.
    pub files: HashSet<String>,
}

impl InlineHints {
    /// Whether nothing is wanted.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Puts what `hints` ask for into `result`, and takes out what they do not. Digests in `result`
/// are of `function`.
pub async fn inline(
    cas: &dyn ContentAddressableStorage,
    function: DigestFunction,
    hints: &InlineHints,
    mut result: reapi::ActionResult,
) -> reapi::ActionResult {
    let left = INLINE_LIMIT.min(MAX_RESULT.saturating_sub(result.encoded_len()) as u64);
    let mut inliner = Inliner { cas, function, left };
    inliner.fill(hints.stdout, result.stdout_digest.as_ref(), &mut result.stdout_raw).await;
    inliner.fill(hints.stderr, result.stderr_digest.as_ref(), &mut result.stderr_raw).await;
    for file in &mut result.output_files {
        let wanted = hints.files.contains(&file.path);
        inliner.fill(wanted, file.digest.as_ref(), &mut file.contents).await;
    }
    result
}

struct Inliner<'a> {
    cas: &'a dyn ContentAddressableStorage,
    function: DigestFunction,
    left: u64,
}

impl Inliner<'_> {
    /// Makes `raw` hold the blob if it is wanted and fits, and nothing otherwise. Bytes without a
    /// digest beside them are all there is, and stay.
    async fn fill(&mut self, wanted: bool, digest: Option<&reapi::Digest>, raw: &mut Vec<u8>) {
        let Ok(digest) = Digest::from_field(self.function, digest) else { return };
        if !wanted || digest.size() > self.left {
            *raw = Vec::new();
            return;
        }
        if raw.len() as u64 != digest.size() {
            *raw = match self.cas.get(&digest).await {
                Ok(data) => data.to_vec(),
                Err(error) => {
                    tracing::debug!(%digest, %error, "not inlined");
                    Vec::new()
                }
            };
        }
        self.left -= raw.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cas::memory::MemoryCas;
    use crate::digest::DigestFunction::Sha256;

    fn file(path: &str, digest: Digest) -> reapi::OutputFile {
        reapi::OutputFile { path: path.into(), digest: Some(digest.to_wire()), ..Default::default() }
    }

    #[tokio::test]
    async fn fills_what_was_asked_for_and_strips_the_rest() {
        let cas = MemoryCas::default();
        let out = cas.insert(Sha256, "out");
        let err = cas.insert(Sha256, "err");
        let result = reapi::ActionResult {
            stdout_digest: Some(out.to_wire()),
            stderr_digest: Some(err.to_wire()),
            stderr_raw: b"err".to_vec(),
            output_files: vec![file("a", out), file("b", out)],
            ..Default::default()
        };
        let hints = InlineHints {
            stdout: true,
            stderr: false,
            files: HashSet::from(["a".to_owned(), "./b".to_owned(), "unknown".to_owned()]),
        };
        let result = inline(&cas, Sha256, &hints, result).await;
        assert_eq!(result.stdout_raw, b"out");
        assert!(result.stderr_raw.is_empty());
        assert_eq!(result.output_files[0].contents, b"out");
        assert!(result.output_files[1].contents.is_empty());
        assert_eq!(result.stdout_digest, Some(out.to_wire()));
    }

    #[tokio::test]
    async fn the_sum_is_bounded_and_absent_blobs_stay_digests() {
        let cas = MemoryCas::default();
        let half = cas.insert(Sha256, vec![1; INLINE_LIMIT as usize / 2 + 1]);
        let small = cas.insert(Sha256, "small");
        let absent = Digest::of(Sha256, b"absent");
        let result = reapi::ActionResult {
            output_files: vec![file("a", half), file("b", half), file("c", absent), file("d", small)],
            ..Default::default()
        };
        let files = ["a", "b", "c", "d"].map(str::to_owned).into();
        let result = inline(&cas, Sha256, &InlineHints { files, ..Default::default() }, result).await;
        let sizes: Vec<_> = result.output_files.iter().map(|file| file.contents.len()).collect();
        assert_eq!(sizes, [INLINE_LIMIT as usize / 2 + 1, 0, 0, 5]);
    }

    #[tokio::test]
    async fn a_large_result_leaves_room_for_less() {
        let cas = MemoryCas::default();
        let out = cas.insert(Sha256, vec![1; 512 * 1024]);
        let mut result = reapi::ActionResult {
            stdout_digest: Some(out.to_wire()),
            output_files: vec![file(&"x".repeat(MAX_RESULT - INLINE_LIMIT as usize), out)],
            ..Default::default()
        };
        let hints = InlineHints { stdout: true, ..Default::default() };
        assert_eq!(inline(&cas, Sha256, &hints, result.clone()).await.stdout_raw.len(), 512 * 1024);
        result.output_files[0].path.push_str(&"x".repeat(600 * 1024));
        assert!(inline(&cas, Sha256, &hints, result).await.stdout_raw.is_empty());
    }

    #[tokio::test]
    async fn bytes_without_a_digest_stay() {
        let result = reapi::ActionResult { stdout_raw: b"x".to_vec(), ..Default::default() };
        let result = inline(&MemoryCas::default(), Sha256, &InlineHints::default(), result).await;
        assert_eq!(result.stdout_raw, b"x");
    }
}
