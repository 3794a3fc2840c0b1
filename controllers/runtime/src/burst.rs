//! Doing many like things without drowning the server when the first already fails.

use std::future::Future;

use futures::future::join_all;

use crate::Error;

/// The most writes of one reconcile that are under way together.
const PARALLEL_MAX: usize = 64;

/// Runs `count` steps in batches of 1, 2, 4, …; a batch with a failure is the last. A quota that is used up, or a
/// template that admission refuses, so costs one request and not hundreds.
///
/// Returns the outcomes of the steps that were attempted.
pub async fn slow_start<T, F, Fut>(count: usize, mut step: F) -> Vec<Result<T, Error>>
where
    F: FnMut(usize) -> Fut,
    Fut: Future<Output = Result<T, Error>>,
{
    let mut outcomes = Vec::with_capacity(count);
    let mut batch = 1;
    while outcomes.len() < count {
        let from = outcomes.len();
        let to = count.min(from + batch);
        let results = join_all((from..to).map(&mut step)).await;
        let failed = results.iter().any(Result::is_err);
        outcomes.extend(results);
        if failed {
            break;
        }
        batch = (batch * 2).min(PARALLEL_MAX);
    }
    outcomes
}

/// Runs every step, some at a time, and returns all outcomes in order.
pub async fn each<I, T, F, Fut>(items: I, mut step: F) -> Vec<Result<T, Error>>
where
    I: IntoIterator,
    F: FnMut(I::Item) -> Fut,
    Fut: Future<Output = Result<T, Error>>,
{
    let mut outcomes = Vec::new();
    let mut items = items.into_iter().peekable();
    while items.peek().is_some() {
        let batch: Vec<_> = items.by_ref().take(PARALLEL_MAX).map(&mut step).collect();
        outcomes.extend(join_all(batch).await);
    }
    outcomes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn slow_start_stops_after_the_first_batch_with_a_failure() {
        let outcomes = slow_start(100, |n| async move {
            if n == 4 {
                Err(Error::Invalid("no".into()))
            } else {
                Ok(n)
            }
        })
        .await;
        assert_eq!(outcomes.len(), 7);
        assert_eq!(slow_start(5, |n| async move { Ok(n) }).await.len(), 5);
    }
}
