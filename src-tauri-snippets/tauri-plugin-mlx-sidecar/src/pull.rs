//! Fetching a model through the sidecar, told to every window as it goes.

use crate::error::Error;
use mlx_sidecar_host::{client, Connection};
use serde::Serialize;
use serde_json::{json, Value};
use std::io::{BufRead, BufReader};
use std::time::Duration;

/// The payload of `mlx-sidecar://download`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Download {
    /// The model's name as it was asked for.
    pub model: String,
    /// The sidecar's word (`downloading`, `verifying`, …), at the end `done`, `failed` or `cancelled`.
    pub status: String,
    /// The file in question.
    pub file: Option<String>,
    /// Bytes that are here.
    pub completed: Option<u64>,
    /// Bytes in all.
    pub total: Option<u64>,
    /// What went wrong.
    pub error: Option<String>,
}

impl Download {
    /// A word about `model` without figures.
    #[must_use]
    pub fn word(model: &str, status: &str, error: Option<String>) -> Self {
        Download { model: model.to_owned(), status: status.to_owned(), file: None, completed: None, total: None, error }
    }

    fn parse(model: &str, event: &Value) -> Self {
        let text = |key: &str| event.get(key).and_then(Value::as_str).map(str::to_owned);
        let number = |key: &str| event.get(key).and_then(Value::as_u64);
        Download {
            model: model.to_owned(),
            status: text("status").unwrap_or_else(|| "downloading".to_owned()),
            file: text("file"),
            completed: number("completed"),
            total: number("total"),
            error: error_in(event),
        }
    }
}

fn error_in(document: &Value) -> Option<String> {
    let error = document.get("error").filter(|e| !e.is_null())?;
    let message = error.get("message").and_then(Value::as_str).or_else(|| error.as_str());
    Some(message.map_or_else(|| error.to_string(), str::to_owned))
}

/// What one line of the stream means.
#[derive(Debug, PartialEq)]
enum Line {
    Nothing,
    End,
    Event(Value),
}

fn parse_line(line: &str) -> Line {
    let Some(data) = line.strip_prefix("data:").map(str::trim) else { return Line::Nothing };
    if data == "[DONE]" {
        return Line::End;
    }
    serde_json::from_str(data).map_or(Line::Nothing, Line::Event)
}

/// Fetch `model`, calling `tell` with each step. Blocking. `cancelled` is asked at each step; leaving ends the download.
pub(crate) fn pull(
    connection: &Connection,
    model: &str,
    tell: &dyn Fn(Download),
    cancelled: &dyn Fn() -> bool,
) -> Result<(), Error> {
    let failed = |what: &dyn std::fmt::Display| Error::Pull(format!("the model {model} can't be fetched: {what}"));
    let body = json!({"model": model, "stream": true});
    let mut response =
        client::post(connection, "/v1/models/pull", &body, Duration::from_secs(60)).map_err(|e| failed(&e))?;
    let status = response.status().as_u16();
    if status >= 400 {
        let text = response.body_mut().read_to_string().unwrap_or_default();
        let document: Value = serde_json::from_str(&text).unwrap_or_default();
        // A sidecar without the route has no error type of a model for it.
        let unknown_route = document.pointer("/error/code").and_then(Value::as_str) != Some("model_not_found");
        return Err(match status {
            404 | 405 if unknown_route => Error::PullUnsupported(connection.version.clone()),
            _ => failed(&error_in(&document).unwrap_or_else(|| format!("status {status}"))),
        });
    }
    for line in BufReader::new(response.into_body().into_reader()).lines() {
        if cancelled() {
            return Err(Error::Cancelled);
        }
        match parse_line(&line.map_err(|e| failed(&e))?) {
            Line::Nothing => {}
            Line::End => break,
            Line::Event(event) => match error_in(&event) {
                Some(error) => return Err(failed(&error)),
                None => tell(Download::parse(model, &event)),
            },
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    fn served(status: &str, body: &str) -> (Connection, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut request = Vec::new();
            let mut part = [0; 4096];
            while !String::from_utf8_lossy(&request).ends_with('}') {
                let n = stream.read(&mut part).expect("a request");
                request.extend_from_slice(&part[..n]);
            }
            stream.write_all(answer.as_bytes()).expect("sent");
            String::from_utf8_lossy(&request).into_owned()
        });
        let connection = Connection {
            url,
            token: Some("t0ken".to_owned()),
            pid: 1,
            instance_id: String::new(),
            how: "attached".to_owned(),
            version: "0.1.0".to_owned(),
        };
        (connection, server)
    }

    #[test]
    fn steps_are_told_and_the_token_is_sent() {
        let body = ": hello\n\ndata: {\"status\":\"downloading\",\"file\":\"a\",\"completed\":1,\"total\":2}\n\ndata: [DONE]\n\n";
        let (connection, server) = served("200 OK", body);
        let told = RefCell::new(Vec::new());
        pull(&connection, "m", &|d| told.borrow_mut().push(d), &|| false).expect("fetched");
        let request = server.join().expect("served");
        assert!(request.starts_with("POST /v1/models/pull"), "{request}");
        assert!(request.contains("Bearer t0ken"), "{request}");
        let told = told.into_inner();
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].file.as_deref(), told[0].completed, told[0].total), (Some("a"), Some(1), Some(2)));
    }

    #[test]
    fn a_sidecar_without_the_route_says_so() {
        let (connection, server) = served("404 Not Found", r#"{"error":{"message":"no such path"}}"#);
        let error = pull(&connection, "m", &|_| {}, &|| false).expect_err("refused");
        assert_eq!(error.code(), "pull_unsupported");
        server.join().expect("served");
    }

    #[test]
    fn an_error_in_the_stream_is_an_error() {
        let (connection, server) = served("200 OK", "data: {\"error\":{\"message\":\"disk full\"}}\n\n");
        let error = pull(&connection, "m", &|_| {}, &|| false).expect_err("refused");
        assert!(error.to_string().contains("disk full"), "{error}");
        server.join().expect("served");
    }

    #[test]
    fn leaving_ends_it() {
        let (connection, server) = served("200 OK", "data: {\"status\":\"downloading\"}\n\n");
        let error = pull(&connection, "m", &|_| {}, &|| true).expect_err("left");
        assert_eq!(error.code(), "cancelled");
        server.join().expect("served");
    }
}
