//! What the name of a process's cgroup says of its container and its pod.
//!
//! Sources of the forms: cgroups(7); the kubelet's `pkg/kubelet/cm` (`kubepods[/CLASS]/podUID` with the driver
//! `cgroupfs`, `kubepods-CLASS-podUID.slice` with `systemd`); containerd, CRI-O, Docker and Podman for what they call
//! the container's own.

/// A container, by its cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Uid of the pod, as the kubelet has it: that of an object of the API, or 32 hexadecimal digits of a static pod.
    pub pod_uid: Option<String>,
}

/// The path in /proc/PID/cgroup that says most: the first that names a container, version 2 before version 1; else
/// the first that is not the root.
pub fn path(cgroup: &str) -> Option<&str> {
    let unified = cgroup.lines().filter(|line| line.starts_with("0::"));
    let others = cgroup.lines().filter(|line| !line.starts_with("0::"));
    let paths = unified
        .chain(others)
        .filter_map(|line| line.splitn(3, ':').nth(2));
    let mut best: Option<&str> = None;
    for path in paths {
        if container(path).is_some() {
            return Some(path);
        }
        if best.is_none_or(|best| best == "/") {
            best = Some(path);
        }
    }
    best
}

/// The innermost container that a path is in; what runs beside a container, such as its monitor, is in none.
pub fn container(path: &str) -> Option<Container> {
    let parts: Vec<&str> = path.split('/').collect();
    let (at, id) = parts
        .iter()
        .enumerate()
        .rev()
        .find_map(|(at, part)| Some((at, container_id(part)?)))?;
    // A kubelet in a container of its own has its pods below it, and its container's id above theirs.
    let pod_uid = parts[..=at].iter().rev().find_map(|part| pod_uid(part));
    Some(Container {
        id: id.to_owned(),
        pod_uid,
    })
}

/// The id in the last part of a container's path: `ID`, `RUNTIME-ID.scope`, and containerd's `SLICE:RUNTIME:ID` where
/// the kubelet has another driver than it.
fn container_id(part: &str) -> Option<&str> {
    let part = part.strip_suffix(".scope").unwrap_or(part);
    // `crio-conmon-ID` and `libpod-conmon-ID` watch over the container from outside.
    if part.contains("conmon-") {
        return None;
    }
    let id = part.rsplit([':', '-']).next()?;
    (id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

/// The uid in the name of a pod's cgroup.
fn pod_uid(part: &str) -> Option<String> {
    // Without the container that containerd appends.
    let slice = part.split(':').next()?;
    let name = slice.strip_suffix(".slice").unwrap_or(slice);
    let name = match name.rfind("-pod") {
        // systemd's slices are called after all that they are in.
        Some(at) if name.contains("kubepods") => &name[at + 1..],
        _ => name,
    };
    let uid = name.strip_prefix("pod")?.replace('_', "-");
    let of_api = uid.len() == 36
        && uid.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    let of_file = uid.len() == 32 && uid.bytes().all(|byte| byte.is_ascii_hexdigit());
    (of_api || of_file).then_some(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4c01db0b339c6f4f5b3a4e3f6e6ce4b9c1a3f0f3b1a2c3d4e5f60718293a4b5c";
    const OUTER: &str = "aa01db0b339c6f4f5b3a4e3f6e6ce4b9c1a3f0f3b1a2c3d4e5f60718293a4b5c";
    const UID: &str = "0f5e3a52-7c0f-4f2e-9a57-2f0a3d1c9b11";
    const STATIC: &str = "d4f1c0e8a9b7d6c5e4f1c0e8a9b7d6c5";

    fn of(path: &str) -> Option<(String, Option<String>)> {
        container(path).map(|found| (found.id, found.pod_uid))
    }

    #[test]
    fn pods_are_found_with_every_driver_and_runtime() {
        let low = UID.replace('-', "_");
        for path in [
            // The driver cgroupfs; a guaranteed pod is in no class.
            format!("/kubepods/besteffort/pod{UID}/{ID}"),
            format!("/kubepods/pod{UID}/{ID}"),
            // systemd.
            format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{low}.slice/cri-containerd-{ID}.scope"
            ),
            format!("/kubepods.slice/kubepods-pod{low}.slice/crio-{ID}.scope"),
            format!(
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{low}.slice/docker-{ID}.scope"
            ),
            // Scopes of the container's own.
            format!("/kubepods.slice/kubepods-pod{low}.slice/crio-{ID}.scope/container"),
            format!("/kubepods/burstable/pod{UID}/{ID}/system.slice/app.service"),
            // containerd has another driver than the kubelet.
            format!(
                "/system.slice/containerd.service/kubepods-burstable-pod{low}.slice:cri-containerd:{ID}"
            ),
            // kind: the node is a container.
            format!(
                "/docker/{OUTER}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{low}.slice/cri-containerd-{ID}.scope"
            ),
            format!("/docker/{OUTER}/kubelet/kubepods/besteffort/pod{UID}/{ID}"),
            // Seen from within another container's cgroup namespace.
            format!("/../../pod{UID}/{ID}"),
        ] {
            assert_eq!(
                of(&path),
                Some((ID.to_owned(), Some(UID.to_owned()))),
                "{path}"
            );
        }
        let path = format!("/kubepods/burstable/pod{STATIC}/{ID}");
        assert_eq!(of(&path), Some((ID.to_owned(), Some(STATIC.to_owned()))));
    }

    #[test]
    fn containers_without_pods_are_found() {
        for path in [
            format!("/system.slice/docker-{ID}.scope"),
            format!("/docker/{ID}"),
            format!("/machine.slice/libpod-{ID}.scope/container"),
            format!("/libpod_parent/libpod-{ID}"),
            format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope"),
            format!("/k8s.io/{ID}"),
            format!("/ecs/task/{ID}"),
            format!("/../{ID}"),
            format!("/kubepods.slice/crio-{ID}.scope"),
        ] {
            assert_eq!(of(&path), Some((ID.to_owned(), None)), "{path}");
        }
    }

    #[test]
    fn what_is_no_container_is_none() {
        let short = &ID[1..];
        for path in [
            "/".to_owned(),
            String::new(),
            "/user.slice/user-0.slice/session-1.scope".to_owned(),
            format!("/machine.slice/libpod-conmon-{ID}.scope"),
            format!("/kubepods.slice/crio-conmon-{ID}.scope"),
            format!("/docker/{short}"),
            format!("/docker/{ID}0"),
            format!("/kubepods/besteffort/pod{UID}"),
        ] {
            assert_eq!(of(&path), None, "{path}");
        }
        assert_eq!(
            of(&format!("/kubepods/podwith-a-name/{ID}")),
            Some((ID.to_owned(), None)),
            "a uid has a form"
        );
    }

    #[test]
    fn the_path_that_says_most_is_taken() {
        let pod = format!("/kubepods/besteffort/pod{UID}/{ID}");
        let hybrid = format!("12:cpu:{pod}\n3:pids:{pod}\n1:name=systemd:/\n0::/\n");
        assert_eq!(path(&hybrid), Some(&pod[..]));
        assert_eq!(path(&format!("0::{pod}\n")), Some(&pod[..]));
        assert_eq!(
            path("2:cpu:/a\n0::/user.slice\n"),
            Some("/user.slice"),
            "version 2 first"
        );
        assert_eq!(path("2:cpu:/a\n1:net:/b\n0::/\n"), Some("/a"));
        assert_eq!(path("0::/\n"), Some("/"));
        assert_eq!(path(""), None);
        assert_eq!(path("0::/a:b\n"), Some("/a:b"), "colons in a name");
    }
}
