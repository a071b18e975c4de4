//! How a request proves that its sender has the cluster key, without sending it or anything that is good for longer.
//!
//! A machine gives a nonce (`WWW-Authenticate: Tanist-Key nonce="…"` in a 401, `Tanist-Nonce` after a request that was taken),
//! and the request is sent with `Authorization: Tanist-Key nonce="…", body="…", proof="…"`. The proof is a keyed hash over the
//! nonce, the machine's `host:port`, method, path with query, and the hash of the body: it is good for this request, at this
//! machine, once. No clock is asked.

/// The scheme's name in `Authorization` and `WWW-Authenticate`.
pub const SCHEME: &str = "Tanist-Key";

/// What a proof is made with: derived from the cluster key, which doesn't follow from it.
#[derive(Clone, PartialEq, Eq)]
pub struct OperatorKey([u8; 32]);

impl std::fmt::Debug for OperatorKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

/// The request that a proof is for.
#[derive(Debug, Clone, Copy)]
pub struct Proven<'r> {
    /// As the machine gave it.
    pub nonce: &'r str,
    /// `host:port` of the machine, in lower case and always with the port.
    pub authority: &'r str,
    /// `GET`, `POST`, …
    pub method: &'r str,
    /// The path, with the query.
    pub path: &'r str,
    /// [`body_hash`] of the body.
    pub body: &'r str,
}

/// The hash of a request's body, as it stands in the header.
#[must_use]
pub fn body_hash(body: &[u8]) -> String {
    blake3::hash(body).to_hex().to_string()
}

impl OperatorKey {
    /// The key with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> OperatorKey {
        OperatorKey(bytes)
    }

    fn hash(&self, request: &Proven<'_>) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        let Proven { nonce, authority, method, path, body } = request;
        for part in [nonce, authority, method, path, body] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.finalize()
    }

    /// The value of `Authorization` for this request.
    #[must_use]
    pub fn authorization(&self, request: &Proven<'_>) -> String {
        let Proven { nonce, body, .. } = request;
        format!("{SCHEME} nonce=\"{nonce}\", body=\"{body}\", proof=\"{}\"", self.hash(request).to_hex())
    }

    /// Whether the proof is this key's, compared in constant time.
    #[must_use]
    pub fn is_proof(&self, request: &Proven<'_>, proof: &str) -> bool {
        blake3::Hash::from_hex(proof).is_ok_and(|proof| proof == self.hash(request))
    }
}

/// A parameter of a header such as `Tanist-Key nonce="…", body="…"`.
#[must_use]
pub fn parameter<'h>(header: &'h str, name: &str) -> Option<&'h str> {
    let (_, parameters) = header.split_once(' ')?;
    parameters.split(',').find_map(|parameter| {
        let (found, value) = parameter.trim().split_once('=')?;
        (found == name).then(|| value.trim_matches('"'))
    })
}

/// The nonce of a challenge, if it is one of this scheme.
#[must_use]
pub fn challenge(header: &str) -> Option<&str> {
    let scheme = header.split(' ').next()?;
    if scheme.eq_ignore_ascii_case(SCHEME) { parameter(header, "nonce") } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proof_is_good_for_the_very_request_and_no_other() {
        let key = OperatorKey::from_bytes([7; 32]);
        let body = body_hash(b"{}");
        let request = Proven { nonce: "n", authority: "a:1", method: "POST", path: "/v1/x?y=1", body: &body };
        let header = key.authorization(&request);
        let proof = parameter(&header, "proof").unwrap();
        assert_eq!((parameter(&header, "nonce"), parameter(&header, "body")), (Some("n"), Some(&body[..])));
        assert!(key.is_proof(&request, proof));
        let other = body_hash(b"{ }");
        for changed in [
            Proven { nonce: "m", ..request },
            Proven { authority: "b:1", ..request },
            Proven { method: "PUT", ..request },
            Proven { path: "/v1/x?y=2", ..request },
            Proven { body: &other, ..request },
            // The same bytes, cut elsewhere.
            Proven { nonce: "na", authority: ":1", ..request },
        ] {
            assert!(!key.is_proof(&changed, proof), "{changed:?}");
        }
        assert!(!OperatorKey::from_bytes([8; 32]).is_proof(&request, proof));
        assert!(!key.is_proof(&request, "") && !key.is_proof(&request, "zz"));
        assert_eq!(challenge("Tanist-Key nonce=\"abc\""), Some("abc"));
        assert_eq!(
            (challenge("Bearer"), challenge("Basic nonce=\"abc\""), challenge("")),
            (None, None, None)
        );
    }
}
