//! Which part of the namespace a link covers.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use tombolo_core::{BucketPath, Error, Result, TenantPath, check_name};

/// A set of places in the namespace; each covers all that is below it. A place is `""` (everything), `CLUSTER`, `CLUSTER/TENANT` or
/// `CLUSTER/TENANT/BUCKET`.
///
/// Kept in one form: sorted, no place twice, none below another one. So two scopes that cover the same are equal. A scope without places covers
/// nothing; it comes of [`intersect`](Scope::intersect). Text form: places with a comma between; everything is `/`, nothing is the empty text.
/// In JSON a list of places.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Scope(Vec<String>);

impl Scope {
    /// The whole namespace.
    pub fn everything() -> Scope {
        Scope(vec![String::new()])
    }

    /// Of places as a person writes them; a slash at the end is allowed, and `/` is everything. A name that can't be one, and more than three
    /// levels, are [`Invalid`](tombolo_core::ErrorKind::Invalid).
    pub fn parse<T: AsRef<str>>(places: impl IntoIterator<Item = T>) -> Result<Scope> {
        places.into_iter().map(|place| check_place(place.as_ref())).collect::<Result<Vec<_>>>().map(Scope::of)
    }

    /// The places, sorted.
    pub fn places(&self) -> &[String] {
        &self.0
    }

    /// Whether it covers nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `bucket` is covered.
    pub fn covers(&self, bucket: &BucketPath) -> bool {
        self.has_with_above(&bucket.to_string())
    }

    /// Whether `tenant`, or something in it, is covered: whether a peer may know that there is such a tenant.
    pub fn covers_tenant(&self, tenant: &TenantPath) -> bool {
        self.touches(&tenant.to_string())
    }

    /// Whether the cluster, or something in it, is covered: whether a peer may know that there is such a cluster.
    pub fn covers_cluster(&self, cluster: &str) -> bool {
        self.touches(cluster)
    }

    /// What both cover.
    pub fn intersect(&self, other: &Scope) -> Scope {
        let ours = self.0.iter().filter(|place| other.has_with_above(place));
        let theirs = other.0.iter().filter(|place| self.has_with_above(place));
        Scope::of(ours.chain(theirs).cloned().collect())
    }

    /// Of places that were checked.
    fn of(mut places: Vec<String>) -> Scope {
        places.sort_unstable();
        places.dedup();
        let all = Scope(places);
        let kept = all.0.iter().filter(|place| !above(place).any(|above| all.has(above)));
        Scope(kept.cloned().collect())
    }

    fn has(&self, place: &str) -> bool {
        self.0.binary_search_by(|known| known.as_str().cmp(place)).is_ok()
    }

    fn has_with_above(&self, place: &str) -> bool {
        self.has(place) || above(place).any(|above| self.has(above))
    }

    fn touches(&self, place: &str) -> bool {
        let below = format!("{place}/");
        let next = self.0.partition_point(|known| *known < below);
        self.has_with_above(place) || self.0.get(next).is_some_and(|known| known.starts_with(&below))
    }
}

/// The places that `place` lies in, from the nearest to everything.
fn above(place: &str) -> impl Iterator<Item = &str> {
    let root = (!place.is_empty()).then_some("");
    place.rmatch_indices('/').filter_map(|(slash, _)| place.get(..slash)).chain(root)
}

fn check_place(text: &str) -> Result<String> {
    let place = text.strip_suffix('/').unwrap_or(text);
    if place.is_empty() {
        return Ok(String::new());
    }
    let mut levels = 0;
    for name in place.split('/') {
        levels += 1;
        if levels > 3 {
            return Err(Error::invalid(format!(
                "a link covers clusters, tenants and buckets; '{text}' is not CLUSTER[/TENANT[/BUCKET]]"
            )));
        }
        check_name(name)?;
    }
    Ok(place.to_string())
}

impl TryFrom<Vec<String>> for Scope {
    type Error = Error;

    fn try_from(places: Vec<String>) -> Result<Scope> {
        Scope::parse(places)
    }
}

impl From<Scope> for Vec<String> {
    fn from(scope: Scope) -> Vec<String> {
        scope.0
    }
}

impl FromStr for Scope {
    type Err = Error;

    fn from_str(text: &str) -> Result<Scope> {
        if text.is_empty() {
            return Ok(Scope(Vec::new()));
        }
        // A comma too many must not grant everything.
        if text.split(',').any(str::is_empty) {
            return Err(Error::invalid(format!("'{text}' has an empty place; everything is '/'")));
        }
        Scope::parse(text.split(','))
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, place) in self.0.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            write!(f, "{comma}{}", if place.is_empty() { "/" } else { place })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scope(text: &str) -> Scope {
        text.parse().unwrap()
    }

    fn bucket(text: &str) -> BucketPath {
        text.parse().unwrap()
    }

    #[test]
    fn places_cover_what_is_below_them() {
        let some = scope("NewYork,Paris/lab,Rome/lab/raw");
        for covered in ["NewYork/a/b", "Paris/lab/x", "Rome/lab/raw"] {
            assert!(some.covers(&bucket(covered)), "{covered}");
            assert!(Scope::everything().covers(&bucket(covered)));
        }
        // Names that begin like a covered one are others.
        for other in ["NewYork2/a/b", "New/a/b", "Paris/lab2/x", "Paris/la/x", "Rome/lab/raw2", "Rome/lab/ra"] {
            assert!(!some.covers(&bucket(other)), "{other}");
        }
        let tenant = |text: &str| some.covers_tenant(&text.parse().unwrap());
        assert!(tenant("NewYork/any") && tenant("Paris/lab") && tenant("Rome/lab"));
        assert!(!tenant("Paris/other") && !tenant("Rome/la") && !tenant("Rome/lab-2"));
        assert!(some.covers_cluster("NewYork") && some.covers_cluster("Paris") && some.covers_cluster("Rome"));
        assert!(!some.covers_cluster("Rom") && !some.covers_cluster("Rome-2") && !some.covers_cluster("Oslo"));
        let nothing = scope("");
        assert!(nothing.is_empty() && !nothing.covers(&bucket("a/b/c")) && !nothing.covers_cluster("a"));
    }

    #[test]
    fn a_scope_has_one_form() {
        assert_eq!(scope("b/,a/x,a,b/c/d,a/x/y,b"), scope("a,b"));
        assert_eq!(scope("a/x,/"), Scope::everything());
        // '-' sorts before '/', so `a-b` comes between `a` and `a/x`.
        assert_eq!(scope("a/x,a-b,a").places(), ["a", "a-b"]);
        assert_eq!(Scope::everything().to_string(), "/");
        assert_eq!(serde_json::to_string(&scope("b,a/x")).unwrap(), r#"["a/x","b"]"#);
        for bad in ["a/b/c/d", "a//b", "//", "a b", "../a", ",a", "a,", "a,,b", ","] {
            assert!(bad.parse::<Scope>().is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<Scope>(r#"["a/b/c/d"]"#).is_err());
    }

    fn scopes() -> impl Strategy<Value = Scope> {
        let place = prop::collection::vec("[ab](-c)?", 0..=3).prop_map(|names| names.join("/"));
        prop::collection::vec(place, 0..6).prop_map(|places| Scope::parse(places).unwrap())
    }

    proptest! {
        #[test]
        fn the_intersection_covers_what_both_cover(
            one in scopes(),
            other in scopes(),
            place in "[ab](-c)?/[ab](-c)?/[ab](-c)?",
        ) {
            let (place, both) = (bucket(&place), one.intersect(&other));
            prop_assert_eq!(both.covers(&place), one.covers(&place) && other.covers(&place));
            prop_assert_eq!(&both, &other.intersect(&one));
            prop_assert_eq!(&one.intersect(&one), &one);
            prop_assert_eq!(&one.intersect(&Scope::everything()), &one);
            if one.covers(&place) {
                prop_assert!(one.covers_tenant(&place.tenant) && one.covers_cluster(&place.tenant.cluster));
            }
            prop_assert_eq!(both.to_string().parse::<Scope>().unwrap(), both);
        }
    }
}
