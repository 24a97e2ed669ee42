//! The clients of `clients/java`, for the tests of the JDK's own TLS.

use std::{ffi::OsString, fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use observer_e2e::{
    clients,
    harness::{Client, Scene},
    java,
};
use serde_json::Value;
use tempfile::TempDir;

/// The option under test.
pub(crate) const JAVA_AGENT: &str = "--java-agent";

/// A command line that runs the client.
pub(crate) fn client(scene: &Scene, options: &[&str], arguments: &[&str]) -> Vec<OsString> {
    let folder = java::classes().unwrap_or_else(|error| panic!("{error:#}"));
    let mut command: Vec<OsString> = vec!["java".into()];
    // Tests run side by side, each JVM with a few threads of its own.
    command.extend(["-Xmx256m", "-XX:TieredStopAtLevel=1"].map(OsString::from));
    command.extend(options.iter().map(OsString::from));
    command.push("-cp".into());
    command.push(format!("{0}:{0}/lib/*", folder.display()).into());
    command.push("Client".into());
    command.push(scene.provider.url().into());
    command.extend(arguments.iter().map(OsString::from));
    command
}

/// Has the client make its calls. Returns what it found of the agent then.
pub(crate) fn round(client: &mut Client) -> Value {
    client.go_on();
    serde_json::from_str(&client.line()).expect("what the client found")
}

/// Whether there is no trace of the agent in the methods that the client calls, nor among its threads.
pub(crate) fn is_untouched(found: &Value) -> bool {
    found["frames"] == 0 && found["thread"] == false
}

/// A copy of the client's classes that every user can read, who can read the provider's certificate too.
pub(crate) fn readable(scene: &Scene) -> TempDir {
    // Everybody may look there, also where /tmp is another one.
    let copy = tempfile::tempdir_in("/var/tmp").expect("a folder");
    for folder in [scene.folder.path(), copy.path()] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("its owner");
    }
    clients::run(
        Command::new("cp")
            .arg("-rT")
            .arg(java::classes().expect("the clients"))
            .arg(copy.path()),
    )
    .expect("a copy");
    copy
}

/// Lets a command line use another copy of the classes.
pub(crate) fn replace_classes(command: &mut [OsString], folder: &Path) {
    let option = command.iter().position(|word| word == "-cp");
    command[option.expect("a class path") + 1] = format!("{0}:{0}/lib/*", folder.display()).into();
}

/// Runs a command as another user.
pub(crate) fn nobody(command: &[OsString]) -> Vec<OsString> {
    let mut all: Vec<OsString> = ["setpriv", "--reuid", "65534", "--regid", "65534"]
        .map(OsString::from)
        .to_vec();
    all.push("--clear-groups".into());
    all.extend(command.iter().cloned());
    all
}
