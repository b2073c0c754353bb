//! The compiler's changes, as writes to the kernel's tables.

use datapath_loader::{Error, PolicySnapshot, PolicyTables};
use datapath_policy::{Change, Cidr, MemoryTables, octets};

/// Applies changes in order; neighbours of one kind go together in one batch.
pub(super) fn apply(tables: &PolicyTables, changes: &[Change]) -> Result<(), Error> {
    let mut rest = changes;
    while let Some(first) = rest.first() {
        let same =
            |change: &&Change| std::mem::discriminant(*change) == std::mem::discriminant(first);
        let run = rest.iter().take_while(same).count();
        apply_run(tables, &rest[..run])?;
        rest = &rest[run..];
    }
    Ok(())
}

/// Writes and removals of one map, in the order in which they came for each key.
macro_rules! entries {
    ($run:expr, $pattern:pat => $key:expr, $value:expr) => {{
        let mut put = Vec::new();
        let mut gone = Vec::new();
        for change in $run {
            if let $pattern = change {
                match $value {
                    Some(value) => put.push(($key, *value)),
                    None => gone.push($key),
                }
            }
        }
        (put, gone)
    }};
}

fn apply_run(tables: &PolicyTables, run: &[Change]) -> Result<(), Error> {
    match &run[0] {
        Change::Origin { .. } => {
            let (put, gone) =
                entries!(run, Change::Origin { number, origin } => *number, origin.as_deref());
            tables.put_origins(&put)?;
            tables.remove_origins(&gone)
        }
        Change::Host { .. } => {
            let (put, gone) =
                entries!(run, Change::Host { address, peer } => octets(*address), peer.as_ref());
            tables.put_hosts(&put)?;
            tables.remove_hosts(&gone)
        }
        Change::Cidr { .. } => {
            let (put, gone) =
                entries!(run, Change::Cidr { cidr, peer } => cidr.prefix(), peer.as_ref());
            tables.put_cidrs(&put)?;
            tables.remove_cidrs(&gone)
        }
        Change::Policy { .. } => {
            let (put, gone) =
                entries!(run, Change::Policy { number, policy } => *number, policy.as_deref());
            tables.put_policies(&put)?;
            tables.remove_policies(&gone)
        }
        Change::Subject { .. } => {
            let (put, gone) = entries!(run, Change::Subject { interface, subject } => *interface, subject.as_ref());
            tables.put_subjects(&put)?;
            tables.remove_subjects(&gone)
        }
        _ => run.iter().try_for_each(|change| apply_one(tables, change)),
    }
}

fn apply_one(tables: &PolicyTables, change: &Change) -> Result<(), Error> {
    match change {
        Change::Class { index, class } => {
            tables.write_class(*index, class);
        }
        Change::Bits { class, word, bits } => {
            tables.write_word(*class, *word, *bits);
        }
        Change::Rules { start, rules } => tables.write_rules(*start, rules)?,
        Change::Intervals { start, intervals } => tables.write_intervals(*start, intervals)?,
        Change::Settings(settings) => tables.set_settings(*settings)?,
        Change::Barrier => tables.barrier()?,
        // Maps are written in runs.
        _ => {}
    }
    Ok(())
}

/// What an earlier agent has left; none where the tables were never written.
pub(super) fn read(tables: &PolicyTables) -> Result<Option<MemoryTables>, Error> {
    if tables.settings()?.revision == 0 {
        return Ok(None);
    }
    Ok(Some(memory(tables.snapshot()?)))
}

fn memory(found: PolicySnapshot) -> MemoryTables {
    let mut memory = MemoryTables::default();
    memory.subjects = found.subjects.into_iter().collect();
    memory.policies = found.policies.into_iter().collect();
    memory.intervals = found.intervals;
    memory.rules = found.rules;
    memory.classes = found.classes;
    memory.hosts = found.hosts.into_iter().collect();
    memory.origins = found.origins.into_iter().collect();
    if let Some(settings) = found.settings {
        memory.settings = settings;
    }
    for (prefix, peer) in found.cidrs {
        if let Some(cidr) = Cidr::from_prefix(&prefix) {
            memory.put_cidr(cidr, Some(peer));
        }
    }
    memory
}
