//! A client of the API: what `weir rollout` and `weir status` speak through.

use std::path::Path;
use std::time::Duration;

use reqwest::{Method, Response, StatusCode, header, redirect};
use serde::Deserialize;
use serde_json::Value;

use crate::tls::{self, TlsError};

/// How long a call may take.
const CALL_MAX: Duration = Duration::from_secs(30);

/// Leaders that a call is sent on to.
const HOPS_MAX: usize = 3;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Nobody could be reached.
    #[error("no controller answers at {url}: {detail}")]
    Unreachable {
        /// The address tried last.
        url: String,
        /// What happened.
        detail: String,
    },
    /// The controller said no.
    #[error("{message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The API's word for programs.
        code: String,
        /// For people, with the hint and the problems of a topology.
        message: String,
    },
}

impl ClientError {
    /// Whether the same call may succeed a moment later: nobody was there, or nobody led.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { code, .. } => matches!(code.as_str(), "no_leader" | "unavailable"),
            Self::Tls(_) => false,
        }
    }
}

/// What the API says no with.
#[derive(Deserialize)]
struct Answer {
    error: Detail,
}

#[derive(Deserialize)]
struct Detail {
    code: String,
    message: String,
    hint: Option<String>,
    #[serde(default)]
    problems: Vec<Problem>,
}

#[derive(Deserialize)]
struct Problem {
    severity: String,
    line: usize,
    column: usize,
    message: String,
    hint: Option<String>,
}

/// A client with its token.
pub struct Client {
    http: reqwest::Client,
    urls: Vec<String>,
    token: String,
}

impl Client {
    /// A client of the controllers at `urls`, tried in turn. `ca` is whom to trust, for `https`.
    ///
    /// # Errors
    /// [`ClientError::Tls`].
    pub fn new(urls: &[String], ca: Option<&Path>, token: &str) -> Result<Self, ClientError> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::client(ca, None)?)
            // Followed here: a library would rightly not show the token to another host.
            .redirect(redirect::Policy::none())
            .connect_timeout(Duration::from_secs(5))
            .timeout(CALL_MAX)
            .no_proxy()
            .build()
            .map_err(|error| ClientError::Unreachable { url: "TLS".to_owned(), detail: error.to_string() })?;
        let urls = urls.iter().map(|url| url.trim_end_matches('/').to_owned()).collect();
        Ok(Self { http, urls, token: token.trim().to_owned() })
    }

    /// Asks, and gives the answer: JSON, or text as a JSON string.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, ClientError> {
        let mut failure =
            ClientError::Unreachable { url: String::new(), detail: "no controller is named".to_owned() };
        for url in &self.urls {
            match self.ask(url, &method, path, body).await {
                Err(error @ ClientError::Unreachable { .. }) => failure = error,
                Err(ClientError::Refused { status: 503, code, message }) if code == "no_leader" => {
                    failure = ClientError::Refused { status: 503, code, message };
                }
                other => return other,
            }
        }
        Err(failure)
    }

    async fn ask(
        &self,
        url: &str,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, ClientError> {
        let mut url = format!("{url}/api/v1{path}");
        for _ in 0..HOPS_MAX {
            let mut request = self.http.request(method.clone(), &url).bearer_auth(&self.token);
            if let Some(body) = body {
                request = request.json(body);
            }
            let response = request.send().await.map_err(|error| unreachable(&url, &error))?;
            let to =
                response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok()).map(str::to_owned);
            match to.filter(|_| response.status() == StatusCode::TEMPORARY_REDIRECT) {
                Some(to) => url = to,
                None => return taken(&url, response).await,
            }
        }
        Err(ClientError::Unreachable { url, detail: "controllers send callers in circles".to_owned() })
    }
}

async fn taken(url: &str, response: Response) -> Result<Value, ClientError> {
    let status = response.status();
    let bytes = response.bytes().await.map_err(|error| unreachable(url, &error))?;
    if status.is_success() {
        let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
        return Ok(serde_json::from_slice(&bytes).unwrap_or_else(|_| text()));
    }
    let Ok(Answer { error }) = serde_json::from_slice(&bytes) else {
        let message = format!("{url} answers {status}, and it is no controller's answer");
        return Err(ClientError::Refused { status: status.as_u16(), code: String::new(), message });
    };
    let mut message = error.message;
    for problem in &error.problems {
        let Problem { severity, line, column, message: what, .. } = problem;
        let place = if *line > 0 { format!("{line}:{column}: ") } else { String::new() };
        message.push_str(&format!("\n  {place}{severity}: {what}"));
        if let Some(hint) = &problem.hint {
            message.push_str(&format!("\n    hint: {hint}"));
        }
    }
    if let Some(hint) = error.hint {
        message.push_str(&format!("\n  hint: {hint}"));
    }
    Err(ClientError::Refused { status: status.as_u16(), code: error.code, message })
}

fn unreachable(url: &str, error: &reqwest::Error) -> ClientError {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let mut detail = cause.to_string();
    if detail.contains("UnknownIssuer") || detail.contains("certificate") {
        detail.push_str("; --ca names the authority of its certificate");
    }
    ClientError::Unreachable { url: url.to_owned(), detail }
}
