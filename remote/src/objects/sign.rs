//! Signatures of requests: AWS' version 4, which Google's interoperable keys use as well.
//!
//! "Authenticating Requests (AWS Signature Version 4)", Amazon S3 API Reference: a hash of the request as both sides see
//! it, keyed by the secret key narrowed to day, region and service. Nothing of the secret is in the request.

use kiln_image::Digest;
use kiln_image::http::{Call, HttpError};
use ring::hmac;

use super::aws::Keys;
use super::credentials::AwsKeys;

/// Who signs for where.
#[derive(Clone, Debug)]
pub(super) struct SigV4 {
    pub(super) keys: Keys,
    pub(super) region: String,
}

/// The service in all signatures: both stores are asked in S3's words.
const SERVICE: &str = "s3";
const ALGORITHM: &str = "AWS4-HMAC-SHA256";

impl SigV4 {
    /// Adds date, digest of the body, and signature. All headers but `authorization` that the call has are signed.
    pub(super) fn sign<'a>(
        &self,
        call: Call<'a>,
        body: &Digest,
        now: jiff::Timestamp,
    ) -> Result<Call<'a>, HttpError> {
        let keys = self.keys.get()?;
        let time = now.strftime("%Y%m%dT%H%M%SZ").to_string();
        let mut call = call.header("x-amz-content-sha256", body.hex()).header("x-amz-date", time.as_str());
        if let Some(session) = &keys.session {
            call = call.header("x-amz-security-token", session.reveal());
        }
        let authorization = self.authorization(&keys, &call, body, &time);
        Ok(call.header("authorization", authorization))
    }

    fn authorization(&self, keys: &AwsKeys, call: &Call<'_>, body: &Digest, time: &str) -> String {
        let mut headers: Vec<(&str, &str)> = call.headers().collect();
        headers.push(("host", call.host()));
        headers.sort_unstable();
        let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let listed: String =
            headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
        let (method, path, body) = (call.method(), call.path(), body.hex());
        // Queries are made as the signature wants them: encoded, sorted, each key with a `=`.
        let query = call.query().unwrap_or_default();
        let canonical = format!("{method}\n{path}\n{query}\n{listed}\n{names}\n{body}");
        let date = time.get(..8).unwrap_or(time);
        let scope = format!("{date}/{}/{SERVICE}/aws4_request", self.region);
        let to_sign = format!("{ALGORITHM}\n{time}\n{scope}\n{}", Digest::of(canonical.as_bytes()).hex());
        let mut key = hmac_sha256(format!("AWS4{}", keys.secret.reveal()).as_bytes(), date.as_bytes());
        for part in [self.region.as_str(), SERVICE, "aws4_request"] {
            key = hmac_sha256(&key, part.as_bytes());
        }
        let signature = hex(&hmac_sha256(&key, to_sign.as_bytes()));
        format!("{ALGORITHM} Credential={}/{scope},SignedHeaders={names},Signature={signature}", keys.id)
    }
}

/// RFC 2104 with SHA-256.
pub(super) fn hmac_sha256(key: &[u8], data: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Secret;
    use super::*;

    /// The examples of "Signature Calculations for the Authorization Header", Amazon S3 API Reference.
    fn example(call: Call<'_>, body: &[u8]) -> String {
        let keys = AwsKeys {
            id: "AKIAIOSFODNN7EXAMPLE".into(),
            secret: Secret::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
            session: None,
        };
        let now = "2013-05-24T00:00:00Z".parse().unwrap();
        let signer = SigV4 { keys: Keys::Given(keys), region: "us-east-1".into() };
        let call = signer.sign(call, &Digest::of(body), now).unwrap();
        let (_, authorization) = call.headers().find(|(name, _)| *name == "authorization").unwrap();
        authorization.rsplit_once("Signature=").unwrap().1.to_owned()
    }

    #[test]
    fn a_get_has_the_signature_of_amazons_example() {
        let call = Call::new("GET", "https://examplebucket.s3.amazonaws.com/test.txt").unwrap();
        assert_eq!(
            example(call.header("range", "bytes=0-9"), b""),
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
    }

    #[test]
    fn a_query_is_signed_as_in_amazons_example() {
        let url = "https://examplebucket.s3.amazonaws.com/?max-keys=2&prefix=J";
        assert_eq!(
            example(Call::new("GET", url).unwrap(), b""),
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
        );
    }

    #[test]
    fn a_put_has_the_signature_of_amazons_example() {
        let call = Call::new("PUT", "https://examplebucket.s3.amazonaws.com/test%24file.text").unwrap();
        let call = call
            .header("date", "Fri, 24 May 2013 00:00:00 GMT")
            .header("x-amz-storage-class", "REDUCED_REDUNDANCY");
        assert_eq!(
            example(call, b"Welcome to Amazon S3."),
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
        );
    }
}
