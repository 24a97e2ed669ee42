//! The documentation of the options is that of the options.

#![allow(
    clippy::unwrap_used,
    reason = "a test may panic anywhere, not only in a test function"
)]

use std::{env, fs, path::Path};

#[test]
fn the_documentation_is_that_of_the_options() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    for (name, expected) in ["configuration.md", "observer.toml"]
        .into_iter()
        .zip(observer::cli::documentation())
    {
        let file = docs.join(name);
        if env::var_os("OBSERVER_WRITE_DOCS").is_some() {
            fs::write(&file, &expected).unwrap();
        }
        assert!(
            fs::read_to_string(&file).unwrap() == expected,
            "docs/{name} is not what the options say: run `cargo xtask docs`"
        );
    }
}
