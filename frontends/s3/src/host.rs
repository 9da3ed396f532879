//! Buckets that the host of a request names: `BUCKET.DOMAIN`, as most of AWS's SDKs write it unless they are told not to.

use http::header::HOST;
use http::{Extensions, HeaderMap};
use s3s::S3Result;
use s3s::host::{S3Host, VirtualHost};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The domains below which hosts are buckets.
#[derive(Debug, Clone, Default)]
pub(crate) struct Domains(Arc<[String]>);

/// Says of a request that its host names the bucket, which is then not in its path.
#[derive(Debug, Clone)]
pub(crate) struct HostBucket(pub(crate) String);

impl Domains {
    pub(crate) fn new(domains: &[String]) -> Domains {
        Domains(domains.iter().map(|domain| domain.trim_matches('.').to_ascii_lowercase()).collect())
    }

    pub(crate) fn are_none(&self) -> bool {
        self.0.is_empty()
    }

    /// The bucket that a request's `Host` names, as s3s finds it by the same domains.
    pub(crate) fn bucket_of(&self, headers: &HeaderMap) -> Option<HostBucket> {
        let host = headers.get(HOST)?.to_str().ok()?;
        if host.parse::<SocketAddr>().is_ok() || host.parse::<IpAddr>().is_ok() {
            return None;
        }
        self.bucket(host).map(|bucket| HostBucket(bucket.to_owned()))
    }

    fn bucket<'a>(&self, host: &'a str) -> Option<&'a str> {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let found = self.0.iter().filter_map(|domain| {
            let at = name.len().checked_sub(domain.len()).filter(|at| *at > 1)?;
            let (bucket, tail) = (name.get(..at)?, name.get(at..)?);
            bucket.strip_suffix('.').filter(|_| tail.eq_ignore_ascii_case(domain))
        });
        // Of domains inside each other the longest is meant.
        found.min_by_key(|bucket| bucket.len())
    }
}

/// Where an object is, from the request's host on.
pub(crate) fn location(request: &Extensions, bucket: &str, key: &str) -> String {
    let key = percent_encoding::utf8_percent_encode(key, crate::listing::URL_SET);
    match request.get::<HostBucket>() {
        Some(_) => format!("/{key}"),
        None => format!("/{bucket}/{key}"),
    }
}

impl S3Host for Domains {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let bare = VirtualHost::new(host);
        Ok(match self.bucket(host) {
            Some(bucket) => bare.with_bucket(bucket),
            None => bare,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_below_a_domain_are_buckets() {
        let domains = Domains::new(&["S3.example.org".into(), "example.org".into()]);
        for (host, bucket) in [
            ("photos.s3.example.org", Some("photos")),
            ("photos.S3.Example.org:9000", Some("photos")),
            ("my.photos.s3.example.org", Some("my.photos")),
            ("photos.example.org", Some("photos")),
            ("example.org", None),
            ("photosexample.org", None),
            (".example.org", None),
            ("10.0.0.1:9000", None),
            ("localhost:9000", None),
        ] {
            let headers = HeaderMap::from_iter([(HOST, host.parse().unwrap())]);
            assert_eq!(domains.bucket_of(&headers).map(|found| found.0).as_deref(), bucket, "{host}");
            assert_eq!(domains.parse_host_header(host).unwrap().bucket(), bucket, "{host}");
        }
    }
}
