//! Links of HTML pages that lead to a path of the host behind, made to lead through here.

/// Attributes that hold a link, wherever HTML allows one.
const ATTRIBUTES: [&str; 16] = [
    "action",
    "background",
    "cite",
    "classid",
    "codebase",
    "data",
    "formaction",
    "href",
    "icon",
    "longdesc",
    "manifest",
    "poster",
    "profile",
    "src",
    "srcset",
    "usemap",
];

/// The page with `prefix` before each link that begins with a single slash.
pub(super) fn rewrite(page: &str, prefix: &str) -> String {
    let mut out = String::with_capacity(page.len() + page.len() / 8);
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        out.push_str(&rest[..at]);
        let end = rest[at..].find('>').map_or(rest.len(), |end| at + end + 1);
        tag(&mut out, &rest[at..end], prefix);
        rest = &rest[end..];
    }
    out + rest
}

fn tag(out: &mut String, tag: &str, prefix: &str) {
    let mut rest = tag;
    while let Some(at) = rest.find('=') {
        let name = rest[..at].trim_end();
        let start = name
            .rfind(|c: char| c.is_whitespace() || c == '<')
            .map_or(0, |i| i + 1);
        let is_link = ATTRIBUTES.contains(&name[start..].to_ascii_lowercase().as_str());
        let value = rest[at + 1..].trim_start();
        let begin = rest.len() - value.len();
        let (quote, inner) = match value.chars().next() {
            Some(quote @ ('"' | '\'')) => (Some(quote), begin + 1),
            _ => (None, begin),
        };
        out.push_str(&rest[..inner]);
        let link = &rest[inner..];
        let end = match quote {
            Some(quote) => link.find(quote),
            None => link.find(|c: char| c.is_whitespace() || c == '>'),
        };
        let end = end.unwrap_or(link.len());
        if is_link && link.starts_with('/') && !link.starts_with("//") {
            out.push_str(prefix);
        }
        out.push_str(&link[..end]);
        rest = &link[end..];
    }
    out.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_links_to_paths_of_the_host_are_changed() {
        let page = "<a href=\"/x\" title='/x'>/x</a> <IMG SRC = '/y'> <a href=/z>q</a> <a href=\"//other/x\">\
                    <a href=\"x\"> <a href=\"https://h/\"> a < b = /c";
        let wanted = "<a href=\"/p/x\" title='/x'>/x</a> <IMG SRC = '/p/y'> <a href=/p/z>q</a> <a href=\"//other/x\">\
                      <a href=\"x\"> <a href=\"https://h/\"> a < b = /c";
        assert_eq!(rewrite(page, "/p"), wanted);
    }
}
