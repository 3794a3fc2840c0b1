use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const EVERY_QUEUE: usize = 8;

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn wide(seats: usize) -> Work {
    Work { seats, ..Work::ONE }
}

/// A level whose flows are each in a queue of their own: the hash of a flow is the number of its queue.
fn level(seats: usize, length: usize) -> Queues<usize> {
    let mut queues = Queues::new(Response::Reject, Duration::ZERO);
    let response = Response::Queue {
        queues: EVERY_QUEUE,
        hand: 1,
        length,
    };
    queues.configure(Duration::ZERO, response, seats, seats);
    queues
}

fn dispatched(level: &mut Queues<usize>) -> Vec<Ticket> {
    std::iter::from_fn(|| level.pop_dispatched()).collect()
}

/// Clients that always want more: each flow keeps a number of requests at the level, and each takes some time.
struct Load {
    level: Queues<usize>,
    now: Duration,
    /// When requests that are served end, and of which flow they are.
    ends: BTreeMap<(Duration, usize), (Ticket, usize)>,
    n_started: usize,
    /// Seat time that each flow was given.
    served: Vec<Duration>,
    longest_wait: Duration,
}

impl Load {
    fn new(level: Queues<usize>, flows: usize) -> Self {
        Self {
            level,
            now: Duration::ZERO,
            ends: BTreeMap::new(),
            n_started: 0,
            served: vec![Duration::ZERO; flows],
            longest_wait: Duration::ZERO,
        }
    }

    fn arrive(&mut self, flow: usize, work: Work, takes: Duration) -> Arrival {
        let arrival = self.level.arrive(self.now, work, flow as u64, flow);
        if let Arrival::Served(ticket) = arrival {
            self.started(ticket, takes);
        }
        self.look(takes);
        arrival
    }

    fn started(&mut self, ticket: Ticket, takes: Duration) {
        let request = self.level.get(ticket).expect("it is served");
        let flow = request.kept;
        self.longest_wait = self.longest_wait.max(self.now - request.arrived);
        self.served[flow] += takes * u32::try_from(request.work.seats).expect("few");
        self.n_started += 1;
        let end = (self.now + takes, self.n_started);
        self.ends.insert(end, (ticket, flow));
    }

    fn look(&mut self, takes: Duration) {
        for ticket in dispatched(&mut self.level) {
            self.started(ticket, takes);
        }
        let limit = self.level.limit();
        let used = self.level.seats_used();
        assert!(
            used <= limit || self.level.n_served() == 1,
            "{used} of {limit}"
        );
    }

    /// Each flow asks for more whenever one of its requests ends.
    fn go_on(&mut self, flows: &[(usize, u64)], until: Duration) {
        let takes: Vec<Duration> = flows.iter().map(|(_, takes)| millis(*takes)).collect();
        while self.now < until {
            let flow = self.step(&takes).expect("there is always more");
            let (width, takes) = flows[flow];
            self.arrive(flow, wide(width), millis(takes));
        }
    }

    /// Goes to the next end of a request; answers its flow.
    fn step(&mut self, takes: &[Duration]) -> Option<usize> {
        let ((end, _), (ticket, flow)) = self.ends.pop_first()?;
        self.now = end;
        assert_eq!(self.level.finish(end, ticket), None);
        for ticket in dispatched(&mut self.level) {
            let flow = self.level.get(ticket).expect("it is served").kept;
            self.started(ticket, takes[flow]);
        }
        Some(flow)
    }
}

#[test]
fn seats_are_given_at_once_while_there_are_any() {
    let mut level = level(2, 10);
    let first = level.arrive(millis(0), Work::ONE, 1, 0);
    assert!(matches!(first, Arrival::Served(_)));
    assert!(matches!(
        level.arrive(millis(0), Work::ONE, 1, 0),
        Arrival::Served(_)
    ));
    let Arrival::Waits(third) = level.arrive(millis(0), Work::ONE, 1, 0) else {
        panic!("there are two seats");
    };
    let Arrival::Served(first) = first else {
        panic!("matched above");
    };
    level.finish(millis(5), first);
    assert_eq!(dispatched(&mut level), [third]);
}

#[test]
fn a_full_queue_refuses_and_others_do_not() {
    let mut level = level(1, 2);
    for _ in 0..3 {
        let arrival = level.arrive(millis(0), Work::ONE, 1, 0);
        assert!(!matches!(arrival, Arrival::Refused(_)));
    }
    let refused = level.arrive(millis(0), Work::ONE, 1, 0);
    assert_eq!(refused, Arrival::Refused(Refusal::QueueFull));
    assert!(matches!(
        level.arrive(millis(0), Work::ONE, 2, 0),
        Arrival::Waits(_)
    ));
    assert_eq!(level.counts().rejected, 1);
}

#[test]
fn a_level_that_rejects_has_no_queues_and_an_exempt_one_no_bound() {
    let mut level = Queues::new(Response::Reject, Duration::ZERO);
    level.configure(Duration::ZERO, Response::Reject, 1, 1);
    let served = level.arrive(millis(0), Work::ONE, 0, ());
    assert!(matches!(served, Arrival::Served(_)));
    let refused = level.arrive(millis(0), Work::ONE, 0, ());
    assert_eq!(refused, Arrival::Refused(Refusal::NoSeat));
    level.configure(millis(1), Response::Exempt, 0, 1);
    for _ in 0..10 {
        let served = level.arrive(millis(1), wide(5), 0, ());
        assert!(matches!(served, Arrival::Served(_)));
    }
    assert_eq!(level.seats_used(), 51);
}

#[test]
fn seats_linger_after_the_answer() {
    let mut level = level(3, 10);
    let work = Work {
        seats: 1,
        last_seats: 3,
        linger: millis(5),
    };
    let Arrival::Served(ticket) = level.arrive(millis(0), work, 0, 0) else {
        panic!("there are three seats");
    };
    assert_eq!(level.seats_used(), 3);
    let Arrival::Waits(next) = level.arrive(millis(0), Work::ONE, 0, 0) else {
        panic!("all seats are taken");
    };
    assert_eq!(level.finish(millis(1), ticket), Some(millis(5)));
    assert_eq!(dispatched(&mut level).len(), 0);
    level.release(millis(6), ticket);
    assert_eq!(dispatched(&mut level), [next]);
}

#[test]
fn one_that_left_the_queue_is_not_served_and_one_whose_turn_came_is() {
    let mut level = level(1, 10);
    let Arrival::Served(first) = level.arrive(millis(0), Work::ONE, 0, 0) else {
        panic!("there is a seat");
    };
    let waits = |level: &mut Queues<usize>| match level.arrive(millis(0), Work::ONE, 0, 0) {
        Arrival::Waits(ticket) => ticket,
        other => panic!("{other:?}"),
    };
    let (second, third) = (waits(&mut level), waits(&mut level));
    assert!(level.cancel(millis(1), second));
    level.finish(millis(2), first);
    assert_eq!(dispatched(&mut level), [third]);
    assert!(!level.cancel(millis(3), third));
    level.finish(millis(3), third);
    assert!(level.is_idle());
    assert_eq!(level.requests().count(), 0);
}

#[test]
fn one_wider_than_all_seats_is_served_alone() {
    let mut level = level(4, 10);
    let Arrival::Served(narrow) = level.arrive(millis(0), Work::ONE, 1, 0) else {
        panic!("there are seats");
    };
    let Arrival::Waits(broad) = level.arrive(millis(0), wide(9), 2, 0) else {
        panic!("another is served");
    };
    // It is next, and nobody overtakes it for ever.
    let Arrival::Waits(later) = level.arrive(millis(1), wide(9), 3, 0) else {
        panic!("another is served");
    };
    level.finish(millis(2), narrow);
    assert_eq!(dispatched(&mut level), [broad]);
    level.finish(millis(3), broad);
    assert_eq!(dispatched(&mut level), [later]);
}

#[test]
fn fewer_queues_drain_and_more_are_used_at_once() {
    let mut level = level(1, 10);
    let Arrival::Served(first) = level.arrive(millis(0), Work::ONE, 0, 0) else {
        panic!("there is a seat");
    };
    let Arrival::Waits(last) = level.arrive(millis(0), Work::ONE, 7, 0) else {
        panic!("the seat is taken");
    };
    let two = Response::Queue {
        queues: 2,
        hand: 1,
        length: 10,
    };
    level.configure(millis(1), two, 1, 1);
    assert_eq!(level.queues().len(), EVERY_QUEUE, "one of them is in use");
    level.finish(millis(2), first);
    assert_eq!(dispatched(&mut level), [last]);
    level.finish(millis(3), last);
    assert_eq!(level.queues().len(), 2);
    level.configure(millis(4), two, 5, 5);
    for _ in 0..5 {
        let served = level.arrive(millis(4), Work::ONE, 1, 0);
        assert!(matches!(served, Arrival::Served(_)));
    }
}

#[test]
fn a_flood_of_one_flow_does_not_delay_another_by_more_than_a_service() {
    let mut load = Load::new(level(4, 1000), 2);
    for _ in 0..500 {
        load.arrive(0, Work::ONE, millis(10));
    }
    for _ in 0..20 {
        let began = load.now;
        let mut arrival = load.arrive(1, Work::ONE, millis(10));
        while let Arrival::Waits(ticket) = arrival {
            load.step(&[millis(10); 2]).expect("others are served");
            if !matches!(
                load.level.get(ticket).map(|r| r.phase),
                Some(Phase::Waiting)
            ) {
                arrival = Arrival::Served(ticket);
            }
        }
        assert!(
            load.now - began <= millis(10),
            "waited for {:?}",
            load.now - began
        );
        // Then it does something else for a while.
        for _ in 0..8 {
            load.step(&[millis(10); 2]).expect("others are served");
        }
    }
}

const MEASURED: Duration = Duration::from_secs(10);

/// Flows that always want more, by the width of their requests and what they take, after a while.
fn load(flows: &[(usize, u64)], seats: usize, n_each: usize, until: Duration) -> Load {
    let mut load = Load::new(level(seats, 1000), flows.len());
    for (flow, (width, takes)) in flows.iter().enumerate() {
        for _ in 0..n_each {
            load.arrive(flow, wide(*width), millis(*takes));
        }
    }
    load.go_on(flows, until);
    load
}

/// The seat time that each of them gets.
fn share(flows: &[(usize, u64)], seats: usize) -> Vec<Duration> {
    // What the first got before the others came does not count.
    let began = millis(1000);
    let mut load = load(flows, seats, 20, began);
    let before = load.served.clone();
    load.go_on(flows, began + MEASURED);
    let both = load.served.iter().zip(&before);
    both.map(|(all, before)| *all - *before).collect()
}

proptest! {
    /// Flows that always want more get the same seat time, however long their requests take, give or take what they have
    /// at one moment.
    #[test]
    fn flows_get_the_same_seat_time(
        takes in prop::collection::vec(1_u64..40, 2..6),
        seats in 4_usize..10,
    ) {
        let flows: Vec<(usize, u64)> = takes.into_iter().map(|takes| (1, takes)).collect();
        let got = share(&flows, seats);
        let (least, most) = (got.iter().min().expect("some"), got.iter().max().expect("some"));
        // Of each end of the time.
        let ahead = millis(40) * u32::try_from(seats).expect("few") * 2;
        prop_assert!(*most - *least <= ahead, "{got:?}");
    }

    /// Where requests are wide, seats stay free that none of them fits into, and flows are served by their age rather than
    /// by their share. Still nobody waits much longer than if all that were there had been served one after the other.
    #[test]
    fn nobody_waits_for_ever(
        flows in prop::collection::vec((1_usize..5, 1_u64..40), 2..6),
        seats in 4_usize..10,
    ) {
        let n_each = 5;
        let load = load(&flows, seats, n_each, millis(5000));
        let n_all = u32::try_from(n_each * flows.len()).expect("few");
        prop_assert!(load.longest_wait <= millis(40) * n_all * 2, "{:?}", load.longest_wait);
    }

    /// Whatever comes in whatever order: seats are never exceeded, what is counted is there, and all that wait are served
    /// in the end.
    #[test]
    fn nothing_is_lost_and_no_seat_given_twice(
        events in prop::collection::vec((0_u8..6, any::<u64>(), 1_usize..6, 0_u64..20), 1..200),
        seats in 1_usize..8,
    ) {
        let mut level = level(seats, 5);
        let mut now = Duration::ZERO;
        let mut served: Vec<Ticket> = Vec::new();
        let mut waiting: Vec<Ticket> = Vec::new();
        let mut lingering: Vec<Ticket> = Vec::new();
        let mut n_arrived = 0;
        for (event, hash, width, passed) in events {
            now += millis(passed);
            let pick = |from: &mut Vec<Ticket>| {
                let n = from.len() as u64;
                (n > 0).then(|| from.swap_remove(usize::try_from(hash % n).expect("small")))
            };
            match event {
                0..=2 => {
                    let linger = millis(if event == 2 { 5 } else { 0 });
                    let work = Work { seats: width, last_seats: width * usize::from(event), linger };
                    n_arrived += 1;
                    match level.arrive(now, work, hash, 0) {
                        Arrival::Served(ticket) => served.push(ticket),
                        Arrival::Waits(ticket) => waiting.push(ticket),
                        Arrival::Refused(_) => {}
                    }
                }
                3 => if let Some(ticket) = pick(&mut served)
                    && level.finish(now, ticket).is_some()
                {
                    lingering.push(ticket);
                },
                4 => if let Some(ticket) = pick(&mut waiting) {
                    prop_assert!(level.cancel(now, ticket));
                },
                _ => if let Some(ticket) = pick(&mut lingering) {
                    level.release(now, ticket);
                },
            }
            for ticket in dispatched(&mut level) {
                waiting.retain(|other| *other != ticket);
                served.push(ticket);
            }
            check(&level, &served, &waiting, &lingering)?;
        }
        while let Some(ticket) = served.pop().or_else(|| lingering.pop()) {
            now += millis(1);
            match level.get(ticket).map(|r| r.phase) {
                Some(Phase::Lingering) => level.release(now, ticket),
                _ => if level.finish(now, ticket).is_some() {
                    lingering.push(ticket);
                },
            }
            for ticket in dispatched(&mut level) {
                waiting.retain(|other| *other != ticket);
                served.push(ticket);
            }
        }
        prop_assert!(waiting.is_empty(), "{waiting:?} starve");
        prop_assert!(level.is_idle());
        let counts = level.counts();
        prop_assert_eq!(counts.dispatched + counts.rejected, n_arrived);
    }
}

fn check(
    level: &Queues<usize>,
    served: &[Ticket],
    waiting: &[Ticket],
    lingering: &[Ticket],
) -> Result<(), TestCaseError> {
    let width = |ticket: &Ticket| level.get(*ticket).map_or(0, |r| r.width);
    let used: usize = served.iter().chain(lingering).map(width).sum();
    prop_assert_eq!(level.seats_used(), used);
    prop_assert_eq!(
        level.seats_waiting,
        waiting.iter().map(width).sum::<usize>()
    );
    prop_assert_eq!(level.n_served(), served.len());
    prop_assert_eq!(level.n_waiting(), waiting.len());
    let active = level.queues().iter().filter(|q| q.is_active()).count();
    prop_assert_eq!(level.n_active, active);
    let in_queues: usize = level.queues().iter().map(|q| q.seats).sum();
    prop_assert_eq!(in_queues, used);
    prop_assert!(used <= level.limit() || served.len() + lingering.len() == 1);
    Ok(())
}
