//! The calls about chunks: `SplitBlob` and `SpliceBlob`, and their streamed siblings of API 2.13,
//! `GetChunkMapping` and `RegisterChunkMapping`.
//!
//! Any chunking function may be named: a blob is cut as the one that was asked for says if it is offered, and by
//! FastCDC otherwise, which the answer tells; what is spliced is verified as a whole, however it was cut.

use std::sync::Arc;

use farmhand_proto::reapi;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use tonic::{Status, Streaming};

use super::CasMethods;
use crate::cas::chunking::Chunking;
use crate::cas::chunks::ChunkList;
use crate::digest::{Digest, DigestError, DigestFunction};
use crate::rpc::MAX_SENT_MESSAGE;
use crate::rpc::server::leave_connection;

/// Bytes of a digest in an answer: hash, size and tags.
const DIGEST: usize = 80;

/// Chunks that fit into one answer.
const MOST: usize = MAX_SENT_MESSAGE / DIGEST;

/// Why chunks are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// The answer would not fit into a message.
    #[error("the blob has {0} chunks, more than one answer has room for; ask by GetChunkMapping")]
    TooMany(usize),
    /// The streamed calls have no default.
    #[error("digest_function is not set; this call needs it")]
    NoFunction,
    /// The client said nothing.
    #[error("no message came: the first one names the blob")]
    NoMessage,
    /// It adds nothing, so that there might be any number of them.
    #[error("a chunk is empty")]
    Empty,
}

impl CasMethods {
    pub(super) async fn split_blob(
        &self,
        request: reapi::SplitBlobRequest,
    ) -> Result<reapi::SplitBlobResponse, Status> {
        leave_connection().await;
        let function = self.instances.find(&request.instance_name)?.function(request.digest_function)?;
        let blob = Digest::from_field(function, request.blob_digest.as_ref())?;
        let (list, chunking) = self.split(&blob, request.chunking_function).await?;
        if list.len() > MOST {
            return Err(ChunkError::TooMany(list.len()).into());
        }
        let chunk_digests = list.iter().map(Digest::to_wire).collect();
        Ok(reapi::SplitBlobResponse { chunk_digests, chunking_function: chunking.to_wire() })
    }

    pub(super) async fn get_chunk_mapping(
        &self,
        request: reapi::GetChunkMappingRequest,
    ) -> Result<BoxStream<'static, Result<reapi::GetChunkMappingResponse, Status>>, Status> {
        leave_connection().await;
        let function = self.function_of(&request.instance_name, request.digest_function)?;
        let blob = Digest::from_field(function, request.blob_digest.as_ref())?;
        let (list, chunking) = self.split(&blob, request.chunking_function).await?;
        Ok(stream::iter(answers(list, chunking)).map(Ok).boxed())
    }

    pub(super) async fn splice_blob(
        &self,
        request: reapi::SpliceBlobRequest,
    ) -> Result<reapi::SpliceBlobResponse, Status> {
        leave_connection().await;
        let function = self.instances.find(&request.instance_name)?.function(request.digest_function)?;
        let blob = Digest::from_field(function, request.blob_digest.as_ref())?;
        let chunks = parse(function, &request.chunk_digests)?;
        let mut splice = self.chunks.splice(&blob).await?;
        splice.add(&chunks).await?;
        splice.finish().await?;
        Ok(reapi::SpliceBlobResponse { blob_digest: Some(blob.to_wire()) })
    }

    /// What later messages say of anything but chunks is not looked at. The blob is made when the client ends its
    /// stream, and forgotten when it breaks off.
    pub(super) async fn register_chunk_mapping(
        self: Arc<Self>,
        mut requests: Streaming<reapi::RegisterChunkMappingRequest>,
    ) -> Result<reapi::RegisterChunkMappingResponse, Status> {
        leave_connection().await;
        let first = requests.try_next().await?.ok_or(ChunkError::NoMessage)?;
        let function = self.function_of(&first.instance_name, first.digest_function)?;
        let blob = Digest::from_field(function, first.blob_digest.as_ref())?;
        let mut chunks = parse(function, &first.chunk_digests)?;
        let mut splice = self.chunks.splice(&blob).await?;
        loop {
            splice.add(&chunks).await?;
            let Some(next) = requests.try_next().await? else { break };
            chunks = parse(function, &next.chunk_digests)?;
        }
        splice.finish().await?;
        Ok(reapi::RegisterChunkMappingResponse { blob_digest: Some(blob.to_wire()) })
    }

    async fn split(&self, blob: &Digest, wire: i32) -> Result<(ChunkList, Chunking), Status> {
        let chunking = self.chunks.offer().choose(wire);
        Ok((self.chunks.split(blob, chunking).await?, chunking))
    }

    /// The digest function of a call that must name it.
    fn function_of(&self, instance: &str, wire: i32) -> Result<DigestFunction, Status> {
        let instance = self.instances.find(instance)?;
        if wire == 0 {
            return Err(ChunkError::NoFunction.into());
        }
        Ok(instance.function(wire)?)
    }
}

/// The messages that say how a blob is cut; one at least. The function stands in the first alone.
fn answers(list: ChunkList, chunking: Chunking) -> impl Iterator<Item = reapi::GetChunkMappingResponse> {
    let count = list.len().div_ceil(MOST).max(1);
    (0..count).map(move |number| {
        let chunks = list.iter().skip(number * MOST).take(MOST);
        let chunking_function = if number == 0 { chunking.to_wire() } else { 0 };
        reapi::GetChunkMappingResponse {
            chunk_digests: chunks.map(Digest::to_wire).collect(),
            chunking_function,
        }
    })
}

fn parse(function: DigestFunction, chunks: &[reapi::Digest]) -> Result<Vec<Digest>, Status> {
    let chunks = chunks.iter().map(|chunk| Digest::from_wire(function, chunk));
    let chunks = chunks.collect::<Result<Vec<_>, DigestError>>()?;
    if chunks.iter().any(|chunk| chunk.size() == 0) {
        return Err(ChunkError::Empty.into());
    }
    Ok(chunks)
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn a_long_list_comes_in_messages_that_everybody_takes() {
        let digest = |n: u32| {
            let mut hash = [0xee; 32];
            hash[..4].copy_from_slice(&n.to_be_bytes());
            Digest::from_parts(DigestFunction::Sha256, hash, u64::MAX >> 1)
        };
        let chunking = Chunking::RepMaxCdc { least: 64, horizon: 0 };
        for len in [0, 1, MOST, MOST + 1, 3 * MOST - 1] {
            let list: ChunkList = (0..len as u32).map(digest).collect();
            let answers: Vec<_> = answers(Arc::clone(&list), chunking).collect();
            assert_eq!(answers.len(), len.div_ceil(MOST).max(1));
            assert!(answers.iter().all(|answer| answer.encoded_len() <= MAX_SENT_MESSAGE));
            let functions: Vec<_> = answers.iter().map(|answer| answer.chunking_function).collect();
            assert!(functions[0] == 2 && functions[1..].iter().all(|function| *function == 0));
            let chunks = answers.into_iter().flat_map(|answer| answer.chunk_digests);
            assert!(chunks.eq(list.iter().map(Digest::to_wire)));
        }
    }
}
