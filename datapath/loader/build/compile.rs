//! Builds the object, the same one wherever it is built.
//!
//! The sources are copied to a workspace of their own, in which every path is relative: cargo puts
//! the paths of packages outside a workspace into the names of symbols.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::sources::Source;
use crate::strip;

const TARGET: &str = "bpfel-unknown-none";

/// What to install, for whom has no compiler for BPF.
const INSTALL: &str = "the eBPF sources differ from those of the committed object, and building \
    them needs a rustc with a `core` for bpfel-unknown-none, and bpf-linker. On Debian: apt-get \
    install rustc-web libstd-rust-web-dev-bpf llvm-22-dev libpolly-22-dev zlib1g-dev libzstd-dev; \
    then LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version 0.13.0 \
    --no-default-features --features llvm-22. WEIR_BPF_RUSTC names another rustc";

pub(crate) fn compile(sources: &[Source], out: &Path, object: &Path) -> Result<(), String> {
    let rustc = rustc().ok_or_else(|| format!("no rustc for {TARGET}: {INSTALL}"))?;
    let linker = linker().ok_or_else(|| format!("no bpf-linker: {INSTALL}"))?;
    let workspace = out.join("bpf");
    copy(sources, &workspace)?;
    let target = out.join("bpf-target");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        // What cargo and rustup have set for the outer build is not for this one.
        let text = name.to_string_lossy();
        let outer =
            text.starts_with("CARGO") && text != "CARGO_HOME" && text != "CARGO_NET_OFFLINE";
        if outer || text.starts_with("RUST") && text != "RUSTUP_HOME" {
            cargo.env_remove(&name);
        }
    }
    let status = cargo
        .args(["build", "--release", "--locked", "--target", TARGET, "--bin", "weir"])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(&workspace)
        .env("RUSTC", &rustc)
        // For inline assembly on BPF, which is not stable.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags(&workspace, &linker).join("\x1f"))
        .status()
        .map_err(|error| format!("cargo: {error}"))?;
    if !status.success() {
        return Err("building the eBPF object failed, see above".to_owned());
    }
    let built = target.join(TARGET).join("release/weir");
    let bytes = std::fs::read(&built).map_err(|error| format!("{}: {error}", built.display()))?;
    let bytes = strip::debug(&bytes)?;
    std::fs::write(object, bytes).map_err(|error| format!("{}: {error}", object.display()))
}

/// `mcpu=v3` is what kernel 5.10 takes; packets are not aligned, and the kernel doesn't mind.
fn flags(workspace: &Path, linker: &Path) -> Vec<String> {
    let mut flags = vec![
        format!("-Clinker={}", linker.display()),
        "-Cdebuginfo=2".to_owned(),
        "-Ctarget-cpu=v3".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // In order, LLVM expands copies but turns every clearing into a loop.
        "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
        "-Clink-arg=--cpu-features=+allows-misaligned-mem-access".to_owned(),
        format!("--remap-path-prefix={}=", workspace.display()),
    ];
    let registry = cargo_home().join("registry/src");
    for index in std::fs::read_dir(registry).into_iter().flatten().flatten() {
        flags.push(format!("--remap-path-prefix={}=registry", index.path().display()));
    }
    flags
}

fn copy(sources: &[Source], workspace: &Path) -> Result<(), String> {
    let _ = std::fs::remove_dir_all(workspace);
    for source in sources {
        let name = source.name.strip_prefix("ebpf/").unwrap_or(&source.name);
        let path = workspace.join(name);
        let bytes = if name == "Cargo.toml" {
            String::from_utf8_lossy(&source.bytes).replace("\"../", "\"").into_bytes()
        } else {
            source.bytes.clone()
        };
        let write = || {
            std::fs::create_dir_all(path.parent().unwrap_or(workspace))?;
            std::fs::write(&path, bytes)
        };
        write().map_err(|error: std::io::Error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// A compiler that has a `core` for BPF.
fn rustc() -> Option<PathBuf> {
    let named = std::env::var_os("WEIR_BPF_RUSTC").map(PathBuf::from);
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&on_path).map(|directory| directory.join("rustc"));
    named.into_iter().chain(["/usr/bin/rustc".into()]).chain(on_path).find(|rustc| has_core(rustc))
}

fn has_core(rustc: &Path) -> bool {
    let output = Command::new(rustc)
        .args(["--print", "target-libdir", "--target", TARGET])
        .env_remove("RUSTC")
        .output();
    let Ok(output) = output else {
        return false;
    };
    let libraries = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    std::fs::read_dir(libraries)
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
}

fn linker() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([cargo_home().join("bin")])
        .map(|directory| directory.join("bpf-linker"))
        .find(|linker| linker.is_file())
}

fn cargo_home() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cargo");
    std::env::var_os("CARGO_HOME").map_or_else(home, PathBuf::from)
}
