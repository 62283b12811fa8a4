//! Requests to the sidecar from Rust, which follow it through one restart (feature `client`).
//!
//! Blocking, as all of this crate. A request is sent a second time, once, only when it provably never reached the
//! engine: the connection was refused, or a draining sidecar answered 503 with `Retry-After`.

use crate::connection::Connection;
use crate::error::Error;
use serde_json::Value;
use std::fmt;
use std::io::ErrorKind;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

/// Why a request has no answer.
#[derive(Debug)]
pub enum ClientError {
    /// The sidecar couldn't be had again.
    Host(Error),
    /// The transport's error.
    Http(ureq::Error),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Host(error) => error.fmt(f),
            ClientError::Http(error) => write!(f, "no answer from the sidecar: {error}"),
        }
    }
}

impl std::error::Error for ClientError {}

type Again<'a> = Box<dyn Fn() -> Result<Connection, Error> + Send + Sync + 'a>;

/// A client for the sidecar of a host. Any HTTP status is an answer, not an error.
pub struct Client<'a> {
    again: Again<'a>,
    agent: Agent,
    connection: Mutex<Connection>,
}

impl<'a> Client<'a> {
    /// `again` ensures that the sidecar runs and says where; it is asked now, and after a restart.
    pub fn new(again: impl Fn() -> Result<Connection, Error> + Send + Sync + 'a) -> Result<Client<'a>, Error> {
        let connection = Mutex::new(again()?);
        Ok(Client { again: Box::new(again), agent: agent(None), connection })
    }

    /// GET `path`, such as `/v1/models`.
    pub fn get(&self, path: &str) -> Result<Response<Body>, ClientError> {
        self.send(path, None)
    }

    /// POST `body` as JSON to `path`; the answer's body may be read as it streams.
    pub fn post(&self, path: &str, body: &Value) -> Result<Response<Body>, ClientError> {
        self.send(path, Some(&body.to_string()))
    }

    fn send(&self, path: &str, body: Option<&str>) -> Result<Response<Body>, ClientError> {
        let now = self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match once(&self.agent, &now, path, body) {
            Ok(answer) if !unreached(&answer) => return Ok(answer),
            Err(error) if !refused(&error) => return Err(ClientError::Http(error)),
            _ => {}
        }
        let again = (self.again)().map_err(ClientError::Host)?;
        self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&again);
        once(&self.agent, &again, path, body).map_err(ClientError::Http)
    }
}

/// POST `body` as JSON to one sidecar, once; its answer must begin within `begin`. Any HTTP status is an answer.
pub fn post(to: &Connection, path: &str, body: &Value, begin: Duration) -> Result<Response<Body>, ureq::Error> {
    once(&agent(Some(begin)), to, path, Some(&body.to_string()))
}

fn agent(begin: Option<Duration>) -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .proxy(None)
        .max_redirects(0)
        .max_idle_connections(0) // a kept connection can break after the request was read: no proof
        .timeout_connect(Some(Duration::from_secs(5)))
        .timeout_recv_response(begin)
        .build()
        .into()
}

fn once(agent: &Agent, to: &Connection, path: &str, body: Option<&str>) -> Result<Response<Body>, ureq::Error> {
    let url = format!("{}{path}", to.url);
    let bearer = to.token.as_ref().map(|token| format!("Bearer {token}"));
    match body {
        None => {
            let mut request = agent.get(url);
            if let Some(bearer) = bearer {
                request = request.header("authorization", bearer);
            }
            request.call()
        }
        Some(body) => {
            let mut request = agent.post(url).header("content-type", "application/json");
            if let Some(bearer) = bearer {
                request = request.header("authorization", bearer);
            }
            request.send(body)
        }
    }
}

fn unreached(answer: &Response<Body>) -> bool {
    answer.status() == StatusCode::SERVICE_UNAVAILABLE && answer.headers().contains_key("retry-after")
}

fn refused(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::ConnectionFailed => true,
        ureq::Error::Io(inner) => inner.kind() == ErrorKind::ConnectionRefused,
        _ => false,
    }
}
