//! The thread that does the accounting: events in, batches out, interfaces followed.
//!
//! A thread of its own because a walk of a full table takes tenths of a second, and the export
//! streams must not wait for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use stage::StopToken;
use tokio::sync::watch;

use crate::account::{Accountant, Failure};
use crate::control::Snapshot;
use crate::dimensions::{Dimensions, ThisNode};
use crate::enforce::Compiled;
use crate::events::Lanes;
use crate::host::{Host, Link};
use crate::kernel::{Kernel, MapUse};
use crate::metrics::Metrics;
use crate::services::Programmed;
use crate::services::book::Book;
use crate::spool::Spool;
use crate::status::{self, Status};
use crate::{Config, view};

mod follow;

/// Longest time that events wait in the lanes: well below what would fill them.
const LOOK: Duration = Duration::from_millis(50);
/// Pauses after a commit that failed: the disk may be full for a while.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LAST_BACKOFF: Duration = Duration::from_secs(10);

/// The thread's state.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) config: Arc<Config>,
    pub(crate) kernel: Box<dyn Kernel>,
    pub(crate) accountant: Accountant,
    pub(crate) lanes: Lanes,
    pub(crate) host: Box<dyn Host>,
    pub(crate) control: watch::Receiver<Arc<Snapshot>>,
    pub(crate) spool: Arc<Spool>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) status: Status,
    pub(crate) following: Following,
    pub(crate) compiled: Compiled,
    pub(crate) programmed: Programmed,
}

/// What is followed, as of the last look.
#[derive(Debug, Default)]
pub(crate) struct Following {
    snapshot: Arc<Snapshot>,
    links: Vec<Link>,
    dimensions: Dimensions,
    looked: bool,
    /// Interfaces that could not be attached to: why, and when to try again.
    refused: Vec<(String, String, Instant)>,
}

/// When the next thing is due.
struct Schedule {
    flush: Instant,
    pass: Instant,
    follow: Instant,
    /// Nothing is committed before, after a failure.
    not_before: Instant,
    backoff: Duration,
    /// For the rate.
    rows: u64,
    measured: Instant,
}

// === impl Worker ===

impl Worker {
    /// Works until `stop`, then reports the rest. Gives the kernel half back, and whether
    /// everything was reported.
    pub(crate) fn run(mut self, stop: &StopToken) -> (Box<dyn Kernel>, bool) {
        let mut schedule = Schedule::new(&self.config);
        while !stop.is_stopped() {
            let now = self.kernel.now();
            self.take_events();
            self.follow(&mut schedule, now);
            self.report(&mut schedule, now);
            std::thread::sleep(LOOK.min(self.config.flush));
        }
        let complete = self.finish();
        (self.kernel, complete)
    }

    /// Looks at the interfaces for the first time: takes over what is attached and attaches to the
    /// rest, so that what is observed is known when the agent says that it is ready.
    pub(crate) fn begin(&mut self) -> Result<(), Failure> {
        let now = self.kernel.now();
        self.look(now, true)?;
        self.accountant.end_unattached(&mut *self.kernel, now)?;
        self.publish(0.0);
        Ok(())
    }

    fn take_events(&mut self) {
        while let Some(item) = self.lanes.item() {
            self.accountant.take(&*self.kernel, item);
        }
        while let Some(drop) = self.lanes.drop() {
            self.accountant.take_drop(&*self.kernel, &drop);
        }
        while let Some(answer) = self.lanes.answer() {
            let (key, time) = (&answer.key, answer.time_ns);
            self.accountant.take_answer(&*self.kernel, key, time, &answer.payload);
        }
        if self.lanes.take_denied() {
            self.accountant.look_at_refusals();
        }
        let (items, answers) = self.lanes.take_lost();
        self.accountant.lost_in_queue("connection events", items);
        self.accountant.lost_in_queue("dns answers", answers);
    }

    fn follow(&mut self, schedule: &mut Schedule, now: i64) {
        if Instant::now() < schedule.follow {
            return;
        }
        schedule.follow = Instant::now() + follow::PAUSE;
        if let Err(failure) = self.look_if_changed(now) {
            self.status.warn("interfaces", vec![failure.to_string()]);
        }
    }

    /// Commits what is due.
    fn report(&mut self, schedule: &mut Schedule, now: i64) {
        let clock = Instant::now();
        if clock < schedule.not_before {
            return;
        }
        let early = self.accountant.is_filling() && clock >= schedule.measured + follow::PAUSE * 4;
        let done = if clock >= schedule.pass || early {
            schedule.pass = clock + self.config.interval;
            schedule.flush = clock + self.config.flush;
            let passed = self.pass(now);
            let rate = schedule.rate(self.accountant.rows());
            self.publish(rate);
            passed
        } else if clock >= schedule.flush {
            schedule.flush = clock + self.config.flush;
            self.accountant.flush(&*self.kernel, now)
        } else {
            return;
        };
        self.outcome(schedule, done);
    }

    fn pass(&mut self, now: i64) -> Result<(), Failure> {
        // With their counters as they are now.
        if let Ok(links) = self.host.links() {
            self.following.links = links;
        }
        self.accountant.pass(&*self.kernel, &self.following.links, now)?;
        // Their connections have ended in the pass.
        self.accountant.report_ended(&mut *self.kernel, now)
    }

    fn outcome(&mut self, schedule: &mut Schedule, done: Result<(), Failure>) {
        match done {
            Ok(()) if schedule.backoff.is_zero() => {}
            Ok(()) => {
                tracing::info!("reporting goes on");
                schedule.backoff = Duration::ZERO;
                self.status.warn("reporting", Vec::new());
            }
            Err(failure) => {
                schedule.fail();
                tracing::error!(%failure, "nothing reported; the counters keep it");
                let warning = format!("{failure}; the counters keep what is not reported");
                self.status.warn("reporting", vec![warning]);
            }
        }
    }

    fn publish(&mut self, flows_per_second: f64) {
        let connections = self.accountant.connections();
        let mut maps = self.kernel.maps();
        for map in maps.iter_mut().filter(|map| map.name == "connections") {
            *map = MapUse { entries: connections, ..map.clone() };
        }
        self.metrics.spool_bytes.set(self.spool.state().bytes.cast_signed());
        self.metrics.interfaces.set(self.kernel.attached().len() as i64);
        if let Ok(answers) = self.kernel.answers() {
            self.metrics.answers(answers);
        }
        if let Some(counters) = self.kernel.service_counters() {
            self.metrics.services(&counters);
        }
        if let Some(counters) = self.kernel.flow_cache() {
            self.metrics.flow_cache(&counters);
        }
        for (name, entries, capacity) in self.programmed.ask(Book::uses).into_iter().flatten() {
            self.metrics.table(name, entries, capacity);
        }
        let interfaces = self.interfaces();
        self.status.update(|report| {
            report.connections = connections;
            report.flows_per_second = flows_per_second;
            report.maps = maps;
            report.interfaces = interfaces;
        });
    }

    fn interfaces(&self) -> Vec<wire::export::Interface> {
        let mut all = Vec::new();
        for attached in self.kernel.attached() {
            let stats = self.following.links.iter().find(|link| link.index == attached.ifindex);
            let stats = stats.map(|link| link.stats).unwrap_or_default();
            let counters = self.kernel.interface(attached.ifindex).ok();
            let counts = counters.iter().flatten().flat_map(|hook| &hook.causes);
            let (packets, bytes) = counts.fold((0, 0), |(p, b), c| (p + c.packets, b + c.bytes));
            let pods = self.accountant.view.ports.get(attached.ifindex);
            let pods =
                pods.map(|port| port.pods.iter().map(|p| format!("{}/{}", p.namespace, p.pod)));
            all.push(wire::export::Interface {
                name: attached.name,
                index: attached.ifindex,
                attached_by: attached.by.to_owned(),
                rx_bytes: stats.rx_bytes,
                rx_packets: stats.rx_packets,
                tx_bytes: stats.tx_bytes,
                tx_packets: stats.tx_packets,
                unattributed_bytes: bytes,
                unattributed_packets: packets,
                pod: pods.into_iter().flatten().collect::<Vec<_>>().join(","),
            });
        }
        all
    }

    /// The end: everything that was counted is reported. Where the datapath goes, it is detached
    /// first, so that nothing is counted after the last look.
    fn finish(&mut self) -> bool {
        let now = self.kernel.now();
        self.take_events();
        self.accountant.stop();
        if !self.config.keep_datapath {
            for attached in self.kernel.attached() {
                if let Err(failure) = self.accountant.end(&mut *self.kernel, attached.ifindex, None)
                {
                    tracing::warn!(interface = attached.name, %failure, "not detached");
                }
            }
            if let Ok(links) = self.host.links() {
                self.accountant.ended_with(&links);
            }
        }
        // What events were still to tell of, the walk finds.
        let reported = self.pass(now).and_then(|()| self.accountant.flush(&*self.kernel, now));
        if let Err(failure) = &reported {
            tracing::error!(%failure, "the rest could not be reported; the datapath stays for it");
        }
        let _ = self.spool.sync();
        reported.is_ok()
    }

    fn this_node(&self) -> ThisNode {
        let features = self.kernel.features();
        let named = |on: bool| {
            features.iter().filter(|f| f.on == on).map(|f| f.name.clone()).collect::<Vec<_>>()
        };
        ThisNode {
            boot_id: self.accountant.boot().to_owned(),
            mode: self.config.mode.name(),
            kernel: status::kernel_release(),
            features_on: named(true),
            features_off: named(false),
            ..ThisNode::default()
        }
    }

    fn view(&mut self) -> &mut view::View {
        &mut self.accountant.view
    }
}

// === impl Schedule ===

impl Schedule {
    fn new(config: &Config) -> Self {
        let now = Instant::now();
        Self {
            flush: now + config.flush,
            // What agents before this one left is reported at once.
            pass: now,
            follow: now,
            not_before: now,
            backoff: Duration::ZERO,
            rows: 0,
            measured: now,
        }
    }

    fn fail(&mut self) {
        self.backoff = (self.backoff * 2).clamp(FIRST_BACKOFF, LAST_BACKOFF);
        self.not_before = Instant::now() + self.backoff;
        // Then everything is looked at, not only what events told of.
        self.pass = self.not_before;
    }

    /// Rows per second since the last time.
    fn rate(&mut self, rows: u64) -> f64 {
        let elapsed = self.measured.elapsed().as_secs_f64().max(0.001);
        let new = rows.saturating_sub(self.rows);
        (self.rows, self.measured) = (rows, Instant::now());
        new as f64 / elapsed
    }
}
