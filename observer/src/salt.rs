//! The secret by which fingerprints of API keys are made: whoever does not have it cannot tell which key a
//! fingerprint is of, not even by trying.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use anyhow::{Context as _, bail};
use rustix::rand::{GetRandomFlags, getrandom};
use tracing::info;

/// Where the salt is kept if no other place is named.
const DEFAULT: &str = "/var/lib/observer/salt";

/// A salt.
pub type Salt = [u8; 32];

/// Reads the salt of a file, or makes one and keeps it there. If no file is named and the usual one cannot be
/// had, the salt is good for this run alone.
///
/// # Errors
///
/// The file that is named cannot be read or made, or holds something else.
pub fn salt(file: Option<&Path>) -> anyhow::Result<Salt> {
    match file {
        Some(path) => of(path),
        None => of(Path::new(DEFAULT)).or_else(|error| {
            info!("fingerprints of API keys are comparable within this run only: {error:#}");
            random().context("no random numbers")
        }),
    }
}

fn of(path: &Path) -> anyhow::Result<Salt> {
    let shown = path.display();
    match read(path)? {
        Some(salt) => Ok(salt),
        None => {
            make(path).with_context(|| format!("cannot keep a salt in {shown}"))?;
            // Another observer may have been first.
            read(path)?.with_context(|| format!("{shown} is gone"))
        }
    }
}

fn read(path: &Path) -> anyhow::Result<Option<Salt>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => bail!("cannot read {}: {error}", path.display()),
    };
    let digits = text.trim_end().as_bytes();
    let mut salt = Salt::default();
    let is_salt = digits.len() == 2 * salt.len() && digits.iter().all(u8::is_ascii_hexdigit);
    if !is_salt {
        bail!("{} holds no salt: 64 hexadecimal digits", path.display());
    }
    for (byte, pair) in salt.iter_mut().zip(text.as_bytes().chunks(2)) {
        let pair = str::from_utf8(pair).unwrap_or_default();
        *byte = u8::from_str_radix(pair, 16).unwrap_or_default();
    }
    Ok(Some(salt))
}

/// Puts a random salt into a file that is there as a whole or not at all.
fn make(path: &Path) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let digits: String = random()?.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let draft = path.with_file_name(name);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|mut file| writeln!(file, "{digits}"));
    let linked = written.and_then(|()| match fs::hard_link(&draft, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    });
    let _ = fs::remove_file(&draft);
    linked
}

fn random() -> io::Result<Salt> {
    let mut salt = Salt::default();
    let mut filled = 0;
    while filled < salt.len() {
        filled += getrandom(&mut salt[filled..], GetRandomFlags::empty())?;
    }
    Ok(salt)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_salt_is_made_once_and_is_a_secret() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("observer/salt");
        let salt = of(&path).unwrap();
        assert_ne!(salt, Salt::default());
        assert_eq!(of(&path).unwrap(), salt);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // Nothing else is left.
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_salt_is_refused_and_kept() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("salt");
        fs::write(&path, "hunter2").unwrap();
        let error = of(&path).unwrap_err().to_string();
        assert!(error.ends_with("64 hexadecimal digits"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "hunter2");
    }
}
