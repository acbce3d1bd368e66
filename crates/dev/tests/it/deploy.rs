//! The manifests: rendered, held against Kubernetes' schemas, and then what no schema sees: whether the objects fit each
//! other, whether the edges of the network are exactly those of the architecture, and whether each service accepts the
//! configuration that its pod gives it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use nitejar_dev::keys::Keys;
use nitejar_dev::test_stack::target_dir;
use serde_json::Value;

use crate::schemathesis::python_tool;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const OVERLAYS: [&str; 2] = ["staging", "production"];

/// Who calls whom.
const CALLS: &[(&str, &[&str])] = &[
    ("gateway", &["audit", "billing", "sprites", "tenancy"]),
    ("tenancy", &["audit", "billing", "sprites"]),
    ("sprites", &["audit", "billing", "tenancy"]),
    ("billing", &["audit", "sprites"]),
    ("audit", &[]),
];

/// An overlay's objects as YAML, and read; none where kubectl or the Python tools can't be had.
fn rendered(overlay: &str) -> Option<(PathBuf, tempfile::TempDir, Vec<Value>)> {
    let python = python_tool("python")?;
    let built = Command::new("kubectl")
        .args(["kustomize", &format!("{ROOT}/deploy/k8s/overlays/{overlay}")])
        .output();
    let Ok(built) = built else {
        println!("skipped: kubectl is not installed");
        return None;
    };
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("all.yaml");
    std::fs::write(&file, &built.stdout).unwrap();
    let script = "import json, sys, yaml; json.dump(list(yaml.safe_load_all(open(sys.argv[1]))), sys.stdout)";
    let json = Command::new(python).args(["-c", script]).arg(&file).output().unwrap();
    assert!(json.status.success(), "{}", String::from_utf8_lossy(&json.stderr));
    Some((file, dir, serde_json::from_slice(&json.stdout).unwrap()))
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|o| o["kind"] == kind).collect()
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

/// Whether a selector's labels are among an object's.
fn selects(selector: &Value, labels: &Value) -> bool {
    selector.as_object().unwrap().iter().all(|(key, value)| labels[key] == *value)
}

fn pods(objects: &[Value]) -> Vec<(&str, &Value)> {
    let owners = objects.iter().filter(|o| matches!(o["kind"].as_str(), Some("Deployment" | "Job")));
    owners.map(|o| (name(o), &o["spec"]["template"])).collect()
}

fn containers(pod: &Value) -> Vec<&Value> {
    ["initContainers", "containers"].iter().filter_map(|k| pod["spec"][*k].as_array()).flatten().collect()
}

/// CPU in thousandths, memory in bytes.
fn quantity(text: &str) -> f64 {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" => 1.0,
        "m" => 0.001,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        other => panic!("{text}: {other} is no unit"),
    };
    digits.parse::<f64>().unwrap() * factor
}

/// Everything in which objects do not fit each other.
fn problems(objects: &[Value]) -> Vec<String> {
    let mut found = Vec::new();
    let mut check = |ok: bool, what: String| {
        if !ok {
            found.push(what);
        }
    };
    let deployments = of_kind(objects, "Deployment");
    for d in &deployments {
        let template = &d["spec"]["template"];
        let n = name(d);
        check(
            selects(&d["spec"]["selector"]["matchLabels"], &template["metadata"]["labels"]),
            format!("{n}: selects other pods"),
        );
        let spreads = template["spec"]["topologySpreadConstraints"].as_array().map_or(0, Vec::len);
        check(spreads == 2, format!("{n}: is not spread over hosts and zones"));
        for container in containers(template) {
            for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
                let port = &container[probe]["httpGet"]["port"];
                let named = container["ports"].as_array().unwrap().iter().any(|p| p["name"] == *port);
                check(named, format!("{n}: {probe} asks no port of its own"));
            }
        }
    }
    for service in of_kind(objects, "Service") {
        let behind: Vec<_> = deployments
            .iter()
            .filter(|d| selects(&service["spec"]["selector"], &d["spec"]["template"]["metadata"]["labels"]))
            .collect();
        check(behind.len() == 1, format!("service {} has {} deployments", name(service), behind.len()));
        for port in service["spec"]["ports"].as_array().unwrap() {
            let there = behind
                .iter()
                .flat_map(|d| containers(&d["spec"]["template"]))
                .any(|c| c["ports"].as_array().unwrap().iter().any(|p| p["name"] == port["targetPort"]));
            check(there, format!("service {}: port {} leads nowhere", name(service), port["targetPort"]));
        }
    }
    let mut least: BTreeMap<&str, i64> = BTreeMap::new();
    for scaler in of_kind(objects, "HorizontalPodAutoscaler") {
        let target = scaler["spec"]["scaleTargetRef"]["name"].as_str().unwrap();
        let (min, max) = (
            scaler["spec"]["minReplicas"].as_i64().unwrap(),
            scaler["spec"]["maxReplicas"].as_i64().unwrap(),
        );
        let scaled = deployments.iter().find(|d| name(d) == target);
        check(scaled.is_some(), format!("{target} is scaled but is not there"));
        let fixed = scaled.is_some_and(|d| !d["spec"]["replicas"].is_null());
        check(!fixed, format!("{target} states its replicas, which the autoscaler decides"));
        check(0 < min && min <= max, format!("{target}: {min} to {max} replicas"));
        least.insert(target, min);
    }
    for budget in of_kind(objects, "PodDisruptionBudget") {
        let guarded: Vec<_> = deployments
            .iter()
            .filter(|d| {
                selects(
                    &budget["spec"]["selector"]["matchLabels"],
                    &d["spec"]["template"]["metadata"]["labels"],
                )
            })
            .collect();
        check(guarded.len() == 1, format!("budget {} guards {} deployments", name(budget), guarded.len()));
        let (keep, have) =
            (budget["spec"]["minAvailable"].as_i64().unwrap(), least.get(name(budget)).copied());
        check(
            have.is_some_and(|have| keep < have),
            format!("budget {}: no node could be drained", name(budget)),
        );
    }
    for (owner, pod) in pods(objects) {
        let security = &pod["spec"]["securityContext"];
        check(security["runAsNonRoot"] == true, format!("{owner} may run as root"));
        check(security["seccompProfile"]["type"] == "RuntimeDefault", format!("{owner}: no seccomp"));
        check(
            pod["spec"]["automountServiceAccountToken"] == false,
            format!("{owner} gets a token of the cluster's"),
        );
        let account = pod["spec"]["serviceAccountName"].as_str().unwrap_or_default();
        check(
            of_kind(objects, "ServiceAccount").iter().any(|a| name(a) == account),
            format!("{owner}: no account {account}"),
        );
        let volumes: BTreeSet<&str> =
            pod["spec"]["volumes"].as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap()).collect();
        for c in containers(pod) {
            let n = format!("{owner}/{}", c["name"].as_str().unwrap());
            let s = &c["securityContext"];
            check(s["readOnlyRootFilesystem"] == true, format!("{n}: its root is writable"));
            check(s["allowPrivilegeEscalation"] == false, format!("{n} may gain privileges"));
            check(s["capabilities"]["drop"][0] == "ALL", format!("{n} has capabilities"));
            let image = c["image"].as_str().unwrap();
            let tag = image.rsplit_once(':').map(|(_, tag)| tag);
            check(tag.is_some_and(|tag| tag != "latest"), format!("{n}: {image} is not pinned"));
            let r = &c["resources"];
            for resource in ["cpu", "memory"] {
                let asked = r["requests"][resource].as_str().map(quantity);
                check(asked.is_some_and(|q| q > 0.0), format!("{n} asks for no {resource}"));
                if let (Some(asked), Some(most)) = (asked, r["limits"][resource].as_str().map(quantity)) {
                    check(asked <= most, format!("{n} asks for more {resource} than it may have"));
                }
            }
            check(r["limits"]["memory"].is_string(), format!("{n} may take all memory"));
            for mount in c["volumeMounts"].as_array().into_iter().flatten() {
                check(
                    volumes.contains(mount["name"].as_str().unwrap()),
                    format!("{n}: no volume {}", mount["name"]),
                );
            }
        }
    }
    found
}

/// From, to.
type Edges = BTreeSet<(String, String)>;

/// Edges that the policies allow between pods, as each side says.
fn edges(objects: &[Value]) -> (Edges, Edges) {
    let (mut out, mut into) = (Edges::new(), Edges::new());
    for policy in of_kind(objects, "NetworkPolicy") {
        let own = &policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/name"];
        let Some(own) = own.as_str() else { continue };
        for (direction, peers) in [("egress", "to"), ("ingress", "from")] {
            for rule in policy["spec"][direction].as_array().into_iter().flatten() {
                assert!(rule["ports"].as_array().is_some_and(|p| !p.is_empty()), "{own}: all ports");
                for peer in rule[peers].as_array().expect("a rule without peers allows everybody") {
                    let Some(other) = peer["podSelector"]["matchLabels"]["app.kubernetes.io/name"].as_str()
                    else {
                        continue;
                    };
                    match direction {
                        "egress" => out.insert((own.to_owned(), other.to_owned())),
                        _ => into.insert((other.to_owned(), own.to_owned())),
                    };
                }
            }
        }
    }
    (out, into)
}

#[test]
fn every_overlay_fits_kubernetes_and_itself() {
    for overlay in OVERLAYS {
        let Some((file, _dir, objects)) = rendered(overlay) else { return };
        let validator = python_tool("kubernetes-validate").unwrap();
        let judge = |file: &std::path::Path| {
            Command::new(&validator).args(["-k", "1.33", "--strict"]).arg(file).output().unwrap()
        };
        let verdict = judge(&file);
        assert!(verdict.status.success(), "{overlay}: {}", String::from_utf8_lossy(&verdict.stdout));
        assert_eq!(problems(&objects), Vec::<String>::new(), "{overlay}");

        // Nothing by default; then exactly who calls whom, said by both sides.
        let deny =
            of_kind(&objects, "NetworkPolicy").into_iter().find(|p| name(p) == "default-deny").unwrap();
        assert_eq!(deny["spec"]["podSelector"], serde_json::json!({}));
        assert_eq!(deny["spec"]["policyTypes"], serde_json::json!(["Ingress", "Egress"]));
        let wanted: Edges = CALLS
            .iter()
            .flat_map(|(from, to)| to.iter().map(|to| ((*from).to_owned(), (*to).to_owned())))
            .collect();
        assert_eq!(edges(&objects), (wanted.clone(), wanted), "{overlay}");

        // The restricted profile is enforced on the namespace that everything is in.
        let namespace = of_kind(&objects, "Namespace")[0];
        assert_eq!(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted");
        for object in objects.iter().filter(|o| o["kind"] != "Namespace") {
            assert_eq!(object["metadata"]["namespace"], namespace["metadata"]["name"], "{}", name(object));
        }

        // The judges can say no.
        let broken = file.with_file_name("broken.yaml");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&broken, text.replace("minReplicas", "minimalReplicas")).unwrap();
        assert!(!judge(&broken).status.success());
        for (from, to) in [
            ("/spec/selector/matchLabels/app.kubernetes.io~1name", "other"),
            ("/spec/template/spec/containers/0/resources/requests/memory", "900Gi"),
            ("/spec/template/spec/containers/0/image", "nitejar-cloud:latest"),
            ("/spec/template/spec/containers/0/livenessProbe/httpGet/port", "nowhere"),
        ] {
            let mut changed = objects.clone();
            let deployment = changed.iter_mut().find(|o| o["kind"] == "Deployment").unwrap();
            *deployment.pointer_mut(from).unwrap() = to.into();
            assert_ne!(problems(&changed), Vec::<String>::new(), "{from}");
        }
    }
}

/// What a reference to a secret or a setting gives a container.
fn given(objects: &[Value], keys: &Keys, variable: &Value) -> String {
    if let Some(value) = variable["value"].as_str() {
        return value.to_owned();
    }
    if let Some(reference) = variable["valueFrom"]["configMapKeyRef"].as_object() {
        let map =
            of_kind(objects, "ConfigMap").into_iter().find(|m| m["metadata"]["name"] == reference["name"]);
        let value = &map.unwrap_or_else(|| panic!("no map {}", reference["name"]))["data"]
            [reference["key"].as_str().unwrap()];
        return value
            .as_str()
            .unwrap_or_else(|| panic!("{} has no {}", reference["name"], reference["key"]))
            .to_owned();
    }
    let reference = &variable["valueFrom"]["secretKeyRef"];
    match reference["key"].as_str().unwrap() {
        "signing_key" => keys.tokens["gateway"].0.clone(),
        "master_key" => keys.master.clone(),
        "receipt_key" => keys.receipt.clone(),
        "database_url" => "postgres://owner:password@db.postgres.svc:5432/nj".into(),
        "github_private_key" => keys.app_private.clone(),
        "operator_key_sha256" => "ab".repeat(32),
        "login_secret" | "runner_secret" | "github_client_secret" | "github_webhook_secret" => "s".repeat(64),
        "smtp_username" | "smtp_password" => "mail".into(),
        other => panic!("a secret that nobody documented: {other}"),
    }
}

#[test]
fn every_service_accepts_the_configuration_of_its_pod() {
    let keys = Keys::generate().unwrap();
    for overlay in OVERLAYS {
        let Some((_, _dir, objects)) = rendered(overlay) else { return };
        let mut asked = 0;
        for (owner, pod) in pods(&objects) {
            for container in containers(pod) {
                let command = container["command"][0].as_str().unwrap();
                let mut service = Command::new(target_dir().unwrap().join(command));
                service.arg("--check-config").env_clear();
                for variable in container["env"].as_array().unwrap() {
                    service.env(variable["name"].as_str().unwrap(), given(&objects, &keys, variable));
                }
                let said = service.output().unwrap();
                let text = String::from_utf8_lossy(&said.stderr);
                assert!(said.status.success(), "{overlay} {owner} {command}: {text}");
                // One that nobody knows would be a typing error that nobody sees.
                let prefix = command.to_uppercase().replace('-', "_");
                let typo = service.env(format!("{prefix}__LISTEN__MIAN"), "0.0.0.0:1").output().unwrap();
                assert!(!typo.status.success());
                asked += 1;
            }
        }
        assert_eq!(asked, 9, "five services and four migrations");
    }
}

#[test]
fn the_compose_file_gives_each_service_what_it_accepts() {
    let Some(python) = python_tool("python") else { return };
    let script = "import json, sys, yaml; json.dump(yaml.safe_load(open(sys.argv[1])), sys.stdout)";
    let file = format!("{ROOT}/docker-compose.yml");
    let json = Command::new(python).args(["-c", script, &file]).output().unwrap();
    let compose: Value = serde_json::from_slice(&json.stdout).unwrap();
    let secrets = Command::new("sh").arg(format!("{ROOT}/deploy/make-secrets.sh")).output().unwrap();
    let secrets = String::from_utf8(secrets.stdout).unwrap();
    let secrets: BTreeMap<&str, &str> = secrets.lines().filter_map(|line| line.split_once('=')).collect();
    assert!(
        secrets["OPERATOR_KEY"].len() == 53 && nitejar_common::key::parse(secrets["OPERATOR_KEY"]).is_some()
    );
    let filled = |text: &str| {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let (inside, after) = after.split_once('}').unwrap();
            let (variable, default) =
                inside.split_once(":-").unwrap_or((inside.split(':').next().unwrap(), ""));
            out.push_str(before);
            out.push_str(secrets.get(variable).copied().unwrap_or(default));
            rest = after;
        }
        out + rest
    };
    for service in ["tenancy", "sprites", "billing", "audit", "gateway"] {
        let mut command = Command::new(target_dir().unwrap().join(format!("nitejar-{service}")));
        command.arg("--check-config").env_clear();
        for (name, value) in compose["services"][service]["environment"].as_object().unwrap() {
            command.env(name, filled(value.as_str().unwrap()));
        }
        let said = command.output().unwrap();
        assert!(said.status.success(), "{service}: {}", String::from_utf8_lossy(&said.stderr));
        assert_eq!(compose["services"][service]["read_only"], true);
        assert_eq!(compose["services"][service]["cap_drop"][0], "ALL");
    }
}
