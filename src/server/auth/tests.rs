//! Valid and invalid tokens, as an attacker, a careless issuer or a slow clock would send them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::jwt::choose_provider;
use super::*;
use crate::event::Timestamp;
use crate::filter::Filter;
use crate::server::limits::budget::Budget;
use crate::server::session::rights::may_see;

const NOW: i64 = 1_800_000_000;
const SECRET: &str = "a secret that only this test knows, of some length";

fn at(second: i64) -> Timestamp {
    Timestamp(second * 1_000_000)
}

fn key_file(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "keys", name].iter().collect()
}

fn pem(name: &str) -> SigningKey {
    SigningKey::pem(&std::fs::read(key_file(name)).expect("the file is there")).expect("a private key")
}

fn secret() -> Secret {
    SECRET.into()
}

fn jwt(change: impl FnOnce(&mut JwtConfig)) -> Auth {
    let mut config = AuthConfig::default();
    change(&mut config.jwt);
    Auth::load(&config).expect("a configuration")
}

fn with_secret() -> Auth {
    jwt(|jwt| jwt.hs256_secret = Some(secret()))
}

fn claims() -> Claims {
    Claims {
        sub: Some("ann".into()),
        exp: Some(NOW + 60),
        streams: Some(vec!["*".into()]),
        ..Claims::default()
    }
}

/// Returns a token from parts that no library would produce.
fn raw(header: &serde_json::Value, claims: &str, sign: impl FnOnce(&[u8]) -> String) -> String {
    let body = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims));
    let signature = sign(body.as_bytes());
    format!("{body}.{signature}")
}

fn hmac(secret: &[u8], message: &[u8]) -> String {
    // The library keeps its own implementation, which panics, if it is used before one is chosen.
    choose_provider();
    let key = jsonwebtoken::EncodingKey::from_secret(secret);
    jsonwebtoken::crypto::sign(message, &key, jsonwebtoken::Algorithm::HS256).expect("it signs")
}

fn denied(auth: &Auth, token: &str) -> &'static str {
    match auth.verify(token, at(NOW), &mut Budget::new(u32::MAX)) {
        Ok(_) => "let in",
        Err(denied) => denied.label(),
    }
}

#[test]
fn a_token_of_each_algorithm_is_taken_by_its_own_key_alone() {
    type Set = fn(&mut JwtConfig);
    let secrets: [(&str, SigningKey, Set); 3] = [
        ("HS256", SigningKey::hs256(&secret()), |jwt| jwt.hs256_secret = Some(secret())),
        ("HS384", SigningKey::hs384(&secret()), |jwt| jwt.hs384_secret = Some(secret())),
        ("HS512", SigningKey::hs512(&secret()), |jwt| jwt.hs512_secret = Some(secret())),
    ];
    let pairs: [(&str, SigningKey, Set); 4] = [
        ("RS256", pem("rsa.private.pem"), |jwt| jwt.public_key_file = Some(key_file("rsa.public.pem"))),
        ("ES256", pem("p256.private.pem"), |jwt| jwt.public_key_file = Some(key_file("p256.public.pem"))),
        ("ES384", pem("p384.private.pem"), |jwt| jwt.public_key_file = Some(key_file("p384.public.pem"))),
        ("EdDSA", pem("ed25519.private.pem"), |jwt| {
            jwt.public_key_file = Some(key_file("ed25519.public.pem"));
        }),
    ];
    let all: Vec<_> = secrets.into_iter().chain(pairs).collect();
    for (name, _, set) in &all {
        let auth = jwt(*set);
        for (other, key, _) in &all {
            assert_eq!(key.algorithm(), *other);
            let token = key.sign(&claims()).expect("it signs");
            let expected = if other == name { "let in" } else { "token_key" };
            assert_eq!(denied(&auth, &token), expected, "{other} at a server with {name}");
        }
    }
}

#[test]
fn bad_tokens_are_refused_each_for_its_fault() {
    let auth = with_secret();
    let hs256 = SigningKey::hs256(&secret());
    let with = |change: fn(&mut Claims)| {
        let mut claims = claims();
        change(&mut claims);
        hs256.sign(&claims).expect("it signs")
    };
    let good = with(|_| {});
    let (body, signature) = good.rsplit_once('.').expect("three parts");
    let (header, payload) = body.split_once('.').expect("three parts");
    let text = serde_json::to_string(&claims()).expect("plain");
    let signed =
        |header: serde_json::Value, claims: &str| raw(&header, claims, |m| hmac(SECRET.as_bytes(), m));
    let none = |alg: &str| raw(&json!({ "alg": alg, "typ": "JWT" }), &text, |_| String::new());
    let public = std::fs::read(key_file("rsa.public.pem")).expect("the file is there");
    let deep = format!(r#"{{"exp":{},"x":{}{}}}"#, NOW + 60, "[".repeat(1500), "]".repeat(1500));

    for (what, token, label) in [
        ("a good one", good.clone(), "let in"),
        ("expired", with(|c| c.exp = Some(NOW)), "token_expired"),
        ("long expired", with(|c| c.exp = Some(0)), "token_expired"),
        ("never expires", with(|c| c.exp = None), "token_without_exp"),
        ("not yet valid", with(|c| c.nbf = Some(NOW + 1)), "token_not_yet_valid"),
        ("just valid", with(|c| c.nbf = Some(NOW)), "let in"),
        ("for somebody else", with(|c| c.aud = Some(vec!["other".into()])), "token_audience"),
        (
            "another secret",
            SigningKey::hs256(&"other".into()).sign(&claims()).expect("signs"),
            "token_signature",
        ),
        ("alg none", none("none"), "token_malformed"),
        ("alg None", none("None"), "token_malformed"),
        ("alg none, signed", signed(json!({"alg":"none"}), &text), "token_malformed"),
        ("no alg", signed(json!({"typ":"JWT"}), &text), "token_malformed"),
        (
            "another hash, same secret",
            SigningKey::hs512(&secret()).sign(&claims()).expect("signs"),
            "token_key",
        ),
        (
            "critical extension",
            signed(json!({"alg":"HS256","crit":["b64"],"b64":false}), &text),
            "token_malformed",
        ),
        ("no signature", format!("{body}."), "token_signature"),
        ("no third part", body.to_owned(), "token_malformed"),
        ("four parts", format!("{good}.x"), "token_malformed"),
        (
            "another payload",
            format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(r#"{"streams":["*"]}"#)),
            "token_signature",
        ),
        ("cut signature", format!("{body}.{}", &signature[..20]), "token_signature"),
        ("padded signature", format!("{body}.{signature}="), "token_malformed"),
        ("payload in plain base64", format!("{header}.{payload}=.{signature}"), "token_signature"),
        ("claims are no JSON", signed(json!({"alg":"HS256"}), "nonsense"), "token_claims"),
        ("claims are a list", signed(json!({"alg":"HS256"}), "[]"), "token_claims"),
        (
            "streams are an object",
            signed(json!({"alg":"HS256"}), r#"{"exp":9999999999,"streams":{}}"#),
            "token_claims",
        ),
        (
            "streams twice",
            signed(json!({"alg":"HS256"}), r#"{"exp":9999999999,"streams":[],"streams":["*"]}"#),
            "token_claims",
        ),
        ("exp is a text", signed(json!({"alg":"HS256"}), r#"{"exp":"9999999999"}"#), "token_claims"),
        ("exp beyond time", signed(json!({"alg":"HS256"}), r#"{"exp":1e300,"streams":["*"]}"#), "let in"),
        (
            "exp before time",
            signed(json!({"alg":"HS256"}), r#"{"exp":-1e300,"streams":["*"]}"#),
            "token_expired",
        ),
        ("nested deeply", signed(json!({"alg":"HS256"}), &deep), "let in"),
        ("oversized", with(|c| c.sub = Some("x".repeat(8192))), "token_too_long"),
        ("patterns without end", with(|c| c.streams = Some(vec!["**.**.**.**".into()])), "token_grant"),
        ("empty", String::new(), "token_malformed"),
        ("dots", "..".to_owned(), "token_malformed"),
        ("garbage", "\u{0}\u{ff}ü.é.\n".to_owned(), "token_malformed"),
        ("the secret itself", SECRET.to_owned(), "token_malformed"),
        (
            "signed with the public key",
            raw(&json!({"alg":"HS256"}), &text, |m| hmac(&public, m)),
            "token_signature",
        ),
    ] {
        assert_eq!(denied(&auth, &token), label, "{what}");
    }
}

#[test]
fn a_public_key_is_no_secret_even_if_a_token_names_an_hmac() {
    let auth = jwt(|jwt| jwt.public_key_file = Some(key_file("rsa.public.pem")));
    let text = serde_json::to_string(&claims()).expect("plain");
    let public = std::fs::read(key_file("rsa.public.pem")).expect("the file is there");
    let trimmed = public.trim_ascii_end().to_vec();
    for bytes in [&public[..], &trimmed, b""] {
        let token = raw(&json!({"alg":"HS256"}), &text, |m| hmac(bytes, m));
        assert_eq!(denied(&auth, &token), "token_key");
        let token = raw(&json!({"alg":"RS256"}), &text, |m| hmac(bytes, m));
        assert_eq!(denied(&auth, &token), "token_signature");
    }
    // A key inside the token proves nothing.
    let jwk = json!({"kty":"oct","k":URL_SAFE_NO_PAD.encode("mine")});
    let token = raw(&json!({"alg":"RS256","jwk":jwk}), &text, |m| hmac(b"mine", m));
    assert_ne!(denied(&auth, &token), "let in");
}

#[test]
fn audience_issuer_and_leeway_are_the_operators() {
    let auth = jwt(|jwt| {
        jwt.hs256_secret = Some(secret());
        jwt.audience = vec!["fanwire".into(), "screens".into()];
        jwt.issuer = vec!["https://id.example".into()];
        jwt.leeway = Duration::from_secs(10);
        jwt.require_exp = false;
    });
    let key = SigningKey::hs256(&secret());
    let of = |aud: &[&str], iss: Option<&str>, exp: Option<i64>| {
        let mut claims = claims();
        claims.aud = Some(aud.iter().map(|one| (*one).to_owned()).collect());
        claims.iss = iss.map(str::to_owned);
        claims.exp = exp;
        denied(&auth, &key.sign(&claims).expect("it signs"))
    };
    let own = Some("https://id.example");
    assert_eq!(of(&["screens", "x"], own, None), "let in");
    assert_eq!(of(&["fanwire"], own, Some(NOW - 9)), "let in");
    assert_eq!(of(&["fanwire"], own, Some(NOW - 10)), "token_expired");
    assert_eq!(of(&["other"], own, None), "token_audience");
    assert_eq!(of(&[], own, None), "token_audience");
    assert_eq!(of(&["fanwire"], Some("https://evil.example"), None), "token_issuer");
    assert_eq!(of(&["fanwire"], None, None), "token_issuer");
}

fn temp(name: &str, text: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("fanwire-auth-{}-{name}", std::process::id()));
    std::fs::write(&path, text).expect("a temporary file");
    path
}

#[test]
fn a_key_set_chooses_by_key_id_and_fixes_each_algorithm() {
    let jwk = |name: &str, more: serde_json::Value| {
        use jsonwebtoken::{DecodingKey, jwk::Jwk};
        choose_provider();
        let pem = std::fs::read(key_file(name)).expect("the file is there");
        let key = DecodingKey::from_rsa_pem(&pem).or_else(|_| DecodingKey::from_ed_pem(&pem)).expect("a key");
        let mut value =
            serde_json::to_value(Jwk::from_decoding_key(&key, None).expect("a jwk")).expect("plain");
        value.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        value
    };
    let set = json!({"keys": [
        jwk("rsa.public.pem", json!({"kid": "old", "use": "sig", "alg": "RS256"})),
        jwk("ed25519.public.pem", json!({"kid": "new"})),
        jwk("rsa.public.pem", json!({"kid": "enc", "use": "enc"})),
        {"kty": "oct", "kid": "shared", "alg": "HS256", "k": URL_SAFE_NO_PAD.encode(SECRET)},
        {"kty": "future", "kid": "unknown"},
    ]});
    let path = temp("jwks.json", &set.to_string());
    let auth = jwt(|jwt| jwt.jwks_file = Some(path));
    let token = |key: SigningKey| key.sign(&claims()).expect("it signs");
    let (rsa, ed) = (pem("rsa.private.pem"), pem("ed25519.private.pem"));
    for (what, token, label) in [
        ("by its id", token(rsa.clone().with_id("old")), "let in"),
        ("by its id", token(ed.clone().with_id("new")), "let in"),
        ("by its id", token(SigningKey::hs256(&secret()).with_id("shared")), "let in"),
        ("without an id", token(ed.clone()), "let in"),
        ("another key's id", token(ed.with_id("old")), "token_key"),
        ("an unknown id", token(rsa.clone().with_id("gone")), "token_key"),
        ("a key for encryption", token(rsa.with_id("enc")), "token_key"),
        (
            "another algorithm of the same key",
            token(SigningKey::hs512(&secret()).with_id("shared")),
            "token_key",
        ),
    ] {
        assert_eq!(denied(&auth, &token), label, "{what}");
    }
}

#[test]
fn signatures_of_the_standards_examples_fit() {
    // RFC 7515, A.3, and RFC 8037, A.4. The first has ended long ago, the second signs no claims.
    let keys = json!({"keys": [
        {"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
         "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},
        {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
    ]});
    let auth = jwt(|jwt| jwt.jwks_file = Some(temp("rfc.json", &keys.to_string())));
    let es256 = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19y\
                 b290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    let eddsa = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWb\
                 hijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    assert_eq!(denied(&auth, es256), "token_expired");
    assert_eq!(denied(&auth, eddsa), "token_claims");
    for token in [es256, eddsa] {
        let at = token.len() - 20;
        let other = format!(
            "{}{}{}",
            &token[..at],
            if token.as_bytes()[at] == b'A' { 'B' } else { 'A' },
            &token[at + 1..]
        );
        assert_eq!(denied(&auth, &other), "token_signature");
    }
}

#[test]
fn keys_that_are_weak_or_none_are_refused_at_the_start() {
    let refused = |change: fn(&mut JwtConfig)| {
        let mut config = AuthConfig::default();
        change(&mut config.jwt);
        Auth::load(&config).expect_err("no key").to_string()
    };
    for (change, said) in [
        (refused(|jwt| jwt.hs256_secret = Some("".into())), "auth.jwt.hs256_secret: is empty"),
        (
            refused(|jwt| jwt.public_key_file = Some(key_file("rsa-1024.public.pem"))),
            "RSA of 1024 bits is under 2048",
        ),
        (refused(|jwt| jwt.public_key_file = Some(key_file("rsa.private.pem"))), "is a private key"),
        (refused(|jwt| jwt.public_key_file = Some(key_file("README.md"))), "is no public key"),
        (refused(|jwt| jwt.public_key_file = Some("/nowhere".into())), "auth.jwt.public_key_file: /nowhere"),
        (refused(|jwt| jwt.jwks_file = Some(key_file("README.md"))), "is no key set"),
        (refused(|jwt| jwt.jwks_file = Some(temp("none.json", r#"{"keys":[]}"#))), "holds no key"),
        (
            refused(|jwt| {
                jwt.jwks_file =
                    Some(temp("alg.json", r#"{"keys":[{"kty":"oct","k":"AAAA","alg":"RS256"}]}"#));
            }),
            "is not for its kind of key",
        ),
        (
            refused(|jwt| {
                jwt.jwks_file =
                    Some(temp("ed.json", r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AAAA","kid":"k"}]}"#));
            }),
            "key k: has 3 bytes",
        ),
        (
            refused(|jwt| {
                let x = "A".repeat(43);
                let key = json!({"keys": [{"kty": "EC", "crv": "P-256", "x": &x, "y": &x, "kid": "k"}]});
                jwt.jwks_file = Some(temp("point.json", &key.to_string()));
            }),
            "key k: is no usable key",
        ),
    ] {
        assert!(change.contains(said), "{change}");
    }
}

#[test]
fn api_keys_and_tokens_live_beside_each_other() {
    let rights = Claims { publish: PublishRight::All, ..Claims::default() };
    let key = ApiKey::new("ci", &rights).expect("random bits");
    let mut config = AuthConfig::default();
    config.jwt.hs256_secret = Some(secret());
    config.api_keys_file = Some(temp("keys", &format!("{}\n", key.line())));
    let auth = Auth::load(&config).expect("a configuration");
    let grant = auth.verify(key.key(), at(NOW), &mut Budget::new(u32::MAX)).expect("good").expect("a grant");
    assert!(grant.publishes() && grant.sees_nothing());
    assert_eq!(denied(&auth, &SigningKey::hs256(&secret()).sign(&claims()).expect("signs")), "let in");
    assert_eq!(denied(&auth, &format!("{}x", key.key())), "token_malformed");
    assert!(!format!("{key:?}{config:?}{auth:?}").contains(key.key()));
    assert!(!format!("{config:?}{auth:?}").contains(SECRET));

    // If its line is removed, or gets other rights, the key's grants end.
    assert_eq!(auth.ended(&grant, at(NOW)), None);
    let before = auth.changes();
    config.api_keys_file = Some(temp("keys", ""));
    auth.reload(&config).expect("a configuration");
    assert!(auth.changes() > before);
    assert_eq!(auth.ended(&grant, at(NOW)), Some(Denied::Revoked));
    config.api_keys_file = Some("/nowhere".into());
    assert!(auth.reload(&config).is_err());
    assert_eq!(denied(&auth, &SigningKey::hs256(&secret()).sign(&claims()).expect("signs")), "let in");
    assert!(auth.reload(&AuthConfig::default()).is_err(), "a reload does not open the doors");
}

#[test]
fn a_reload_ends_anonymous_grants_only_where_they_changed() {
    let mut config = AuthConfig::default();
    config.jwt.hs256_secret = Some(secret());
    config.anonymous.streams = vec!["status".into()];
    let auth = Auth::load(&config).expect("a configuration");
    let request = crate::codec::http::parse_request(
        b"GET /sse HTTP/1.1\r\nHost: t\r\n\r\n",
        &crate::codec::http::HttpLimits::default(),
    );
    let (request, _) = request.expect("a request").expect("a whole one");
    let grant =
        auth.admit(&request, &[], at(NOW), &mut Budget::new(u32::MAX)).expect("let in").expect("a grant");
    auth.reload(&config).expect("a configuration");
    assert_eq!(auth.ended(&grant, at(NOW)), None);
    config.anonymous.streams = vec!["other".into()];
    auth.reload(&config).expect("a configuration");
    assert_eq!(auth.ended(&grant, at(NOW)), Some(Denied::Outdated), "it may connect again");
    config.anonymous.streams.clear();
    auth.reload(&config).expect("a configuration");
    assert_eq!(auth.ended(&grant, at(NOW)), Some(Denied::Missing), "nobody has rights without a token");
}

/// A token that was valid before and after a reload of the templates has other rights, and is not revoked.
#[test]
fn a_reload_of_templates_ends_grants_that_a_new_connection_gets_again() {
    let mut config = AuthConfig::default();
    config.jwt.hs256_secret = Some(secret());
    config.grant.channels = vec!["user:{sub}".into()];
    let auth = Auth::load(&config).expect("a configuration");
    let token = SigningKey::hs256(&secret()).sign(&claims()).expect("signs");
    let admitted = |auth: &Auth| auth.verify(&token, at(NOW), &mut Budget::new(u32::MAX));
    let grant = admitted(&auth).expect("let in").expect("a grant");
    config.grant.channels.push("team".into());
    auth.reload(&config).expect("a configuration");
    assert_eq!(auth.ended(&grant, at(NOW)), Some(Denied::Outdated));
    let again = admitted(&auth).expect("let in").expect("a grant");
    assert_eq!(auth.ended(&again, at(NOW)), None);
    config.jwt.hs256_secret = Some("another-secret-that-is-long-enough-for-it".into());
    auth.reload(&config).expect("a configuration");
    assert_eq!(auth.ended(&again, at(NOW)), Some(Denied::Revoked), "its key is gone");
}

#[test]
fn a_grant_ends_with_its_time_its_key_or_a_revocation() {
    let auth = with_secret();
    let mut claims = claims();
    claims.jti = Some("t-1".into());
    let token = SigningKey::hs256(&secret()).sign(&claims).expect("it signs");
    let grant = auth.verify(&token, at(NOW), &mut Budget::new(u32::MAX)).expect("good").expect("a grant");
    assert_eq!(auth.ended(&grant, at(NOW + 59)), None);
    assert_eq!(auth.ended(&grant, at(NOW + 60)), Some(Denied::Expired));
    let one = Revocation::read(r#"{"jti":"t-1"}"#).expect("one");
    assert_eq!(auth.revoke(one, at(NOW)), Ok(1));
    assert_eq!(auth.ended(&grant, at(NOW)), Some(Denied::Revoked));
    assert_eq!(denied(&auth, &token), "token_revoked");
    let lift = Revocation::read(r#"{"jti":"t-1","lift":true}"#).expect("one");
    assert_eq!(auth.revoke(lift, at(NOW)), Ok(0));
    assert_eq!(denied(&auth, &token), "let in");
    let mut config = AuthConfig::default();
    config.jwt.hs256_secret = Some("another one that is long enough for it".into());
    auth.reload(&config).expect("a configuration");
    assert_eq!(auth.ended(&grant, at(NOW)), Some(Denied::Revoked), "the key that vouched is gone");
}

/// Joining 128 long values of a client with 127 patterns of many segments in a token once took a loop 120 ms.
#[test]
fn a_filter_that_takes_long_to_hold_against_a_grant_is_refused() {
    let pad = "b.".repeat(14);
    let types = (0..127).map(|n| format!("**.{pad}**.{n}x")).collect();
    let claims = Claims { types: Some(types), ..Claims::default() };
    let grant = Grant::new(&claims, None, 0, &Arc::default()).expect("a grant");
    let wish = Filter::new().types((0..128).map(|n| format!("{pad}{n}.{pad}c")));
    let error = may_see(&grant, &wish).expect_err("too many steps");
    assert_eq!(error.code.name(), "invalid_filter");
    let usual = Filter::new().types((0..8).map(|n| format!("task.step{n}")));
    assert_eq!(may_see(&grant, &usual).expect_err("beyond the grant").code.name(), "forbidden");
}

/// A million events, each delivered exactly to the holders that the claims allow, through the matcher that the loops use, with
/// filters that ask for more than the grants allow.
#[test]
fn no_event_is_matched_for_a_client_that_may_not_see_it() {
    use crate::event::Event;
    use crate::filter::{FilterLimits, Matcher};
    let mut seed = 0x00c0_ffee_u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    const STREAMS: [&str; 6] = ["", "a", "b", "a.x", "a.y", "b.x"];
    const TYPES: [&str; 5] = ["task.done", "task.failed", "alert.on", "alert", "task.step.done"];
    const CHANNELS: [&str; 4] = ["", "dev", "ops", "dev/inner"];
    const STREAM_PATTERNS: [&str; 6] = ["a", "b", "a.*", "*.x", "**", ""];
    const TYPE_PATTERNS: [&str; 5] = ["task.*", "task.**", "alert", "*", "**.done"];
    const CHANNEL_PATTERNS: [&str; 5] = ["dev", "ops", "dev/*", "*", ""];
    let mut seen = 0_u64;
    for _ in 0..200 {
        let mut list = |from: &[&str]| {
            (random(3) > 0).then(|| {
                let count = random(3);
                (0..count).map(|_| from[random(from.len() as u64) as usize].to_owned()).collect::<Vec<_>>()
            })
        };
        let mut matcher = Matcher::new(FilterLimits::default());
        let mut clients = Vec::new();
        for _ in 0..12 {
            let claims = Claims {
                streams: list(&STREAM_PATTERNS),
                types: list(&TYPE_PATTERNS),
                channels: list(&CHANNEL_PATTERNS),
                ..Claims::default()
            };
            let wish = Filter::new().types(list(&TYPE_PATTERNS).unwrap_or_default());
            let wish = wish.streams(list(&["a", "b", "**"]).unwrap_or_default());
            let grant = Grant::new(&claims, None, 0, &Arc::default()).expect("a grant");
            clients.push((matcher.insert(&grant.narrow(&wish)), claims, wish));
        }
        // Checks one list after the other, as the documentation defines.
        let may = |claims: &Claims, event: [&str; 3]| {
            let lists = [&claims.types, &claims.streams, &claims.channels];
            lists.iter().any(|list| list.is_some())
                && lists.iter().zip(event).all(|(list, value)| {
                    list.as_ref().is_none_or(|list| {
                        let is = |text: &String| {
                            text == "*" || crate::filter::Pattern::from(text.as_str()).matches(value)
                        };
                        list.iter().any(is)
                    })
                })
        };
        let mut events = Vec::new();
        for kind in TYPES {
            for stream in STREAMS {
                for channel in CHANNELS {
                    let event = Event::builder(kind).stream(stream).channel(channel).build();
                    let event = event.expect("an event");
                    let gets = |(class, claims, wish): &(_, Claims, Filter)| {
                        (may(claims, [kind, stream, channel]) && wish.matches(&event)).then_some(*class)
                    };
                    let mut expected: Vec<_> = clients.iter().filter_map(gets).collect();
                    expected.sort_unstable();
                    expected.dedup();
                    events.push((event, expected));
                }
            }
        }
        let mut found = Vec::new();
        for _ in 0..5000 {
            let (event, expected) = &events[random(events.len() as u64) as usize];
            matcher.matches(event, &mut found);
            found.sort_unstable();
            assert_eq!(&found, expected, "{event:?} for {clients:?}");
            seen += found.len() as u64;
        }
    }
    assert!(seen > 100_000, "the test would be empty: {seen}");
}

#[test]
fn a_ticket_carries_the_rights_and_the_end_of_its_token() {
    use crate::codec::http::{HttpLimits, parse_request};
    let auth = with_secret();
    let token = SigningKey::hs256(&secret()).sign(&claims()).expect("it signs");
    let grant = auth.verify(&token, at(NOW), &mut Budget::new(u32::MAX)).expect("good").expect("a grant");
    let admit = |ticket: &str, second| {
        let text = format!("GET /sse?ticket={ticket} HTTP/1.1\r\nHost: t\r\n\r\n");
        let parsed = parse_request(text.as_bytes(), &HttpLimits::default()).expect("a request");
        auth.admit(&parsed.expect("whole").0, &[], at(second), &mut Budget::new(u32::MAX))
            .map(|grant| grant.expect("a grant"))
    };
    let (ticket, ttl) = auth.make_ticket(&grant, at(NOW)).expect("room");
    assert_eq!(ttl, 30);
    assert!(Arc::ptr_eq(&admit(&ticket, NOW + 29).expect("good"), &grant));
    assert_eq!(admit(&ticket, NOW + 29).expect_err("used"), Denied::Ticket);
    let (ticket, _) = auth.make_ticket(&grant, at(NOW)).expect("room");
    assert_eq!(admit(&ticket, NOW + 30).expect_err("too old"), Denied::Ticket);
    let (ticket, _) = auth.make_ticket(&grant, at(NOW + 50)).expect("room");
    assert_eq!(admit(&ticket, NOW + 60).expect_err("the token's time is up"), Denied::Expired);
    let (ticket, _) = auth.make_ticket(&grant, at(NOW)).expect("room");
    auth.revoke(Revocation::read(r#"{"sub":"ann"}"#).expect("one"), at(NOW)).expect("room");
    assert_eq!(admit(&ticket, NOW).expect_err("revoked"), Denied::Revoked);
}
