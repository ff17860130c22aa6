//! [`RemoteCopies`]: the store of another machine, over the link to it.
//!
//! Small entries go in calls of [`Copies`](farmhand_proto::peer::copies_client), large blobs as uploads under a
//! name that stays the same: one that broke off goes on where it was, over another link or out of another
//! start of this node, compressed or not, as the other end counts what came out. Nothing is waited for without
//! end, and what is dropped half-way ends at both ends.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use farmhand_proto::bytestream::{QueryWriteStatusRequest, QueryWriteStatusResponse, WriteResponse};
use farmhand_proto::peer::copies_client::CopiesClient;
use farmhand_proto::peer::{
    Entry as WireEntry, FindRequest, GiveRequest, HaveRequest, ResultsRequest, SettleRequest,
};
use farmhand_proto::raw::WriteRequest;
use futures_util::{StreamExt, stream};
use http::uri::PathAndQuery;
use tokio::time::{Instant, timeout};
use tonic::body::Body;
use tonic::{Code, Response, Status};
use tonic_prost::ProstCodec;
use tower::Service;

use super::compress::{MOST_SAVED, Pace, Sample};
use super::copies::{Copy, CopyPeer, CopyStore, Taken};
use super::messages::{GIVEN_BYTES, MOST_BYTES, MessageError, read_bits, read_taken, write_keys};
use crate::cas::BlobStream;
use crate::cas::compression::{Packer, compress, compress_stream};
use crate::cas::entry::EntryKey;
use crate::cas::fetch::SourceError;
use crate::cas::remote::wire;
use crate::digest::{BlobHash, Digest, Hasher};
use crate::peer::MachineId;
use crate::peer::link::AnyChannel;
use upload::{Course, Form, messages};

mod upload;

const QUERY: &str = "/google.bytestream.ByteStream/QueryWriteStatus";
const WRITE: &str = "/google.bytestream.ByteStream/Write";

/// Time for an answer to a question.
const ANSWER: Duration = Duration::from_secs(5);

/// Time for an answer to what carries data, besides the time that the data takes.
const GIVING: Duration = Duration::from_secs(30);

/// Bytes a second that the slowest link carries that is waited for, and the slowest disk takes.
const SLOWEST_LINK: u64 = 256 << 10;
const SLOWEST_DISK: u64 = 16 << 20;

/// Bytes of the smallest blob of which the other machine is asked how much it has already.
const RESUMED: u64 = 4 << 20;

/// Bytes by which it is judged whether compression is worth it.
const SAMPLE: usize = 128 << 10;

/// Bytes of the smallest batch that is compressed.
const LEAST_PACKED: u64 = 64 << 10;

/// What a whole compressed upload that was answered early is told.
const ANSWERED_EARLY: i64 = -1;

/// The store of another machine. Clones are the same.
#[derive(Clone)]
pub struct RemoteCopies(Arc<Shared>);

struct Shared {
    name: String,
    /// What uploads of this machine are called at the other one.
    upload: String,
    channel: AnyChannel,
    pace: Mutex<Pace>,
}

/// A channel on which one call sends `body` in place of what it would have sent.
struct Carrying {
    channel: AnyChannel,
    body: Option<Body>,
}

/// How far an earlier try of an upload came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Committed {
    /// So many bytes are there.
    Bytes(u64),
    /// It is stored there.
    Whole,
    /// It would be the next to go there.
    NoRoom,
}

/// How an upload ended.
enum Ended {
    Taken(Taken),
    /// What it was told is wrong with it.
    Refused(String),
}

// === impl RemoteCopies ===

impl RemoteCopies {
    /// That of the machine called `name`, at the other end of `channel`; this one is `me`.
    pub fn new(name: impl Into<String>, me: MachineId, channel: AnyChannel) -> Self {
        let (name, upload) = (name.into(), format!("copies-of-{me}"));
        Self(Arc::new(Shared { name, upload, channel, pace: Mutex::default() }))
    }

    fn client(&self) -> CopiesClient<AnyChannel> {
        CopiesClient::new(self.0.channel.clone()).max_decoding_message_size(MOST_BYTES)
    }

    async fn grpc(&self) -> Result<tonic::client::Grpc<AnyChannel>, Status> {
        let mut grpc = tonic::client::Grpc::new(self.0.channel.clone());
        grpc.ready().await?;
        Ok(grpc)
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.0.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, reason: impl Into<String>) -> SourceError {
        SourceError::new(&self.0.name, reason)
    }

    fn refused(&self, status: &Status) -> SourceError {
        self.failed(format!("{} ({:?})", status.message(), status.code()))
    }

    fn odd(&self, error: &MessageError) -> SourceError {
        self.failed(format!("its answer makes no sense: {error}"))
    }

    /// What a call says, if it says anything in time.
    async fn within<T>(
        &self,
        time: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, SourceError> {
        let answer = timeout(time, call).await.map_err(|_| self.silent(time))?;
        Ok(answer.map_err(|status| self.refused(&status))?.into_inner())
    }

    fn silent(&self, time: Duration) -> SourceError {
        self.failed(format!("it did not answer within {} seconds", time.as_secs()))
    }

    /// The request that gives `copies`, in the form in which it gets there soonest; the bytes in it.
    async fn pack(&self, copies: Vec<Copy>) -> (GiveRequest, u64) {
        let link = self.pace().bytes_per_second(Instant::now());
        let packed = compressed(&copies, link).await;
        let compressed = packed.is_some();
        let data = packed.unwrap_or_else(|| copies.iter().map(|copy| copy.data.clone()).collect());
        let bytes = data.iter().map(|data| data.len() as u64).sum();
        let entry = |(copy, data): (&Copy, Bytes)| WireEntry {
            key: copy.key.bytes().to_vec(),
            data,
            age: u32::try_from(copy.age.as_secs()).unwrap_or(u32::MAX),
        };
        (GiveRequest { entries: copies.iter().zip(data).map(entry).collect(), compressed }, bytes)
    }

    /// Gives what is no blob, and so no upload, however large it is.
    async fn give_alone(&self, key: &EntryKey, store: &dyn CopyStore) -> Result<Taken, SourceError> {
        let (entry, data) = (store.look(key), store.load(key).await);
        let (Some(entry), Ok(Some(data))) = (entry, data) else { return Ok(Taken::Bad) };
        let taken = self.give(vec![Copy { key: *key, data, age: entry.age }]).await?;
        Ok(taken.first().copied().unwrap_or(Taken::Bad))
    }

    /// What there is of a blob that was last used so long ago.
    async fn committed(&self, digest: &Digest, age: Duration) -> Result<Committed, SourceError> {
        if digest.size() < RESUMED {
            return Ok(Committed::Bytes(0));
        }
        let request = QueryWriteStatusRequest { resource_name: self.resource(digest, Form::Plain) };
        let codec = ProstCodec::<QueryWriteStatusRequest, QueryWriteStatusResponse>::default();
        let call = async {
            let request = wire::of_age(request, age);
            self.grpc().await?.unary(request, PathAndQuery::from_static(QUERY), codec).await
        };
        let answer = timeout(ANSWER, call).await.map_err(|_| self.silent(ANSWER))?;
        match answer.map(Response::into_inner) {
            Ok(answer) if answer.complete => Ok(Committed::Whole),
            Ok(answer) => {
                let bytes = u64::try_from(answer.committed_size).ok().filter(|bytes| *bytes <= digest.size());
                Ok(Committed::Bytes(bytes.unwrap_or_default()))
            }
            Err(status) if status.code() == Code::ResourceExhausted => Ok(Committed::NoRoom),
            Err(status) => Err(self.refused(&status)),
        }
    }

    /// The name of an upload: the same whenever it is tried.
    fn resource(&self, digest: &Digest, form: Form) -> String {
        let blobs = match form {
            Form::Plain => "blobs",
            Form::Zstd => "compressed-blobs/zstd",
        };
        format!("uploads/{}/{blobs}/{digest}", self.0.upload)
    }

    /// Sends a blob from `offset` on.
    async fn upload(
        &self,
        key: &EntryKey,
        digest: &Digest,
        (offset, age): (u64, Duration),
        store: &dyn CopyStore,
    ) -> Result<Ended, SourceError> {
        let bad = Ok(Ended::Taken(Taken::Bad));
        let Ok(mut pieces) = store.stream(key, offset).await else { return bad };
        let first = match pieces.next().await {
            Some(Ok(first)) => first,
            None => Bytes::new(),
            Some(Err(_)) => return bad,
        };
        let form = self.form(&first);
        let begin = (!first.is_empty()).then_some(Ok(first));
        let mut pieces: BlobStream = Box::pin(stream::iter(begin).chain(pieces));
        if form == Form::Zstd {
            let rest = digest.size().saturating_sub(offset);
            let packed = compress_stream(pieces, rest);
            pieces = packed.map_err(|error| self.failed(format!("cannot compress: {error}")))?;
        }
        let course = Arc::new(Course::default());
        // However this ends, no more is read and sent then.
        let _end = course.end_with_this();
        let requests =
            messages(self.resource(digest, form), form, offset..digest.size(), pieces, Arc::clone(&course));
        let began = Instant::now();
        let call = self.write(requests, age);
        let answer = self.written(call, &course, digest.size()).await?;
        if form == Form::Plain && answer.is_ok() && course.is_complete() {
            let now = Instant::now();
            self.pace().note(now, course.sent(), now.duration_since(began));
        }
        self.judge(answer, &course, digest)
    }

    /// An upload of what was last used so long ago.
    async fn write(
        &self,
        requests: impl stream::Stream<Item = WriteRequest> + Send + 'static,
        age: Duration,
    ) -> Result<Response<WriteResponse>, Status> {
        let codec = ProstCodec::<WriteRequest, WriteResponse>::default();
        let body = Some(wire::write_body(requests));
        let mut grpc = tonic::client::Grpc::new(Carrying { channel: self.0.channel.clone(), body });
        grpc.ready().await?;
        let nothing = wire::of_age(stream::empty(), age);
        grpc.client_streaming(nothing, PathAndQuery::from_static(WRITE), codec).await
    }

    /// The answer to an upload, for which is waited as long as there is something to wait for.
    async fn written(
        &self,
        call: impl Future<Output = Result<Response<WriteResponse>, Status>>,
        course: &Course,
        size: u64,
    ) -> Result<Result<i64, Status>, SourceError> {
        tokio::pin!(call);
        loop {
            let sent = course.sent();
            let storing = if course.is_complete() { allowed(size, SLOWEST_DISK) } else { Duration::ZERO };
            match timeout(GIVING + storing, &mut call).await {
                Ok(answer) => return Ok(answer.map(|answer| answer.into_inner().committed_size)),
                Err(_) if course.sent() == sent => return Err(self.silent(GIVING + storing)),
                Err(_) => {}
            }
        }
    }

    /// What an answer to an upload says.
    fn judge(
        &self,
        answer: Result<i64, Status>,
        course: &Course,
        digest: &Digest,
    ) -> Result<Ended, SourceError> {
        let bad = Ok(Ended::Taken(Taken::Bad));
        match answer {
            Ok(committed) if course.is_complete() || is_whole(committed, digest) => {
                Ok(Ended::Taken(Taken::Stored))
            }
            _ if course.is_unreadable() => bad,
            Ok(committed) => Err(self.failed(format!("it took {committed} bytes of {digest}"))),
            Err(status) => match status.code() {
                Code::ResourceExhausted => Ok(Ended::Taken(Taken::NoRoom)),
                Code::InvalidArgument | Code::OutOfRange => Ok(Ended::Refused(status.message().to_owned())),
                _ => Err(self.refused(&status)),
            },
        }
    }

    /// The form in which what begins with `first` is there soonest.
    fn form(&self, first: &Bytes) -> Form {
        let link = self.pace().bytes_per_second(Instant::now()).filter(|link| *link < MOST_SAVED);
        let Some(link) = link else { return Form::Plain };
        let began = Instant::now();
        let part = &first[..first.len().min(SAMPLE)];
        let Ok(packed) = compress(part) else { return Form::Plain };
        let (bytes, compressed) = (part.len() as u64, packed.len() as u64);
        let sample = Sample { bytes, compressed, took: began.elapsed() };
        if sample.is_worth_it(Some(link)) { Form::Zstd } else { Form::Plain }
    }
}

// === impl Carrying ===

impl Service<http::Request<Body>> for Carrying {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = <AnyChannel as Service<http::Request<Body>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.channel.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.channel.call(request.map(|empty| self.body.take().unwrap_or(empty)))
    }
}

#[async_trait]
impl CopyPeer for RemoteCopies {
    fn name(&self) -> &str {
        &self.0.name
    }

    async fn have(&self, keys: &[EntryKey], extend: bool) -> Result<Vec<bool>, SourceError> {
        let request = HaveRequest { keys: write_keys(keys), extend };
        let answer = self.within(ANSWER, self.client().have(request)).await?;
        read_bits(&answer.present, keys.len()).map_err(|error| self.odd(&error))
    }

    async fn find(&self, hash: &BlobHash) -> Result<Option<Digest>, SourceError> {
        let request = FindRequest { hash: hash.to_bytes().to_vec() };
        let answer = self.within(ANSWER, self.client().find(request)).await?;
        Ok(answer.size.map(|size| hash.sized(size)))
    }

    async fn give(&self, copies: Vec<Copy>) -> Result<Vec<Taken>, SourceError> {
        let questions = copies.len();
        let (request, bytes) = self.pack(copies).await;
        let (began, is_plain) = (Instant::now(), !request.compressed);
        let time = GIVING + allowed(bytes, SLOWEST_LINK);
        let answer = self.within(time, self.client().give(request)).await?;
        if is_plain {
            let now = Instant::now();
            self.pace().note(now, bytes, now.duration_since(began));
        }
        let taken: Option<Vec<Taken>> = answer.taken.iter().copied().map(read_taken).collect();
        let answers = answer.taken.len();
        taken
            .filter(|taken| taken.len() == questions)
            .ok_or_else(|| self.odd(&MessageError::Answers { answers, questions }))
    }

    async fn send(&self, key: &EntryKey, store: &dyn CopyStore) -> Result<Taken, SourceError> {
        let Some(digest) = key.digest() else { return self.give_alone(key, store).await };
        let age = store.look(key).map_or(Duration::ZERO, |entry| entry.age);
        let mut offset = match self.committed(&digest, age).await? {
            Committed::Bytes(bytes) => bytes,
            Committed::Whole => return Ok(Taken::Stored),
            Committed::NoRoom => return Ok(Taken::NoRoom),
        };
        loop {
            match self.upload(key, &digest, (offset, age), store).await? {
                Ended::Taken(taken) => return Ok(taken),
                // What came earlier is of no use: once more, all of it.
                Ended::Refused(_) if offset > 0 => offset = 0,
                Ended::Refused(reason) if is_intact(key, &digest, store).await => {
                    let machine = &self.0.name;
                    tracing::debug!(%digest, machine, reason, "another machine does not take a copy");
                    return Ok(Taken::NoRoom);
                }
                Ended::Refused(_) => return Ok(Taken::Bad),
            }
        }
    }

    async fn settle(&self, keys: &[EntryKey], farm: u64) -> Result<(), SourceError> {
        let request = SettleRequest { keys: write_keys(keys), farm };
        self.within(ANSWER, self.client().settle(request)).await.map(drop)
    }

    async fn results(&self, keys: &[EntryKey]) -> Result<Vec<(EntryKey, Bytes)>, SourceError> {
        let request = ResultsRequest { keys: write_keys(keys) };
        let answer = self.within(GIVING, self.client().results(request)).await?;
        let read = |entry: WireEntry| {
            let key = EntryKey::read(&entry.key).filter(|key| keys.contains(key))?;
            Some((key, entry.data))
        };
        let (answers, questions) = (answer.entries.len(), keys.len());
        let results: Option<Vec<_>> = answer.entries.into_iter().take(questions + 1).map(read).collect();
        results
            .filter(|results| results.len() <= questions)
            .ok_or_else(|| self.odd(&MessageError::Answers { answers, questions }))
    }
}

/// The data of `copies`, each compressed; `None` if they are there sooner as they are.
async fn compressed(copies: &[Copy], link: Option<f64>) -> Option<Vec<Bytes>> {
    let link = link.filter(|link| *link < MOST_SAVED)?;
    let total: u64 = copies.iter().map(|copy| copy.data.len() as u64).sum();
    if !(LEAST_PACKED..=GIVEN_BYTES).contains(&total) {
        return None;
    }
    let (mut all, mut packer) = (Vec::with_capacity(copies.len()), Packer::new().ok()?);
    let mut sample = Sample { bytes: 0, compressed: 0, took: Duration::ZERO };
    for copy in copies {
        let is_judged = sample.bytes >= SAMPLE as u64;
        let began = Instant::now();
        let packed = packer.pack(&copy.data).ok()?;
        if !is_judged {
            sample.took += began.elapsed();
            sample.bytes += copy.data.len() as u64;
            sample.compressed += packed.len() as u64;
            if (sample.bytes >= SAMPLE as u64 || sample.bytes == total) && !sample.is_worth_it(Some(link)) {
                return None;
            }
        }
        all.push(packed.into());
        tokio::task::yield_now().await;
    }
    Some(all)
}

/// Time that so many bytes take at that speed, in bytes a second.
fn allowed(bytes: u64, speed: u64) -> Duration {
    Duration::from_secs(bytes / speed)
}

/// Whether an upload that was answered before its end has been stored by somebody else.
fn is_whole(committed: i64, digest: &Digest) -> bool {
    committed == ANSWERED_EARLY || u64::try_from(committed) == Ok(digest.size())
}

/// Whether the blob here is what its key says.
async fn is_intact(key: &EntryKey, digest: &Digest, store: &dyn CopyStore) -> bool {
    let Ok(mut pieces) = store.stream(key, 0).await else { return false };
    let mut hash = Hasher::new(digest.function());
    while let Some(piece) = pieces.next().await {
        let Ok(piece) = piece else { return false };
        hash.update(&piece);
        tokio::task::yield_now().await;
    }
    hash.finish() == *digest
}

#[cfg(test)]
mod tests;
