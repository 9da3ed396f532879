//! Printing of rows: what was measured, its reference, the ratio.

/// Prints one row. `ratio` is value over reference for rates, reference over value for times: larger is better either way.
pub(crate) fn row(what: &str, value: &str, reference: &str, ratio: f64) {
    println!("{what:<58} {value:>18}   {reference:<44} {ratio:>8.2}");
}

/// Prints the line above rows.
pub(crate) fn header() {
    println!("{:<58} {:>18}   {:<44} {:>8}", "what", "measured", "reference, same run", "ratio");
}

/// Bytes over seconds, in MiB/s.
pub(crate) fn rate(bytes: u64, seconds: f64) -> f64 {
    bytes as f64 / f64::from(1 << 20) / seconds.max(1e-9)
}

/// `value` in MiB/s as text.
pub(crate) fn mib_per_second(value: f64) -> String {
    format!("{value:.0} MiB/s")
}

/// The value below which `share` (0 to 1) of `values` lie.
pub(crate) fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len().saturating_sub(1) as f64 * share).round() as usize;
    values.get(at).copied().unwrap_or(f64::NAN)
}
