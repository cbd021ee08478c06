//! Hands the linker script to the linker. A `.cargo/config.toml` would be looked up from the caller's
//! directory, which is the project's root.

fn main() {
    println!("cargo::rerun-if-changed=linker.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let root = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets the manifest's directory");
    // Linked as position-independent, the entry code relocates the image to wherever it was loaded.
    for arg in ["-pie", "--no-dynamic-linker", "-znotext", "-zmax-page-size=4096"] {
        println!("cargo::rustc-link-arg-bins={arg}");
    }
    println!("cargo::rustc-link-arg-bins=-T{root}/linker.ld");
}
