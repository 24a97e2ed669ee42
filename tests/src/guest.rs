//! Other kernels: Debian's, booted under QEMU's software emulation with nothing but what a test brings.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};

use crate::{clients, commands::run};

/// How long a guest may run: emulation is slow, and the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(240);

/// What must be installed, and the Debian package that has it.
const TOOLS: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("gzip", "gzip"),
];

/// Debian's meta package of the kernels of a series, which depends on the newest.
const KERNELS: &[(&str, &str)] = &[
    ("6.1", "linux-image-cloud-amd64"),
    ("6.12", "linux-image-6.12-cloud-amd64"),
];

/// A machine that is to be booted.
#[derive(Debug)]
pub struct Guest {
    kernel: PathBuf,
    root: tempfile::TempDir,
}

impl Guest {
    /// A machine with Debian's kernel of a series, such as `6.1`.
    ///
    /// # Errors
    ///
    /// QEMU or the kernel cannot be had from Debian.
    pub fn new(series: &str) -> anyhow::Result<Self> {
        let kernel = kernel(series)?;
        let root = tempfile::tempdir()?;
        for folder in ["bin", "dev", "proc", "sys", "tmp", "lib64", "etc"] {
            fs::create_dir(root.path().join(folder))?;
        }
        let guest = Self { kernel, root };
        let busybox = which("busybox").context("no busybox")?;
        fs::copy(busybox, guest.root.path().join("bin/busybox"))?;
        symlink("busybox", guest.root.path().join("bin/sh"))?;
        Ok(guest)
    }

    /// Adds a program under /bin, with the shared libraries that it needs.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn program(&self, name: &str, path: &Path) -> anyhow::Result<()> {
        let copy = self.root.path().join("bin").join(name);
        fs::copy(path, &copy)?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
        self.libraries(path)
    }

    /// Adds a shared library where it lies here, with those that it needs.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn library(&self, path: &Path) -> anyhow::Result<()> {
        self.place(path)?;
        self.libraries(path)
    }

    fn libraries(&self, path: &Path) -> anyhow::Result<()> {
        let output = Command::new("ldd").arg(path).output()?;
        for word in String::from_utf8_lossy(&output.stdout).split_whitespace() {
            if word.starts_with('/') && word != path.as_os_str() {
                self.place(Path::new(word))?;
            }
        }
        Ok(())
    }

    fn place(&self, path: &Path) -> anyhow::Result<()> {
        let place = self.root.path().join(path.strip_prefix("/")?);
        fs::create_dir_all(place.parent().context("no folder")?)?;
        fs::copy(path, place).with_context(|| path.display().to_string())?;
        Ok(())
    }

    /// Boots the machine, runs the shell script as its first process with the usual file systems
    /// mounted, and returns what came over the console.
    ///
    /// # Errors
    ///
    /// The script does not come to its end in time; the message holds the console.
    pub fn run(&self, script: &str) -> anyhow::Result<String> {
        let init = self.root.path().join("init");
        fs::write(
            &init,
            format!(
                "#!/bin/sh\n\
                 /bin/busybox --install -s /bin\n\
                 export PATH=/bin LD_LIBRARY_PATH=/usr/lib/x86_64-linux-gnu:/lib/x86_64-linux-gnu\n\
                 mount -t proc proc /proc\nmount -t sysfs sys /sys\nmount -t devtmpfs dev /dev\n\
                 mount -t tracefs tracefs /sys/kernel/tracing\n\
                 ip link set lo up\n{script}\necho the guest is done\npoweroff -f\n"
            ),
        )?;
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
        let folder = tempfile::tempdir()?;
        let archive = folder.path().join("initramfs.gz");
        let packed = Command::new("sh")
            .arg("-c")
            .arg("find . | cpio --quiet -o -H newc | gzip -1")
            .current_dir(self.root.path())
            .stdout(File::create(&archive)?)
            .status()?;
        ensure!(packed.success(), "cannot pack the initramfs");
        let mut qemu = Command::new("qemu-system-x86_64")
            .args(["-accel", "tcg", "-cpu", "max", "-m", "1024", "-nographic"])
            .args(["-no-reboot", "-net", "none", "-kernel"])
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&archive)
            .args(["-append", "console=ttyS0 panic=-1 quiet"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut out = qemu.stdout.take().context("piped")?;
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(length @ 1..) = out.read(&mut part) {
                let _ = sender.send(part[..length].to_vec());
            }
        });
        let mut console = Vec::new();
        let deadline = std::time::Instant::now() + PATIENCE;
        while let Ok(part) =
            receiver.recv_timeout(deadline.saturating_duration_since(std::time::Instant::now()))
        {
            console.extend(part);
        }
        let _ = qemu.kill();
        qemu.wait()?;
        let console = String::from_utf8_lossy(&console).replace('\r', "");
        ensure!(
            console.contains("the guest is done"),
            "the guest came to no end:\n{console}"
        );
        Ok(console)
    }
}

/// The kernel images of all series; what is missing is downloaded.
///
/// # Errors
///
/// QEMU or a kernel cannot be had from Debian.
pub fn kernels() -> anyhow::Result<Vec<PathBuf>> {
    KERNELS.iter().map(|(series, _)| kernel(series)).collect()
}

/// The kernel image of a series; downloaded once.
fn kernel(series: &str) -> anyhow::Result<PathBuf> {
    let meta = KERNELS
        .iter()
        .find(|(name, _)| *name == series)
        .map(|(_, meta)| *meta)
        .context("an unknown series")?;
    let parent = clients::target().join("e2e/kernels");
    fs::create_dir_all(&parent)?;
    let lock = File::create(parent.join("lock"))?;
    lock.lock()?;
    let missing: Vec<&str> = TOOLS
        .iter()
        .filter(|(tool, _)| which(tool).is_none())
        .map(|(_, package)| *package)
        .collect();
    if !missing.is_empty() {
        apt(&["update", "-q"], &parent)?;
        let mut install = vec!["install", "-yq", "--no-install-recommends"];
        install.extend(missing);
        apt(&install, &parent)?;
    }
    let folder = parent.join(series);
    if let Some(kernel) = image(&folder) {
        return Ok(kernel);
    }
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let download = || {
        let package = newest(meta).with_context(|| format!("Debian has no {meta}"))?;
        apt(&["download", "-q", &package], &folder)
    };
    // The lists may be empty, or name a kernel that Debian has replaced.
    download().or_else(|_| apt(&["update", "-q"], &parent).and_then(|()| download()))?;
    let archive = fs::read_dir(&folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("no package")?;
    let unpacked = Command::new("dpkg")
        .arg("-x")
        .arg(&archive)
        .arg(folder.join("unpacked"))
        .status()?;
    ensure!(unpacked.success(), "cannot unpack {}", archive.display());
    let boot = image(&folder.join("unpacked/boot")).context("the package has no kernel")?;
    let kernel = folder.join(boot.file_name().context("no name")?);
    fs::rename(boot, &kernel)?;
    fs::remove_dir_all(folder.join("unpacked"))?;
    fs::remove_file(archive)?;
    Ok(kernel)
}

fn image(folder: &Path) -> Option<PathBuf> {
    fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"))
        })
}

/// The package that a meta package depends on.
fn newest(meta: &str) -> Option<String> {
    let output = Command::new("apt-cache")
        .args(["depends", meta])
        .output()
        .ok()?;
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .find_map(|line| {
            let package = line.trim().strip_prefix("Depends: ")?;
            package
                .starts_with("linux-image-")
                .then(|| package.to_owned())
        })
}

fn apt(arguments: &[&str], folder: &Path) -> anyhow::Result<()> {
    // Not ended when it takes long: dpkg must not be left in the middle.
    let mut apt = Command::new("apt-get");
    apt.args(["-o", "Acquire::Retries=6", "-o", "DPkg::Lock::Timeout=600"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .current_dir(folder);
    run(&mut apt).context("apt-get: these tests install QEMU and kernels from Debian")
}

fn which(tool: &str) -> Option<PathBuf> {
    ["/usr/bin", "/bin", "/usr/sbin", "/sbin"]
        .iter()
        .map(|folder| Path::new(folder).join(tool))
        .find(|path| path.exists())
}
