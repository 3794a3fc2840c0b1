//! What is measured of priority and fairness, under Kubernetes' names: what happens is counted when it happens, and how
//! things stand is read when somebody asks.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, MetricFamily, MetricType};
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry,
};

use super::demand::Timed;
use super::fairness::{Configured, Fairness};
use super::queues::{Phase, SeatTime};

const PREFIX: &str = "apiserver_flowcontrol_";
const LEVEL: &str = "priority_level";
const SCHEMA: &str = "flow_schema";
const LENGTHS: [f64; 8] = [0.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0];
const SECONDS: [f64; 13] = [
    0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0,
];
const SEATS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 100.0];
const WATCHES: [f64; 6] = [0.0, 1.0, 10.0, 100.0, 1000.0, 10_000.0];
const SHARES: &[f64] = &[
    0.0, 0.001, 0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0,
];

/// What is counted when it happens.
pub struct Metrics {
    rejected: IntCounterVec,
    dispatched: IntCounterVec,
    lengths: HistogramVec,
    waits: HistogramVec,
    execution: HistogramVec,
    watches: HistogramVec,
    seats: HistogramVec,
    no_room: IntCounterVec,
    fair: Gauge,
    /// Waiting and executing.
    phases: [ReadsAndWrites; 2],
}

/// Requests in a phase. The counts are of their own, so that the lock is not held for more than their history.
struct ReadsAndWrites {
    name: &'static str,
    counts: [AtomicI64; 2],
    // Guards the history of both counts; held for some additions.
    history: Mutex<[Timed; 2]>,
}

const KINDS: [&str; 2] = ["readOnly", "mutating"];
const WAITING: usize = 0;
const EXECUTING: usize = 1;

impl ReadsAndWrites {
    fn new(name: &'static str) -> Self {
        let timed = || Timed::new(SHARES, Duration::ZERO);
        Self {
            name,
            counts: Default::default(),
            history: Mutex::new([timed(), timed()]),
        }
    }

    fn add(&self, is_read: bool, n: i64, now: Duration) {
        let kind = usize::from(!is_read);
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let count = self.counts[kind].fetch_add(n, Ordering::Relaxed) + n;
        history[kind].set(now, count as f64);
    }
}

/// The measures of one schema, each looked up once.
#[derive(Default)]
pub struct OfSchema {
    labels: [String; 2],
    dispatched: OnceLock<IntCounter>,
    lengths: OnceLock<Histogram>,
    waits: [OnceLock<Histogram>; 2],
    execution: [OnceLock<Histogram>; 2],
    watches: OnceLock<Histogram>,
    seats: OnceLock<Histogram>,
}

impl OfSchema {
    /// Nothing is looked up yet.
    pub fn new(level: &str, schema: &str) -> Self {
        Self {
            labels: [level.to_owned(), schema.to_owned()],
            ..Self::default()
        }
    }

    fn of(&self, vec: &HistogramVec, more: Option<&str>) -> Histogram {
        let [level, schema] = &self.labels;
        match more {
            Some(more) => vec.with_label_values(&[level.as_str(), schema.as_str(), more]),
            None => vec.with_label_values(&[level.as_str(), schema.as_str()]),
        }
    }

    pub(super) fn dispatched(&self, metrics: &Metrics) -> &IntCounter {
        let [level, schema] = &self.labels;
        let find = || {
            metrics
                .dispatched
                .with_label_values(&[level.as_str(), schema.as_str()])
        };
        self.dispatched.get_or_init(find)
    }

    pub(super) fn lengths(&self, metrics: &Metrics) -> &Histogram {
        self.lengths.get_or_init(|| self.of(&metrics.lengths, None))
    }

    pub(super) fn waits(&self, metrics: &Metrics, executed: bool) -> &Histogram {
        let word = if executed { "true" } else { "false" };
        self.waits[usize::from(executed)].get_or_init(|| self.of(&metrics.waits, Some(word)))
    }

    pub(super) fn execution(&self, metrics: &Metrics, is_watch: bool) -> &Histogram {
        let word = if is_watch { "watch" } else { "regular" };
        self.execution[usize::from(is_watch)]
            .get_or_init(|| self.of(&metrics.execution, Some(word)))
    }

    pub(super) fn watches(&self, metrics: &Metrics) -> &Histogram {
        self.watches.get_or_init(|| self.of(&metrics.watches, None))
    }

    pub(super) fn seats(&self, metrics: &Metrics) -> &Histogram {
        self.seats.get_or_init(|| self.of(&metrics.seats, None))
    }
}

impl Metrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let both = [LEVEL, SCHEMA];
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(format!("{PREFIX}{name}"), help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let histogram = |name: &str, help: &str, buckets: &[f64], labels: &[&str]| {
            let options = HistogramOpts::new(format!("{PREFIX}{name}"), help);
            let histogram = HistogramVec::new(options.buckets(buckets.to_vec()), labels)?;
            registry.register(Box::new(histogram.clone()))?;
            Ok::<_, prometheus::Error>(histogram)
        };
        let fair = Gauge::new(
            format!("{PREFIX}seat_fair_frac"),
            "The part of its target that a level gets which no bound of its own limits.",
        )?;
        registry.register(Box::new(fair.clone()))?;
        Ok(Self {
            rejected: counter(
                "rejected_requests_total",
                "Requests that were refused.",
                &[LEVEL, SCHEMA, "reason"],
            )?,
            dispatched: counter(
                "dispatched_requests_total",
                "Requests that got their turn.",
                &both,
            )?,
            lengths: histogram(
                "request_queue_length_after_enqueue",
                "Requests in a queue, as each request found it with itself in it.",
                &LENGTHS,
                &both,
            )?,
            waits: histogram(
                "request_wait_duration_seconds",
                "How long requests waited for their turn.",
                &SECONDS,
                &[LEVEL, SCHEMA, "execute"],
            )?,
            execution: histogram(
                "request_execution_seconds",
                "How long turns lasted; that of a watch, until it had begun.",
                &SECONDS,
                &[LEVEL, SCHEMA, "type"],
            )?,
            watches: histogram(
                "watch_count_samples",
                "Watches that are told of a write.",
                &WATCHES,
                &both,
            )?,
            seats: histogram(
                "work_estimated_seats",
                "Seats that requests were estimated to need.",
                &SEATS,
                &both,
            )?,
            no_room: counter(
                "request_dispatch_no_accommodation_total",
                "How often the next request was wider than the seats that were free.",
                &both,
            )?,
            fair,
            phases: [
                ReadsAndWrites::new("waiting"),
                ReadsAndWrites::new("executing"),
            ],
        })
    }

    pub(super) fn rejected(&self, level: &str, schema: &str, why: &str) {
        self.rejected.with_label_values(&[level, schema, why]).inc();
    }

    pub(super) fn no_room(&self, level: &str, schema: &str) {
        self.no_room.with_label_values(&[level, schema]).inc();
    }

    pub(super) fn waiting(&self, is_read: bool, n: i64, now: Duration) {
        self.phases[WAITING].add(is_read, n, now);
    }

    pub(super) fn executing(&self, is_read: bool, n: i64, now: Duration) {
        self.phases[EXECUTING].add(is_read, n, now);
    }

    pub(super) fn set_fair(&self, fair: f64) {
        self.fair.set(fair);
    }

    pub(super) fn set_limits(&self, executing: usize, waiting: usize, now: Duration) {
        for (phase, limit) in self.phases.iter().zip([waiting, executing]) {
            let mut history = phase.history.lock().unwrap_or_else(PoisonError::into_inner);
            for timed in history.iter_mut() {
                timed.set_denominator(now, limit as f64);
            }
        }
    }

    /// Requests that wait, and that are executed, reads before writes.
    pub fn current(&self) -> [[i64; 2]; 2] {
        let read = |phase: &ReadsAndWrites| {
            let [reads, writes] = &phase.counts;
            [
                reads.load(Ordering::Relaxed),
                writes.load(Ordering::Relaxed),
            ]
        };
        let [waiting, executing] = &self.phases;
        [read(waiting), read(executing)]
    }
}

/// How things stand, read when somebody asks.
pub struct Scraped {
    fairness: Weak<Fairness>,
    desc: Desc,
}

impl Scraped {
    pub(super) fn register(
        fairness: &Arc<Fairness>,
        registry: &Registry,
    ) -> Result<(), prometheus::Error> {
        let desc = Desc::new(
            format!("{PREFIX}nominal_limit_seats"),
            "Seats of a level by its shares.".to_owned(),
            vec![LEVEL.to_owned()],
            Default::default(),
        )?;
        registry.register(Box::new(Self {
            fairness: Arc::downgrade(fairness),
            desc,
        }))
    }
}

fn label(name: &str, value: &str) -> proto::LabelPair {
    let mut pair = proto::LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

/// Metrics of one name.
struct Family(MetricFamily, Vec<proto::Metric>);

impl Family {
    fn new(name: &str, help: &str, of: MetricType) -> Self {
        let mut family = MetricFamily::default();
        family.set_name(format!("{PREFIX}{name}"));
        family.set_help(help.to_owned());
        family.set_field_type(of);
        Self(family, Vec::new())
    }

    fn gauge(&mut self, labels: Vec<proto::LabelPair>, value: f64) {
        let mut gauge = proto::Gauge::default();
        gauge.set_value(value);
        let mut metric = proto::Metric::from_label(labels);
        metric.set_gauge(gauge);
        self.1.push(metric);
    }

    fn timed(&mut self, labels: Vec<proto::LabelPair>, timed: &mut Timed, now: Duration) {
        let (buckets, sum, count) = timed.read(now);
        let bucket = |(bound, count)| {
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(count);
            bucket
        };
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(buckets.into_iter().map(bucket).collect());
        histogram.set_sample_sum(sum);
        histogram.set_sample_count(count);
        let mut metric = proto::Metric::from_label(labels);
        metric.set_histogram(histogram);
        self.1.push(metric);
    }

    fn end(mut self, all: &mut Vec<MetricFamily>) {
        if !self.1.is_empty() {
            self.0.set_metric(self.1);
            all.push(self.0);
        }
    }
}

/// A gauge of each level, its help, and how it is read.
type OfLevel = (&'static str, &'static str, fn(&Configured) -> f64);

const OF_LEVELS: [OfLevel; 10] = [
    (
        "nominal_limit_seats",
        "Seats of a level by its shares.",
        |l| l.limits.nominal as f64,
    ),
    (
        "lower_limit_seats",
        "Seats of a level that it does not lend.",
        |l| l.limits.lower as f64,
    ),
    (
        "upper_limit_seats",
        "Seats of a level with all that it may borrow.",
        |l| l.limits.upper as f64,
    ),
    ("current_limit_seats", "Seats of a level now.", |l| {
        l.current as f64
    }),
    (
        "demand_seats_high_watermark",
        "Most seats wanted in the last period.",
        |l| l.demand.highest,
    ),
    (
        "demand_seats_average",
        "Seats wanted on average in the last period.",
        |l| l.demand.average,
    ),
    (
        "demand_seats_stdev",
        "Standard deviation of the seats wanted in the last period.",
        |l| l.demand.deviation,
    ),
    (
        "demand_seats_smoothed",
        "Seats wanted, which fall slowly.",
        |l| l.demand.smoothed,
    ),
    (
        "target_seats",
        "Seats that a level shall have if there are as many.",
        |l| l.target,
    ),
    (
        "current_r",
        "Progress of virtual time, in seat seconds.",
        |l| seat_seconds(l.level.lock().virtual_time().1),
    ),
];

fn seat_seconds(time: SeatTime) -> f64 {
    time as f64 / 1e9
}

impl Collector for Scraped {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Some(fairness) = self.fairness.upgrade() else {
            return Vec::new();
        };
        let mut all = Vec::new();
        let levels = fairness.levels();
        for (name, help, read) in OF_LEVELS {
            let mut family = Family::new(name, help, MetricType::GAUGE);
            for (level, configured) in levels.iter() {
                family.gauge(vec![label(LEVEL, level)], read(configured));
            }
            family.end(&mut all);
        }
        let levels: Vec<_> = levels.values().map(|level| level.level.clone()).collect();
        virtual_times(&levels, &mut all);
        of_schemas(&levels, &fairness, &mut all);
        utilization(&levels, &fairness, &mut all);
        reads_and_writes(&fairness, &mut all);
        all
    }
}

type Levels = [Arc<super::fairness::Level>];

fn virtual_times(levels: &Levels, all: &mut Vec<MetricFamily>) {
    let family = |name, help| Family::new(name, help, MetricType::GAUGE);
    let mut dispatch = family(
        "dispatch_r",
        "Progress of virtual time at the last dispatch.",
    );
    let mut start = family("latest_s", "Where the last request began in virtual time.");
    let mut starts = family("next_s_bounds", "Where next requests of queues begin.");
    let mut discounted = family(
        "next_discounted_s_bounds",
        "Where next requests of queues begin, less what is being served.",
    );
    for level in levels {
        let (last, _) = level.lock().virtual_time();
        let of = || label(LEVEL, &level.name);
        dispatch.gauge(vec![of()], seat_seconds(last.progress));
        start.gauge(vec![of()], seat_seconds(last.start));
        for (family, (low, high)) in [
            (&mut starts, last.starts),
            (&mut discounted, last.discounted),
        ] {
            family.gauge(vec![label("bound", "min"), of()], seat_seconds(low));
            family.gauge(vec![label("bound", "max"), of()], seat_seconds(high));
        }
    }
    for family in [dispatch, start, starts, discounted] {
        family.end(all);
    }
}

fn of_schemas(levels: &Levels, fairness: &Fairness, all: &mut Vec<MetricFamily>) {
    let schemas = fairness.schemas.load();
    let family = |name, help| Family::new(name, help, MetricType::GAUGE);
    let mut families = [
        family("current_inqueue_requests", "Requests that wait."),
        family("current_inqueue_seats", "Seats that are waited for."),
        family(
            "current_executing_requests",
            "Requests that have their turn.",
        ),
        family("current_executing_seats", "Seats in use."),
    ];
    for level in levels {
        let mut counts = std::collections::BTreeMap::<String, [usize; 4]>::new();
        // Those without requests are told of, too: a gauge that goes away is no 0.
        let of_level = schemas
            .iter()
            .filter(|schema| Arc::ptr_eq(&schema.level, level));
        counts.extend(of_level.map(|schema| (schema.name.clone(), [0; 4])));
        for (_, request) in level.lock().requests() {
            let name = &request.kept.schema.name;
            let seats = request.work.width();
            let adds = match request.phase {
                Phase::Waiting => [1, seats, 0, 0],
                Phase::Served(_) => [0, 0, 1, seats],
                Phase::Lingering => [0, 0, 0, seats],
            };
            let counts = match counts.get_mut(name) {
                Some(counts) => counts,
                None => counts.entry(name.clone()).or_default(),
            };
            counts.iter_mut().zip(adds).for_each(|(n, add)| *n += add);
        }
        for (schema, counts) in &counts {
            for (family, n) in families.iter_mut().zip(counts) {
                let labels = vec![label(SCHEMA, schema), label(LEVEL, &level.name)];
                family.gauge(labels, *n as f64);
            }
        }
    }
    families.into_iter().for_each(|family| family.end(all));
}

fn utilization(levels: &Levels, fairness: &Fairness, all: &mut Vec<MetricFamily>) {
    let family = |name, help| Family::new(name, help, MetricType::HISTOGRAM);
    let mut seats = family(
        "priority_level_seat_utilization",
        "Nanoseconds by the part of its seats that a level used.",
    );
    let mut requests = family(
        "priority_level_request_utilization",
        "Nanoseconds by the part of its bound of requests that waited or were executed.",
    );
    let mut demand = family(
        "demand_seats",
        "Nanoseconds by the seats that a level wanted, as a part of those it had.",
    );
    for level in levels {
        let mut queues = level.lock();
        let now = fairness.now();
        let utilization = queues.utilization();
        let of = |phase: &str| vec![label("phase", phase), label(LEVEL, &level.name)];
        seats.timed(of("executing"), &mut utilization.seats, now);
        requests.timed(of("executing"), &mut utilization.served, now);
        requests.timed(of("waiting"), &mut utilization.waiting, now);
        let of = vec![label(LEVEL, &level.name)];
        demand.timed(of, &mut utilization.demand, now);
    }
    for family in [seats, requests, demand] {
        family.end(all);
    }
}

fn reads_and_writes(fairness: &Fairness, all: &mut Vec<MetricFamily>) {
    let mut family = Family::new(
        "read_vs_write_current_requests",
        "Nanoseconds by the part of the bound of requests that waited or were executed.",
        MetricType::HISTOGRAM,
    );
    for phase in &fairness.metrics.phases {
        let mut history = phase.history.lock().unwrap_or_else(PoisonError::into_inner);
        for (kind, timed) in KINDS.iter().zip(history.iter_mut()) {
            let labels = vec![label("phase", phase.name), label("request_kind", kind)];
            family.timed(labels, timed, fairness.now());
        }
    }
    family.end(all);
}
