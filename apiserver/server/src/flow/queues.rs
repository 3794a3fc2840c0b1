//! The queues of one priority level, as a pure machine: who waits, who has seats, and whose turn is next. Time is told to
//! it, and whoever drives it wakes those whose turn has come.
//!
//! ```text
//!  arrive ─▶ deal a hand of queues, the one with least work ─▶ wait ─▶ dispatch ─▶ finish ─▶ linger ─▶ release
//!               └▶ refused: the queue is full                  └▶ cancel
//! ```
//!
//! Seats go to the queue whose next request would be done first if all queues were served at once, a seat at a time: fair
//! queuing by virtual time. `progress` counts seat time that each busy queue had a right to since the beginning; a queue's
//! `start` is where in that count its next request begins. Serving a request moves the start of its queue by the request's
//! work, which is a guess until it has ended and is corrected then.

use std::collections::VecDeque;
use std::time::Duration;

use super::demand::{Integral, Observed, Timed};
use super::shuffle;

/// What the service of a request is taken to last until it is known.
const SERVICE_GUESS: Duration = Duration::from_millis(3);
/// Bounds of the share of seats in use, as in kube-apiserver.
const SEAT_BOUNDS: &[f64] = &[
    0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0,
];
/// Bounds of requests as a share of what may wait or be served.
const REQUEST_BOUNDS: &[f64] = &[0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 1.0];
/// Bounds of the demand as a share of the seats there are.
const DEMAND_BOUNDS: &[f64] = &[0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.7, 2.0, 2.8, 4.0, 6.0];

/// Seats times nanoseconds. With 64 bits a busy server would be at the end after half a year.
pub type SeatTime = i128;

fn seat_time(seats: usize, time: Duration) -> SeatTime {
    seats as i128 * i128::try_from(time.as_nanos()).unwrap_or(i128::MAX / 2)
}

/// What a request costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Seats while it is served.
    pub seats: usize,
    /// Seats after that, for what it sets going.
    pub last_seats: usize,
    /// For how long after.
    pub linger: Duration,
}

impl Work {
    /// One seat while it is served.
    pub const ONE: Self = Self {
        seats: 1,
        last_seats: 0,
        linger: Duration::ZERO,
    };

    /// Seats that are held for it from the beginning to the end.
    pub fn width(&self) -> usize {
        self.seats.max(self.last_seats)
    }

    fn total(&self) -> SeatTime {
        seat_time(self.seats, SERVICE_GUESS) + seat_time(self.last_seats, self.linger)
    }
}

/// What happens to requests beyond the seats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response {
    /// There are no seats to count: everything is served at once.
    Exempt,
    /// They are refused.
    Reject,
    /// They wait.
    Queue {
        /// How many queues there are.
        queues: usize,
        /// How many of them a flow is dealt.
        hand: usize,
        /// How many requests wait in one.
        length: usize,
    },
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no seat, and nothing waits at this level.
    NoSeat,
    /// Its queue is full.
    QueueFull,
}

/// A request of the machine, until it is cancelled or released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(usize);

/// What became of a request that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It is served at once.
    Served(Ticket),
    /// It waits until it is among those dispatched.
    Waits(Ticket),
    /// It is refused.
    Refused(Refusal),
}

/// Where a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// In its queue.
    Waiting,
    /// Being served since then.
    Served(Duration),
    /// Answered; its seats are held a while longer.
    Lingering,
}

/// A request, with what whoever drives the machine keeps with it.
#[derive(Debug)]
pub struct Request<R> {
    /// What it costs.
    pub work: Work,
    /// When it came.
    pub arrived: Duration,
    /// Where it is.
    pub phase: Phase,
    /// The queue it was put into; none at levels without queues.
    pub queue: Option<usize>,
    /// What the driver keeps.
    pub kept: R,
    /// The progress when it came.
    progress: SeatTime,
    /// Seats counted as waiting or used for it.
    width: usize,
}

/// One queue.
#[derive(Debug, Default)]
pub struct Queue {
    /// Oldest first.
    pub waiting: VecDeque<Ticket>,
    /// Requests of it that are being served.
    pub served: usize,
    /// Seats that they hold, and those that linger.
    pub seats: usize,
    /// Where in the progress the next request begins.
    pub start: SeatTime,
    /// Seats while served, of all that wait.
    pub waiting_seats: usize,
    /// Widths of all that wait.
    pub waiting_width: usize,
    /// Work of all that wait.
    pub waiting_work: SeatTime,
}

impl Queue {
    fn is_active(&self) -> bool {
        self.served > 0 || !self.waiting.is_empty()
    }

    fn is_over(&self) -> bool {
        !self.is_active() && self.seats == 0
    }
}

/// The state of virtual time at the last dispatch, for metrics.
#[derive(Debug, Clone, Copy, Default)]
pub struct Dispatch {
    /// The progress.
    pub progress: SeatTime,
    /// Where the request began in it.
    pub start: SeatTime,
    /// Lowest and highest start of queues with waiting requests.
    pub starts: (SeatTime, SeatTime),
    /// The same less what is being served.
    pub discounted: (SeatTime, SeatTime),
}

/// Lowest and highest starts of queues.
#[derive(Debug, Clone, Copy)]
struct Spread {
    starts: (SeatTime, SeatTime),
    discounted: (SeatTime, SeatTime),
}

impl Default for Spread {
    fn default() -> Self {
        const NONE: (SeatTime, SeatTime) = (SeatTime::MAX, SeatTime::MIN);
        Self {
            starts: NONE,
            discounted: NONE,
        }
    }
}

impl Spread {
    fn note(&mut self, queue: &Queue) {
        let widen = |(low, high): (SeatTime, SeatTime), to: SeatTime| (low.min(to), high.max(to));
        self.starts = widen(self.starts, queue.start);
        let discounted = queue.start - seat_time(queue.seats, SERVICE_GUESS);
        self.discounted = widen(self.discounted, discounted);
    }
}

/// What is counted since the beginning.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Requests that were served.
    pub dispatched: u64,
    /// Requests that were refused, or left their queue unserved.
    pub rejected: u64,
    /// Requests that left their queue unserved.
    pub cancelled: u64,
}

/// The level's history of use, for metrics.
#[derive(Debug)]
pub struct Utilization {
    /// Seats in use, of those there are.
    pub seats: Timed,
    /// Requests served, of the seats there are.
    pub served: Timed,
    /// Requests that wait, of those that may.
    pub waiting: Timed,
    /// Seats in use or waited for, of those there are.
    pub demand: Timed,
}

/// The queues of a level.
#[derive(Debug)]
pub struct Queues<R> {
    response: Response,
    limit: usize,
    queues: Vec<Queue>,
    requests: Vec<Option<Request<R>>>,
    free: Vec<usize>,
    /// Those whose turn has come since the driver looked last.
    dispatched: VecDeque<Ticket>,
    progress: SeatTime,
    synced: Duration,
    /// Queues in which something waits or is served.
    n_active: usize,
    n_waiting: usize,
    n_served: usize,
    seats_used: usize,
    seats_waiting: usize,
    /// Where the next look for a queue begins, so that equals take turns.
    robin: usize,
    n_dealt: usize,
    demand: Integral,
    utilization: Utilization,
    counts: Counts,
    last: Dispatch,
    /// Dispatches that failed because the next request is wider than what is free.
    no_room: Vec<Ticket>,
}

impl<R> Queues<R> {
    /// Nothing waits, and there are no seats until it is told how many.
    pub fn new(response: Response, now: Duration) -> Self {
        Self {
            response,
            limit: 0,
            queues: Vec::new(),
            requests: Vec::new(),
            free: Vec::new(),
            dispatched: VecDeque::new(),
            progress: 0,
            synced: now,
            n_active: 0,
            n_waiting: 0,
            n_served: 0,
            seats_used: 0,
            seats_waiting: 0,
            robin: 0,
            n_dealt: 0,
            demand: Integral::new(now),
            utilization: Utilization {
                seats: Timed::new(SEAT_BOUNDS, now),
                served: Timed::new(REQUEST_BOUNDS, now),
                waiting: Timed::new(REQUEST_BOUNDS, now),
                demand: Timed::new(DEMAND_BOUNDS, now),
            },
            counts: Counts::default(),
            last: Dispatch::default(),
            no_room: Vec::new(),
        }
    }

    /// Takes over another configuration. Queues beyond the new number get no more requests and go when they are empty.
    pub fn configure(
        &mut self,
        now: Duration,
        response: Response,
        limit: usize,
        denominator: usize,
    ) {
        self.sync(now);
        (self.response, self.limit) = (response, limit);
        let mut may_wait = 1;
        if let Response::Queue { queues, length, .. } = response {
            may_wait = queues * length;
            if self.queues.len() < queues {
                self.queues.resize_with(queues, Queue::default);
            }
        }
        self.drop_queues();
        let seats = denominator as f64;
        self.utilization
            .waiting
            .set_denominator(now, may_wait as f64);
        self.utilization.served.set_denominator(now, seats);
        self.utilization.seats.set_denominator(now, seats);
        self.utilization.demand.set_denominator(now, seats);
        self.dispatch_all(now);
    }

    /// A request comes, of the flow with this hash.
    pub fn arrive(&mut self, now: Duration, work: Work, hash: u64, kept: R) -> Arrival {
        self.sync(now);
        let (hand, length) = match self.response {
            Response::Queue { hand, length, .. } => (hand, length),
            Response::Exempt | Response::Reject => {
                if self.response == Response::Reject && !self.has_room(work.width()) {
                    self.counts.rejected += 1;
                    return Arrival::Refused(Refusal::NoSeat);
                }
                let ticket = self.admit(now, work, None, kept);
                self.serve(now, ticket);
                return Arrival::Served(ticket);
            }
        };
        let chosen = self.choose(hash, hand);
        if self.seats_used >= self.limit && self.queues[chosen].waiting.len() >= length {
            self.counts.rejected += 1;
            return Arrival::Refused(Refusal::QueueFull);
        }
        let ticket = self.admit(now, work, Some(chosen), kept);
        if self.n_waiting == 0 && self.seats_used + work.width() <= self.limit {
            // Nobody else waits, so the machine need not look who is next.
            self.begin_if_idle(chosen);
            let queue = &mut self.queues[chosen];
            queue.start = queue.start.max(self.progress);
            self.robin = chosen;
            let mut spread = Spread::default();
            spread.note(queue);
            self.note_dispatch(chosen, spread);
            self.serve(now, ticket);
            return Arrival::Served(ticket);
        }
        self.enqueue(now, ticket, chosen);
        self.dispatch_all(now);
        match self.dispatched.iter().position(|t| *t == ticket) {
            Some(place) => {
                self.dispatched.remove(place);
                Arrival::Served(ticket)
            }
            None => Arrival::Waits(ticket),
        }
    }

    /// A request that waits goes away. One whose turn has come meanwhile is not cancelled: `false`.
    pub fn cancel(&mut self, now: Duration, ticket: Ticket) -> bool {
        self.sync(now);
        let Some(request) = self.get(ticket).filter(|r| r.phase == Phase::Waiting) else {
            return false;
        };
        if let Some(index) = request.queue {
            self.leave_queue(ticket, index);
            self.bound_start(index);
        }
        self.counts.rejected += 1;
        self.counts.cancelled += 1;
        self.forget(ticket);
        self.drop_queues();
        self.note_use(now);
        self.dispatch_all(now);
        true
    }

    /// A request has been answered. Its seats are free, unless it lingers: then they are once it is released after that.
    pub fn finish(&mut self, now: Duration, ticket: Ticket) -> Option<Duration> {
        self.sync(now);
        let request = self.get_mut(ticket)?;
        let Phase::Served(since) = request.phase else {
            return None;
        };
        request.phase = Phase::Lingering;
        let (work, queue) = (request.work, request.queue);
        self.n_served -= 1;
        if let Some(index) = queue {
            // What it took, instead of the guess.
            let more = seat_time(work.seats, now.saturating_sub(since))
                - seat_time(work.seats, SERVICE_GUESS);
            self.change(index, |queue| {
                queue.served -= 1;
                queue.start += more;
            });
            self.bound_start(index);
        }
        if work.linger > Duration::ZERO && work.last_seats > 0 {
            self.note_use(now);
            self.dispatch_all(now);
            return Some(work.linger);
        }
        self.release(now, ticket);
        None
    }

    /// The seats of a request that has been answered are free.
    pub fn release(&mut self, now: Duration, ticket: Ticket) {
        self.sync(now);
        let is_done = |request: &&Request<R>| request.phase == Phase::Lingering;
        let Some(request) = self.get(ticket).filter(is_done) else {
            return;
        };
        let (width, queue) = (request.width, request.queue);
        self.seats_used -= width;
        if let Some(index) = queue {
            self.queues[index].seats -= width;
        }
        self.forget(ticket);
        self.drop_queues();
        self.note_use(now);
        self.dispatch_all(now);
    }

    /// One whose turn has come since the last time.
    pub fn pop_dispatched(&mut self) -> Option<Ticket> {
        self.dispatched.pop_front()
    }

    /// A request that was next but too wide for what was free.
    pub fn pop_no_room(&mut self) -> Option<Ticket> {
        self.no_room.pop()
    }

    /// How many wait in the queue that a request was just put into, itself included.
    pub fn length_behind(&self, arrival: Arrival) -> Option<usize> {
        let (Arrival::Served(ticket) | Arrival::Waits(ticket)) = arrival else {
            return None;
        };
        let request = self.get(ticket)?;
        let is_out = usize::from(request.phase != Phase::Waiting);
        Some(self.queues.get(request.queue?)?.waiting.len() + is_out)
    }

    /// A request of the machine.
    pub fn get(&self, ticket: Ticket) -> Option<&Request<R>> {
        self.requests.get(ticket.0).and_then(Option::as_ref)
    }

    /// A request of the machine, to be changed.
    pub fn get_mut(&mut self, ticket: Ticket) -> Option<&mut Request<R>> {
        self.requests.get_mut(ticket.0).and_then(Option::as_mut)
    }

    /// All requests that wait, are served or linger.
    pub fn requests(&self) -> impl Iterator<Item = (Ticket, &Request<R>)> {
        let all = self.requests.iter().enumerate();
        all.filter_map(|(index, request)| Some((Ticket(index), request.as_ref()?)))
    }

    /// The queues.
    pub fn queues(&self) -> &[Queue] {
        &self.queues
    }

    /// Seats there are.
    #[cfg(test)]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Seats in use.
    #[cfg(test)]
    pub fn seats_used(&self) -> usize {
        self.seats_used
    }

    /// Requests that wait.
    pub fn n_waiting(&self) -> usize {
        self.n_waiting
    }

    /// Requests that are being served.
    pub fn n_served(&self) -> usize {
        self.n_served
    }

    /// Whether nothing waits and nothing is served.
    pub fn is_idle(&self) -> bool {
        self.n_waiting == 0 && self.n_served == 0
    }

    /// What is counted since the beginning.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The last dispatch and the progress now.
    pub fn virtual_time(&self) -> (Dispatch, SeatTime) {
        (self.last, self.progress)
    }

    /// How the level was used.
    pub fn utilization(&mut self) -> &mut Utilization {
        &mut self.utilization
    }

    /// The demand for seats since the last time.
    pub fn take_demand(&mut self, now: Duration) -> Observed {
        self.demand.take(now)
    }

    /// Brings the progress to a time: while nothing changed, each busy queue had a right to the same part of the seats.
    fn sync(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.synced);
        self.synced = self.synced.max(now);
        if self.n_active == 0 {
            return;
        }
        let wanted = self.seats_used + self.seats_waiting;
        self.progress += seat_time(wanted.min(self.limit), passed) / self.n_active as i128;
    }

    /// The queue of the hand in which least work waits. Where several are equal, hands begin at different places, so that
    /// flows with a queue in common do not all choose it.
    fn choose(&mut self, hash: u64, hand: usize) -> usize {
        let Response::Queue { queues: deck, .. } = self.response else {
            return 0;
        };
        let mut cards = [0_usize; shuffle::HAND_MAX];
        let mut n_cards = 0;
        shuffle::deal(hash, deck, hand, |card| {
            cards[n_cards] = card;
            n_cards += 1;
        });
        let first = self.n_dealt % n_cards.max(1);
        self.n_dealt = self.n_dealt.wrapping_add(1);
        let (before, after) = cards[..n_cards].split_at(first);
        let turned = after.iter().chain(before).copied();
        turned
            .min_by_key(|card| self.queues[*card].waiting_work)
            .unwrap_or(0)
    }

    fn admit(&mut self, now: Duration, work: Work, queue: Option<usize>, kept: R) -> Ticket {
        let request = Request {
            work,
            arrived: now,
            phase: Phase::Waiting,
            queue,
            kept,
            progress: self.progress,
            width: work.width(),
        };
        match self.free.pop() {
            Some(index) => {
                self.requests[index] = Some(request);
                Ticket(index)
            }
            None => {
                self.requests.push(Some(request));
                Ticket(self.requests.len() - 1)
            }
        }
    }

    fn forget(&mut self, ticket: Ticket) {
        if let Some(place) = self.requests.get_mut(ticket.0)
            && place.take().is_some()
        {
            self.free.push(ticket.0);
        }
    }

    /// Changes what a queue has to do, and with it how many queues have something to do.
    fn change(&mut self, index: usize, change: impl FnOnce(&mut Queue)) {
        let queue = &mut self.queues[index];
        let was_active = queue.is_active();
        change(queue);
        match (was_active, queue.is_active()) {
            (false, true) => self.n_active += 1,
            (true, false) => self.n_active -= 1,
            _ => {}
        }
    }

    /// A queue that had nothing to do begins at the progress of now.
    fn begin_if_idle(&mut self, index: usize) {
        let queue = &mut self.queues[index];
        if !queue.is_active() {
            queue.start = self.progress;
        }
    }

    fn enqueue(&mut self, now: Duration, ticket: Ticket, index: usize) {
        self.begin_if_idle(index);
        let Some(request) = self.get(ticket) else {
            return;
        };
        let (work, width) = (request.work, request.width);
        self.change(index, |queue| {
            queue.waiting.push_back(ticket);
            queue.waiting_seats += work.seats;
            queue.waiting_width += width;
            queue.waiting_work += work.total();
        });
        self.n_waiting += 1;
        self.seats_waiting += width;
        self.bound_start(index);
        self.note_use(now);
    }

    fn leave_queue(&mut self, ticket: Ticket, index: usize) {
        let Some(request) = self.get(ticket) else {
            return;
        };
        let (work, width) = (request.work, request.width);
        self.change(index, |queue| {
            // A queue is no longer than its limit, and whose turn has come is the first.
            if let Some(place) = queue.waiting.iter().position(|other| *other == ticket) {
                queue.waiting.remove(place);
                queue.waiting_seats -= work.seats;
                queue.waiting_width -= width;
                queue.waiting_work -= work.total();
            }
        });
        self.n_waiting -= 1;
        self.seats_waiting -= width;
    }

    /// A queue's next request does not begin before it came: what a queue did not use is not saved up.
    fn bound_start(&mut self, index: usize) {
        let oldest = self.queues[index].waiting.front().copied();
        if let Some(came) = oldest.and_then(|t| self.get(t)).map(|r| r.progress) {
            let queue = &mut self.queues[index];
            queue.start = queue.start.max(came);
        }
    }

    /// Whether so many seats are free. What is wider than all seats together is served when it is alone.
    fn has_room(&self, width: usize) -> bool {
        match self.response {
            Response::Exempt => true,
            _ if width > self.limit => self.seats_used == 0,
            _ => self.seats_used + width <= self.limit,
        }
    }

    fn dispatch_all(&mut self, now: Duration) {
        while self.n_waiting > 0 && self.seats_used < self.limit && self.dispatch_one(now) {}
    }

    /// Serves the request that would be done first; `false` when it has no room.
    fn dispatch_one(&mut self, now: Duration) -> bool {
        let Some((index, ticket, spread)) = self.next_queue() else {
            return false;
        };
        let limit = self.limit;
        let width = self.get(ticket).map_or(0, |request| request.width);
        if !self.has_room(width) {
            self.no_room.push(ticket);
            return false;
        }
        self.note_dispatch(index, spread);
        self.leave_queue(ticket, index);
        if let Some(request) = self.get_mut(ticket) {
            // What it sets going fits into the seats there are, and lasts longer for it.
            let work = &mut request.work;
            if work.last_seats > limit {
                let longer = work.last_seats as f64 / limit as f64;
                work.linger = work.linger.mul_f64(longer);
                work.last_seats = limit;
            }
            request.width = work.width();
        }
        self.robin = index;
        self.serve(now, ticket);
        self.bound_start(index);
        self.dispatched.push_back(ticket);
        true
    }

    fn note_dispatch(&mut self, index: usize, spread: Spread) {
        self.last = Dispatch {
            progress: self.progress,
            start: self.queues[index].start,
            starts: spread.starts,
            discounted: spread.discounted,
        };
    }

    /// The queue whose first request would be done first, of equals the one whose turn is longest ago; that request, and
    /// the spread of starts.
    fn next_queue(&self) -> Option<(usize, Ticket, Spread)> {
        let n_queues = self.queues.len();
        let mut spread = Spread::default();
        let mut best: Option<(SeatTime, usize, Ticket)> = None;
        for step in 1..=n_queues {
            let index = (self.robin + step) % n_queues;
            let queue = &self.queues[index];
            let Some(oldest) = queue.waiting.front().copied() else {
                continue;
            };
            let Some(request) = self.get(oldest) else {
                continue;
            };
            spread.note(queue);
            let done = queue.start + request.work.total();
            if best.is_none_or(|(earliest, ..)| done < earliest) {
                best = Some((done, index, oldest));
            }
        }
        best.map(|(_, index, ticket)| (index, ticket, spread))
    }

    fn serve(&mut self, now: Duration, ticket: Ticket) {
        let Some(request) = self.requests.get_mut(ticket.0).and_then(Option::as_mut) else {
            return;
        };
        request.phase = Phase::Served(now);
        let (queue, width, total) = (request.queue, request.width, request.work.total());
        self.n_served += 1;
        self.seats_used += width;
        self.counts.dispatched += 1;
        if let Some(index) = queue {
            self.change(index, |queue| {
                queue.served += 1;
                queue.seats += width;
                queue.start += total;
            });
        }
        self.note_use(now);
    }

    /// Queues beyond those that are configured go once they are empty, from the end, so that no other changes its number.
    fn drop_queues(&mut self) {
        let wanted = match self.response {
            Response::Queue { queues, .. } => queues,
            Response::Exempt | Response::Reject => 0,
        };
        while self.queues.len() > wanted && self.queues.last().is_some_and(Queue::is_over) {
            self.queues.pop();
        }
        if self.robin >= self.queues.len() {
            self.robin = 0;
        }
    }

    fn note_use(&mut self, now: Duration) {
        let demand = (self.seats_used + self.seats_waiting) as f64;
        self.demand.set(now, demand);
        self.utilization.demand.set(now, demand);
        self.utilization.seats.set(now, self.seats_used as f64);
        self.utilization.served.set(now, self.n_served as f64);
        self.utilization.waiting.set(now, self.n_waiting as f64);
    }
}

#[cfg(test)]
mod tests;
