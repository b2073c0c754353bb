//! The generated code is what the `.proto` files say. `WEIR_WRITE=1` writes it.

use std::path::{Path, PathBuf};

use prost::Message as _;

const PROTOS: &[&str] = &["agent.proto", "export.proto"];

#[test]
fn generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let committed = root.join("src/generated");
    let scratch = tempfile::tempdir().unwrap();
    generate(&root.join(".."), scratch.path());

    let write = std::env::var_os("WEIR_WRITE").is_some();
    let mut differ = Vec::new();
    for fresh in files(scratch.path()) {
        let name = fresh.file_name().unwrap();
        let target = committed.join(name);
        let new = std::fs::read(&fresh).unwrap();
        if std::fs::read(&target).ok().as_deref() != Some(&new) {
            if write {
                std::fs::create_dir_all(&committed).unwrap();
                std::fs::write(&target, &new).unwrap();
            } else {
                differ.push(name.to_owned());
            }
        }
    }
    assert!(differ.is_empty(), "{differ:?} differ: run `WEIR_WRITE=1 cargo test -p wire`");
}

fn generate(protos: &Path, out: &Path) {
    let descriptors = protox::compile(PROTOS, [protos]).unwrap();
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec()).unwrap();
    tonic_prost_build::configure()
        .bytes(".weir.export.v1.Part.ipc")
        .out_dir(out)
        .compile_fds(descriptors)
        .unwrap();
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    assert!(!found.is_empty());
    found
}
