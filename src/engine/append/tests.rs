//! Tests of the appending thread over a log that a test scripts.

use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Condvar};

use super::super::history::LogPlace;
use super::super::log::{Follow, FollowStart, Places};
use super::*;
use crate::event::Event;
use crate::sync::{Mutex, lock};

type Answer = Result<Option<EventId>, Refused>;

/// Answers a batch, given the texts of its records.
type Script = Box<dyn FnMut(&[&str]) -> Result<(), EngineError> + Send>;

/// Log with one shard that keeps the records that the script accepts.
#[derive(Clone)]
struct Fake {
    script: Arc<Mutex<Script>>,
    /// Called for each connection.
    connect: Arc<Mutex<Box<dyn FnMut() + Send>>>,
    kept: Arc<Mutex<Vec<String>>>,
    /// Number of events that the follower has read.
    read: Arc<(Mutex<u64>, Condvar)>,
}

impl EntryRecorder for Fake {
    fn wants_past(&self, _: u16) -> Option<(LogPlace, Duration)> {
        None
    }

    fn record(&self, _: &Event, _: Option<&str>) -> bool {
        true
    }

    fn record_other(&self, _: EventId, _: &str) -> bool {
        false
    }

    fn is_delivered(&self, _: EventId) -> bool {
        true
    }

    fn end_past(&self, places: &Places) {
        *lock(&self.read.0) = places.next[0];
        self.read.1.notify_all();
    }

    fn await_read(&self, id: EventId, until: Instant) -> bool {
        let mut read = lock(&self.read.0);
        while *read <= id.sequence {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            read = self.read.1.wait_timeout(read, left).expect("no thread panicked").0;
        }
        true
    }
}

/// Maximum length of an event, known before it is sent.
const LONGEST: usize = 10;

impl Fake {
    fn new(script: impl FnMut(&[&str]) -> Result<(), EngineError> + Send + 'static) -> Self {
        Self {
            script: Arc::new(Mutex::new(Box::new(script))),
            connect: Arc::new(Mutex::new(Box::new(|| ()))),
            kept: Arc::default(),
            read: Arc::default(),
        }
    }

    fn start(&self, accept_timeout: Duration) -> Rig {
        let queue = Arc::new(AppendQueue::new(1000, usize::MAX, accept_timeout));
        let status = Arc::new(Status::new(&Arc::default()));
        let threads = [run_on, watch_on].map(|work: fn(&Fake, &AppendQueue, &Status)| {
            let (log, queue, status) = (self.clone(), Arc::clone(&queue), Arc::clone(&status));
            std::thread::spawn(move || work(&log, &queue, &status))
        });
        Rig { queue, status, threads: threads.into() }
    }
}

fn run_on(log: &Fake, queue: &AppendQueue, status: &Status) {
    run(log, queue, status, log);
}

fn watch_on(_: &Fake, queue: &AppendQueue, status: &Status) {
    watch(queue, status);
}

impl Append for Fake {
    fn check(&self, records: &[Record]) -> Result<(), EngineError> {
        let longest = records.iter().map(|record| record.json.len()).max().unwrap_or(0);
        if longest <= LONGEST {
            return Ok(());
        }
        Err(EngineError::TooLarge { bytes: longest as u64, limit: LONGEST as u64 })
    }

    fn append(&mut self, batch: &AppendBatch<'_>) -> Result<Vec<EventId>, EngineError> {
        let texts: Vec<&str> = batch.records.iter().map(|record| record.json.as_str()).collect();
        (lock(&self.script))(&texts)?;
        let mut kept = lock(&self.kept);
        let first = kept.len() as u64;
        kept.extend(texts.iter().map(|text| (*text).to_owned()));
        Ok(batch.ids(7, &(first..kept.len() as u64).collect::<Vec<_>>()))
    }
}

impl Log for Fake {
    fn send_notice(&self, _: &str) -> Result<(), EngineError> {
        Ok(())
    }

    fn appender(&self) -> Result<Box<dyn Append>, EngineError> {
        (lock(&self.connect))();
        Ok(Box::new(self.clone()))
    }

    fn follower(&self, _: Option<&Places>, _: u64) -> Result<(Box<dyn Follow>, FollowStart), EngineError> {
        Err(EngineError::Unreachable("there is no follower".to_owned()))
    }
}

struct Rig {
    queue: Arc<AppendQueue>,
    status: Arc<Status>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Rig {
    fn push(&self, texts: &[&str]) -> Receiver<Answer> {
        self.submit(texts, false)
    }

    fn submit(&self, texts: &[&str], awaits_reading: bool) -> Receiver<Answer> {
        let (sender, answer) = channel();
        let records = texts.iter().map(|text| Record { shard: 0, json: (*text).to_owned() }).collect();
        let done = move |outcome: Result<&[EventId], Refused>| {
            // An error means that the test has ended.
            let _ = sender.send(outcome.map(|ids| ids.last().copied()));
        };
        if let Err((refused, done)) = self.queue.push(records, awaits_reading, Box::new(done)) {
            done(Err(refused));
        }
        answer
    }

    fn end(self) {
        self.queue.close();
        for thread in self.threads {
            thread.join().expect("it ends");
        }
    }
}

const FOREVER: Duration = Duration::from_secs(3600);

fn answer(receiver: &Receiver<Answer>) -> Answer {
    receiver.recv_timeout(Duration::from_secs(30)).expect("every submission is answered")
}

fn sequence(receiver: &Receiver<Answer>) -> Option<u64> {
    answer(receiver).expect("it is taken").map(|id| id.sequence)
}

/// The first append waits for the test, and reports that it waits.
fn held() -> (impl FnMut() + Send + 'static, Sender<()>, Receiver<()>) {
    let (go, wait) = channel::<()>();
    let (sender, is_held) = channel::<()>();
    let mut is_first = true;
    let hold = move || {
        if std::mem::take(&mut is_first) {
            let _ = sender.send(());
            // An error means that the test has ended.
            let _ = wait.recv();
        }
    };
    (hold, go, is_held)
}

#[test]
fn events_that_the_log_can_never_accept_are_refused_alone_in_order() {
    let (mut hold, go, is_held) = held();
    let log = Fake::new(move |texts| {
        hold();
        match texts.iter().find(|text| text.starts_with("bad")) {
            Some(_) => Err(EngineError::Unfit("it is bad".to_owned())),
            None => Ok(()),
        }
    });
    let rig = log.start(FOREVER);
    let first = rig.push(&["first"]);
    is_held.recv().expect("it is sent");
    // These wait together after the first.
    let all: Vec<_> = [&["a", "b"][..], &["c", "bad"], &["d"], &["far too long"], &["bad"], &[], &["e"]]
        .iter()
        .map(|texts| rig.push(texts))
        .collect();
    go.send(()).expect("it waits");
    assert_eq!(sequence(&first), Some(0));
    assert_eq!(sequence(&all[0]), Some(2));
    assert_eq!(answer(&all[1]), Err(Refused::Unfit));
    assert_eq!(sequence(&all[2]), Some(3));
    assert_eq!(answer(&all[3]), Err(Refused::TooLarge { bytes: 12, limit: 10 }));
    assert_eq!(answer(&all[4]), Err(Refused::Unfit));
    assert_eq!(sequence(&all[5]), None, "an empty submission is accepted");
    assert_eq!(sequence(&all[6]), Some(4));
    assert_eq!(*lock(&log.kept), ["first", "a", "b", "d", "e"]);
    assert!(rig.status.is_appending());
    rig.end();
}

#[test]
fn a_log_that_hangs_blocks_no_client() {
    let (mut hold, go, is_held) = held();
    let log = Fake::new(move |_| {
        hold();
        Ok(())
    });
    let rig = log.start(Duration::from_secs(1));
    let sent = rig.push(&["sent"]);
    is_held.recv().expect("it is sent");
    let waiting = rig.push(&["waiting"]);
    assert_eq!(answer(&sent), Err(Refused::Unanswered));
    assert_eq!(answer(&waiting), Err(Refused::Unreachable), "it was never sent");
    assert!(rig.status.not_ready().is_some_and(|not| !not.publishers));
    go.send(()).expect("it waits");
    let later = (0..100).find_map(|_| answer(&rig.push(&["later"])).ok()).flatten();
    assert_eq!(later.map(|id| id.epoch), Some(7));
    assert_eq!(lock(&log.kept)[0], "sent");
    assert!(!lock(&log.kept).contains(&"waiting".to_owned()));
    rig.end();
}

#[test]
fn a_log_that_accepts_nothing_is_reported_and_recovers_by_itself() {
    let is_full = Arc::new(Mutex::new(true));
    let script_full = Arc::clone(&is_full);
    let log = Fake::new(move |_| {
        if *lock(&script_full) { Err(EngineError::TakesNothing("no space".to_owned())) } else { Ok(()) }
    });
    let rig = log.start(Duration::from_millis(200));
    // On a slow machine the first may have been taken alone.
    let is_refused = (0..100).any(|_| answer(&rig.push(&["a"])) == Err(Refused::TakesNothing));
    assert!(is_refused, "the log accepts nothing");
    let not = rig.status.not_ready().expect("it takes nothing");
    assert_eq!((not.status, not.publishers), ("the log takes nothing", false));
    *lock(&is_full) = false;
    let taken = (0..100).any(|_| answer(&rig.push(&["b"])).is_ok());
    assert!(taken && rig.status.is_appending());
    rig.end();
}

#[test]
fn a_lost_answer_stays_in_doubt_whatever_the_log_shows_later() {
    let mut first = true;
    let log = Fake::new(move |_| {
        let is_first = std::mem::take(&mut first);
        Err(if is_first {
            EngineError::Unreachable("cut".to_owned())
        } else {
            EngineError::TakesNothing("full".to_owned())
        })
    });
    let rig = log.start(Duration::from_secs(2));
    assert_eq!(answer(&rig.push(&["a"])), Err(Refused::Unanswered));
    rig.end();
}

#[test]
fn events_reported_as_not_accepted_are_not_sent_afterwards() {
    // Connecting takes longer than the first publisher waits: that one is answered in the meantime, the second is not.
    let (hold, go, is_held) = held();
    let log = Fake { connect: Arc::new(Mutex::new(Box::new(hold))), ..Fake::new(|_| Ok(())) };
    let rig = log.start(Duration::from_secs(2));
    is_held.recv().expect("it connects");
    let first = rig.push(&["first"]);
    assert_eq!(answer(&first), Err(Refused::Unreachable));
    let second = rig.push(&["second"]);
    go.send(()).expect("it waits");
    assert_eq!(sequence(&second), Some(0));
    assert_eq!(*lock(&log.kept), ["second"]);
    rig.end();

    // A log that accepts nothing until some publishers of a batch were refused.
    let (mut hold, go, is_held) = held();
    let is_full = Arc::new(Mutex::new(true));
    let script_full = Arc::clone(&is_full);
    let log = Fake::new(move |texts| {
        if texts == ["before"] {
            hold();
        }
        if *lock(&script_full) && texts != ["before"] {
            return Err(EngineError::TakesNothing("full".to_owned()));
        }
        Ok(())
    });
    let rig = log.start(Duration::from_secs(3));
    let before = rig.push(&["before"]);
    is_held.recv().expect("it is sent");
    let early = rig.push(&["early"]);
    std::thread::sleep(Duration::from_secs(1));
    let late = rig.push(&["late"]);
    go.send(()).expect("it waits");
    assert_eq!(sequence(&before), Some(0));
    assert_eq!(answer(&early), Err(Refused::TakesNothing));
    *lock(&is_full) = false;
    // On a slow machine this one may have waited too long as well.
    let is_taken = answer(&late).is_ok();
    assert_eq!(lock(&log.kept).contains(&"late".to_owned()), is_taken);
    assert!(!lock(&log.kept).contains(&"early".to_owned()));
    rig.end();
}

#[test]
fn waiting_requests_are_answered_at_the_end() {
    let log = Fake::new(|_| Err(EngineError::TakesNothing("full".to_owned())));
    let rig = log.start(FOREVER);
    let one = rig.push(&["a"]);
    rig.queue.close();
    assert_eq!(answer(&rig.push(&["b"])), Err(Refused::Closed));
    assert_eq!(answer(&one), Err(Refused::Closed));
    rig.end();
}

/// Another node's event may come before one that was appended, and make it refused.
#[test]
fn an_answer_that_waits_for_the_reading_comes_after_it() {
    let log = Fake::new(|_| Ok(()));
    let rig = log.start(FOREVER);
    let waits = rig.submit(&["a", "b"], true);
    let others = rig.push(&["c"]);
    assert_eq!(waits.try_recv(), Err(TryRecvError::Empty));
    log.end_past(&Places { epoch: 7, next: vec![1], kept: None });
    assert_eq!(waits.try_recv(), Err(TryRecvError::Empty), "only one of the two was read");
    log.end_past(&Places { epoch: 7, next: vec![3], kept: None });
    assert_eq!((sequence(&waits), sequence(&others)), (Some(1), Some(2)));
    rig.end();
    // A node that does not read its log does not know.
    let rig = log.start(Duration::from_secs(2));
    assert_eq!(answer(&rig.submit(&["d"], true)), Err(Refused::Unanswered));
    assert!(answer(&rig.push(&["e"])).is_ok());
    rig.end();
}
