#![expect(clippy::unwrap_used, reason = "tests")]

use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;
use waymark_rt::ManualClock;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(
        UNIX_EPOCH + Duration::from_secs(1_800_000_000),
    ))
}

fn key(clock: &Arc<ManualClock>) -> TokenKey {
    let dir = tempfile::tempdir().unwrap();
    TokenKey::load_or_create(&dir.path().join("token-key"), Arc::clone(clock) as _).unwrap()
}

fn reviews() -> ServiceAccountRef {
    "default/bookinfo-reviews".parse().unwrap()
}

/// A token with any header and claims, signed with the right key.
fn forge(key: &TokenKey, header: &str, claims: &str) -> String {
    let signed = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(claims)
    );
    format!(
        "{signed}.{}",
        URL_SAFE_NO_PAD.encode(hmac::sign(&key.key, signed.as_bytes()))
    )
}

#[test]
fn a_token_names_its_bearer_until_it_ends() {
    let clock = clock();
    let key = key(&clock);
    let token = key.issue(&reviews(), HOUR);
    assert_eq!(key.verify(&token), Ok(reviews()));
    clock.advance(HOUR - Duration::from_secs(1));
    assert_eq!(key.verify(&token), Ok(reviews()));
    clock.advance(Duration::from_secs(1));
    assert_eq!(key.verify(&token), Err(TokenError::Expired));
}

#[test]
fn the_key_is_made_once_and_kept_to_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token-key");
    let clock = clock();
    let token = TokenKey::load_or_create(&path, Arc::clone(&clock) as _)
        .unwrap()
        .issue(&reviews(), HOUR);
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(
        TokenKey::load_or_create(&path, Arc::clone(&clock) as _)
            .unwrap()
            .verify(&token),
        Ok(reviews())
    );
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let e = TokenKey::load_or_create(&path, Arc::clone(&clock) as _).unwrap_err();
    assert!(
        matches!(e, TokenKeyError::Exposed { mode: 0o644, .. }),
        "{e}"
    );
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, "short").unwrap();
    let e = TokenKey::load_or_create(&path, clock).unwrap_err();
    assert!(matches!(e, TokenKeyError::Length { got: 5, .. }), "{e}");
}

#[test]
fn rejects_tokens_of_another_key() {
    let clock = clock();
    let token = key(&clock).issue(&reviews(), HOUR);
    assert_eq!(key(&clock).verify(&token), Err(TokenError::Signature));
}

#[test]
fn rejects_claims_that_are_not_ours_even_when_signed() {
    let key = key(&clock());
    let ok = r#"{"sub":"system:serviceaccount:a:b","aud":"istio-ca","exp":1900000000}"#;
    assert_eq!(
        key.verify(&forge(&key, HEADER, ok)),
        Ok("a/b".parse().unwrap())
    );
    let cases = [
        (r#"{"alg":"none"}"#, ok, TokenError::Algorithm),
        (r#"{"alg":"HS512"}"#, ok, TokenError::Algorithm),
        (
            r#"{"alg":"HS256","crit":["b64"]}"#,
            ok,
            TokenError::Algorithm,
        ),
        ("{}", ok, TokenError::Malformed),
        (HEADER, "[]", TokenError::Malformed),
        (
            HEADER,
            r#"{"sub":"system:serviceaccount:a:b","aud":"istio-ca"}"#,
            TokenError::Malformed,
        ),
        (
            HEADER,
            r#"{"sub":"system:serviceaccount:a:b","aud":"istio-ca","exp":-1}"#,
            TokenError::Malformed,
        ),
        (
            HEADER,
            r#"{"sub":"system:serviceaccount:a:b","aud":"istio-ca","exp":1}"#,
            TokenError::Expired,
        ),
        (
            HEADER,
            r#"{"sub":"system:serviceaccount:a:b","aud":"istio-ca","exp":1900000000,"nbf":1850000000}"#,
            TokenError::NotYet,
        ),
        (
            HEADER,
            r#"{"sub":"system:serviceaccount:a:b","aud":["x","y"],"exp":1900000000}"#,
            TokenError::Audience,
        ),
        (
            HEADER,
            r#"{"sub":"a:b","aud":"istio-ca","exp":1900000000}"#,
            TokenError::Subject,
        ),
        (
            HEADER,
            r#"{"sub":"system:serviceaccount:a","aud":"istio-ca","exp":1900000000}"#,
            TokenError::Subject,
        ),
        (
            HEADER,
            r#"{"sub":"system:serviceaccount:a:b:c","aud":"istio-ca","exp":1900000000}"#,
            TokenError::Subject,
        ),
        (
            HEADER,
            r#"{"sub":"system:serviceaccount:a/b:c","aud":"istio-ca","exp":1900000000}"#,
            TokenError::Subject,
        ),
    ];
    for (header, claims, want) in cases {
        assert_eq!(
            key.verify(&forge(&key, header, claims)),
            Err(want),
            "{header} {claims}"
        );
    }
}

#[test]
fn neither_key_nor_token_is_printed() {
    let clock = clock();
    let key = key(&clock);
    assert_eq!(format!("{key:?}"), "TokenKey(..)");
    let token = format!("{}x", key.issue(&reviews(), HOUR));
    let e = key.verify(&token).unwrap_err();
    assert!(!format!("{e} {e:?}").contains(&token[..20]));
}

#[test]
fn token_files_are_kept_while_they_last() {
    let dir = tempfile::tempdir().unwrap();
    let clock = clock();
    let key = Arc::new(key(&clock));
    let files = TokenFiles::new(&dir.path().join("tokens"), Arc::clone(&key)).unwrap();
    let path = files.ensure(&reviews()).unwrap();
    assert!(path.ends_with("tokens/default.bookinfo-reviews"));
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let first = fs::read_to_string(&path).unwrap();
    assert_eq!(key.verify(&first), Ok(reviews()));
    clock.advance(HOUR);
    files.ensure(&reviews()).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), first);
    clock.advance(HOUR * 12);
    files.ensure(&reviews()).unwrap();
    assert_ne!(fs::read_to_string(&path).unwrap(), first);
    fs::write(&path, "spoiled").unwrap();
    files.ensure(&reviews()).unwrap();
    assert_eq!(
        key.verify(&fs::read_to_string(&path).unwrap()),
        Ok(reviews())
    );
    files.remove(&reviews());
    assert!(!path.exists());
}

proptest! {
    #[test]
    fn a_changed_token_is_never_accepted(at in 0usize..400, with in any::<u8>()) {
        let key = key(&clock());
        let token = key.issue(&reviews(), HOUR);
        let mut bytes = token.clone().into_bytes();
        let at = at % bytes.len();
        bytes[at] = with;
        if let Ok(changed) = String::from_utf8(bytes) && changed != token {
            prop_assert!(key.verify(&changed).is_err());
        }
    }

    #[test]
    fn no_text_panics(text in any::<String>()) {
        prop_assert!(key(&clock()).verify(&text).is_err());
    }
}
