//! A folder in the mount namespace of another process, for files that it is to read.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::fs::{
    AtFlags, Mode, OFlags, ResolveFlags, StatVfsMountFlags, fstatvfs, mkdirat, openat, openat2,
    unlinkat,
};

/// Where it may be: somewhere that everybody may write.
const PLACES: &[&str] = &["tmp", "var/tmp", "dev/shm"];

/// Largest file that is read, in bytes.
const READ_BYTES: u64 = 64 * 1024;

/// Goes with its files when it is dropped.
#[derive(Debug)]
pub(super) struct Folder {
    parent: OwnedFd,
    folder: OwnedFd,
    name: String,
    path: PathBuf,
}

impl Folder {
    /// Makes a folder below the root of a process, where files can be executed. Only the user of this
    /// thread can use it.
    ///
    /// # Errors
    ///
    /// There is no place for it: the last error.
    pub(super) fn create(root: impl AsFd) -> io::Result<Self> {
        let mut last = io::Error::other("every place is mounted without execution");
        for place in PLACES {
            match Self::create_at(&root, place) {
                Ok(Some(folder)) => return Ok(folder),
                Ok(None) => {}
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn create_at(root: impl AsFd, place: &str) -> io::Result<Option<Self>> {
        let parent = open_folder(root, place)?;
        if fstatvfs(&parent)?
            .f_flag
            .contains(StatVfsMountFlags::NOEXEC)
        {
            return Ok(None);
        }
        let name = format!(".observer-{:016x}", fastrand::u64(..));
        mkdirat(&parent, &name, Mode::RWXU)?;
        let folder = openat(
            &parent,
            &name,
            OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Ok(Some(Self {
            parent,
            folder,
            path: Path::new("/").join(place).join(&name),
            name,
        }))
    }

    /// Where the process has it.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a file.
    ///
    /// # Errors
    ///
    /// As open(2) and write(2).
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> io::Result<File> {
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.folder, name, flags, Mode::RWXU)?);
        file.write_all(bytes)?;
        Ok(file)
    }

    /// Reads a file that the process has made.
    ///
    /// # Errors
    ///
    /// As open(2) and read(2).
    pub(super) fn read(&self, name: &str) -> io::Result<String> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(&self.folder, name, flags, Mode::empty())?);
        let mut text = Vec::new();
        file.take(READ_BYTES).read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Ok(entries) = rustix::fs::Dir::read_from(&self.folder) {
            for entry in entries.flatten() {
                let _ = unlinkat(&self.folder, entry.file_name(), AtFlags::empty());
            }
        }
        let _ = unlinkat(&self.parent, &self.name, AtFlags::REMOVEDIR);
    }
}

/// Opens a folder below the root of a process. Links lead where they lead for the process.
///
/// # Errors
///
/// As openat2(2).
pub(super) fn open_folder(root: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    Ok(openat2(
        root,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn it_is_in_the_root_of_the_process_and_goes_with_its_files() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        // An absolute link leads out of nothing.
        std::os::unix::fs::symlink(outside.path(), root.path().join("tmp")).unwrap();
        fs::create_dir_all(root.path().join("var/tmp")).unwrap();
        let folder = Folder::create(File::open(root.path()).unwrap()).unwrap();
        assert!(folder.path().starts_with("/var/tmp"));
        let there = root.path().join(folder.path().strip_prefix("/").unwrap());
        folder.write("agent", b"bytes").unwrap();
        fs::write(there.join("status"), "on").unwrap();
        assert_eq!(folder.read("status").unwrap(), "on");
        assert!(folder.write("agent", b"again").is_err());
        drop(folder);
        assert!(!there.exists());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
