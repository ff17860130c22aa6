//! [`Invitation`]: who may try the code when, and how it ends. Pure: time is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// How long an invitation is open.
pub const LIFETIME: Duration = Duration::from_secs(5 * 60);

/// Wrong codes that end it.
pub(super) const MOST_TRIES: u32 = 5;

/// What a wrong code costs: no other is judged for this long.
pub(super) const COST: Duration = Duration::from_secs(1);

/// A connection, counted from the first.
pub(super) type Visitor = u64;

/// One invitation: open, then held by whoever shows the code, then over.
#[derive(Debug)]
pub(super) struct Invitation {
    expires: Instant,
    failed: u32,
    next_try: Instant,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody has shown the code.
    Open,
    /// One has, and nobody else may.
    Held(Visitor),
    /// The key is on its way to the one who held it.
    Given(Visitor),
    /// The code is worth nothing any more.
    Over,
}

/// What becomes of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It was not looked at: come again after this time.
    Wait(Duration),
    /// The code is right, and the invitation is held by this visitor.
    Right,
    /// The code is wrong. So many tries are left; at 0 it is over.
    Wrong { left: u32 },
    /// Another visitor holds it.
    Taken,
    /// It is over.
    Over,
}

// === impl Invitation ===

impl Invitation {
    pub(super) fn new(now: Instant) -> Self {
        Self { expires: now + LIFETIME, failed: 0, next_try: now, state: State::Open }
    }

    /// When it is over if nobody came.
    pub(super) fn expires(&self) -> Instant {
        self.expires
    }

    /// Judges a try of `visitor`: `is_right` is asked only when the try counts.
    pub(super) fn judge(
        &mut self,
        now: Instant,
        visitor: Visitor,
        is_right: impl FnOnce() -> bool,
    ) -> Verdict {
        self.expire(now);
        match self.state {
            State::Over | State::Given(_) => Verdict::Over,
            State::Held(_) => Verdict::Taken,
            State::Open if now < self.next_try => Verdict::Wait(self.next_try - now),
            State::Open if is_right() => {
                self.state = State::Held(visitor);
                Verdict::Right
            }
            State::Open => {
                self.failed += 1;
                self.next_try = now + COST;
                let left = MOST_TRIES.saturating_sub(self.failed);
                if left == 0 {
                    self.state = State::Over;
                }
                Verdict::Wrong { left }
            }
        }
    }

    /// `visitor` is about to get the key. Whether it may.
    pub(super) fn give(&mut self, now: Instant, visitor: Visitor) -> bool {
        self.expire(now);
        let may = self.state == State::Held(visitor);
        if may {
            self.state = State::Given(visitor);
        }
        may
    }

    /// `visitor` left without the key: the next may try.
    pub(super) fn leave(&mut self, visitor: Visitor) {
        if self.state == State::Held(visitor) {
            self.state = State::Open;
        }
    }

    /// Who has shown the code.
    pub(super) fn holder(&self) -> Option<Visitor> {
        match self.state {
            State::Held(visitor) | State::Given(visitor) => Some(visitor),
            State::Open | State::Over => None,
        }
    }

    /// Whether too many wrong codes have ended it.
    pub(super) fn is_worn_out(&self) -> bool {
        self.failed >= MOST_TRIES
    }

    /// Whether the key is on its way.
    pub(super) fn is_given(&self) -> bool {
        matches!(self.state, State::Given(_))
    }

    /// Time ends it, but not for one who has the key on its way.
    fn expire(&mut self, now: Instant) {
        if now >= self.expires && !self.is_given() {
            self.state = State::Over;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn start() -> (Instant, Invitation) {
        let now = Instant::now();
        (now, Invitation::new(now))
    }

    #[test]
    fn one_newcomer_uses_it_up() {
        let (now, mut invitation) = start();
        assert_eq!(invitation.judge(now, 1, || true), Verdict::Right);
        assert_eq!(invitation.judge(now, 2, || true), Verdict::Taken);
        assert!(!invitation.give(now, 2));
        assert!(invitation.give(now, 1));
        assert!(!invitation.give(now, 1), "once");
        assert_eq!(invitation.judge(now, 3, || true), Verdict::Over);
        invitation.leave(1);
        assert_eq!(invitation.judge(now, 3, || true), Verdict::Over, "it was given");
    }

    #[test]
    fn one_who_leaves_without_the_key_lets_the_next_try() {
        let (now, mut invitation) = start();
        assert_eq!(invitation.judge(now, 1, || true), Verdict::Right);
        invitation.leave(7);
        assert_eq!(invitation.holder(), Some(1));
        invitation.leave(1);
        assert_eq!(invitation.judge(now, 2, || true), Verdict::Right);
    }

    #[test]
    fn five_wrong_codes_a_second_apart_end_it() {
        let (mut now, mut invitation) = start();
        for left in (0..MOST_TRIES).rev() {
            assert_eq!(invitation.judge(now, 1, || false), Verdict::Wrong { left });
            if left > 0 {
                let unasked = || panic!("it is not judged");
                assert_eq!(invitation.judge(now, 2, unasked), Verdict::Wait(COST));
            }
            now += COST;
        }
        assert_eq!(invitation.judge(now, 2, || panic!("nor is this")), Verdict::Over);
        assert!(invitation.is_worn_out());
    }

    #[test]
    fn ten_thousand_guesses_are_five() {
        let (now, mut invitation) = start();
        let (mut wrong, mut over) = (0, 0);
        for guess in 0..10_000_u32 {
            match invitation.judge(now + guess * COST / 4, guess.into(), || guess == 9_999) {
                Verdict::Wrong { .. } => wrong += 1,
                Verdict::Over => over += 1,
                Verdict::Wait(_) => {}
                verdict => panic!("{verdict:?}"),
            }
        }
        assert_eq!(wrong, MOST_TRIES);
        assert!(over > 9_900);
    }

    #[test]
    fn time_ends_it_even_while_somebody_is_asked() {
        let (now, mut invitation) = start();
        let end = invitation.expires();
        assert_eq!(invitation.judge(end - Duration::from_millis(1), 1, || true), Verdict::Right);
        assert!(!invitation.give(end, 1));
        let (_, mut given) = (now, Invitation::new(now));
        assert_eq!(given.judge(now, 1, || true), Verdict::Right);
        assert!(given.give(now, 1));
        assert_eq!(given.judge(end, 2, || true), Verdict::Over);
        assert!(given.is_given());
    }

    #[derive(Clone, Debug)]
    enum Act {
        Try(Visitor, bool),
        Give(Visitor),
        Leave(Visitor),
        Pass(u64),
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let visitor = 0..4_u64;
        let act = prop_oneof![
            8 => (visitor.clone(), any::<bool>()).prop_map(|(visitor, right)| Act::Try(visitor, right)),
            2 => visitor.clone().prop_map(Act::Give),
            2 => visitor.prop_map(Act::Leave),
            6 => (0..2000_u64).prop_map(Act::Pass),
        ];
        proptest::collection::vec(act, 0..200)
    }

    proptest! {
        /// Whatever happens: at most five codes are found wrong, each a second after the one before; the
        /// key is given once at most, to one whose code was found right.
        #[test]
        fn guesses_are_bounded_and_the_key_goes_to_one(acts in acts()) {
            let (start, mut invitation) = start();
            let (mut now, mut wrong, mut given, mut right) = (start, Vec::new(), 0, None);
            for act in acts {
                match act {
                    Act::Try(visitor, is_right) => match invitation.judge(now, visitor, || is_right) {
                        Verdict::Right => {
                            prop_assert!(is_right && given == 0);
                            right = Some(visitor);
                        }
                        Verdict::Wrong { .. } => wrong.push(now),
                        _ => {}
                    },
                    Act::Give(visitor) => {
                        if invitation.give(now, visitor) {
                            prop_assert_eq!(right, Some(visitor));
                            given += 1;
                        }
                    }
                    Act::Leave(visitor) => {
                        invitation.leave(visitor);
                        if right == Some(visitor) {
                            right = None;
                        }
                    }
                    Act::Pass(milliseconds) => now += Duration::from_millis(milliseconds),
                }
            }
            prop_assert!(given <= 1);
            prop_assert!(wrong.len() <= MOST_TRIES as usize);
            prop_assert!(wrong.windows(2).all(|pair| pair[1] - pair[0] >= COST));
            prop_assert!(wrong.iter().all(|at| *at < start + LIFETIME));
        }
    }
}
