//! What machines say to each other of copies.

use std::sync::Arc;

use farmhand_proto::peer::copies_server::Copies as _;
use farmhand_proto::peer::{GiveRequest, HaveRequest, ResultsRequest, SettleRequest};
use prost::Message;
use tonic::Request;

use super::input::Input;
use crate::cas::entry::{EntryKey, Standing};
use crate::peer::MachineId;
use crate::peer::link::incoming::Caller;
use crate::replication::copies::memory::{MemoryCopies, is_what_it_says};
use crate::replication::messages::{GIVEN_BYTES, read_keys, read_taken};
use crate::replication::roster::{Machine, Role, Roster};
use crate::rpc::MAX_SENT_MESSAGE;
use crate::rpc::copies::CopiesService;

/// Whatever is said: nothing is kept that is not what its key says, and no more than a call may carry; what is
/// here stays as it is, and counts or is spare once it was settled; answers fit the questions.
///
/// # Panics
/// When that does not hold.
pub fn copies_messages(data: &[u8]) {
    let mut input = Input(data);
    let kind = input.below(4);
    let store = MemoryCopies::default();
    let service = CopiesService::new(Arc::new(store.clone()), Arc::new(alone));
    let here = store.blob(&b"a"[..]);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("there is memory");
    runtime.block_on(async {
        match kind {
            0 => give(&service, &store, here, input.0).await,
            1 => {
                let Ok(request) = HaveRequest::decode(input.0) else { return };
                let keys = request.keys.len() / EntryKey::LEN;
                if let Ok(answer) = service.have(called(request)).await {
                    assert_eq!(answer.into_inner().present.len(), keys.div_ceil(8));
                }
            }
            2 => {
                let Ok(request) = SettleRequest::decode(input.0) else { return };
                let keys = read_keys(&request.keys, usize::MAX).unwrap_or_default();
                let is_agreed = request.farm == alone().fingerprint();
                if service.settle(called(request)).await.is_ok() {
                    let is_counted = is_agreed && keys.contains(&here);
                    let standing = if is_counted { Standing::Counted } else { Standing::Sole };
                    assert_eq!(store.standing(&here), Some(standing));
                }
            }
            _ => {
                let Ok(request) = ResultsRequest::decode(input.0) else { return };
                if let Ok(answer) = service.results(called(request)).await {
                    let answer = answer.into_inner();
                    assert!(answer.encoded_len() <= MAX_SENT_MESSAGE);
                    assert!(answer.entries.is_empty(), "there are no results");
                }
            }
        }
    });
    assert!(kind == 0 || store.keys() == [here]);
}

/// Entries that are given.
async fn give(service: &CopiesService, store: &MemoryCopies, here: EntryKey, data: &[u8]) {
    let Ok(request) = GiveRequest::decode(data) else { return };
    let entries = request.entries.len();
    let Ok(answer) = service.give(called(request)).await else {
        assert_eq!(store.keys(), [here]);
        return;
    };
    let taken = answer.into_inner().taken;
    assert_eq!(taken.len(), entries);
    assert!(taken.into_iter().all(|taken| read_taken(taken).is_some()));
    let mut bytes = 0;
    for key in store.keys() {
        let data = store.data(&key).expect("a key of the store");
        assert!(is_what_it_says(&key, &data), "{key:?} is something else");
        bytes += data.len() as u64;
    }
    assert!(bytes <= GIVEN_BYTES + 1, "{bytes} bytes");
    assert_eq!(store.standing(&here), Some(Standing::Sole));
}

/// A call of a member.
fn called<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(Caller::made_up(MachineId::new([9; 32])));
    request
}

/// A farm of one.
fn alone() -> Arc<Roster> {
    let me = MachineId::new([1; 32]);
    let machine =
        Machine { id: me, name: "me".into(), weight: 1, role: Role::Counts, is_linked: true, boot_epoch: 1 };
    Arc::new(Roster::new(me, vec![machine], 2))
}
