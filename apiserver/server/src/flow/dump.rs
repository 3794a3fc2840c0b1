//! `/debug/api_priority_and_fairness`: levels, queues and requests as they are now, in columns.

use std::time::Duration;

use jiff::Timestamp;

use super::fairness::{Fairness, Level};
use super::queues::{Phase, Queue, SeatTime};
use crate::request::RequestInfo;

const LEVELS: [&str; 10] = [
    "PriorityLevelName",
    "ActiveQueues",
    "IsIdle",
    "IsQuiescing",
    "WaitingRequests",
    "ExecutingRequests",
    "DispatchedRequests",
    "RejectedRequests",
    "TimedoutRequests",
    "CancelledRequests",
];
const QUEUES: [&str; 9] = [
    "PriorityLevelName",
    "Index",
    "PendingRequests",
    "ExecutingRequests",
    "SeatsInUse",
    "NextDispatchR",
    "InitialSeatsSum",
    "MaxSeatsSum",
    "TotalWorkSum",
];
const REQUESTS: [&str; 10] = [
    "PriorityLevelName",
    "FlowSchemaName",
    "QueueIndex",
    "RequestIndexInQueue",
    "FlowDistingsher",
    "ArriveTime",
    "InitialSeats",
    "FinalSeats",
    "AdditionalLatency",
    "StartTime",
];
const DETAILS: [&str; 8] = [
    "UserName",
    "Verb",
    "APIPath",
    "Namespace",
    "Name",
    "APIVersion",
    "Resource",
    "SubResource",
];
/// What Go writes for no time.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// The page of a name, if there is one.
pub fn page(fairness: &Fairness, name: &str, details: bool) -> Option<String> {
    match name {
        "dump_priority_levels" => Some(levels(fairness)),
        "dump_queues" => Some(queues(fairness)),
        "dump_requests" => Some(requests(fairness, details)),
        _ => None,
    }
}

type Rows = Vec<Vec<String>>;

/// Columns as wide as their widest cell, as Go's `tabwriter` sets them.
fn table(headings: impl Iterator<Item = &'static str>, rows: Rows) -> String {
    const WIDTH_MIN: usize = 8;
    let mut all = vec![headings.map(str::to_owned).collect::<Vec<_>>()];
    all.extend(rows);
    let n_columns = all[0].len();
    let width = |column: usize| {
        let cells = all.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        // A comma and a space at least.
        WIDTH_MIN.max(widest + 2)
    };
    let widths: Vec<usize> = (0..n_columns).map(width).collect();
    let mut text = String::new();
    for row in &all {
        for (column, cell) in row.iter().enumerate() {
            if column + 1 == n_columns {
                text.push_str(cell);
            } else {
                let cell = format!("{cell},");
                text.push_str(&format!("{cell:<width$}", width = widths[column]));
            }
        }
        text.push('\n');
    }
    text
}

fn levels(fairness: &Fairness) -> String {
    let levels = fairness.levels();
    let rows = levels.iter().map(|(name, configured)| {
        let queues = configured.level.lock();
        let waiting = queues.queues().iter().filter(|q| !q.waiting.is_empty());
        let counts = queues.counts();
        vec![
            name.clone(),
            waiting.count().to_string(),
            queues.is_idle().to_string(),
            (!configured.wanted).to_string(),
            queues.n_waiting().to_string(),
            queues.n_served().to_string(),
            counts.dispatched.to_string(),
            counts.rejected.to_string(),
            // Kubernetes counts those under the next column as well.
            0.to_string(),
            counts.cancelled.to_string(),
        ]
    });
    table(LEVELS.into_iter(), rows.collect())
}

fn seat_seconds(time: SeatTime) -> String {
    // Eight digits, as Kubernetes shows them.
    let hundredths = time / 10;
    format!(
        "{}.{:08}ss",
        hundredths.div_euclid(100_000_000),
        hundredths.rem_euclid(100_000_000)
    )
}

fn queues(fairness: &Fairness) -> String {
    let levels = fairness.levels();
    let row = |name: &str, index: usize, queue: &Queue| {
        vec![
            name.to_owned(),
            index.to_string(),
            queue.waiting.len().to_string(),
            queue.served.to_string(),
            queue.seats.to_string(),
            seat_seconds(queue.start),
            queue.waiting_seats.to_string(),
            queue.waiting_width.to_string(),
            seat_seconds(queue.waiting_work),
        ]
    };
    let mut rows = Vec::new();
    for (name, configured) in levels.iter() {
        let queues = configured.level.lock();
        let of_level = queues.queues().iter().enumerate();
        rows.extend(of_level.map(|(index, queue)| row(name, index, queue)));
    }
    table(QUEUES.into_iter(), rows)
}

fn requests(fairness: &Fairness, details: bool) -> String {
    let levels = fairness.levels();
    let now = (fairness.now(), Timestamp::now());
    let mut rows = Vec::new();
    for configured in levels.values() {
        rows.extend(of_level(&configured.level, now, details));
    }
    let headings = REQUESTS.into_iter();
    match details {
        true => table(headings.chain(DETAILS), rows),
        false => table(headings, rows),
    }
}

fn of_level(level: &Level, now: (Duration, Timestamp), details: bool) -> Rows {
    let queues = level.lock();
    let instant = |at: Duration| {
        let ago = now.0.saturating_sub(at);
        (now.1 - jiff::SignedDuration::try_from(ago).unwrap_or_default()).to_string()
    };
    let shown = queues.requests().filter_map(|(ticket, request)| {
        let start = match request.phase {
            Phase::Waiting => NEVER.to_owned(),
            Phase::Served(since) => instant(since),
            Phase::Lingering => return None,
        };
        let index = request.queue.and_then(|queue| {
            let mut waiting = queues.queues().get(queue)?.waiting.iter();
            waiting.position(|other| *other == ticket)
        });
        let number = |n: Option<usize>| n.map_or("-1".to_owned(), |n| n.to_string());
        let kept = &request.kept;
        let mut row = vec![
            level.name.clone(),
            kept.schema.name.clone(),
            number(request.queue),
            number(index),
            kept.schema.flow(&kept.user, &kept.info).to_owned(),
            instant(request.arrived),
            request.work.seats.to_string(),
            request.work.last_seats.to_string(),
            crate::duration::text(request.work.linger),
            start,
        ];
        if details {
            row.extend(described(&kept.user.name, &kept.info));
        }
        Some(row)
    });
    shown.collect()
}

fn described(user: &str, info: &RequestInfo) -> Vec<String> {
    let version = match info.group.as_str() {
        "" => info.version.clone(),
        group => format!("{group}/{}", info.version),
    };
    let verb = match info.is_resource {
        true => info.verb.as_str(),
        false => &info.method,
    };
    let all = [
        user,
        verb,
        &info.path,
        &info.namespace,
        &info.name,
        &version,
        &info.resource,
        &info.subresource,
    ];
    all.map(str::to_owned).to_vec()
}
