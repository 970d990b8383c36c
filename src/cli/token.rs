//! `fanwire token`: makes tokens and API keys.
//!
//! Always: the secret is the only thing on stdout. A description of its rights goes to stderr.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use fanwire::auth::{ApiKey, Claims, PublishRight, Secret, SigningKey};
use serde_json::json;

use super::error::CliError;
use super::style::DIM;

/// Options of `fanwire token`.
#[derive(clap::Args, Debug)]
pub(super) struct TokenArgs {
    /// Name of the holder
    #[arg(long, visible_alias = "user", value_name = "NAME")]
    sub: Option<String>,
    #[command(flatten)]
    rights: TokenRights,
    /// Lifetime, as 90s, 15m, 24h or 30d, or never [default: 24h; API keys: never]
    #[arg(long, value_name = "TIME", value_parser = ttl)]
    ttl: Option<Ttl>,
    /// Id of the token, for revocation [default: a random one]
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Intended recipient (aud); repeatable
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    audience: Vec<String>,
    /// Issuer (iss)
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    #[command(flatten)]
    signer: Signer,
    /// Make an API key with this id instead: a key for its holder, a line for the server's file
    #[arg(long, value_name = "ID", conflicts_with_all = ["secret_file", "private_key", "key_id", "audience", "issuer"])]
    api_key: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Rights of a token or API key.
#[derive(clap::Args, Debug)]
struct TokenRights {
    /// Stream that it may see, a pattern, or `*` for everything; repeatable
    #[arg(long = "stream", value_name = "PATTERN", value_delimiter = ',')]
    streams: Vec<String>,
    /// Type that it may see, as task.*; repeatable
    #[arg(long = "type", value_name = "PATTERN", value_delimiter = ',')]
    types: Vec<String>,
    /// Channel that it may see; repeatable
    #[arg(long = "channel", value_name = "PATTERN", value_delimiter = ',')]
    channels: Vec<String>,
    /// Entity that it may see, as task:t-1, or task for all of that kind; repeatable
    #[arg(long = "entity", value_name = "KIND:ID", value_delimiter = ',')]
    entities: Vec<String>,
    /// Filter that every visible event must also match, as 'source!=audit payload.tenant == "a"'
    #[arg(long, value_name = "TEXT", value_parser = super::filters::text)]
    filter: Option<String>,
    /// Allow publishing: everything, or only these types, as --publish=task.*
    #[arg(long, value_name = "PATTERN", num_args = 0.., require_equals = true, value_delimiter = ',')]
    publish: Option<Vec<String>>,
    /// Allow purging kept logs that it may see whole (DELETE /events)
    #[arg(long)]
    purge: bool,
    /// Allow reading /metrics
    #[arg(long)]
    metrics: bool,
    /// Allow the use of /api: statistics, revocation
    #[arg(long)]
    admin: bool,
}

/// Secret or key that signs a token.
#[derive(clap::Args, Debug)]
struct Signer {
    /// Secret to sign with. Prefer the environment or --secret-file: other users of this machine can read
    /// command lines
    #[arg(long, env = "FANWIRE_AUTH_JWT_HS256_SECRET", hide_env_values = true, value_name = "SECRET")]
    secret: Option<String>,
    /// File with the secret; a line end after it does not count
    #[arg(long, value_name = "FILE", conflicts_with = "secret")]
    secret_file: Option<PathBuf>,
    /// Private key to sign with, in PEM: Ed25519, P-256, P-384 or RSA
    #[arg(long, value_name = "FILE", conflicts_with_all = ["secret_file"])]
    private_key: Option<PathBuf>,
    /// Id of the key (kid), for servers with several keys
    #[arg(long, value_name = "ID")]
    key_id: Option<String>,
}

/// Lifetime of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ttl {
    Seconds(i64),
    Never,
}

fn ttl(text: &str) -> Result<Ttl, String> {
    if text == "never" {
        return Ok(Ttl::Never);
    }
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: i64 = number.parse().map_err(|_| "expected a time, as 90s, 15m, 24h or 30d, or never")?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(format!("`{text}` has no unit: s, m, h or d, as 24h")),
    };
    match number.checked_mul(unit) {
        Some(seconds @ 1..=3_155_760_000) => Ok(Ttl::Seconds(seconds)),
        _ => Err("must be from 1s to a hundred years".to_owned()),
    }
}

impl TokenArgs {
    fn claims(&self, default: Ttl) -> Claims {
        let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
        let mut claims = Claims::default();
        claims.sub.clone_from(&self.sub);
        claims.streams = some(&self.rights.streams);
        claims.types = some(&self.rights.types);
        claims.channels = some(&self.rights.channels);
        claims.entities = some(&self.rights.entities);
        claims.filter.clone_from(&self.rights.filter);
        claims.publish = match self.rights.publish.as_deref() {
            None => PublishRight::None,
            Some([]) => PublishRight::All,
            Some(types) => PublishRight::Types(types.to_vec()),
        };
        claims.purge = self.rights.purge;
        claims.metrics = self.rights.metrics;
        claims.admin = self.rights.admin;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        claims.exp = match self.ttl.unwrap_or(default) {
            Ttl::Seconds(seconds) => Some(now + seconds),
            Ttl::Never => None,
        };
        claims.iat = Some(now);
        claims
    }
}

impl Signer {
    fn key(&self) -> Result<SigningKey, CliError> {
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|error| CliError::new(format!("{}: {error}", path.display())))
        };
        let key = if let Some(path) = &self.private_key {
            let pem = read(path)?;
            SigningKey::pem(&pem).map_err(|error| CliError::new(format!("{}: {error}", path.display())))?
        } else {
            let secret = match (&self.secret_file, &self.secret) {
                (Some(path), _) => String::from_utf8(read(path)?)
                    .map_err(|_| CliError::new(format!("{} is not UTF-8 text", path.display())))?
                    .trim_end_matches(['\r', '\n'])
                    .to_owned(),
                (None, Some(secret)) => secret.clone(),
                (None, None) => {
                    return Err(CliError::new("no secret or key to sign with").hint(
                        "Set FANWIRE_AUTH_JWT_HS256_SECRET as for the server, or give --secret-file or --private-key. \
                         For a key that needs no signing: --api-key ID.",
                    ));
                }
            };
            if secret.is_empty() {
                return Err(CliError::new("the secret is empty"));
            }
            SigningKey::hs256(&Secret::new(secret))
        };
        Ok(match &self.key_id {
            Some(id) => key.with_id(id),
            None => key,
        })
    }
}

/// Prints the token or API key.
pub(super) fn run(args: &TokenArgs) -> Result<(), CliError> {
    let lists = [&args.rights.streams, &args.rights.types, &args.rights.channels, &args.rights.entities];
    let says_nothing =
        |text: &String| text.parse::<fanwire::Filter>().is_ok_and(|filter| filter.is_everything());
    let sees_nothing =
        lists.iter().all(|list| list.is_empty()) && args.rights.filter.as_ref().is_none_or(says_nothing);
    // A server with `auth.grant.channels` adds channels for a subject.
    let is_for_nobody = args.sub.is_none();
    let may_nothing =
        args.rights.publish.is_none() && !args.rights.purge && !args.rights.metrics && !args.rights.admin;
    if sees_nothing && is_for_nobody && may_nothing {
        return Err(CliError::new("the token would allow nothing").hint(
            "Choose the visible events with --stream, --type, --channel, --entity or --filter (--stream '*' is everything), \
             further rights with --publish, --metrics or --admin, or the holder with --sub (auth.grant.channels).",
        ));
    }
    match &args.api_key {
        Some(id) => make_api_key(args, id),
        None => make_token(args),
    }
}

fn make_token(args: &TokenArgs) -> Result<(), CliError> {
    let mut claims = args.claims(Ttl::Seconds(86_400));
    claims.aud = (!args.audience.is_empty()).then(|| args.audience.clone());
    claims.iss.clone_from(&args.issuer);
    claims.jti = args.id.clone().or_else(ApiKey::random_id);
    let token = args.signer.key()?.sign(&claims).map_err(CliError::new)?;
    if args.json {
        return print(&json!({ "token": token, "claims": claims }).to_string());
    }
    explain(&serde_json::to_string(&claims).unwrap_or_default());
    print(&token)
}

fn make_api_key(args: &TokenArgs, id: &str) -> Result<(), CliError> {
    let mut claims = args.claims(Ttl::Never);
    claims.iat = None;
    let key =
        ApiKey::new(id, &claims).ok_or_else(|| CliError::new("cannot get random bytes from the system"))?;
    if args.json {
        return print(&json!({ "key": key.key(), "line": key.line() }).to_string());
    }
    // The line is not secret, and the user needs it.
    eprintln!("line for auth.api_keys_file:\n{}\nkey, shown only once:", key.line());
    print(key.key())
}

fn explain(text: &str) {
    if stderr().is_terminal() {
        anstream::eprintln!("{DIM}{text}{DIM:#}");
    }
}

fn print(line: &str) -> Result<(), CliError> {
    writeln!(stdout(), "{line}").map_err(|error| CliError::new(format!("cannot write: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("24h", 86_400), ("30d", 2_592_000)] {
            assert_eq!(ttl(text), Ok(Ttl::Seconds(seconds)));
        }
        assert_eq!(ttl("never"), Ok(Ttl::Never));
        for text in ["", "5", "0s", "-1h", "1w", "99999999999999999999s", "9999999d"] {
            assert!(ttl(text).is_err(), "{text}");
        }
    }
}
