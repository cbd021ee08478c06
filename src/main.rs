//! Plinth's image.
fn main() {
    println!("this is a bare-metal image; use `cargo xtask run`");
}
