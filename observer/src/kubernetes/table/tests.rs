use serde_json::{Value, json};

use super::*;

const UID: &str = "0f5e3a52-7c0f-4f2e-9a57-2f0a3d1c9b11";

fn id(c: char) -> String {
    c.to_string().repeat(64)
}

fn container(c: char) -> Container {
    Container {
        id: id(c),
        pod_uid: Some(UID.to_owned()),
    }
}

fn table() -> Table {
    Table::new(&Options {
        cluster: Some("test".to_owned()),
        pod_label: vec!["team".to_owned(), "missing".to_owned()],
        ..Options::default()
    })
}

fn pod(change: impl FnOnce(&mut Value)) -> object::Pod {
    let mut pod = json!({
        "metadata": {
            "uid": UID, "namespace": "shop", "name": "web-6d4c-x1",
            "labels": {"pod-template-hash": "6d4c", "team": "a", "app": "web"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-6d4c",
                                 "uid": "u", "controller": true}],
        },
        "spec": {"nodeName": "node1", "containers": [{"name": "app", "image": "r.io:5000/web:1.2"}]},
        "status": {"podIP": "10.0.0.7", "startTime": "2026-01-02T03:04:05Z"},
    });
    change(&mut pod);
    serde_json::from_value(pod).unwrap()
}

fn running(pod: &mut Value, containers: &[(&str, char)]) {
    let statuses = containers.iter().map(|(name, c)| {
        json!({"name": name, "containerID": format!("containerd://{}", id(*c)), "image": "sha256:1",
               "imageID": "", "ready": true, "restartCount": 0})
    });
    pod["status"]["containerStatuses"] = statuses.collect();
}

fn put(table: &mut Table, object: &object::Pod) {
    table.put(object, &Selection::default());
}

#[test]
fn the_only_container_is_known_before_its_id_is() {
    let mut table = table();
    assert!(table.of(&container('a')).is_none());
    put(&mut table, &pod(|_| {}));
    let known = table.of(&container('a')).unwrap().clone();
    assert!(known.is_complete && known.selected);
    let pod = &known.pod;
    assert_eq!(pod.namespace.as_deref(), Some("shop"));
    assert_eq!(pod.pod.as_deref(), Some("web-6d4c-x1"));
    assert_eq!(pod.container.as_deref(), Some("app"));
    assert_eq!(pod.image.as_deref(), Some("r.io:5000/web:1.2"));
    assert_eq!(pod.node.as_deref(), Some("node1"));
    assert_eq!(pod.cluster.as_deref(), Some("test"));
    assert_eq!(pod.workload_kind.as_deref(), Some("deployment"));
    assert_eq!(pod.workload.as_deref(), Some("web"));
    assert_eq!(pod.service.as_deref(), Some("web"));
    assert_eq!(pod.labels.len(), 1);
    assert_eq!(pod.more.replicaset.as_deref(), Some("web-6d4c"));
    assert_eq!(pod.more.ip.as_deref(), Some("10.0.0.7"));
    assert_eq!(pod.more.start_time.as_deref(), Some("2026-01-02T03:04:05Z"));
}

#[test]
fn of_several_containers_the_status_tells_which() {
    let mut table = table();
    let two = |pod: &mut Value| {
        pod["spec"]["containers"] =
            json!([{"name": "app", "image": "app:1"}, {"name": "proxy", "image": "proxy:2"}]);
    };
    put(&mut table, &pod(two));
    let known = table.of(&container('b')).unwrap();
    assert!(!known.is_complete && known.pod.pod.is_some() && known.pod.container.is_none());
    let object = pod(|pod| {
        two(pod);
        running(pod, &[("app", 'a'), ("proxy", 'b')]);
    });
    put(&mut table, &object);
    let known = table.of(&container('b')).unwrap();
    assert!(known.is_complete);
    assert_eq!(known.pod.container.as_deref(), Some("proxy"));
    assert_eq!(known.pod.image.as_deref(), Some("proxy:2"));
    // A restart of the container.
    let object = pod(|pod| {
        two(pod);
        running(pod, &[("app", 'a'), ("proxy", 'c')]);
    });
    put(&mut table, &object);
    for c in ['b', 'c'] {
        let known = table.of(&container(c)).unwrap();
        assert_eq!(known.pod.container.as_deref(), Some("proxy"), "{c}");
    }
}

#[test]
fn workloads_are_called_what_their_owners_call_them() {
    let owned = |kind: &str, name: &str, hash: Option<&str>| {
        let mut table = table();
        let object = pod(|pod| {
            pod["metadata"]["labels"] = json!({});
            if let Some(hash) = hash {
                pod["metadata"]["labels"] = json!({"pod-template-hash": hash});
            }
            pod["metadata"]["ownerReferences"][0]["kind"] = json!(kind);
            pod["metadata"]["ownerReferences"][0]["name"] = json!(name);
        });
        put(&mut table, &object);
        let pod = Arc::clone(&table.of(&container('a')).unwrap().pod);
        (
            pod.workload_kind.clone().unwrap_or_default(),
            pod.workload.clone().unwrap_or_default(),
        )
    };
    let is = |kind: &str, name: &str| (kind.to_owned(), name.to_owned());
    assert_eq!(
        owned("ReplicaSet", "web-6d4c", Some("6d4c")),
        is("deployment", "web")
    );
    assert_eq!(
        owned("ReplicaSet", "web-6d4c", None),
        is("replicaset", "web-6d4c")
    );
    assert_eq!(
        owned("ReplicaSet", "6d4c", Some("6d4c")),
        is("replicaset", "6d4c")
    );
    assert_eq!(owned("StatefulSet", "db", None), is("statefulset", "db"));
    assert_eq!(owned("DaemonSet", "log", None), is("daemonset", "log"));
    assert_eq!(
        owned("Job", "nightly-29412345", None),
        is("cronjob", "nightly")
    );
    assert_eq!(owned("Job", "import-1", None), is("job", "import-1"));
    assert_eq!(owned("Workflow", "w", None), is("workflow", "w"));
    assert_eq!(owned("Node", "node1", None), is("", ""));
}

#[test]
fn services_are_called_by_annotations_before_labels() {
    let service = |change: &dyn Fn(&mut Value)| {
        let mut table = table();
        put(&mut table, &pod(change));
        table
            .of(&container('a'))
            .unwrap()
            .pod
            .service
            .clone()
            .unwrap()
    };
    let named = |pod: &mut Value| {
        pod["metadata"]["labels"]["app.kubernetes.io/name"] = json!("by-name");
    };
    assert_eq!(service(&named), "by-name");
    let instance = |pod: &mut Value| {
        named(pod);
        pod["metadata"]["labels"]["app.kubernetes.io/instance"] = json!("by-instance");
    };
    assert_eq!(service(&instance), "by-instance");
    let annotated = |pod: &mut Value| {
        instance(pod);
        pod["metadata"]["annotations"] =
            json!({"resource.opentelemetry.io/service.name": "by-annotation"});
    };
    assert_eq!(service(&annotated), "by-annotation");
    let bare = |pod: &mut Value| {
        pod["metadata"]["labels"] = json!({});
        pod["metadata"]["ownerReferences"] = json!([]);
    };
    assert_eq!(service(&bare), "web-6d4c-x1");
}

#[test]
fn a_static_pod_is_found_by_its_hash() {
    let hash = "d4f1c0e8a9b7d6c5e4f1c0e8a9b7d6c5";
    let mut table = table();
    let object = pod(|pod| {
        pod["metadata"]["annotations"] = json!({"kubernetes.io/config.hash": hash});
    });
    put(&mut table, &object);
    let container = Container {
        id: id('a'),
        pod_uid: Some(hash.to_owned()),
    };
    assert!(table.of(&container).is_some());
}

#[test]
fn labels_that_change_change_what_is_watched() {
    let selection = Selection {
        pods: Some("observe!=no".parse().unwrap()),
        ..Selection::default()
    };
    let mut table = table();
    table.put(&pod(|_| {}), &selection);
    assert!(table.of(&container('a')).unwrap().selected);
    let object = pod(|pod| pod["metadata"]["labels"]["observe"] = json!("no"));
    table.put(&object, &selection);
    assert!(!table.of(&container('a')).unwrap().selected);
}

#[test]
fn what_lacks_a_name_is_passed_over() {
    let mut table = table();
    for field in ["uid", "namespace", "name"] {
        let object = pod(|pod| pod["metadata"][field] = Value::Null);
        put(&mut table, &object);
    }
    assert_eq!(table.len(), 0);
}
