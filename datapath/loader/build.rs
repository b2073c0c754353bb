//! Finds the eBPF object, or builds it.
//!
//! The committed object (`src/weir.bpf.o`) is used when it was built from the sources that are here:
//! `src/weir.bpf.o.sha256` holds their hash. Else it is built, which needs a compiler for BPF; where
//! there is none, the build stops and says what to install. `WEIR_BPF_REBUILD=1` builds in any case:
//! `tests/object.rs` then compares the result with what is committed.

use std::path::{Path, PathBuf};

#[path = "build/compile.rs"]
mod compile;
#[path = "build/sources.rs"]
mod sources;
#[path = "build/strip.rs"]
mod strip;

fn main() {
    let loader = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(variable("OUT_DIR"));
    println!("cargo::rerun-if-env-changed=WEIR_BPF_REBUILD");
    println!("cargo::rerun-if-env-changed=WEIR_BPF_RUSTC");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    if let Err(why) = object(&loader, &out) {
        println!("cargo::error={why}");
    }
}

fn object(loader: &Path, out: &Path) -> Result<(), String> {
    let datapath = loader.join("..");
    let sources = sources::find(&datapath)?;
    for source in &sources {
        println!("cargo::rerun-if-changed={}", source.path.display());
    }
    let hash = sources::hash(&sources);
    let committed = loader.join("src/weir.bpf.o");
    println!("cargo::rerun-if-changed={}", committed.display());
    println!("cargo::rerun-if-changed={}", loader.join("src/weir.bpf.o.sha256").display());
    let made = out.join("weir.bpf.o");
    let rebuild = std::env::var_os("WEIR_BPF_REBUILD").is_some_and(|value| value != "0");
    let fits = std::fs::read_to_string(loader.join("src/weir.bpf.o.sha256"))
        .is_ok_and(|text| text.trim() == hash);
    let origin = if fits && !rebuild {
        std::fs::copy(&committed, &made)
            .map_err(|error| format!("{}: {error}", committed.display()))?;
        "committed"
    } else {
        compile::compile(&sources, out, &made)?;
        "built"
    };
    println!("cargo::rustc-env=WEIR_BPF_ORIGIN={origin}");
    println!("cargo::rustc-env=WEIR_BPF_SOURCES={hash}");
    println!("cargo::rustc-env=WEIR_BPF_OBJECT={}", made.display());
    Ok(())
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}
