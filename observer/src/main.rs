//! The program `observer`: a thin shell around the library.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    observer::cli::main()
}
