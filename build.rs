//! Migrations are compiled into the binary; cargo must notice when one changes.

fn main() {
    println!("cargo::rerun-if-changed=sql/migrations");
}
