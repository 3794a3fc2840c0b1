//! Priority and fairness: which level a request belongs to, and when it is its turn there.
//!
//! ```text
//!  request ─▶ classify (FlowSchemas, in order) ─▶ estimate (seats) ─▶ seat (waits in a queue) ─▶ served ─▶ Seat dropped
//!                 ▲
//!  objects ───────┘ configure, and every ten seconds rebalance (levels lend what they do not use)
//! ```
//!
//! A request looks at one snapshot of the schemas, and takes the lock of its own level twice, for some arithmetic.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use corral_api::k8s::api::flowcontrol::v1::{FlowSchemaSpec, PriorityLevelConfigurationSpec};
use corral_kinds::flowcontrol::mandatory::{self, CATCH_ALL, EXEMPT};
use http::HeaderValue;
use tokio::sync::oneshot;

use super::allocation::{self, Limits, Shares, Wants};
use super::demand::Smoothed;
use super::metrics::{Metrics, OfSchema};
use super::queues::{Arrival, Queues, Refusal, Response, Ticket, Work};
use super::retry::Refusals;
use super::rules::Rules;
use super::shuffle::HAND_MAX;
use super::watches::Watches;
use super::width::{self, Stock};
use crate::authn::User;
use crate::request::{RequestInfo, Verb};

/// How often seats are shared anew, as in kube-apiserver.
pub const REBALANCE_PERIOD: Duration = Duration::from_secs(10);

/// A FlowSchema or PriorityLevelConfiguration.
#[derive(Debug, Clone)]
pub struct Object<S> {
    /// Its name.
    pub name: String,
    /// Its uid; empty for one that is only imagined.
    pub uid: String,
    /// What it asks for.
    pub spec: S,
}

/// Gives requests their turns.
pub struct Fairness {
    seats: usize,
    began: Instant,
    /// In the order in which they are asked.
    pub(super) schemas: ArcSwap<Vec<Arc<Schema>>>,
    // Guards which levels there are and what they are told to have. No request looks at it.
    levels: Mutex<BTreeMap<String, Configured>>,
    /// The watches that are open.
    pub watches: Arc<Watches>,
    hasher: RandomState,
    /// What is measured.
    pub metrics: Metrics,
}

/// A level with what it is told to have.
pub(super) struct Configured {
    pub level: Arc<Level>,
    pub shares: Shares,
    pub limits: Limits,
    pub demand: Smoothed,
    pub target: f64,
    pub current: usize,
    response: Response,
    /// Whether there is an object; one without goes when it is idle.
    pub wanted: bool,
}

/// A priority level.
pub struct Level {
    /// Its name.
    pub name: String,
    // Guards queues and seats. Held for arithmetic only.
    queues: Mutex<Queues<Kept>>,
    // Guards what was refused lately; taken only when a request is refused.
    refusals: Mutex<Refusals>,
    /// Most seats of one request; 0 for no bound of the level's own.
    widest: AtomicUsize,
}

/// What is kept with a request.
pub(super) struct Kept {
    pub schema: Arc<Schema>,
    pub info: Arc<RequestInfo>,
    pub user: Arc<User>,
    /// Tells whoever waits that it is its turn.
    woken: Option<oneshot::Sender<()>>,
}

/// A FlowSchema that is in use.
pub struct Schema {
    /// Its name.
    pub name: String,
    precedence: i32,
    rules: Rules,
    by: Option<By>,
    /// Whether its level tells flows apart.
    has_flows: bool,
    /// The level of its requests.
    pub level: Arc<Level>,
    /// `X-Kubernetes-Pf-FlowSchema-Uid`.
    pub uid: HeaderValue,
    /// `X-Kubernetes-Pf-PriorityLevel-Uid`.
    pub level_uid: HeaderValue,
    pub(super) measured: OfSchema,
}

/// What makes a flow.
#[derive(Debug, Clone, Copy)]
enum By {
    User,
    Namespace,
}

impl Schema {
    /// What tells this request's flow from others of the schema.
    pub(super) fn flow<'a>(&self, user: &'a User, info: &'a RequestInfo) -> &'a str {
        match self.by {
            _ if !self.has_flows => "",
            None => "",
            Some(By::User) => &user.name,
            Some(By::Namespace) => &info.namespace,
        }
    }
}

/// A request that is refused shall come back after so many seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// Seconds.
    pub after: u64,
}

/// The turn of a request; its seats are given back when it is dropped.
pub struct Seat {
    fairness: Arc<Fairness>,
    schema: Arc<Schema>,
    ticket: Ticket,
    since: Instant,
    is_watch: bool,
    is_read: bool,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Self {
            fairness, schema, ..
        } = self;
        let took = self.since.elapsed();
        let execution = schema.measured.execution(&fairness.metrics, self.is_watch);
        execution.observe(took.as_secs_f64());
        fairness.metrics.executing(self.is_read, -1, fairness.now());
        let level = schema.level.clone();
        let linger = level.with(fairness, |queues, now| queues.finish(now, self.ticket));
        let Some(linger) = linger else { return };
        let (fairness, ticket) = (fairness.clone(), self.ticket);
        let release = move |fairness: &Fairness, level: &Level| {
            level.with(fairness, |queues, now| queues.release(now, ticket));
        };
        match tokio::runtime::Handle::try_current() {
            // Nobody owns it: it lasts some milliseconds, and the process may end meanwhile.
            Ok(runtime) => drop(runtime.spawn(async move {
                tokio::time::sleep(linger).await;
                release(&fairness, &level);
            })),
            Err(_) => release(&fairness, &level),
        }
    }
}

/// Somebody in a queue; it leaves when it is dropped.
struct Waiting<'a> {
    fairness: &'a Arc<Fairness>,
    schema: &'a Arc<Schema>,
    ticket: Ticket,
    is_read: bool,
    done: bool,
}

impl Waiting<'_> {
    /// Leaves the queue, unless its turn has come meanwhile.
    fn leave(&mut self) -> bool {
        self.done = true;
        let now = self.fairness.now();
        self.fairness.metrics.waiting(self.is_read, -1, now);
        let ticket = self.ticket;
        let level = &self.schema.level;
        level.with(self.fairness, |queues, now| queues.cancel(now, ticket))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        if self.leave() {
            let metrics = &self.fairness.metrics;
            metrics.rejected(&self.schema.level.name, &self.schema.name, "cancelled");
            return;
        }
        let ticket = self.ticket;
        let level = &self.schema.level;
        let linger = level.with(self.fairness, |queues, now| queues.finish(now, ticket));
        if linger.is_some() {
            level.with(self.fairness, |queues, now| queues.release(now, ticket));
        }
    }
}

impl Level {
    fn new(name: &str, response: Response, now: Duration) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            queues: Mutex::new(Queues::new(response, now)),
            refusals: Mutex::default(),
            widest: AtomicUsize::new(0),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Queues<Kept>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to the queues, and wakes those whose turn has come by it.
    fn with<T>(
        &self,
        fairness: &Fairness,
        work: impl FnOnce(&mut Queues<Kept>, Duration) -> T,
    ) -> T {
        let mut queues = self.lock();
        let done = work(&mut queues, fairness.now());
        while let Some(ticket) = queues.pop_dispatched() {
            let woken = queues.get_mut(ticket).and_then(|r| r.kept.woken.take());
            // Whoever does not listen any more is about to leave.
            let _ = woken.map(|woken| woken.send(()));
        }
        while let Some(ticket) = queues.pop_no_room() {
            if let Some(request) = queues.get(ticket) {
                let metrics = &fairness.metrics;
                metrics.no_room(&self.name, &request.kept.schema.name);
            }
        }
        done
    }

    fn refuse(&self, now: Duration) -> Refused {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        Refused {
            after: refusals.refuse(now.as_secs()),
        }
    }
}

impl Fairness {
    /// Only the mandatory objects, until it is told of others.
    ///
    /// # Errors
    /// When a metric's name is taken.
    pub fn new(
        seats: usize,
        registry: &prometheus::Registry,
    ) -> Result<Arc<Self>, prometheus::Error> {
        let metrics = Metrics::register(registry)?;
        let fairness = Arc::new(Self {
            seats,
            began: Instant::now(),
            schemas: ArcSwap::default(),
            levels: Mutex::default(),
            watches: Arc::default(),
            hasher: RandomState::new(),
            metrics,
        });
        fairness.configure(Vec::new(), Vec::new());
        super::metrics::Scraped::register(&fairness, registry)?;
        Ok(fairness)
    }

    /// The time since the beginning.
    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// The first schema that is about a request.
    pub fn classify(&self, user: &User, info: &RequestInfo) -> Arc<Schema> {
        let schemas = self.schemas.load();
        let found = schemas.iter().find(|schema| schema.rules.mean(user, info));
        // The last resort is about everybody who is authenticated or not, which is everybody.
        let found = found.or_else(|| schemas.last());
        found
            .cloned()
            .expect("there is always a schema for what no other is about")
    }

    /// What a request costs at its level.
    pub fn estimate(
        &self,
        schema: &Schema,
        info: &RequestInfo,
        stock: impl FnOnce() -> Option<Stock>,
    ) -> Work {
        let widest = match schema.level.widest.load(Ordering::Relaxed) {
            0 => None,
            widest => Some(widest),
        };
        let watches = || {
            let n = self.watches.of(info);
            schema.measured.watches(&self.metrics).observe(n as f64);
            n
        };
        let work = width::estimate(info, widest, stock, watches);
        let seats = schema.measured.seats(&self.metrics);
        seats.observe(work.width() as f64);
        work
    }

    /// Waits for the turn of a request.
    ///
    /// # Errors
    /// When its level has neither seats nor room in its queue, or it has waited for as long as it may.
    pub async fn seat(
        self: &Arc<Self>,
        schema: &Arc<Schema>,
        user: &Arc<User>,
        info: &Arc<RequestInfo>,
        work: Work,
        wait_max: Duration,
    ) -> Result<Seat, Refused> {
        let level = &schema.level;
        let hash = match schema.flow(user, info) {
            "" if !schema.has_flows => 0,
            flow => self.hasher.hash_one((&schema.name, flow)),
        };
        let kept = Kept {
            schema: schema.clone(),
            info: info.clone(),
            user: user.clone(),
            woken: None,
        };
        let (arrival, turn, length) = level.with(self, |queues, now| {
            let arrival = queues.arrive(now, work, hash, kept);
            let mut turn = None;
            if let Arrival::Waits(ticket) = arrival
                && let Some(request) = queues.get_mut(ticket)
            {
                let (woken, waits) = oneshot::channel();
                request.kept.woken = Some(woken);
                turn = Some(waits);
            }
            (arrival, turn, queues.length_behind(arrival))
        });
        if let Some(length) = length {
            let lengths = schema.measured.lengths(&self.metrics);
            lengths.observe(length as f64);
        }
        let is_read = info.verb.is_read() || (!info.is_resource && info.method == "get");
        let is_exempt = level.name == EXEMPT;
        match (arrival, turn) {
            (Arrival::Served(ticket), _) => {
                if !is_exempt {
                    let waits = schema.measured.waits(&self.metrics, true);
                    waits.observe(0.0);
                }
                Ok(self.seated(schema, info, ticket, is_read))
            }
            (Arrival::Waits(ticket), Some(turn)) => {
                let mut waiting = Waiting {
                    fairness: self,
                    schema,
                    ticket,
                    is_read,
                    done: false,
                };
                self.metrics.waiting(is_read, 1, self.now());
                let began = Instant::now();
                let in_time = tokio::time::timeout(wait_max, turn).await.is_ok();
                let left = waiting.leave();
                let waits = schema.measured.waits(&self.metrics, !left);
                waits.observe(began.elapsed().as_secs_f64());
                debug_assert!(!(in_time && left), "whoever is woken is served");
                if left {
                    self.metrics.rejected(&level.name, &schema.name, "time-out");
                    return Err(level.refuse(self.now()));
                }
                Ok(self.seated(schema, info, ticket, is_read))
            }
            (Arrival::Waits(_), None) => Err(level.refuse(self.now())),
            (Arrival::Refused(why), _) => {
                let why = match why {
                    Refusal::NoSeat => "concurrency-limit",
                    Refusal::QueueFull => "queue-full",
                };
                self.metrics.rejected(&level.name, &schema.name, why);
                let waits = schema.measured.waits(&self.metrics, false);
                waits.observe(0.0);
                Err(level.refuse(self.now()))
            }
        }
    }

    fn seated(
        self: &Arc<Self>,
        schema: &Arc<Schema>,
        info: &RequestInfo,
        ticket: Ticket,
        is_read: bool,
    ) -> Seat {
        schema.measured.dispatched(&self.metrics).inc();
        self.metrics.executing(is_read, 1, self.now());
        Seat {
            fairness: self.clone(),
            schema: schema.clone(),
            ticket,
            since: Instant::now(),
            is_watch: info.verb == Verb::Watch,
            is_read,
        }
    }

    pub(super) fn levels(&self) -> MutexGuard<'_, BTreeMap<String, Configured>> {
        self.levels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what the objects say. Those that are mandatory are there in any case; schemas without a level are not used.
    pub fn configure(
        &self,
        mut levels: Vec<Object<PriorityLevelConfigurationSpec>>,
        mut schemas: Vec<Object<FlowSchemaSpec>>,
    ) {
        levels.retain(|object| {
            let is_usable = (object.name == EXEMPT) == (object.spec.type_ == "Exempt")
                && read(&object.spec).is_some();
            if !is_usable {
                let name = &object.name;
                tracing::warn!(
                    name,
                    "a priority level is not usable, as if it was not there"
                );
            }
            is_usable
        });
        supply(&mut levels, mandatory::levels());
        supply(&mut schemas, mandatory::schemas());
        let mut configured = self.levels();
        configured
            .values_mut()
            .for_each(|level| level.wanted = false);
        let mut uids = BTreeMap::new();
        for object in &levels {
            let Some((response, shares)) = read(&object.spec) else {
                continue;
            };
            uids.insert(object.name.as_str(), object.uid.as_str());
            let now = self.now();
            let level = configured
                .entry(object.name.clone())
                .or_insert_with(|| Configured {
                    level: Level::new(&object.name, response, now),
                    shares,
                    limits: Limits::default(),
                    demand: Smoothed::default(),
                    target: 0.0,
                    current: 0,
                    response,
                    wanted: true,
                });
            (level.shares, level.response, level.wanted) = (shares, response, true);
        }
        self.schemas
            .store(Arc::new(order(&schemas, &configured, &uids)));
        self.divide(&mut configured);
    }

    /// What each level has by its shares, and then by what it wants.
    fn divide(&self, configured: &mut BTreeMap<String, Configured>) {
        configured.retain(|_, level| level.wanted || !level.level.lock().is_idle());
        let shares: Vec<Shares> = configured.values().map(|level| level.shares).collect();
        let limits = allocation::limits(self.seats, &shares);
        let (mut may_wait, mut nominal) = (0, 0);
        for (level, limits) in configured.values_mut().zip(limits) {
            level.limits = limits;
            nominal += limits.nominal;
            let widest = match level.response {
                Response::Queue {
                    queues,
                    hand,
                    length,
                } => {
                    may_wait += queues * length;
                    width::widest(limits.nominal, hand)
                }
                Response::Exempt | Response::Reject => 0,
            };
            level.level.widest.store(widest, Ordering::Relaxed);
        }
        self.metrics.set_limits(nominal, may_wait, self.now());
        self.share(configured);
    }

    /// Shares seats anew by what was wanted since the last time.
    pub fn rebalance(&self) {
        let mut configured = self.levels();
        if configured.values().any(|level| !level.wanted) {
            self.divide(&mut configured);
        } else {
            self.share(&mut configured);
        }
    }

    fn share(&self, configured: &mut BTreeMap<String, Configured>) {
        let now = self.now();
        let wants: Vec<Wants> = configured
            .values_mut()
            .map(|level| {
                let observed = level.level.lock().take_demand(now);
                level.demand.update(observed);
                Wants {
                    limits: level.limits,
                    demand: level.demand,
                    exempt: level.shares.exempt,
                }
            })
            .collect();
        let allocation = allocation::share(&wants);
        self.metrics.set_fair(allocation.fair);
        let all = configured.values_mut().zip(&wants).zip(allocation.current);
        for ((level, wants), current) in all {
            (level.current, level.target) = (current, wants.target());
            let denominator = match current {
                0 => (self.seats as f64 / 10.0).round().max(1.0) as usize,
                current => current,
            };
            let response = level.response;
            level.level.with(self, |queues, now| {
                queues.configure(now, response, current, denominator);
            });
        }
    }
}

/// Adds mandatory objects that are missing.
fn supply<S: serde::de::DeserializeOwned>(
    objects: &mut Vec<Object<S>>,
    all: Vec<(&'static str, serde_json::Value)>,
) {
    let mandatory = all
        .into_iter()
        .filter(|(name, _)| matches!(*name, EXEMPT | CATCH_ALL));
    for (name, spec) in mandatory {
        if objects.iter().any(|object| object.name == name) {
            continue;
        }
        let spec = serde_json::from_value(spec).expect("a spec of this program");
        objects.push(Object {
            name: name.to_owned(),
            uid: String::new(),
            spec,
        });
    }
}

/// What a level's spec means; `None` for one that means nothing.
fn read(spec: &PriorityLevelConfigurationSpec) -> Option<(Response, Shares)> {
    let number = |n: Option<i32>| f64::from(n.unwrap_or(0));
    match (spec.type_.as_str(), &spec.exempt, &spec.limited) {
        ("Exempt", exempt, None) => {
            let exempt = exempt.clone().unwrap_or_default();
            let shares = Shares {
                shares: number(exempt.nominal_concurrency_shares),
                lends_percent: number(exempt.lendable_percent),
                borrows_percent: None,
                exempt: true,
            };
            Some((Response::Exempt, shares))
        }
        ("Limited", None, Some(limited)) => {
            let shares = Shares {
                shares: number(limited.nominal_concurrency_shares),
                lends_percent: number(limited.lendable_percent),
                borrows_percent: limited.borrowing_limit_percent.map(f64::from),
                exempt: false,
            };
            let response = limited.limit_response.as_ref()?;
            let queuing = match (response.type_.as_str(), &response.queuing) {
                ("Reject", None) => return Some((Response::Reject, shares)),
                ("Queue", Some(queuing)) => queuing,
                _ => return None,
            };
            let number = |n: Option<i32>| usize::try_from(n?).ok().filter(|n| *n > 0);
            let (queues, hand) = (number(queuing.queues)?, number(queuing.hand_size)?);
            let length = number(queuing.queue_length_limit)?;
            let response = Response::Queue {
                queues,
                hand,
                length,
            };
            (hand <= queues && hand <= HAND_MAX).then_some((response, shares))
        }
        _ => None,
    }
}

/// The schemas that can be used, in the order in which they are asked.
fn order(
    schemas: &[Object<FlowSchemaSpec>],
    levels: &BTreeMap<String, Configured>,
    uids: &BTreeMap<&str, &str>,
) -> Vec<Arc<Schema>> {
    let usable = schemas.iter().filter_map(|object| {
        let name = object.spec.priority_level_configuration.name.as_str();
        let configured = levels.get(name).filter(|level| level.wanted)?;
        let by = object.spec.distinguisher_method.as_ref();
        let header = |text: &str| {
            HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
        };
        Some(Arc::new(Schema {
            name: object.name.clone(),
            precedence: object.spec.matching_precedence.unwrap_or(0),
            rules: Rules::new(object.spec.rules.as_deref().unwrap_or_default()),
            by: by.and_then(|method| match method.type_.as_str() {
                "ByUser" => Some(By::User),
                "ByNamespace" => Some(By::Namespace),
                _ => None,
            }),
            has_flows: matches!(configured.response, Response::Queue { queues, .. } if queues > 1),
            level: configured.level.clone(),
            uid: header(&object.uid),
            level_uid: header(uids.get(name).copied().unwrap_or_default()),
            measured: OfSchema::new(name, &object.name),
        }))
    });
    let mut usable: Vec<Arc<Schema>> = usable.collect();
    usable.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
    usable
}

#[cfg(test)]
mod tests;
