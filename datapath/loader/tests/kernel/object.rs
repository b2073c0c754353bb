//! The object: accepted by the verifier, and built from the sources that are here.

use std::collections::BTreeMap;

use datapath_loader::{Acceleration, PolicySizes};

use crate::kernel::lab::Lab;

/// Instructions that the verifier looked at, by kernel (`major.minor`) and program.
const INSTRUCTIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/instructions.json");

/// XDP, so that its programs are loaded too.
const SMALL: Acceleration = Acceleration { buckets4: 64, buckets6: 64, ..Acceleration::USUAL };

#[test]
fn loads_and_says_what_it_is() {
    let mut lab = Lab::new("obj");
    lab.options.xdp = Some(SMALL);
    let datapath = lab.open();
    assert!(!datapath.adopted());
    for program in datapath.programs() {
        println!(
            "{:16} {:5} instructions, {:6} verified, {:5} bytes of code, tag {}",
            program.name, program.instructions, program.verified, program.jited_bytes, program.tag
        );
        assert!(program.verified < 500_000, "{} is close to the verifier's limit", program.name);
    }
    for map in datapath.maps() {
        println!("{map:?}");
    }
    for feature in datapath.features() {
        println!("{:20} {:5} {}", feature.name, feature.on, feature.why);
        let tcx = release() >= (6, 6);
        let expected = match feature.name {
            "tcx" => tcx,
            "clsact" => !tcx,
            "perf_event_array" | "socket_services" | "xdp" => false,
            _ => true,
        };
        assert_eq!(feature.on, expected, "{}: {}", feature.name, feature.why);
    }
    datapath.remove().unwrap();
}

#[test]
fn is_built_from_these_sources() {
    let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/src/weir.bpf.o");
    let hash = concat!(env!("CARGO_MANIFEST_DIR"), "/src/weir.bpf.o.sha256");
    let built = std::fs::read(env!("WEIR_BPF_OBJECT")).unwrap();
    if std::env::var_os("WEIR_BPF_UPDATE").is_some() {
        assert_eq!(env!("WEIR_BPF_ORIGIN"), "built", "set WEIR_BPF_REBUILD=1 too");
        std::fs::write(committed, &built).unwrap();
        std::fs::write(hash, concat!(env!("WEIR_BPF_SOURCES"), "\n")).unwrap();
    }
    let update = "WEIR_BPF_REBUILD=1 WEIR_BPF_UPDATE=1 cargo test -p datapath-loader \
        --test kernel is_built_from_these_sources";
    assert_eq!(
        std::fs::read_to_string(hash).unwrap_or_default().trim(),
        env!("WEIR_BPF_SOURCES"),
        "sources have changed since the object was committed: {update}"
    );
    assert!(
        std::fs::read(committed).unwrap() == built,
        "the committed object is not what its sources build to ({}): {update}",
        env!("WEIR_BPF_ORIGIN")
    );
}

/// This kernel's major and minor number.
fn release() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// The verifier's work must not grow unseen: a kernel that has more ways to follow gives up at a million.
#[test]
fn instructions_do_not_grow() {
    let mut lab = Lab::new("grow");
    lab.options.policy = Some(PolicySizes::USUAL);
    lab.options.xdp = Some(SMALL);
    let datapath = lab.open();
    let found: BTreeMap<_, _> = datapath
        .programs()
        .into_iter()
        .map(|program| (program.name, (program.instructions, program.verified)))
        .collect();
    datapath.remove().unwrap();
    let (major, minor) = release();
    let kernel = format!("{major}.{minor}");
    let text = std::fs::read_to_string(INSTRUCTIONS).unwrap();
    let mut all: BTreeMap<String, BTreeMap<String, (u32, u32)>> =
        serde_json::from_str(&text).unwrap();
    if std::env::var_os("WEIR_BPF_UPDATE").is_some() {
        all.insert(kernel, found);
        std::fs::write(INSTRUCTIONS, serde_json::to_string_pretty(&all).unwrap() + "\n").unwrap();
        return;
    }
    let Some(recorded) = all.get(&kernel) else {
        println!("nothing is recorded for kernel {kernel}: {found:?}");
        return;
    };
    for (program, (instructions, verified)) in &found {
        let grown = |now: u32, was: u32| now > was + was / 10;
        let (was_instructions, was_verified) = recorded[program];
        assert!(
            !grown(*instructions, was_instructions) && !grown(*verified, was_verified),
            "{program}: {was_instructions} instructions, {was_verified} looked at, were recorded; \
             now {instructions} and {verified}. If that is as it should be: WEIR_BPF_UPDATE=1"
        );
    }
}
