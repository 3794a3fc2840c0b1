//! How seats are shared: what each priority level has nominally, how much of it it lends and borrows, and who gets which
//! part at a moment. Pure functions of what is configured and what was wanted lately.

use super::demand::Smoothed;

/// A target below this counts as this, so that levels that want nothing share what nobody wants.
const TARGET_MIN: f64 = 0.001;

/// What a level is configured to have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shares {
    /// `nominalConcurrencyShares`.
    pub shares: f64,
    /// `lendablePercent`.
    pub lends_percent: f64,
    /// `borrowingLimitPercent`; without one a level may borrow everything.
    pub borrows_percent: Option<f64>,
    /// Whether its requests never wait.
    pub exempt: bool,
}

/// Seats of a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// By its shares.
    pub nominal: usize,
    /// What is left when others borrow all that it lends.
    pub lower: usize,
    /// What it has when it borrows all that it may.
    pub upper: usize,
}

/// Divides the server's seats by the shares. Fractions are rounded up, so that all together may have a few more.
pub fn limits(seats: usize, levels: &[Shares]) -> Vec<Limits> {
    let sum: f64 = levels.iter().map(|level| level.shares).sum();
    let part = |level: &Shares| {
        let nominal = match sum > 0.0 {
            true => (seats as f64 * level.shares / sum).ceil(),
            false => 0.0,
        };
        let lends = (nominal * level.lends_percent / 100.0).round();
        let borrows = level.borrows_percent;
        let borrows = borrows.map_or(seats as f64, |percent| (nominal * percent / 100.0).round());
        Limits {
            nominal: whole(nominal),
            lower: whole(nominal - lends),
            upper: whole(nominal + borrows),
        }
    };
    levels.iter().map(part).collect()
}

/// A number of seats; those come out of 31-bit fields and stay far below what 64 bits hold.
fn whole(seats: f64) -> usize {
    seats.round().max(0.0) as usize
}

/// A level when seats are shared anew.
#[derive(Debug, Clone, Copy)]
pub struct Wants {
    /// What it is configured to have.
    pub limits: Limits,
    /// What it wanted lately.
    pub demand: Smoothed,
    /// Whether its requests never wait.
    pub exempt: bool,
}

impl Wants {
    /// What it is not taken: what it used lately, within its own.
    fn kept(&self) -> usize {
        let highest = whole(self.demand.highest);
        match self.exempt {
            true => self.limits.lower.max(highest),
            false => self.limits.lower.max(self.limits.nominal.min(highest)),
        }
    }

    /// What it would like to have.
    pub fn target(&self) -> f64 {
        (self.kept() as f64).max(self.demand.smoothed)
    }
}

/// Who has how many seats until the next time.
#[derive(Debug, Clone, PartialEq)]
pub struct Allocation {
    /// Seats of each level, in the order given.
    pub current: Vec<usize>,
    /// Which part of its target a level gets that no bound touches.
    pub fair: f64,
}

/// Shares seats anew. Levels that are exempt have what they used; of the rest each level gets what it kept, and beyond that
/// the same part of its target as the others, within its bounds.
pub fn share(levels: &[Wants]) -> Allocation {
    let nominal: usize = levels.iter().map(|level| level.limits.nominal).sum();
    let exempt = levels.iter().filter(|level| level.exempt);
    let taken: usize = exempt.map(Wants::kept).sum();
    let limited = || levels.iter().filter(|level| !level.exempt);
    let lower: usize = limited().map(|level| level.limits.lower).sum();
    let kept: usize = limited().map(Wants::kept).sum();
    let rest = nominal as i64 - taken as i64;
    let (lower, kept) = (lower as i64, kept as i64);
    let each = |seats: &dyn Fn(&Wants) -> usize| {
        let current = |level: &Wants| match level.exempt {
            true => level.kept(),
            false => seats(level),
        };
        levels.iter().map(current).collect()
    };
    if rest <= lower {
        let current = each(&|level| level.limits.lower);
        return Allocation { current, fair: 0.0 };
    }
    if rest <= kept {
        let part = (rest - lower) as f64 / (kept - lower) as f64;
        let current = each(&|level| {
            let above = (level.kept() - level.limits.lower) as f64;
            level.limits.lower + whole(above * part)
        });
        return Allocation { current, fair: 0.0 };
    }
    // As kube-apiserver does, what exempt levels use is not taken off here: they never wait, so nothing would come of it.
    let bounded: Vec<Bounded> = limited().map(Bounded::of).collect();
    let fair = fair_part(nominal as f64, &bounded);
    let current = each(&|level| whole(Bounded::of(level).at(fair)));
    Allocation { current, fair }
}

/// A number that follows its target within bounds.
struct Bounded {
    lower: f64,
    upper: f64,
    target: f64,
}

impl Bounded {
    fn of(level: &Wants) -> Self {
        let lower = level.kept() as f64;
        Self {
            lower,
            upper: (level.limits.upper as f64).max(lower),
            target: level.target().max(TARGET_MIN),
        }
    }

    fn at(&self, part: f64) -> f64 {
        (self.target * part).clamp(self.lower, self.upper)
    }
}

/// The part of their targets at which all together have `sum`, or come as close to it as their bounds let them. What they
/// have together grows with the part, in straight lines between the parts at which one of them leaves a bound.
fn fair_part(sum: f64, all: &[Bounded]) -> f64 {
    let together = |part: f64| -> f64 { all.iter().map(|one| one.at(part)).sum() };
    let mut bends: Vec<f64> = all
        .iter()
        .flat_map(|one| [one.lower / one.target, one.upper / one.target])
        .collect();
    bends.sort_by(f64::total_cmp);
    let mut before = 0.0;
    for bend in bends {
        let (low, high) = (together(before), together(bend));
        if high >= sum {
            return match high > low {
                true => before + (sum - low).max(0.0) * (bend - before) / (high - low),
                false => bend,
            };
        }
        before = bend;
    }
    before
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wants(lower: usize, nominal: usize, upper: usize, highest: f64, smoothed: f64) -> Wants {
        Wants {
            limits: Limits {
                nominal,
                lower,
                upper,
            },
            demand: Smoothed {
                highest,
                smoothed,
                ..Default::default()
            },
            exempt: false,
        }
    }

    #[test]
    fn the_suggested_levels_get_what_kubernetes_gives_them() {
        let level = |shares, lends_percent| Shares {
            shares,
            lends_percent,
            borrows_percent: None,
            exempt: false,
        };
        // Those of every cluster and the seats of a server that nobody has set up.
        let levels = [
            level(0.0, 0.0),
            level(5.0, 0.0),
            level(30.0, 33.0),
            level(40.0, 25.0),
            level(10.0, 0.0),
            level(40.0, 50.0),
            level(100.0, 90.0),
            level(20.0, 50.0),
        ];
        let limits = limits(600, &levels);
        let nominal: Vec<usize> = limits.iter().map(|l| l.nominal).collect();
        let lower: Vec<usize> = limits.iter().map(|l| l.lower).collect();
        assert_eq!(nominal, [0, 13, 74, 98, 25, 98, 245, 49]);
        assert_eq!(lower, [0, 13, 50, 73, 25, 49, 24, 24]);
        assert_eq!(limits[1].upper, 613);
    }

    #[test]
    fn idle_levels_lend_to_a_busy_one() {
        let allocation = share(&[wants(5, 50, 100, 80.0, 80.0), wants(10, 50, 100, 0.0, 0.0)]);
        // What a level does not lend is its target, however idle it is.
        assert_eq!(allocation.current, [89, 11]);
        // Both busy: each has its own.
        let allocation = share(&[
            wants(5, 50, 100, 80.0, 80.0),
            wants(10, 50, 100, 80.0, 80.0),
        ]);
        assert_eq!(allocation.current, [50, 50]);
    }

    #[test]
    fn what_exempt_levels_use_is_missing_to_the_others() {
        let exempt = Wants {
            exempt: true,
            ..wants(0, 0, 0, 70.0, 70.0)
        };
        let allocation = share(&[exempt, wants(20, 100, 100, 100.0, 100.0)]);
        assert_eq!(allocation.current, [70, 30]);
        let all = Wants {
            exempt: true,
            ..wants(0, 0, 0, 500.0, 70.0)
        };
        let allocation = share(&[all, wants(20, 100, 100, 100.0, 100.0)]);
        assert_eq!(allocation.current, [500, 20]);
    }

    proptest! {
        #[test]
        fn nobody_is_outside_its_bounds_and_all_seats_are_given_if_they_may_be(
            levels in prop::collection::vec((0_usize..100, 0_usize..100, 0_usize..100, 0.0_f64..300.0, 0.0_f64..300.0), 1..8),
        ) {
            let levels: Vec<Wants> = levels
                .into_iter()
                .map(|(lower, lends, borrows, highest, smoothed)| {
                    wants(lower, lower + lends, lower + lends + borrows, highest, smoothed)
                })
                .collect();
            let allocation = share(&levels);
            for (level, current) in levels.iter().zip(&allocation.current) {
                prop_assert!((level.limits.lower..=level.limits.upper).contains(current));
            }
            let nominal: usize = levels.iter().map(|l| l.limits.nominal).sum();
            let given: usize = allocation.current.iter().sum();
            // Each is rounded to a whole seat.
            prop_assert!(nominal.abs_diff(given) <= levels.len(), "{given} of {nominal}");
        }
    }
}
