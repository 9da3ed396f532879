//! Just enough XML to read S3's answers: elements by name, text unescaped. Nothing here checks well-formedness.

/// The inner text of every element `name`, in document order. Elements of the same name do not nest in S3's answers.
pub fn blocks<'a>(xml: &'a str, name: &str) -> Vec<&'a str> {
    let (open, empty, close) = (format!("<{name}"), format!("<{name}/>"), format!("</{name}>"));
    let mut found = Vec::new();
    let mut rest = xml;
    while let Some(start) = rest.find(&open) {
        let after = &rest[start..];
        if after.starts_with(&empty) {
            found.push("");
            rest = &after[empty.len()..];
            continue;
        }
        let tail = &after[open.len()..];
        // `<Key` must not match `<KeyCount>`.
        if !tail.starts_with('>') && !tail.starts_with(' ') {
            rest = tail;
            continue;
        }
        let Some(begin) = tail.find('>') else { break };
        let inner = &tail[begin + 1..];
        let Some(end) = inner.find(&close) else { break };
        found.push(&inner[..end]);
        rest = &inner[end + close.len()..];
    }
    found
}

/// The unescaped text of the first element `name`.
pub fn text(xml: &str, name: &str) -> Option<String> {
    blocks(xml, name).first().map(|raw| unescape(raw))
}

fn unescape(raw: &str) -> String {
    let named = raw.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&apos;", "'");
    named.replace("&#34;", "\"").replace("&#39;", "'").replace("&amp;", "&")
}

/// `raw` as element text.
pub fn escape(raw: &str) -> String {
    raw.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_told_apart_by_their_whole_name() {
        let xml = "<R><KeyCount>2</KeyCount><C><Key>a&amp;b</Key></C><C><Key/></C><Key x=\"1\">c</Key></R>";
        assert_eq!(blocks(xml, "Key"), ["a&amp;b", "", "c"]);
        assert_eq!(text(xml, "Key").unwrap(), "a&b");
        assert_eq!(text(xml, "KeyCount").unwrap(), "2");
        assert_eq!(text(xml, "Missing"), None);
    }
}
