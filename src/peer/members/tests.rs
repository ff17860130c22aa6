//! The machine on its own, event by event; and any events in any order.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn id(number: u8) -> MachineId {
    MachineId::new([number; 32])
}

fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], 8981))
}

fn host(text: &str) -> PeerAddress {
    text.parse().unwrap()
}

fn greeting(number: u8, boot_epoch: u64) -> Greeting {
    Greeting {
        id: id(number),
        boot_epoch,
        name: format!("m{number}").into(),
        program: "1".into(),
        address: Some(address(number)),
    }
}

/// The members of a farm as machine 0 sees them, and its clock.
struct Bench {
    members: Members,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        Self { members: Members::new(id(0), "me".into(), 1), now: Instant::now() }
    }

    fn apply(&mut self, event: Event) -> Vec<Effect> {
        self.members.apply(self.now, 0.5, event)
    }

    fn pass(&mut self, time: Duration) -> Vec<Effect> {
        self.now += time;
        self.apply(Event::Tick)
    }

    /// The one dial that is begun by `event`, with its first route.
    fn dial(&mut self, event: Event) -> (LinkId, Route) {
        match &self.apply(event)[..] {
            [Effect::Dial { link, routes }] => (*link, routes[0].clone()),
            other => panic!("{other:?}"),
        }
    }

    fn sight(&mut self, number: u8) -> LinkId {
        self.dial(Event::Sighted { id: id(number), addresses: vec![address(number)] }).0
    }

    fn answer(&mut self, link: LinkId, number: u8, boot_epoch: u64) -> Vec<Effect> {
        let outcome = Ok((greeting(number, boot_epoch), Route::Address(address(number))));
        self.apply(Event::Dialled { link, outcome })
    }

    fn fail(&mut self, link: LinkId, failure: Failure) -> Vec<Effect> {
        self.apply(Event::Dialled { link, outcome: Err(failure) })
    }

    fn one(&self) -> Listed {
        let mut list = self.members.list();
        assert_eq!(list.len(), 1, "{list:?}");
        list.remove(0)
    }
}

fn nobody() -> Failure {
    Failure::Unreachable("nobody".to_owned())
}

#[test]
fn a_machine_that_is_announced_is_dialled_and_linked_and_lost_and_dialled_again() {
    let mut bench = Bench::new();
    let link = bench.sight(1);
    assert_eq!(bench.one().standing, Standing::Dialling);
    let effects = bench.answer(link, 1, 7);
    assert_eq!(effects, [Effect::Linked { link, name: "m1".into() }, Effect::Remember]);
    assert_eq!((bench.one().standing, bench.one().boot_epoch), (Standing::Linked, Some(7)));
    bench.now += 20 * SECOND;
    let reason = "reset".to_owned();
    let effects = bench.apply(Event::Ended { link, reason: reason.clone() });
    assert_eq!(effects, [Effect::Lost { link, reason: reason.clone() }, Effect::Remember]);
    let lost = Standing::Lost { since: bench.now, reason, last_try: None };
    assert_eq!(bench.one().standing, lost);
    assert!(bench.members.wake().unwrap() <= bench.now + FIRST_PAUSE);
    assert!(matches!(bench.pass(FIRST_PAUSE)[..], [Effect::Dial { .. }]));
    assert_eq!(bench.one().standing, lost, "until it is there again");
}

#[test]
fn pauses_grow_to_a_bound_and_begin_anew_after_a_good_link() {
    let mut bench = Bench::new();
    let mut link = bench.sight(1);
    let mut pauses = Vec::new();
    for _ in 0..12 {
        bench.fail(link, nobody());
        let pause = bench.members.wake().unwrap() - bench.now;
        pauses.push(pause);
        let Some(Effect::Dial { link: next, .. }) = bench.pass(pause).pop() else { panic!("no dial") };
        link = next;
    }
    assert!(pauses.is_sorted() && pauses[0] <= SECOND, "{pauses:?}");
    assert!(pauses[11] <= LAST_PAUSE && pauses[11] >= LAST_PAUSE / 2, "{pauses:?}");
    assert_eq!(bench.one().standing, Standing::Known(Some("nobody".to_owned())));
    bench.answer(link, 1, 1);
    bench.now += SECOND;
    bench.apply(Event::Ended { link, reason: String::new() });
    assert!(bench.members.wake().unwrap() > bench.now + 10 * SECOND, "it was there for a moment only");
}

#[test]
fn what_is_heard_on_the_network_shortens_a_pause_rarely() {
    let mut bench = Bench::new();
    let link = bench.sight(1);
    bench.fail(link, nobody());
    bench.now += SECOND / 10;
    let again = |number: u8| Event::Sighted { id: id(1), addresses: vec![address(number)] };
    assert_eq!(bench.apply(again(1)), [], "nothing new");
    assert_eq!(bench.apply(again(2)), [], "too soon");
    assert!(bench.members.wake().unwrap() <= bench.now + SECOND);
    for number in 3..100 {
        bench.now += SECOND / 100;
        assert!(bench.apply(again(number)).len() <= 1);
    }
    assert!(bench.members.dials.len() <= 1);
}

#[test]
fn who_answers_counts_and_not_who_was_looked_for() {
    let mut bench = Bench::new();
    let link = bench.sight(1);
    let outcome = Ok((greeting(2, 1), Route::Address(address(1))));
    let effects = bench.apply(Event::Dialled { link, outcome });
    assert_eq!(effects[0], Effect::Linked { link, name: "m2".into() });
    assert_eq!((bench.one().id, bench.one().standing), (Some(id(2)), Standing::Linked));
    assert_eq!(bench.pass(20 * SECOND), [], "nobody knows where 1 is");
}

#[test]
fn a_configured_machine_is_known_by_what_it_answers() {
    let mut bench = Bench::new();
    let (link, route) = bench.dial(Event::Configured(host("attic")));
    assert_eq!(route, Route::Host(host("attic")));
    assert_eq!((bench.one().id, &*bench.one().name), (None, "attic:8981"), "no name");
    let (second, other) = bench.dial(Event::Configured(host("10.0.0.1")));
    bench.apply(Event::Dialled { link, outcome: Ok((greeting(1, 1), route.clone())) });
    let effects = bench.apply(Event::Dialled { link: second, outcome: Ok((greeting(1, 1), other)) });
    assert_eq!(effects, [Effect::Close { link: second, reason: DOUBLE }]);
    assert_eq!((bench.one().id, bench.one().found_by), (Some(id(1)), FoundBy::Configured));
    bench.apply(Event::Ended { link, reason: String::new() });
    let Some(Effect::Dial { routes, .. }) = bench.pass(SECOND).pop() else { panic!("no dial") };
    assert_eq!(routes[0], Route::Address(address(1)), "where it was");
    assert!(routes.contains(&route) && routes.contains(&Route::Host(host("10.0.0.1"))));
}

#[test]
fn a_host_that_does_not_answer_is_not_taken_for_a_machine_of_its_name() {
    let mut bench = Bench::new();
    let named = |number, name: &str| Greeting { name: name.into(), ..greeting(number, 1) };
    bench.apply(Event::Configured(host("attic")));
    for (number, name) in [(1, "attic"), (2, "attic:8981"), (3, "attic")] {
        bench.apply(Event::Called { call: CallId(number.into()), greeting: named(number, name) });
    }
    let listed = bench.members.list();
    let mut names: Vec<_> = listed.iter().map(|listed| &*listed.name).collect();
    names.sort_unstable();
    assert_eq!(names, ["attic", "attic-0303", "attic:8981", "attic:8981-0202"]);
}

#[test]
fn a_machine_that_was_let_in_is_dialled_where_it_says_it_is() {
    let mut bench = Bench::new();
    let met = |number| Event::Met { id: id(number), name: "cellar".into(), address: address(number) };
    assert_eq!(bench.apply(met(0)), [], "that is this one");
    let (link, route) = bench.dial(met(1));
    assert_eq!(route, Route::Address(address(1)));
    assert_eq!((&*bench.one().name, bench.one().found_by), ("cellar", FoundBy::Joining));
    bench.fail(link, nobody());
    bench.now += SECOND;
    assert!(matches!(bench.apply(met(1))[..], [Effect::Dial { .. }]), "it is there anew");
}

#[test]
fn this_machine_is_no_peer_and_its_copy_is_told() {
    let mut bench = Bench::new();
    assert_eq!(bench.apply(Event::Sighted { id: id(0), addresses: vec![address(1)] }), []);
    let (link, route) = bench.dial(Event::Configured(host("here")));
    let effects = bench.apply(Event::Dialled { link, outcome: Ok((greeting(0, 1), route.clone())) });
    assert_eq!(effects, [Effect::Close { link, reason: SELF }]);
    assert_eq!(bench.members.list(), []);
    let Some(Effect::Dial { link, .. }) = bench.pass(HOPELESS_PAUSE).pop() else { panic!("no dial") };
    bench.apply(Event::Dialled { link, outcome: Ok((greeting(0, 2), route)) });
    assert_eq!(bench.one().standing, Standing::Refused(TWIN.to_owned()));
    let call = CallId(1);
    let effects = bench.apply(Event::Called { call, greeting: greeting(0, 2) });
    assert_eq!(effects, [Effect::CloseCall { call, reason: TWIN }]);
}

#[test]
fn a_new_start_of_a_node_takes_the_place_of_the_old() {
    let mut bench = Bench::new();
    let link = bench.sight(1);
    bench.answer(link, 1, 7);
    bench.now += SECOND;
    let call = CallId(1);
    let effects = bench.apply(Event::Called { call, greeting: greeting(1, 8) });
    assert_eq!(
        effects[..2],
        [Effect::Close { link, reason: ANEW }, Effect::Lost { link, reason: ANEW.to_owned() }]
    );
    let Some(Effect::Dial { link: second, .. }) = effects.last() else { panic!("{effects:?}") };
    let second = *second;
    assert_eq!(bench.answer(second, 1, 8)[0], Effect::Linked { link: second, name: "m1".into() });
    assert_eq!(bench.apply(Event::Ended { link, reason: "late".to_owned() }), [], "the old one");
    let newer = CallId(2);
    let effects = bench.apply(Event::Called { call: newer, greeting: greeting(1, 8) });
    assert_eq!(effects[0], Effect::CloseCall { call, reason: DOUBLE });
    assert_eq!(bench.one().call, Some(newer));
    bench.apply(Event::CallEnded(call));
    assert_eq!(bench.one().call, Some(newer));
}

#[test]
fn who_cannot_be_linked_with_is_shown_and_tried_again_later() {
    let mut bench = Bench::new();
    let (link, _) = bench.dial(Event::Configured(host("attic")));
    bench.fail(link, Failure::Refused("another key".to_owned()));
    assert_eq!(bench.one().standing, Standing::Refused("another key".to_owned()));
    let Some(Effect::Dial { link, .. }) = bench.pass(LAST_PAUSE).pop() else { panic!("no dial") };
    let reason = "1 and 2".to_owned();
    bench.fail(link, Failure::Incompatible { peer: Some(greeting(1, 1)), reason: reason.clone() });
    assert_eq!(bench.one().standing, Standing::Incompatible(reason.clone()));
    assert_eq!((bench.one().id, &*bench.one().name), (Some(id(1)), "m1"));
    bench.apply(Event::CallRefused { greeting: greeting(1, 1), reason: reason.clone() });
    assert_eq!(bench.one().standing, Standing::Incompatible(reason));
    assert!(bench.pass(LAST_PAUSE).is_empty());
    // It has another program now.
    let effects = bench.apply(Event::Called { call: CallId(1), greeting: greeting(1, 2) });
    assert!(matches!(effects.last(), Some(Effect::Dial { .. })), "{effects:?}");
}

#[test]
fn another_key_ends_all_links_and_has_all_dialled_again() {
    let mut bench = Bench::new();
    let link = bench.sight(1);
    bench.answer(link, 1, 1);
    let refused = bench.sight(2);
    bench.fail(refused, Failure::Refused("another key".to_owned()));
    let call = CallId(1);
    bench.apply(Event::Called { call, greeting: greeting(1, 1) });
    let effects = bench.apply(Event::KeyChanged);
    assert_eq!(
        effects,
        [
            Effect::CloseCall { call, reason: NEW_KEY },
            Effect::Close { link, reason: NEW_KEY },
            Effect::Lost { link, reason: NEW_KEY.to_owned() },
        ]
    );
    let dials = bench.pass(SECOND);
    assert_eq!(dials.len(), 2, "{dials:?}");
}

#[test]
fn names_are_told_apart() {
    let mut bench = Bench::new();
    let named = |number, name: &str| Greeting { name: name.into(), ..greeting(number, 1) };
    let mut names = Vec::new();
    for (number, name) in [(1, "debian"), (2, "debian"), (3, "me"), (4, "")] {
        let call = CallId(number.into());
        for effect in bench.apply(Event::Called { call, greeting: named(number, name) }) {
            if let Effect::CallNamed { name, .. } = effect {
                names.push(name.to_string());
            }
        }
    }
    assert_eq!(names, ["debian", "debian-0202", "me-0303", "0404"]);
    let effects = bench.apply(Event::Called { call: CallId(9), greeting: named(2, "debian") });
    assert!(effects.contains(&Effect::CallNamed { call: CallId(9), name: "debian-0202".into() }));
}

#[test]
fn who_was_only_heard_of_goes_with_the_announcement_or_makes_room() {
    let mut bench = Bench::new();
    let link = bench.sight(1);
    bench.fail(link, nobody());
    bench.apply(Event::Vanished(id(1)));
    assert_eq!(bench.members.list(), []);
    let again = Event::Sighted { id: id(1), addresses: vec![address(1)] };
    assert_eq!(bench.apply(again), [], "it was tried a moment ago");
    bench.apply(Event::Vanished(id(1)));
    let link = bench.sight(2);
    bench.answer(link, 2, 1);
    bench.apply(Event::Vanished(id(2)));
    assert_eq!(bench.one().standing, Standing::Linked);
    for number in 0..2000_u16 {
        let mut bytes = [9; 32];
        bytes[..2].copy_from_slice(&number.to_be_bytes());
        let addresses = (0..100).map(|port| SocketAddr::from(([10, 1, 1, 1], port + 1))).collect();
        bench.apply(Event::Sighted { id: MachineId::new(bytes), addresses });
    }
    let list = bench.members.list();
    assert_eq!(list.len(), MOST_MEMBERS);
    assert!(list.iter().any(|listed| listed.id == Some(id(2))));
    assert!(bench.members.dials.len() <= MOST_DIALS);
}

#[test]
fn who_is_gone_for_long_is_forgotten_and_who_is_configured_is_not() {
    let mut bench = Bench::new();
    let link = bench.sight(1);
    bench.answer(link, 1, 1);
    bench.apply(Event::Ended { link, reason: String::new() });
    let addresses = vec![address(2)];
    bench.apply(Event::Remembered { id: id(2), name: "m2".into(), addresses });
    bench.apply(Event::Configured(host("attic")));
    assert_eq!(bench.members.list().len(), 3);
    assert_eq!(bench.members.proven().len(), 2);
    bench.pass(FORGET_AFTER + SECOND);
    assert_eq!(&*bench.one().name, "attic:8981");
}

// === any events in any order ===

/// What may happen next, as numbers that the world makes sense of.
#[derive(Clone, Copy, Debug)]
enum Act {
    Pass(u64),
    Remember(u8),
    Configure(u8),
    Meet(u8),
    Sight(u8, u8),
    Vanish(u8),
    /// The dial of this number is answered by this machine, in this start of its node.
    Answer(u8, u8, u64),
    Fail(u8, u8),
    End(u8),
    Call(u8, u64),
    EndCall(u8),
    RefuseCall(u8),
    ChangeKey,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let machine = 0_u8..6;
    let act = prop_oneof![
        4 => (0_u64..40_000).prop_map(Act::Pass),
        1 => machine.clone().prop_map(Act::Remember),
        1 => (0_u8..3).prop_map(Act::Configure),
        1 => machine.clone().prop_map(Act::Meet),
        3 => (machine.clone(), 0_u8..6).prop_map(|(machine, at)| Act::Sight(machine, at)),
        1 => machine.clone().prop_map(Act::Vanish),
        6 => (any::<u8>(), machine.clone(), 1_u64..3).prop_map(|(dial, by, epoch)| Act::Answer(dial, by, epoch)),
        3 => (any::<u8>(), 0_u8..3).prop_map(|(dial, how)| Act::Fail(dial, how)),
        3 => any::<u8>().prop_map(Act::End),
        3 => (machine.clone(), 1_u64..3).prop_map(|(machine, epoch)| Act::Call(machine, epoch)),
        2 => any::<u8>().prop_map(Act::EndCall),
        1 => machine.prop_map(Act::RefuseCall),
        1 => Just(Act::ChangeKey),
    ];
    proptest::collection::vec(act, 1..200)
}

/// What is outside of the members: dials and links under way, and what those above were told.
struct World {
    bench: Bench,
    dials: BTreeMap<LinkId, Vec<Route>>,
    /// Open links, whether or not those above were told of them.
    links: BTreeMap<LinkId, MachineId>,
    told: BTreeMap<MachineId, LinkId>,
    calls: BTreeMap<CallId, MachineId>,
    next_call: u64,
    /// When each was dialled last.
    dialled: BTreeMap<Key, Instant>,
    configured: BTreeSet<u8>,
}

impl World {
    fn new() -> Self {
        Self {
            bench: Bench::new(),
            dials: BTreeMap::new(),
            links: BTreeMap::new(),
            told: BTreeMap::new(),
            calls: BTreeMap::new(),
            next_call: 0,
            dialled: BTreeMap::new(),
            configured: BTreeSet::new(),
        }
    }

    fn act(&mut self, act: Act) {
        let event = match act {
            Act::Pass(millis) => {
                self.bench.now += Duration::from_millis(millis);
                Event::Tick
            }
            Act::Remember(machine) => Event::Remembered {
                id: id(machine),
                name: format!("m{machine}").into(),
                addresses: vec![address(machine)],
            },
            Act::Configure(number) if !self.configured.insert(number) => return,
            Act::Configure(number) => Event::Configured(host(&format!("host-{number}"))),
            Act::Meet(number) => Event::Met { id: id(number), name: "met".into(), address: address(number) },
            Act::Sight(machine, at) => Event::Sighted { id: id(machine), addresses: vec![address(at)] },
            Act::Vanish(machine) => Event::Vanished(id(machine)),
            Act::Answer(dial, by, epoch) => {
                let Some(link) = pick(&self.dials, dial) else { return };
                let routes = self.dials.remove(&link).unwrap();
                self.links.insert(link, id(by));
                Event::Dialled { link, outcome: Ok((greeting(by, epoch), routes[0].clone())) }
            }
            Act::Fail(dial, how) => {
                let Some(link) = pick(&self.dials, dial) else { return };
                self.dials.remove(&link);
                let failure = match how {
                    0 => nobody(),
                    1 => Failure::Refused("r".to_owned()),
                    _ => Failure::Incompatible { peer: Some(greeting(how, 1)), reason: "i".to_owned() },
                };
                Event::Dialled { link, outcome: Err(failure) }
            }
            Act::End(link) => {
                let Some(link) = pick(&self.links, link) else { return };
                self.links.remove(&link);
                Event::Ended { link, reason: "e".to_owned() }
            }
            Act::Call(machine, epoch) => {
                self.next_call += 1;
                let call = CallId(self.next_call);
                self.calls.insert(call, id(machine));
                Event::Called { call, greeting: greeting(machine, epoch) }
            }
            Act::EndCall(call) => {
                let Some(call) = pick(&self.calls, call) else { return };
                self.calls.remove(&call);
                Event::CallEnded(call)
            }
            Act::RefuseCall(machine) => {
                Event::CallRefused { greeting: greeting(machine, 1), reason: "r".to_owned() }
            }
            Act::ChangeKey => Event::KeyChanged,
        };
        for effect in self.bench.apply(event) {
            self.perform(effect);
        }
        self.check();
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Dial { link, routes } => {
                assert!(!routes.is_empty() && routes.len() <= 4 * MOST_ADDRESSES);
                let key = self.bench.members.dials[&link].clone();
                if let Some(before) = self.dialled.insert(key, self.bench.now) {
                    assert!(self.bench.now >= before + FIRST_PAUSE / 2, "a storm");
                }
                assert!(self.dials.insert(link, routes).is_none() && !self.links.contains_key(&link));
            }
            Effect::Linked { link, name } => {
                let machine = self.links[&link];
                assert!(self.told.insert(machine, link).is_none(), "two links to {machine}");
                assert_ne!(&*name, "me");
            }
            Effect::Lost { link, .. } => {
                let told = self.told.len();
                self.told.retain(|_, other| *other != link);
                assert_eq!(self.told.len() + 1, told, "lost what was not there");
            }
            Effect::Close { link, .. } => assert!(self.links.contains_key(&link)),
            Effect::CloseCall { call, .. } => {
                self.calls.remove(&call);
            }
            Effect::CallNamed { .. } | Effect::Remember => {}
        }
    }

    fn check(&self) {
        let members = &self.bench.members;
        assert!(members.table.len() <= MOST_MEMBERS && members.dials.len() <= MOST_DIALS);
        assert_eq!(members.dials.len(), self.dials.len());
        let looked_for: BTreeSet<_> = members.dials.values().collect();
        assert_eq!(looked_for.len(), members.dials.len(), "two dials for one machine");
        let list = members.list();
        assert!(list.iter().all(|listed| listed.id != Some(id(0))));
        let linked: BTreeMap<_, _> =
            list.iter().filter_map(|listed| Some((listed.id?, listed.link?))).collect();
        assert_eq!(linked, self.told, "what is shown is what was told");
        let names: BTreeSet<_> = list.iter().map(|listed| &listed.name).collect();
        assert_eq!(names.len(), list.len(), "{list:?}");
        for listed in &list {
            let is_tried = listed.route.is_none() || listed.link.is_some();
            let key = listed.id.map_or_else(|| Key::Host(host(&listed.name)), Key::Machine);
            let member = &members.table[&key];
            assert!(is_tried || members.is_dialled(&key) || member.next <= self.bench.now + HOPELESS_PAUSE);
        }
        // Nothing that is due waits for a tick that does not come.
        assert!(members.wake().is_none_or(|wake| wake > self.bench.now));
    }
}

fn pick<K: Copy + Ord, V>(map: &BTreeMap<K, V>, number: u8) -> Option<K> {
    map.keys().nth(usize::from(number) % map.len().max(1)).copied()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_happens_the_promises_hold(acts in acts()) {
        let mut world = World::new();
        for act in acts {
            world.act(act);
        }
    }

    #[test]
    fn what_is_there_is_linked_with_in_the_end(acts in acts()) {
        let mut world = World::new();
        world.act(Act::Sight(1, 1));
        for act in acts.into_iter().filter(|act| !matches!(act, Act::Vanish(_))) {
            world.act(act);
        }
        world.act(Act::Sight(1, 1));
        // From now on machine 1 answers where it is, and nobody else anywhere.
        for _ in 0..200 {
            while let Some((link, routes)) = world.dials.iter().next().map(|(link, routes)| (*link, routes.clone())) {
                world.dials.remove(&link);
                let there = Route::Address(address(1));
                let outcome = match routes.contains(&there) {
                    true => {
                        world.links.insert(link, id(1));
                        Ok((greeting(1, 2), there))
                    }
                    false => Err(nobody()),
                };
                for effect in world.bench.apply(Event::Dialled { link, outcome }) {
                    world.perform(effect);
                }
            }
            world.act(Act::Pass(10_000));
        }
        prop_assert!(world.told.contains_key(&id(1)));
    }
}
