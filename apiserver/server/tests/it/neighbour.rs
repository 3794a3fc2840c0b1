//! Another client of a server that is attacked: it is served as if the attacker was not there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use tokio_util::sync::CancellationToken;

use crate::fixture::{Fixture, send};

const CMS: &str = "/api/v1/namespaces/default/configmaps";

/// Attackers at a time: more than the server has threads for requests.
pub const N_ATTACKERS: usize = 3;
/// Requests that are measured without an attack.
const N_QUIET: usize = 200;
/// The same during an attack, at least.
const N_ATTACKED: usize = 100;
/// What counts as quiet at least: what is less is luck.
const QUIET_LEAST: Duration = Duration::from_millis(5);
/// How much longer the slowest of a hundred requests may take during an attack than beside as many threads that only
/// count.
const SLOWER_MAX: u32 = 10;
/// Which part of the time that a request of an attacker takes may come on top of that: whoever waits for a thread that
/// attackers keep to themselves waits for the whole of it, or several.
const ATTACK_PART_MAX: u32 = 8;

/// A client with a connection that was there before the attack.
pub struct Neighbour {
    connection: Option<SendRequest<Full<Bytes>>>,
    quiet: Duration,
}

impl Neighbour {
    /// A client that was measured without an attack.
    ///
    /// An attack takes the processors as work of anybody's does; that much is its due.
    pub async fn of(fixture: &Fixture) -> Self {
        assert_eq!(fixture.config_map("other", "1").await.code, 201);
        let busy = Arc::new(AtomicBool::new(true));
        let counting = (0..N_ATTACKERS).map(|_| {
            let busy = busy.clone();
            std::thread::spawn(move || {
                while busy.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        });
        let counting: Vec<_> = counting.collect();
        let connection = fixture.connect().await;
        let (connection, quiet) = slowest(connection, N_QUIET, None, &Default::default()).await;
        busy.store(false, Ordering::Relaxed);
        for thread in counting {
            thread.join().expect("no panic");
        }
        let connection = Some(connection);
        Self { connection, quiet }
    }

    /// What comes of an attack that goes on until the token given to it is cancelled, or longer, and how long the slowest
    /// of a hundred requests took meanwhile.
    async fn during<T>(
        &mut self,
        attack: impl AsyncFnOnce(CancellationToken) -> T,
    ) -> (T, Duration) {
        let (enough, over) = (CancellationToken::new(), CancellationToken::new());
        let connection = self.connection.take().expect("one attack at a time");
        let (measured, ends) = (enough.clone(), over.clone());
        // On a task of its own, as the attacker's own work must not count.
        let measuring = tokio::spawn(async move {
            let _measured = measured.clone().drop_guard();
            slowest(connection, N_ATTACKED, Some(ends), &measured).await
        });
        let outcome = attack(enough).await;
        over.cancel();
        let (connection, attacked) = measuring.await.expect("it is served during the attack");
        self.connection = Some(connection);
        (outcome, attacked)
    }

    /// What comes of an attack that goes on until the token given to it is cancelled, or longer, if nobody is the slower for
    /// it. Such a one gives the server nothing to do that takes long.
    pub async fn beside<T>(
        &mut self,
        what: &str,
        attack: impl AsyncFnOnce(CancellationToken) -> T,
    ) -> T {
        let (outcome, attacked) = self.during(attack).await;
        self.check(what, attacked, Duration::ZERO);
        outcome
    }

    /// The same of one that answers how long the longest of its requests took.
    pub async fn beside_work(
        &mut self,
        what: &str,
        attack: impl AsyncFnOnce(CancellationToken) -> Duration,
    ) {
        let (longest, attacked) = self.during(attack).await;
        self.check(what, attacked, longest);
    }

    fn check(&self, what: &str, attacked: Duration, longest: Duration) {
        let quiet = self.quiet.max(QUIET_LEAST);
        println!("{attacked:?} instead of {quiet:?}, {longest:?}: {what}");
        assert!(
            attacked < quiet * SLOWER_MAX + longest / ATTACK_PART_MAX,
            "{attacked:?} instead of {quiet:?}: {what}"
        );
    }
}

/// How long the slowest of a hundred requests takes, of so many and until it is over; `enough` says that there were so many.
async fn slowest(
    mut connection: SendRequest<Full<Bytes>>,
    n: usize,
    over: Option<CancellationToken>,
    enough: &CancellationToken,
) -> (SendRequest<Full<Bytes>>, Duration) {
    let mut times = Vec::new();
    let path = format!("{CMS}/other");
    while times.len() < n || over.as_ref().is_some_and(|over| !over.is_cancelled()) {
        connection.ready().await.expect("the last answer was read");
        let began = Instant::now();
        let answer = send(&mut connection, "GET", &path, &[], "").await;
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await.expect("a whole body");
        times.push(began.elapsed());
        if times.len() == n {
            enough.cancel();
        }
    }
    times.sort();
    (connection, times[(times.len() - 1) * 99 / 100])
}
