//! Passes the linker script to the bare-metal binary, and to nothing else.

fn main() {
    println!("cargo:rerun-if-changed=linker.ld");
    println!("cargo:rerun-if-env-changed=CARGO_CFG_TARGET_OS");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let root = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
        for arg in
            ["-pie", "--no-dynamic-linker", "-znorelro", "-zpack-relative-relocs", "-znotext"]
        {
            println!("cargo:rustc-link-arg-bins={arg}");
        }
        println!("cargo:rustc-link-arg-bins=-T{root}/linker.ld");
    }
}
