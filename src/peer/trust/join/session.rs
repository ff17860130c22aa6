//! From a code that both sides know to a channel that only they have. No I/O.
//!
//! SPAKE2 over Ed25519 makes a key out of the code and one element of each side; HKDF-SHA256 over both
//! messages that carried them makes a key for the proof and one for the sealing of each direction, and
//! the check words. A side that does not know the code ends with other keys, and each exchange tells it
//! whether one guess was right.

use farmhand_proto::peer::JoinSealed;
use prost::Message;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::digest::{Context, SHA256};
use ring::hmac;
use spake2::{Ed25519Group, Identity, Password, Spake2};
use zeroize::Zeroizing;

use super::Code;
use crate::peer::trust::{key, words};

/// The version of the exchange that this program speaks.
pub(super) const VERSION: u32 = 1;

/// Who each side is, to SPAKE2: neither can be taken for the other, nor for something else's.
const NEWCOMER: &[u8] = b"farmhand join: newcomer";
const MEMBER: &[u8] = b"farmhand join: member";

/// Words both screens show.
const CHECK_WORDS: usize = 3;

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Newcomer,
    Member,
}

/// The other side sent what nobody sends who follows the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Garbled;

/// An exchange that waits for the element of the other side.
pub(super) struct Exchange {
    side: Side,
    spake: Spake2<Ed25519Group>,
}

/// Keys that both have if both know the code.
pub(super) struct Session {
    transcript: [u8; 32],
    own_proof: hmac::Key,
    their_proof: hmac::Key,
    own: Direction,
    theirs: Direction,
    check: String,
}

/// Messages one way.
struct Direction {
    key: LessSafeKey,
    sent: u64,
}

// === impl Exchange ===

impl Exchange {
    /// Begins; the element to send.
    pub(super) fn start(side: Side, code: &Code) -> (Self, Vec<u8>) {
        let password = Password::new(code.text());
        let (newcomer, member) = (Identity::new(NEWCOMER), Identity::new(MEMBER));
        let (spake, element) = match side {
            Side::Newcomer => Spake2::start_a(&password, &newcomer, &member),
            Side::Member => Spake2::start_b(&password, &newcomer, &member),
        };
        (Self { side, spake }, element)
    }

    /// Goes on with the element of the other side. `hello` and `opening` are both messages as they were
    /// on the wire.
    pub(super) fn finish(self, element: &[u8], hello: &[u8], opening: &[u8]) -> Result<Session, Garbled> {
        let secret = Zeroizing::new(self.spake.finish(element).map_err(|_| Garbled)?);
        let transcript = transcript(hello, opening);
        let derive = |label: &str| key::expand::<32>(&transcript, &secret, label.as_bytes());
        let proof = |label| hmac::Key::new(hmac::HMAC_SHA256, &*derive(label));
        let newcomer = (proof("newcomer proof"), Direction::new(&derive("newcomer seal")));
        let member = (proof("member proof"), Direction::new(&derive("member seal")));
        let (own, theirs) = match self.side {
            Side::Newcomer => (newcomer, member),
            Side::Member => (member, newcomer),
        };
        let check = words::of(&*derive("check words"), CHECK_WORDS);
        let ((own_proof, own), (their_proof, theirs)) = (own, theirs);
        Ok(Session { transcript, own_proof, their_proof, own, theirs, check })
    }
}

fn transcript(hello: &[u8], opening: &[u8]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for message in [hello, opening] {
        context.update(&(message.len() as u64).to_be_bytes());
        context.update(message);
    }
    context.finish().as_ref().try_into().expect("invariant: SHA-256 has 32 bytes")
}

// === impl Session ===

impl Session {
    /// What proves that this side knows the code.
    pub(super) fn proof(&self) -> Vec<u8> {
        hmac::sign(&self.own_proof, &self.transcript).as_ref().to_vec()
    }

    /// Whether the other side proved it too.
    pub(super) fn is_proof(&self, mac: &[u8]) -> bool {
        hmac::verify(&self.their_proof, &self.transcript, mac).is_ok()
    }

    /// The words both screens show.
    pub(super) fn check_words(&self) -> &str {
        &self.check
    }

    /// For the other side alone.
    pub(super) fn seal(&mut self, message: &impl Message) -> JoinSealed {
        let mut sealed = message.encode_to_vec();
        let nonce = self.own.next();
        let done = self.own.key.seal_in_place_append_tag(nonce, Aad::empty(), &mut sealed);
        done.expect("invariant: a message is far shorter than the cipher's limit");
        JoinSealed { sealed }
    }

    /// What the other side sealed: its next message, and no other.
    pub(super) fn open<M: Message + Default>(&mut self, sealed: JoinSealed) -> Result<M, Garbled> {
        let mut sealed = Zeroizing::new(sealed.sealed);
        let nonce = self.theirs.next();
        let opened = self.theirs.key.open_in_place(nonce, Aad::empty(), &mut sealed).map_err(|_| Garbled)?;
        M::decode(&*opened).map_err(|_| Garbled)
    }
}

// === impl Direction ===

impl Direction {
    fn new(key: &[u8; 32]) -> Self {
        let key =
            UnboundKey::new(&CHACHA20_POLY1305, key).expect("invariant: the cipher's keys have 32 bytes");
        Self { key: LessSafeKey::new(key), sent: 0 }
    }

    /// A nonce that this key never had.
    fn next(&mut self) -> Nonce {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.sent.to_be_bytes());
        self.sent += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

#[cfg(test)]
mod tests {
    use farmhand_proto::peer::{JoinKept, JoinNewcomer};
    use proptest::prelude::*;

    use super::*;

    fn code(text: &str) -> Code {
        text.parse().unwrap()
    }

    /// Both ends of an exchange with these codes.
    fn exchange(newcomer: &str, member: &str) -> (Session, Session) {
        let (a, hello) = Exchange::start(Side::Newcomer, &code(newcomer));
        let (b, opening) = Exchange::start(Side::Member, &code(member));
        (a.finish(&opening, &hello, &opening).unwrap(), b.finish(&hello, &hello, &opening).unwrap())
    }

    fn newcomer(name: &str) -> JoinNewcomer {
        JoinNewcomer { name: name.into(), ..Default::default() }
    }

    #[test]
    fn one_code_makes_one_channel() {
        let (mut a, mut b) = exchange("123-zoo-zoo", "123-zoo-zoo");
        assert!(a.is_proof(&b.proof()) && b.is_proof(&a.proof()));
        assert_eq!(a.check_words(), b.check_words());
        for name in ["one", "two"] {
            let sealed = a.seal(&newcomer(name));
            assert_eq!(b.open::<JoinNewcomer>(sealed).unwrap().name, name);
            let sealed = b.seal(&newcomer(name));
            assert_eq!(a.open::<JoinNewcomer>(sealed).unwrap().name, name);
        }
    }

    #[test]
    fn another_code_makes_nothing_in_common() {
        let (mut a, mut b) = exchange("123-zoo-zoo", "124-zoo-zoo");
        assert!(!a.is_proof(&b.proof()) && !b.is_proof(&a.proof()));
        assert_ne!(a.check_words(), b.check_words());
        let sealed = a.seal(&newcomer("x"));
        assert_eq!(b.open::<JoinNewcomer>(sealed).unwrap_err(), Garbled);
    }

    #[test]
    fn a_proof_is_good_for_its_sender_and_its_exchange() {
        let (a, b) = exchange("123-zoo-zoo", "123-zoo-zoo");
        assert!(!a.is_proof(&a.proof()) && !b.is_proof(&b.proof()), "sent back");
        let (c, _) = exchange("123-zoo-zoo", "123-zoo-zoo");
        assert!(!b.is_proof(&c.proof()), "of another exchange");
        assert!(!b.is_proof(&[]) && !b.is_proof(&a.proof()[..31]), "cut");
    }

    /// Somebody between them who changes anything in the first messages gets no proof out of them.
    #[test]
    fn both_messages_are_proven_whole() {
        let (a, hello) = Exchange::start(Side::Newcomer, &code("123-zoo-zoo"));
        let (b, opening) = Exchange::start(Side::Member, &code("123-zoo-zoo"));
        let a = a.finish(&opening, b"least 1, most 2", &opening).unwrap();
        let b = b.finish(&hello, b"least 1, most 1", &opening).unwrap();
        assert!(!a.is_proof(&b.proof()) && !b.is_proof(&a.proof()));
    }

    #[test]
    fn an_element_sent_back_is_none() {
        let (a, hello) = Exchange::start(Side::Newcomer, &code("123-zoo-zoo"));
        assert_eq!(a.finish(&hello, &hello, &hello).err(), Some(Garbled));
    }

    #[test]
    fn messages_come_once_and_in_their_order() {
        let (mut a, mut b) = exchange("123-zoo-zoo", "123-zoo-zoo");
        let (first, second) = (a.seal(&newcomer("1")), a.seal(&newcomer("2")));
        assert!(b.open::<JoinNewcomer>(first.clone()).is_ok());
        assert!(b.open::<JoinNewcomer>(first).is_err(), "repeated");
        assert!(b.open::<JoinNewcomer>(second).is_err(), "after one that failed nothing holds");
        let sealed = a.seal(&JoinKept {});
        assert!(a.open::<JoinKept>(sealed).is_err(), "sent back");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn any_element_is_taken_or_refused(element in proptest::collection::vec(any::<u8>(), 0..40)) {
            let (member, opening) = Exchange::start(Side::Member, &code("123-zoo-zoo"));
            if let Ok(session) = member.finish(&element, &element, &opening) {
                prop_assert!(!session.is_proof(&[0; 32]));
            }
        }

        #[test]
        fn a_changed_byte_opens_nothing(at in 0..64_usize, bit in 0..8_u32) {
            let (mut a, mut b) = exchange("123-zoo-zoo", "123-zoo-zoo");
            let mut sealed = a.seal(&newcomer("a name of some length"));
            let at = at % sealed.sealed.len();
            sealed.sealed[at] ^= 1 << bit;
            prop_assert!(b.open::<JoinNewcomer>(sealed).is_err());
        }
    }
}
