//! Installs the Python SDKs if that has not been done, and prints their interpreter.

fn main() -> anyhow::Result<()> {
    println!("{}", observer_e2e::clients::python()?.display());
    Ok(())
}
