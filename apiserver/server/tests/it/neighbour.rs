//! Another client of a server that is attacked: it is served as if the attacker was not there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use tokio::sync::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

use crate::fixture::{Fixture, send};

const CMS: &str = "/api/v1/namespaces/default/configmaps";

/// Attackers at a time: more than the server has threads for requests.
pub const N_ATTACKERS: usize = 3;
/// Requests that are measured in each round without an attack, and during one at least.
const N_REQUESTS: usize = 100;
/// Rounds without an attack and with one, in turns, so that what else the machine does falls on both. Their median counts,
/// unless the first of them leaves no doubt.
const N_ROUNDS: usize = 5;
/// How much longer the slowest of a hundred requests takes during an attack where there is no doubt that nobody is slower.
const NOT_SLOWER: f64 = 2.0;
/// How much longer it may take. Whoever waits for a thread that attackers keep to themselves, for a seat or for a lock waits
/// for as long as they have it, which is tens or hundreds of times as long.
const SLOWER_MAX: f64 = 6.0;
/// What counts as quiet at least: what is less is luck.
const QUIET_LEAST: Duration = Duration::from_millis(10);
/// How long an attack may go on once it was told to end: whoever is not cut off goes on for good.
const ATTACK_MAX: Duration = Duration::from_secs(120);

/// Held by whoever measures: another test's attack would count as its own.
static MEASURED: Mutex<()> = Mutex::const_new(());

/// A client with a connection that was there before the attack, and with no more rights than the attackers': its requests
/// have no seats of their own.
pub struct Neighbour {
    connection: Option<SendRequest<Full<Bytes>>>,
    _alone: MutexGuard<'static, ()>,
}

impl Neighbour {
    /// A client of a server on which everybody may do everything from now on.
    pub async fn of(fixture: &Fixture) -> Self {
        let alone = MEASURED.lock().await;
        fixture.empower_everybody().await;
        assert_eq!(fixture.config_map("other", "1").await.code, 201);
        let connection = Some(fixture.connect_as_user("neighbour").await);
        Self {
            connection,
            _alone: alone,
        }
    }

    /// Attacks several times, each time until the token given is cancelled, or longer; nobody is the slower for it. Such an
    /// attacker gives nobody anything to do.
    pub async fn beside(&mut self, what: &str, attack: impl AsyncFnMut(CancellationToken)) {
        self.compared(what, 0, attack).await;
    }

    /// The same of attackers that take the processors, as anybody's work does: that much is their due, and nobody is slower
    /// than beside as many threads that only count.
    pub async fn beside_work(&mut self, what: &str, attack: impl AsyncFnMut(CancellationToken)) {
        self.compared(what, N_ATTACKERS, attack).await;
    }

    async fn compared(
        &mut self,
        what: &str,
        n_counting: usize,
        mut attack: impl AsyncFnMut(CancellationToken),
    ) {
        let (mut n_slow, mut n_fine) = (0, 0);
        // Until the median of all rounds is known.
        while n_slow.max(n_fine) <= N_ROUNDS / 2 {
            let quiet = self.undisturbed(n_counting).await.max(QUIET_LEAST);
            let attacked = self.during(&mut attack).await;
            println!("{attacked:?} instead of {quiet:?}: {what}");
            let slower = attacked.div_duration_f64(quiet);
            if slower < NOT_SLOWER && n_slow + n_fine == 0 {
                return;
            }
            match slower < SLOWER_MAX {
                true => n_fine += 1,
                false => n_slow += 1,
            }
        }
        assert!(
            n_fine > n_slow,
            "another client was slower in {n_slow} rounds: {what}"
        );
    }

    /// How long the slowest of a hundred requests takes without an attack, beside so many threads that count.
    async fn undisturbed(&mut self, n_counting: usize) -> Duration {
        let busy = Arc::new(AtomicBool::new(true));
        let counting = (0..n_counting).map(|_| {
            let busy = busy.clone();
            std::thread::spawn(move || {
                while busy.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        });
        let counting: Vec<_> = counting.collect();
        let quiet = self.during(async |enough| enough.cancelled().await).await;
        busy.store(false, Ordering::Relaxed);
        for thread in counting {
            thread.join().expect("no panic");
        }
        quiet
    }

    /// The same during an attack that goes on until the token given to it is cancelled, or longer.
    async fn during(&mut self, attack: impl AsyncFnOnce(CancellationToken)) -> Duration {
        let (enough, over) = (CancellationToken::new(), CancellationToken::new());
        let connection = self.connection.take().expect("one attack at a time");
        let (measured, ends) = (enough.clone(), over.clone());
        // On a task of its own, as the attacker's own work must not count.
        let measuring = tokio::spawn(async move {
            let _measured = measured.clone().drop_guard();
            slowest(connection, &ends, &measured).await
        });
        let attacked = async {
            attack(enough.clone()).await;
            over.cancel();
        };
        let in_time = async {
            enough.cancelled().await;
            tokio::time::sleep(ATTACK_MAX).await;
        };
        tokio::select! {
            () = attacked => {}
            () = in_time => panic!("the attack does not end"),
        }
        let (connection, slowest) = measuring.await.expect("it is served during the attack");
        self.connection = Some(connection);
        slowest
    }
}

/// How long the slowest of a hundred requests takes, of those until it is over; `enough` says that there were so many.
async fn slowest(
    mut connection: SendRequest<Full<Bytes>>,
    over: &CancellationToken,
    enough: &CancellationToken,
) -> (SendRequest<Full<Bytes>>, Duration) {
    let mut times = Vec::new();
    let path = format!("{CMS}/other");
    while times.len() < N_REQUESTS || !over.is_cancelled() {
        connection.ready().await.expect("the last answer was read");
        let began = Instant::now();
        let answer = send(&mut connection, "GET", &path, &[], "").await;
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await.expect("a whole body");
        times.push(began.elapsed());
        if times.len() == N_REQUESTS {
            enough.cancel();
        }
    }
    times.sort();
    (connection, times[(times.len() - 1) * 99 / 100])
}
