//! Streams of one HTTP/2 connection that wait for the same news are polled together, by the connection's own task.
//!
//! hyper runs each stream in a task of its own, which is right as long as there is something to compute. A watch that
//! has told what there was only waits, together with many others; then its stream moves to the connection, whose task
//! is woken once for all of them, and sends what they tell as one.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;
use slab::Slab;

use crate::news::{self, Bell, Listening};

type Stream = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What the streams' tasks and the connection's share.
#[derive(Default)]
struct Shared {
    /// The connection's task.
    connection: AtomicWaker,
    /// Streams on their way to the connection; nothing once that has ended.
    joining: Mutex<Joining>,
    /// Members that were woken for something else than the news that they wait for.
    woken: Mutex<Vec<usize>>,
}

#[derive(Default)]
struct Joining {
    streams: Vec<(Stream, Arc<Bell>)>,
    ended: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the streams of a connection.
#[derive(Clone, Default)]
pub struct Streams(Arc<Shared>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        tokio::spawn(Apart {
            stream: Some(Box::pin(stream)),
            shared: self.0.clone(),
        });
    }
}

/// A stream in a task of its own.
struct Apart {
    stream: Option<Stream>,
    shared: Arc<Shared>,
}

impl Future for Apart {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(());
        };
        let (polled, awaited) = news::apart(|| stream.as_mut().poll(cx));
        let Some(bell) = awaited.filter(|_| polled.is_pending()) else {
            return polled;
        };
        let shared = self.shared.clone();
        {
            let mut joining = lock(&shared.joining);
            if joining.ended {
                return Poll::Pending;
            }
            if let Some(stream) = self.stream.take() {
                joining.streams.push((stream, bell));
            }
        }
        shared.connection.wake();
        Poll::Ready(())
    }
}

/// Wakes a member by itself.
struct Woken {
    key: usize,
    queued: AtomicBool,
    shared: Arc<Shared>,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            lock(&self.shared.woken).push(self.key);
            self.shared.connection.wake();
        }
    }
}

struct Member {
    stream: Stream,
    bell: Arc<Bell>,
    woken: Arc<Woken>,
    waker: Waker,
}

impl Member {
    fn poll(&mut self) -> Poll<()> {
        let mut cx = Context::from_waker(&self.waker);
        news::together(&self.bell, || self.stream.as_mut().poll(&mut cx))
    }
}

/// Members that wait for the same news.
struct Circle {
    listening: Listening,
    members: Vec<usize>,
}

/// The streams that a connection polls. They end with it.
pub struct Together {
    shared: Arc<Shared>,
    members: Slab<Member>,
    circles: Vec<Circle>,
}

impl Drop for Together {
    fn drop(&mut self) {
        let mut joining = lock(&self.shared.joining);
        joining.ended = true;
        let left = std::mem::take(&mut joining.streams);
        drop(joining);
        // Their ends may wake others.
        drop(left);
    }
}

impl Together {
    /// Those that `streams` hands over.
    pub fn new(streams: &Streams) -> Self {
        Self {
            shared: streams.0.clone(),
            members: Slab::new(),
            circles: Vec::new(),
        }
    }

    /// Polls those that have something to do. The task of `cx` is woken when there is more.
    pub fn poll(&mut self, cx: &Context<'_>) {
        // Before anything is looked at, so that nothing is missed.
        self.shared.connection.register(cx.waker());
        for circle in &self.circles {
            circle.listening.wakes(cx.waker());
        }
        let mut ended = Vec::new();
        for circle in &self.circles {
            if circle.listening.heard() {
                let members = circle.members.iter();
                ended.extend(members.filter(|key| self.members[**key].poll().is_ready()));
            }
        }
        let woken = std::mem::take(&mut *lock(&self.shared.woken));
        for key in woken {
            // It may have ended since, and another one may have its place, which does no harm.
            let Some(member) = self.members.get_mut(key) else {
                continue;
            };
            member.woken.queued.store(false, Ordering::Release);
            if !ended.contains(&key) && member.poll().is_ready() {
                ended.push(key);
            }
        }
        for key in ended {
            self.remove(key);
        }
        let joining = std::mem::take(&mut lock(&self.shared.joining).streams);
        for (stream, bell) in joining {
            self.join(stream, bell, cx);
        }
    }

    fn join(&mut self, stream: Stream, bell: Arc<Bell>, cx: &Context<'_>) {
        let entry = self.members.vacant_entry();
        let key = entry.key();
        let woken = Arc::new(Woken {
            key,
            queued: AtomicBool::new(false),
            shared: self.shared.clone(),
        });
        let member = entry.insert(Member {
            stream,
            waker: Waker::from(woken.clone()),
            woken,
            bell,
        });
        let bell = &member.bell;
        let known = |circle: &Circle| Arc::ptr_eq(circle.listening.bell(), bell);
        let place = self.circles.iter().position(known).unwrap_or_else(|| {
            let listening = bell.listen();
            listening.wakes(cx.waker());
            let members = Vec::new();
            self.circles.push(Circle { listening, members });
            self.circles.len() - 1
        });
        // What it waited for may have come before it was listened for; and it wakes nobody here until it is polled here.
        if member.poll().is_ready() {
            self.members.remove(key);
            if self.circles[place].members.is_empty() {
                self.circles.swap_remove(place);
            }
            return;
        }
        self.circles[place].members.push(key);
    }

    fn remove(&mut self, key: usize) {
        let Some(member) = self.members.try_remove(key) else {
            return;
        };
        let of = |circle: &Circle| Arc::ptr_eq(circle.listening.bell(), &member.bell);
        if let Some(place) = self.circles.iter().position(of) {
            let members = &mut self.circles[place].members;
            members.retain(|other| *other != key);
            if members.is_empty() {
                self.circles.swap_remove(place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use hyper::rt::Executor;
    use tokio::sync::{Notify, mpsc};

    use super::*;
    use crate::news::Ear;

    /// Tells each piece of news, or when it is woken, what it has been told; ends when that is 0.
    struct Told {
        told: mpsc::UnboundedSender<usize>,
        news: Arc<AtomicUsize>,
        last: usize,
        bell: Arc<Bell>,
        listening: Option<Listening>,
        ends: Pin<Box<dyn Future<Output = ()> + Send>>,
    }

    impl Future for Told {
        type Output = ();

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            loop {
                let news = self.news.load(Ordering::SeqCst);
                if news != self.last {
                    self.last = news;
                    let _ = self.told.send(news);
                }
                if self.ends.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                if news::awaits(&self.bell) {
                    self.listening = None;
                    return Poll::Pending;
                }
                let bell = self.bell.clone();
                let listening = self.listening.get_or_insert_with(|| bell.listen());
                listening.wakes(cx.waker());
                if !listening.heard() && self.news.load(Ordering::SeqCst) == self.last {
                    return Poll::Pending;
                }
            }
        }
    }

    struct Fixture {
        bell: Arc<Bell>,
        news: Arc<AtomicUsize>,
        told: mpsc::UnboundedReceiver<usize>,
        ends: Vec<Arc<Notify>>,
    }

    impl Fixture {
        /// So many streams.
        fn run(streams: &Streams, n: usize) -> Self {
            let (tell, told) = mpsc::unbounded_channel();
            let (bell, news) = (Arc::new(Bell::default()), Arc::new(AtomicUsize::new(0)));
            let run = |_| {
                let end = Arc::new(Notify::new());
                let ends = end.clone();
                streams.execute(Told {
                    told: tell.clone(),
                    news: news.clone(),
                    last: 0,
                    bell: bell.clone(),
                    listening: None,
                    ends: Box::pin(async move { ends.notified().await }),
                });
                end
            };
            let ends = (0..n).map(run).collect();
            Self {
                bell,
                news,
                told,
                ends,
            }
        }

        fn tell(&self, news: usize) {
            self.news.store(news, Ordering::SeqCst);
            self.bell.ring();
        }

        fn heard(&mut self) -> Vec<usize> {
            std::iter::from_fn(|| self.told.try_recv().ok()).collect()
        }
    }

    /// Polls until nobody is woken any more; how often that was.
    async fn settle(together: &mut Together, connection: &Arc<Ear>) -> usize {
        let waker = Waker::from(connection.clone());
        let mut polls = 0;
        loop {
            // Streams in tasks of their own run meanwhile.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            if !connection.heard() {
                return polls;
            }
            together.poll(&Context::from_waker(&waker));
            polls += 1;
        }
    }

    #[tokio::test]
    async fn streams_that_wait_for_the_same_are_polled_at_once() {
        let streams = Streams::default();
        let mut together = Together::new(&streams);
        let connection = Arc::new(Ear::default());
        let mut fixture = Fixture::run(&streams, 50);
        connection.ring();
        settle(&mut together, &connection).await;
        assert_eq!((together.members.len(), together.circles.len()), (50, 1));
        fixture.tell(1);
        assert_eq!(settle(&mut together, &connection).await, 1);
        assert_eq!(fixture.heard(), vec![1; 50]);
        // Some end, by a wake of their own; the others go on.
        for end in &fixture.ends[..20] {
            end.notify_one();
        }
        settle(&mut together, &connection).await;
        assert_eq!((together.members.len(), together.circles.len()), (30, 1));
        fixture.tell(2);
        settle(&mut together, &connection).await;
        assert_eq!(fixture.heard(), vec![2; 30]);
        for end in &fixture.ends[20..] {
            end.notify_one();
        }
        settle(&mut together, &connection).await;
        assert_eq!((together.members.len(), together.circles.len()), (0, 0));
    }

    #[tokio::test]
    async fn news_on_the_way_to_the_connection_are_not_lost_and_streams_end_with_it() {
        let streams = Streams::default();
        let mut together = Together::new(&streams);
        let connection = Arc::new(Ear::default());
        let mut fixture = Fixture::run(&streams, 3);
        // They have gone from their tasks, and have not arrived.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(lock(&streams.0.joining).streams.len(), 3);
        fixture.tell(1);
        connection.ring();
        settle(&mut together, &connection).await;
        assert_eq!(fixture.heard(), vec![1; 3]);
        let weak: Vec<_> = fixture.ends.iter().map(Arc::downgrade).collect();
        fixture.ends.clear();
        drop(together);
        assert!(weak.iter().all(|end| end.upgrade().is_none()));
        // Streams that begin after it has ended run by themselves, and hear that it has from HTTP.
        let mut late = Fixture::run(&streams, 1);
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        late.tell(1);
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(late.heard(), [1]);
    }
}
