//! Truth tables, cell by cell with real connections: those that are written down in
//! `datapath/policy/tests/conformance`, and cyclonus's generated cases.
//!
//! `WEIR_WRITE=1` writes what was found to `tests/policy/*.report.txt`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use datapath_agent::control::Manifests;
use datapath_agent::enforce::cluster;
use datapath_policy::naive::{Attempt, Verdict, Who, judge};
use datapath_policy::{Compiler, Options};
use harness::{long, serial};

use crate::cyclonus;
use crate::fixture::{ENDS, Fixture, IN_TABLES, PODS, PORTS};
use crate::table::{Case, Word};
use crate::traffic::{Cell, Servers, probe_all};
use crate::{IN_FORCE, enforcing};

/// Numbers of `datapath_abi::policy`.
const DIRECTIONS: [usize; 2] = [1, 0];

/// What was found.
struct Report {
    name: &'static str,
    lines: String,
    wrong: Vec<String>,
    cells: usize,
    tables: usize,
}

// === impl Report ===

impl Report {
    fn new(name: &'static str) -> Self {
        Self { name, lines: String::new(), wrong: Vec::new(), cells: 0, tables: 0 }
    }

    /// Checks one table, and notes it.
    fn table(
        &mut self,
        case: &str,
        fixture: &Fixture,
        cells: &[Cell],
        open: impl Fn(Cell) -> bool,
    ) {
        let begun = Instant::now();
        let missed = converge(fixture, cells, open);
        let took = begun.elapsed().as_millis();
        self.cells += cells.len();
        self.tables += 1;
        let words = if missed.is_empty() { "right" } else { "WRONG" };
        let _ = writeln!(self.lines, "{words} {} cells {took:5} ms  {case}", cells.len());
        if !missed.is_empty() {
            self.wrong.push(format!("{case}: {missed:?}"));
        }
    }

    fn end(self) {
        let Self { name, lines, wrong, cells, tables } = self;
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        let head = format!(
            "{name}: {tables} tables, {cells} cells, each by a real connection; {} tables wrong. Linux {kernel}.",
            wrong.len()
        );
        println!("{head}");
        if std::env::var_os("WEIR_WRITE").is_some() {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/policy");
            let path = folder.join(format!("{name}.report.txt"));
            fs::write(path, format!("{head}\n\n{lines}")).unwrap();
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

#[test]
fn truth_tables() {
    let _turn = serial();
    let mut fixture = Fixture::build("ptable").unwrap();
    let _servers = Servers::start(&fixture);
    let _agent = enforcing(&fixture);
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("datapath/policy/tests/conformance");
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "yaml"))
        .collect();
    files.sort();
    assert!(files.len() >= 50, "the truth tables are there");
    let mut report = Report::new("conformance");
    let cells = cells(&(0..IN_TABLES).collect::<Vec<_>>());
    for path in &files {
        let case = Case::read(path);
        fixture.reset();
        for (number, step) in case.steps.iter().enumerate() {
            fixture.apply(step);
            settle();
            let name = path.file_stem().unwrap().to_string_lossy();
            let name = format!("{name}, step {number}: {}", case.name);
            report.table(&name, &fixture, &cells, |cell| {
                let (from, to, port) = cell;
                step.expected(ENDS[from].0, ENDS[to].0, PORTS[port].0) == Word::Allow
            });
        }
    }
    report.end();
}

/// A part of them in the short form, all in the long one.
#[test]
fn generated_cases() {
    let _turn = serial();
    let mut fixture = Fixture::build("pcyc").unwrap();
    let _servers = Servers::start(&fixture);
    let _agent = enforcing(&fixture);
    let mut report = Report::new("cyclonus");
    let cases = cyclonus::cases();
    // Upstream adds the e2e list, which the truth tables have.
    assert_eq!(cases.len(), 217);
    let every = if long() { 1 } else { 4 };
    let chosen = cases.iter().enumerate().filter(|(number, case)| {
        number % every == 0 || case.name.starts_with("actions") || case.name.starts_with("example")
    });
    for (_, case) in chosen {
        for (number, step) in case.steps.iter().enumerate() {
            fixture.become_as(step);
            settle();
            let specified = Specified::new(&fixture);
            let cells = cells(&fixture.ends());
            report.table(&format!("{}, step {number}", case.name), &fixture, &cells, |cell| {
                specified.is_open(cell)
            });
        }
    }
    report.end();
}

/// A table that was right before the change says nothing of the change.
fn settle() {
    std::thread::sleep(Duration::from_millis(60));
}

/// From each of these ends to each pod among them, on every port.
fn cells(ends: &[usize]) -> Vec<Cell> {
    let is_pod = |end: &&usize| **end < PODS || **end >= IN_TABLES;
    let pairs = ends.iter().flat_map(|from| ends.iter().filter(is_pod).map(move |to| (*from, *to)));
    let pairs = pairs.filter(|(from, to)| from != to);
    pairs.flat_map(|(from, to)| (0..PORTS.len()).map(move |port| (from, to, port))).collect()
}

/// Cells that are not as expected, once there was time for them to become so.
fn converge(fixture: &Fixture, cells: &[Cell], open: impl Fn(Cell) -> bool) -> Vec<String> {
    let end = Instant::now() + IN_FORCE;
    let mut rest: Option<Vec<Cell>> = None;
    loop {
        let answers = probe_all(fixture, Some(rest.as_deref().unwrap_or(cells)));
        let wrong: Vec<_> = answers
            .iter()
            .filter(|(cell, answered)| **answered != open(**cell))
            .map(|(cell, _)| *cell)
            .collect();
        let late = Instant::now() >= end;
        match (wrong.is_empty(), rest.is_some()) {
            (true, false) => return Vec::new(),
            (true, true) if late => return Vec::new(),
            // What was asked again is right; so is all of it, still.
            (true, true) => rest = None,
            (false, _) if late => {
                let name = |(from, to, port): &Cell| {
                    format!("{} → {} {}", ENDS[*from].0, ENDS[*to].0, PORTS[*port].0)
                };
                return wrong.iter().map(name).collect();
            }
            (false, _) => rest = Some(wrong),
        }
    }
}

/// The specification as a program, over the manifests that the agent reads.
struct Specified(Compiler);

// === impl Specified ===

impl Specified {
    fn new(fixture: &Fixture) -> Self {
        let snapshot = Manifests::new(fixture.manifests()).poll().unwrap();
        assert_eq!(snapshot.problems, []);
        let mut compiler = Compiler::new(Options::default());
        cluster::feed_all(&mut compiler, &snapshot, "a");
        Self(compiler)
    }

    fn is_open(&self, (from, to, port): Cell) -> bool {
        let (_, protocol, port) = PORTS[port];
        [(from, to), (to, from)].into_iter().zip(DIRECTIONS).all(|((own, peer), direction)| {
            let who = ENDS[own].0;
            if !who.contains('/') {
                return true;
            }
            let attempt = Attempt { direction, peer: ENDS[peer].1.into(), protocol, port };
            let judged = judge(self.0.cluster(), Who::Endpoint(who), &attempt);
            judged.is_some_and(|(verdict, _)| verdict == Verdict::Allow)
        })
    }
}
