//! The documentation of the formats is that of the tables.

#![allow(
    clippy::unwrap_used,
    reason = "a test may panic anywhere, not only in a test function"
)]

use std::{env, fs, path::Path};

#[test]
fn the_documentation_is_that_of_the_tables() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/providers.md");
    let expected = observer_wire::provider::reference();
    if env::var_os("OBSERVER_WRITE_DOCS").is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, &expected).unwrap();
    }
    assert!(
        fs::read_to_string(&file).unwrap() == expected,
        "docs/providers.md is not what the tables say: run `cargo xtask docs`"
    );
}
