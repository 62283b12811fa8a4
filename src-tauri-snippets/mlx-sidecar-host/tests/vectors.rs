//! The protocol's vectors, the same files that the Python tests read.

use mlx_sidecar_host::decision::*;
use mlx_sidecar_host::record::*;
use mlx_sidecar_host::restarts::{Backoff, Restarts};
use mlx_sidecar_host::trace::Schedule;
use serde_json::{json, Value};

fn load(name: &str) -> Value {
    // Asked for at run time: clones share a target directory, and the one this was compiled in may be gone.
    let crate_dir = std::env::var("CARGO_MANIFEST_DIR").expect("cargo says where the crate is");
    let path = format!("{crate_dir}/tests/vectors/{name}.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("the vectors")).expect("JSON")
}

fn rows<'a>(vectors: &'a Value, key: &str) -> &'a Vec<Value> {
    vectors[key].as_array().expect(key)
}

#[test]
fn decide_over_the_whole_table() {
    let vectors = load("decide");
    let names: Vec<&str> = rows(&vectors, "columns").iter().map(|c| c.as_str().unwrap()).collect();
    let mut done = 0;
    for row in rows(&vectors, "rows") {
        let mut document = json!({});
        for (name, value) in names.iter().zip(row.as_array().unwrap()) {
            document[name] = match (*name, value.as_str()) {
                ("overdue" | "port_blocked" | "managed", Some(word)) => json!(word == "yes"),
                _ => value.clone(),
            };
        }
        let decision: Decision = serde_json::from_value(document["decision"].clone()).unwrap();
        let seen: Observation = serde_json::from_value(document).unwrap();
        assert_eq!(decide(&seen), decision, "{seen:?}");
        done += 1;
    }
    assert_eq!(done, vectors["count"].as_u64().unwrap());
    assert_eq!(done, 2 * 4 * 4 * 6 * 3 * 2 * 2 * 2);
}

#[test]
fn records() {
    let vectors = load("records");
    let mut done = 0;
    for case in rows(&vectors, "cases") {
        let name = case["name"].as_str().unwrap();
        let data = match case["hex"].as_str() {
            Some(hex) => {
                Some((0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect())
            }
            None => case["text"].as_str().map(|t| t.as_bytes().to_vec()),
        };
        let parsed = parse_record(data.as_deref());
        assert_eq!(serde_json::to_value(parsed.state).unwrap(), case["state"], "{name}");
        if let Some(record) = &parsed.record {
            let bytes = record.encode();
            assert_eq!(parse_record(Some(&bytes)), parsed, "{name}");
            let text = String::from_utf8(bytes).unwrap();
            let mut document: Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
            document.as_object_mut().unwrap().remove("schema");
            let mut expected = case["record"].clone();
            if let Some(owner) = expected["owner"].as_object_mut() {
                owner.retain(|k, _| matches!(k.as_str(), "kind" | "pid" | "start_token" | "namespace"));
            }
            assert_eq!(document, expected, "{name}");
        } else {
            assert!(case["record"].is_null(), "{name}");
        }
        done += 1;
    }
    assert_eq!(done, vectors["count"].as_u64().unwrap());
}

#[test]
fn needs() {
    let vectors = load("records");
    let plain = rows(&vectors, "cases").iter().find(|c| c["state"] == "valid").unwrap();
    let record = parse_record(plain["text"].as_str().map(str::as_bytes)).record.unwrap();
    for row in rows(&vectors, "needs") {
        let with = Record { version: row[0].as_str().unwrap().to_owned(), ..record.clone() };
        assert_eq!(Some(satisfies(&with, row[1].as_str().unwrap(), &[])), row[2].as_bool(), "{row}");
    }
    assert_eq!(rows(&vectors, "needs").len() as u64, vectors["needs_count"].as_u64().unwrap());
    assert!(satisfies(&record, "", &["vision".to_owned()]));
    assert!(!satisfies(&record, "", &["embedding".to_owned()]));
}

#[test]
fn backoff() {
    let vectors = load("backoff");
    let policy = Backoff::default();
    let near = |a: f64, b: &Value| assert!((a - b.as_f64().unwrap()).abs() < 1e-9, "{a} {b}");
    let mut done = 0;
    for row in rows(&vectors, "delays") {
        near(policy.delay(row[0].as_u64().unwrap(), row[1].as_f64().unwrap()), &row[2]);
        done += 1;
    }
    for row in rows(&vectors, "waits") {
        let failures = row[0].as_u64().unwrap();
        let state = Restarts { failures, last_failure: row[1].as_f64().unwrap(), ..Restarts::default() };
        near(state.wait(row[2].as_f64().unwrap(), &policy, row[3].as_f64().unwrap()), &row[4]);
        done += 1;
    }
    for row in rows(&vectors, "crashes") {
        let failures = row[0].as_u64().unwrap();
        let state = Restarts { failures, last_start: row[1].as_f64().unwrap(), ..Restarts::default() };
        assert_eq!(Some(state.crashed(row[2].as_f64().unwrap(), &policy, "crashed").failures), row[3].as_u64());
        done += 1;
    }
    assert_eq!(done, vectors["count"].as_u64().unwrap());
}

#[test]
fn traces() {
    let vectors = load("traces");
    let mut done = 0;
    for case in rows(&vectors, "cases") {
        let schedule: Schedule = serde_json::from_value(case["schedule"].clone()).unwrap();
        assert_eq!(schedule.run()["text"], case["text"], "{}", case["name"]);
        done += 1;
    }
    assert_eq!(done, vectors["count"].as_u64().unwrap());
}
