//! How the gateway signs what it sends: HMAC-SHA256 over timestamp, nonce and the raw body. Knows no HTTP and no table.
//!
//! ```text
//! signed text = "{timestamp seconds}.{nonce}." + raw body        signature = "v1=" + hex(HMAC-SHA256(secret, text))
//! ```

use std::fmt;
use std::sync::Arc;

use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

pub const TIMESTAMP_HEADER: &str = "x-gateway-timestamp";
pub const NONCE_HEADER: &str = "x-gateway-nonce";
pub const SIGNATURE_HEADER: &str = "x-gateway-signature";

/// The key the merchant and the gateway share. Never printed.
#[derive(Clone)]
pub struct Secret(Arc<[u8]>);

impl Secret {
    pub fn new(key: impl AsRef<[u8]>) -> Secret {
        Secret(key.as_ref().into())
    }

    pub fn sign(&self, timestamp: &str, nonce: &str, body: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        for part in [timestamp.as_bytes(), b".", nonce.as_bytes(), b".", body] {
            mac.update(part);
        }
        format!("v1={}", hex::encode(mac.finalize().into_bytes()))
    }

    pub fn verify(&self, timestamp: &str, nonce: &str, body: &[u8], signature: &str) -> bool {
        same(self.sign(timestamp, nonce, body).as_bytes(), signature.as_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Compares secrets in time that does not depend on where they differ.
pub fn same(left: &[u8], right: &[u8]) -> bool {
    left.ct_eq(right).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_changed_part_breaks_the_signature() {
        let secret = Secret::new("key");
        let signature = secret.sign("1700000000", "n1", b"{}");
        let cases: [(&str, &str, &[u8], bool); 5] = [
            ("1700000000", "n1", b"{}", true),
            ("1700000001", "n1", b"{}", false),
            ("1700000000", "n2", b"{}", false),
            ("1700000000", "n1", b"{} ", false),
            ("1700000000.n1", "", b"{}", false),
        ];
        for (timestamp, nonce, body, valid) in cases {
            assert_eq!(secret.verify(timestamp, nonce, body, &signature), valid, "{timestamp} {nonce}");
        }
        assert!(!Secret::new("other").verify("1700000000", "n1", b"{}", &signature));
    }
}
