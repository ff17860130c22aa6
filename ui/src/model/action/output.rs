//! What an action wrote to one of its streams, as far as it was read.

use farmhand_proto::control::ReadOutputResponse;

use crate::model::pager::Pager;

/// Bytes before the end with which reading begins: no more of it would be kept.
pub(crate) const FROM_END: i64 = 8 << 20;

/// One stream of one action.
#[derive(Debug)]
pub(crate) struct Output {
    /// What it holds.
    pub(crate) pager: Pager,
    /// Whether it is read, or was.
    pub(crate) is_asked: bool,
    /// Whether the action is over and this is all.
    pub(crate) ended: bool,
    /// Why nothing more comes.
    pub(crate) failure: Option<String>,
    /// Bytes before the first that was read.
    pub(crate) skipped: u64,
    next: Option<u64>,
}

// === impl Output ===

impl Output {
    /// From where to read, or to go on after an interruption.
    pub(crate) fn offset(&self) -> i64 {
        self.next.map_or(-FROM_END, |next| i64::try_from(next).unwrap_or(i64::MAX))
    }

    /// Takes the next bytes.
    pub(crate) fn take(&mut self, piece: &ReadOutputResponse) {
        let next = *self.next.get_or_insert_with(|| {
            self.skipped = piece.offset;
            piece.offset
        });
        // Bytes that were read already are left out; a gap is shown as what it is.
        if piece.offset > next {
            self.pager.push(format!("\n… {} bytes were not kept\n", piece.offset - next).as_bytes());
        }
        let known = usize::try_from(next.saturating_sub(piece.offset)).unwrap_or(usize::MAX);
        let fresh = piece.data.get(known..).unwrap_or_default();
        self.pager.push(fresh);
        self.next = Some(next.max(piece.offset.saturating_add(piece.data.len() as u64)));
        if piece.ended {
            self.pager.end();
            self.ended = true;
        }
    }

    /// Wants it read on from where it is: the call was given up, or the node was away.
    pub(crate) fn interrupt(&mut self) {
        self.is_asked = self.ended;
        self.failure = None;
    }

    /// Bytes that were read so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.next.unwrap_or(0)
    }
}

impl Default for Output {
    fn default() -> Self {
        Self {
            pager: Pager::following(),
            is_asked: false,
            ended: false,
            failure: None,
            skipped: 0,
            next: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(offset: u64, data: &str, ended: bool) -> ReadOutputResponse {
        ReadOutputResponse { offset, data: data.into(), ended }
    }

    #[test]
    fn pieces_are_joined_where_they_overlap() {
        let mut output = Output::default();
        assert_eq!(output.offset(), -FROM_END);
        output.take(&piece(10, "one\ntw", false));
        assert_eq!((output.skipped, output.offset()), (10, 16));
        output.take(&piece(14, "two\n", false));
        output.take(&piece(18, "end", true));
        assert_eq!(output.pager.text().to_text(), "one\ntwo\nend\n");
        assert!(output.ended);
    }

    #[test]
    fn a_gap_is_told() {
        let mut output = Output::default();
        output.take(&piece(0, "a", false));
        output.take(&piece(6, "b", false));
        assert_eq!(output.pager.text().to_text(), "a\n… 5 bytes were not kept\nb\n");
        assert_eq!(output.bytes(), 7);
    }
}
