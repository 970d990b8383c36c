//! Tests the documents in `docs/api` against the server.

mod support;

use support::Server;
use support::script::{Script, Stage, in_project, is_installed, missing, tool};

#[test]
fn a_conversation_conforms_to_the_asyncapi_document() {
    let rule = "by=stream; end=run.finished; match=stream=run-*";
    let mut stage = Stage::new(&["--presence-channels", "**", "--retain", rule]);
    let document = in_project("docs/api/asyncapi.yaml");
    let document = document.to_str().expect("a path that is text");
    Script::start("api_asyncapi.py", &[&stage.url(), document]).finish(&mut stage, 6);
}

#[test]
fn answers_to_made_up_requests_conform_to_the_openapi_document() {
    if !is_installed("tests/clients/requirements.txt", "target/venv/requirements.txt") {
        missing("target/venv");
    }
    // With a kept log for each type, so that every event can have conditions on its log.
    let server = Server::with(&["--presence-channels", "**", "--retain", "by=type; match=type=**"]);
    let place = in_project("target/tmp");
    std::fs::create_dir_all(&place).expect("a place for its files");
    let output = tool("timeout")
        .arg("150")
        .arg(in_project("target/venv/bin/st"))
        .arg("run")
        .arg(in_project("docs/api/openapi.yaml"))
        .args(["--url", &format!("http://{}", server.addr), "--no-color"])
        // Streams do not end, so they are left out. Nothing can be revoked without authentication. A purge depends on the rules.
        .args(["--exclude-operation-id", "stream", "--exclude-operation-id", "revoke"])
        .args(["--exclude-operation-id", "purge", "--exclude-operation-id", "run"])
        .args(["--phases", "examples,coverage,fuzzing", "--max-examples", "30", "--generation-deterministic"])
        .args(["--checks", CHECKS])
        .env("SCHEMATHESIS_HOOKS", "api_hooks")
        .env("PYTHONPATH", in_project("tests/clients"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("NO_PROXY", "*")
        .current_dir(&place)
        .output()
        .expect("it runs");
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{report}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(report.contains("15 selected / 19 total"), "{report}");
    server.assert_serving();
}

/// Values that the document leaves undefined are not tried.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
                      response_schema_conformance,positive_data_acceptance,unsupported_method";
