//! How a number changes over time: its average and deviation for the sharing of seats, and how long it stood at which
//! height, for metrics.

use std::time::Duration;

/// How much of the smoothed demand is kept at each look, as in kube-apiserver: half is forgotten in five minutes.
const SMOOTHING: f64 = 0.977;

/// What a number was over a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observed {
    /// How long it was looked at.
    pub seconds: f64,
    /// Its average over that time.
    pub average: f64,
    /// Its standard deviation.
    pub deviation: f64,
    /// Its highest value.
    pub highest: f64,
}

/// Adds a number up over time.
#[derive(Debug, Clone, Default)]
pub struct Integral {
    since: Duration,
    value: f64,
    seconds: f64,
    sum: f64,
    squares: f64,
    highest: f64,
}

impl Integral {
    /// A number that is 0 from now on.
    pub fn new(now: Duration) -> Self {
        Self {
            since: now,
            ..Self::default()
        }
    }

    /// The number has another value from now on.
    pub fn set(&mut self, now: Duration, value: f64) {
        self.advance(now);
        self.value = value;
        self.highest = self.highest.max(value);
    }

    fn advance(&mut self, now: Duration) {
        let seconds = now.saturating_sub(self.since).as_secs_f64();
        self.since = self.since.max(now);
        self.seconds += seconds;
        self.sum += seconds * self.value;
        self.squares += seconds * self.value * self.value;
    }

    /// What the number was since the last time this was asked.
    pub fn take(&mut self, now: Duration) -> Observed {
        self.advance(now);
        let average = match self.seconds > 0.0 {
            true => self.sum / self.seconds,
            false => self.value,
        };
        let variance = match self.seconds > 0.0 {
            true => self.squares / self.seconds - average * average,
            false => 0.0,
        };
        let observed = Observed {
            seconds: self.seconds,
            average,
            deviation: variance.max(0.0).sqrt(),
            highest: self.highest,
        };
        *self = Self {
            since: self.since,
            value: self.value,
            highest: self.value,
            ..Self::default()
        };
        observed
    }
}

/// The demand for seats of one level, as the sharing of seats sees it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Smoothed {
    /// Average over the last period.
    pub average: f64,
    /// Standard deviation over the last period.
    pub deviation: f64,
    /// Highest demand of the last period.
    pub highest: f64,
    /// Rises at once, and falls slowly.
    pub smoothed: f64,
}

impl Smoothed {
    /// Takes in what another period showed.
    pub fn update(&mut self, observed: Observed) {
        self.highest = observed.highest;
        if observed.seconds <= 0.0 {
            return;
        }
        (self.average, self.deviation) = (observed.average, observed.deviation);
        let envelope = observed.average + observed.deviation;
        let falling = SMOOTHING * self.smoothed + (1.0 - SMOOTHING) * envelope;
        self.smoothed = envelope.max(falling);
    }
}

/// How long a ratio stood at which height: a histogram of one observation for each nanosecond.
#[derive(Debug, Clone)]
pub struct Timed {
    bounds: &'static [f64],
    since: Duration,
    numerator: f64,
    denominator: f64,
    /// Nanoseconds in each bucket, and above all of them.
    nanos: Vec<u64>,
    sum: f64,
}

impl Timed {
    /// A ratio that is 0 from now on.
    pub fn new(bounds: &'static [f64], now: Duration) -> Self {
        Self {
            bounds,
            since: now,
            numerator: 0.0,
            denominator: 1.0,
            nanos: vec![0; bounds.len() + 1],
            sum: 0.0,
        }
    }

    /// What is divided changes.
    pub fn set(&mut self, now: Duration, numerator: f64) {
        self.advance(now);
        self.numerator = numerator;
    }

    /// What is divided by changes.
    pub fn set_denominator(&mut self, now: Duration, denominator: f64) {
        self.advance(now);
        self.denominator = denominator.max(1.0);
    }

    fn advance(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.since);
        self.since = self.since.max(now);
        let nanos = u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX);
        let ratio = self.numerator / self.denominator;
        let bucket = self.bounds.iter().position(|bound| ratio <= *bound);
        let bucket = bucket.unwrap_or(self.bounds.len());
        if let Some(bucket) = self.nanos.get_mut(bucket) {
            *bucket += nanos;
        }
        self.sum += ratio * nanos as f64;
    }

    /// The buckets up to now, each with its upper bound and all that is below it; then sum and count.
    pub fn read(&mut self, now: Duration) -> (Vec<(f64, u64)>, f64, u64) {
        self.advance(now);
        let mut below = 0;
        let buckets = self.bounds.iter().zip(&self.nanos).map(|(bound, nanos)| {
            below += nanos;
            (*bound, below)
        });
        let buckets = buckets.collect();
        (buckets, self.sum, self.nanos.iter().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_integral_knows_average_deviation_and_height_of_each_period() {
        let mut integral = Integral::default();
        integral.set(at(0), 4.0);
        integral.set(at(5), 0.0);
        let observed = integral.take(at(10));
        assert_eq!((observed.average, observed.deviation), (2.0, 2.0));
        assert_eq!((observed.highest, observed.seconds), (4.0, 10.0));
        let quiet = integral.take(at(20));
        assert_eq!((quiet.average, quiet.highest), (0.0, 0.0));
    }

    #[test]
    fn smoothed_demand_rises_at_once_and_falls_slowly() {
        let mut smoothed = Smoothed::default();
        let busy = Observed {
            seconds: 10.0,
            average: 8.0,
            deviation: 2.0,
            highest: 12.0,
        };
        smoothed.update(busy);
        assert_eq!(smoothed.smoothed, 10.0);
        let idle = Observed {
            average: 0.0,
            deviation: 0.0,
            highest: 0.0,
            ..busy
        };
        // Thirty looks are five minutes.
        for _ in 0..30 {
            smoothed.update(idle);
        }
        assert!((smoothed.smoothed - 5.0).abs() < 0.1, "{smoothed:?}");
    }

    #[test]
    fn a_timed_ratio_counts_nanoseconds() {
        const BOUNDS: [f64; 2] = [0.0, 0.5];
        let mut timed = Timed::new(&BOUNDS, at(0));
        timed.set_denominator(at(0), 4.0);
        timed.set(at(1), 2.0);
        timed.set(at(3), 4.0);
        let (buckets, sum, count) = timed.read(at(4));
        assert_eq!(buckets, [(0.0, 1_000_000_000), (0.5, 3_000_000_000)]);
        assert_eq!(count, 4_000_000_000);
        assert_eq!(sum, 2e9);
    }
}
