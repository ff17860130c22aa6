//! [`PageToken`]: where a list of operations goes on. It names a place and no count, so what comes
//! meanwhile shifts nothing.

use farmhand_proto::control::Operation;
use farmhand_proto::time::system_time;
use tonic::Status;

/// Version of the layout, its first byte.
const VERSION: u8 = 1;

/// Bytes of a token: version, bound, whether there is a place among the live ones, that, checksum.
const LEN: usize = 1 + 8 + 1 + 8 + 16 + 4;

/// The place of an operation that is not over: the newest are the largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LivePlace {
    /// When it came in, in microseconds since 1970.
    queued: u64,
    id: [u8; 16],
}

/// Where a list goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageToken {
    /// Of the history, what is below this is still to come.
    pub(super) before: u64,
    /// The last one told of those that are not over; `None` when all of them were told.
    pub(super) live: Option<LivePlace>,
}

// === impl LivePlace ===

impl LivePlace {
    /// Behind which all of them stand.
    pub(super) const NEWEST: Self = Self { queued: u64::MAX, id: [u8::MAX; 16] };

    pub(super) fn of(operation: &Operation) -> Self {
        let queued = operation.queued.as_ref().and_then(system_time);
        let since = queued.and_then(|time| time.duration_since(std::time::SystemTime::UNIX_EPOCH).ok());
        let queued = since.map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX));
        let id = crate::execution::OperationId::parse(&operation.name);
        Self { queued, id: id.map(|id| *id.uuid().as_bytes()).unwrap_or_default() }
    }
}

// === impl PageToken ===

impl PageToken {
    pub(super) fn encode(&self) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.before.to_be_bytes());
        bytes.push(u8::from(self.live.is_some()));
        let place = self.live.unwrap_or(LivePlace { queued: 0, id: [0; 16] });
        bytes.extend_from_slice(&place.queued.to_be_bytes());
        bytes.extend_from_slice(&place.id);
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_be_bytes());
        const_hex::encode(bytes)
    }

    /// Reads a token this node gave.
    pub(super) fn decode(text: &str) -> Result<Self, Status> {
        Self::read(text).ok_or_else(|| Status::invalid_argument(format!("{text:?} is no page token")))
    }

    fn read(text: &str) -> Option<Self> {
        let mut bytes = [0; LEN];
        if text.len() != LEN * 2 {
            return None;
        }
        const_hex::decode_to_slice(text, &mut bytes).ok()?;
        let (data, sum) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(data) != u32::from_be_bytes(*sum) || data[0] != VERSION {
            return None;
        }
        let word = |at: usize| data[at..at + 8].try_into().ok().map(u64::from_be_bytes);
        let place = LivePlace { queued: word(10)?, id: data[18..34].try_into().ok()? };
        Some(Self { before: word(1)?, live: (data[9] == 1).then_some(place) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tokens_come_back(before: u64, live in proptest::option::of((any::<u64>(), any::<[u8; 16]>()))) {
            let live = live.map(|(queued, id)| LivePlace { queued, id });
            let token = PageToken { before, live };
            prop_assert_eq!(PageToken::decode(&token.encode()).unwrap(), token);
        }

        #[test]
        fn garbage_is_refused(text in "[0-9a-f]{0,80}|.{0,20}", flip in 0..LEN * 2) {
            prop_assert!(PageToken::decode(&text).is_err());
            let mut token = PageToken { before: 7, live: None }.encode();
            let other = if &token[flip..=flip] == "0" { "1" } else { "0" };
            token.replace_range(flip..=flip, other);
            prop_assert_eq!(PageToken::decode(&token).unwrap_err().code(), tonic::Code::InvalidArgument);
        }
    }
}
