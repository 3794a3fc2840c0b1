//! What a request costs: seats of a list by what it reads, and of a write by the watches that it is told to.

use std::time::Duration;

use corral_api::selector::FieldSelector;

use super::queues::Work;
use crate::request::{RequestInfo, Verb};

/// Most seats of a list, and of a write, as in kube-apiserver.
const LIST_SEATS_MAX: usize = 100;
const WRITE_SEATS_MAX: usize = 10;
/// Bytes of objects in memory that are worth a seat.
const BYTES_PER_SEAT: usize = 100_000;
/// A list out of the cache is sent piece by piece, so that it holds no more than this at a time.
const CACHED_BYTES_MAX: usize = 1_000_000;
/// Watches that are worth a seat, and how long an event keeps them busy.
const WATCHES_PER_SEAT: usize = 10;
const EVENT_TIME: Duration = Duration::from_millis(5);
/// The part of its seats that one request of a level may have.
const PART_MAX: f64 = 0.15;

/// The most seats that one request of a level may have, so that a hand of them does not fill the level.
pub fn widest(nominal: usize, hand: usize) -> usize {
    let part = (nominal as f64 * PART_MAX).ceil() as usize;
    part.min(nominal / hand.max(1)).max(1)
}

/// What is stored of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stock {
    /// Objects.
    pub objects: usize,
    /// Their bytes.
    pub bytes: usize,
}

/// What a request costs at a level where none may be wider than `widest`. `stock` tells what there is of its resource, if
/// this server stores it; `watches` how many are told of a write.
pub fn estimate(
    info: &RequestInfo,
    widest: Option<usize>,
    stock: impl FnOnce() -> Option<Stock>,
    watches: impl FnOnce() -> usize,
) -> Work {
    match info.verb {
        Verb::List => read(info, widest, stock),
        Verb::Watch if begins_with_objects(info) => read(info, widest, stock),
        Verb::Create | Verb::Update | Verb::Patch | Verb::Delete => write(info, widest, watches),
        _ => Work::ONE,
    }
}

/// Whether a watch is sent the objects that there are, which is a list.
fn begins_with_objects(info: &RequestInfo) -> bool {
    info.query.flag("sendInitialEvents")
        || matches!(info.query.get("resourceVersion"), None | Some("" | "0"))
}

fn read(info: &RequestInfo, widest: Option<usize>, stock: impl FnOnce() -> Option<Stock>) -> Work {
    let Some(stock) = stock() else {
        return Work::ONE;
    };
    let query = &info.query;
    let limit = query.integer("limit").ok().flatten().unwrap_or(0);
    let limited = match usize::try_from(limit) {
        Ok(limit) if limit > 0 => limit.min(stock.objects),
        _ => stock.objects,
    };
    let selects = ["fieldSelector", "labelSelector"];
    let selects = selects
        .iter()
        .any(|name| query.get(name).is_some_and(|text| !text.is_empty()));
    let cached = info.verb == Verb::Watch || is_cached(info, limit > 0);
    let objects = if names_one(info) {
        1
    } else if !cached && selects {
        limited.max(stock.objects / 2)
    } else {
        limited
    };
    let average = stock.bytes / stock.objects.max(1);
    let mut bytes = objects * average;
    if cached {
        bytes = bytes.min(CACHED_BYTES_MAX);
    }
    let most = widest.unwrap_or(LIST_SEATS_MAX).clamp(1, LIST_SEATS_MAX);
    Work {
        seats: bytes.div_ceil(BYTES_PER_SEAT).clamp(1, most),
        ..Work::ONE
    }
}

/// Whether a list comes out of the cache: all but those of a past revision.
fn is_cached(info: &RequestInfo, is_limited: bool) -> bool {
    let query = &info.query;
    let text = |name| query.get(name).unwrap_or_default();
    match text("resourceVersionMatch") {
        "NotOlderThan" => true,
        "" => {
            let is_exact = is_limited && !matches!(text("resourceVersion"), "" | "0");
            text("continue").is_empty() && !is_exact
        }
        _ => false,
    }
}

/// Whether a list is about one object, by its name.
fn names_one(info: &RequestInfo) -> bool {
    if !info.name.is_empty() {
        return true;
    }
    let text = info.query.get("fieldSelector").unwrap_or_default();
    text.contains("metadata.name")
        && FieldSelector::parse(text).is_ok_and(|selector| {
            let mut requirements = selector.requirements.iter();
            requirements.any(|one| one.field == "metadata.name" && one.equals)
        })
}

fn write(info: &RequestInfo, widest: Option<usize>, watches: impl FnOnce() -> usize) -> Work {
    // A token is no change of the object that it is for.
    if info.resource == "serviceaccounts" && info.subresource == "token" {
        return Work::ONE;
    }
    let watches = watches();
    if watches < WATCHES_PER_SEAT {
        return Work::ONE;
    }
    // Narrower and longer is the same work, and leaves more room beside it.
    let seats = watches.div_ceil(WATCHES_PER_SEAT);
    let most = widest.unwrap_or(WRITE_SEATS_MAX).clamp(1, WRITE_SEATS_MAX);
    let narrow = seats.min(most);
    Work {
        seats: 1,
        last_seats: narrow,
        linger: EVENT_TIME.mul_f64(seats as f64 / narrow as f64),
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn info(method: Method, uri: &str) -> RequestInfo {
        RequestInfo::new(&method, &uri.parse().expect("a URI")).expect("a request")
    }

    fn seats(uri: &str, objects: usize, bytes: usize) -> usize {
        let stock = || Some(Stock { objects, bytes });
        estimate(&info(Method::GET, uri), None, stock, || 0).seats
    }

    #[test]
    fn a_list_costs_what_it_holds_in_memory() {
        // 1,000 objects of 5,000 bytes.
        let of = |query: &str| seats(&format!("/api/v1/pods{query}"), 1000, 5_000_000);
        assert_eq!(of(""), 10, "out of the cache, piece by piece");
        assert_eq!(of("?limit=20"), 1);
        assert_eq!(of("?limit=100"), 5);
        assert_eq!(of("?resourceVersion=0&limit=100"), 5);
        assert_eq!(of("?resourceVersion=7&resourceVersionMatch=Exact"), 50);
        assert_eq!(of("?resourceVersion=7&limit=100"), 5);
        assert_eq!(of("?resourceVersion=7&limit=100&labelSelector=a"), 25);
        assert_eq!(of("?fieldSelector=metadata.name%3Da"), 1);
        assert_eq!(of("?watch=1"), 10);
        assert_eq!(of("?watch=1&resourceVersion=7"), 1);
        assert_eq!(of("?watch=1&resourceVersion=7&sendInitialEvents=true"), 10);
        assert_eq!(seats("/api/v1/pods", 0, 0), 1);
        assert_eq!(seats("/api/v1/namespaces/a/pods/b", 1000, 5_000_000), 1);
    }

    #[test]
    fn none_is_wider_than_its_level_lets_it() {
        let stock = || {
            Some(Stock {
                objects: 10,
                bytes: 5_000_000,
            })
        };
        let list = info(Method::GET, "/api/v1/pods?continue=x");
        assert_eq!(estimate(&list, Some(7), stock, || 0).seats, 7);
        assert_eq!(estimate(&list, Some(700), stock, || 0).seats, 50);
        assert_eq!(widest(49, 6), 8);
        assert_eq!(widest(245, 6), 37);
        assert_eq!(widest(3, 6), 1);
    }

    #[test]
    fn a_write_lingers_for_those_who_are_told() {
        let write = info(Method::PUT, "/api/v1/nodes/n");
        let of = |watches| estimate(&write, None, || None, || watches);
        assert_eq!(of(9), Work::ONE);
        let some = of(55);
        assert_eq!((some.seats, some.last_seats), (1, 6));
        assert_eq!(some.linger, EVENT_TIME);
        let many = of(1000);
        assert_eq!(many.last_seats, 10);
        assert_eq!(many.linger, EVENT_TIME * 10);
        let token = info(Method::POST, "/api/v1/namespaces/a/serviceaccounts/b/token");
        assert_eq!(estimate(&token, None, || None, || 1000), Work::ONE);
    }
}
