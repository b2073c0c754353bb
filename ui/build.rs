//! Tells Cargo to embed the page again when it was built again. Runs nothing: the page is built
//! by `make`, and without it a page that says so is served.

fn main() {
    // A path that does not exist would make every build start anew.
    let dist = "web/dist";
    let watch = if std::path::Path::new(dist).exists() { dist } else { "build.rs" };
    println!("cargo:rerun-if-changed={watch}");
}
