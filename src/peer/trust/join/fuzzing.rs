//! What a fuzzer may reach of the messages of newcomers and members.

use farmhand_proto::peer::join_message::Message;
use farmhand_proto::peer::{JoinAnswer, JoinHello, JoinNewcomer, JoinOpening, JoinProof};

use super::session::{Exchange, Session, Side};
use super::{Code, frame};

fn code() -> Code {
    "123-zoo-zoo".parse().expect("invariant: it is a code")
}

/// Plays a side of an exchange with somebody who sends these messages and does not know the code.
/// Whether it was taken for somebody who does.
pub(crate) fn exchange(is_member: bool, messages: &[&[u8]]) -> bool {
    let side = if is_member { Side::Member } else { Side::Newcomer };
    let mut exchange = Some(Exchange::start(side, &code()).0);
    let mut session: Option<Session> = None;
    for bytes in messages {
        match (frame::parse(bytes), &mut session) {
            (
                Some(
                    Message::Hello(JoinHello { element, .. }) | Message::Opening(JoinOpening { element, .. }),
                ),
                None,
            ) => {
                let Some(exchange) = exchange.take() else { return false };
                session = exchange.finish(&element, bytes, bytes).ok();
            }
            (Some(Message::Proof(JoinProof { mac })), Some(session)) => {
                if session.is_proof(&mac) {
                    return true;
                }
            }
            (Some(Message::Sealed(sealed)), Some(session)) => {
                if session.open::<JoinNewcomer>(sealed.clone()).is_ok()
                    || session.open::<JoinAnswer>(sealed).is_ok()
                {
                    return true;
                }
            }
            _ => return false,
        }
    }
    false
}
