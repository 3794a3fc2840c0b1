//! What the process takes of the machine.

use nix::time::{ClockId, clock_gettime};
use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Counter, MetricFamily};

/// The metrics that every client library has, with the processor's time in fractions of a second: the library counts whole
/// ones, of which an idle server takes a few an hour.
pub struct Process(ProcessCollector);

impl Process {
    /// Of this process.
    pub fn own() -> Self {
        Self(ProcessCollector::for_self())
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.0.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = self.0.collect();
        let cpu = families
            .iter_mut()
            .find(|family| family.name() == "process_cpu_seconds_total");
        if let (Some(family), Ok(time)) = (cpu, clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)) {
            let mut counter = Counter::default();
            counter.set_value(time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9);
            for metric in family.mut_metric() {
                metric.set_counter(counter.clone());
            }
        }
        families
    }
}
