//! Hides passwords in connection strings before they are shown.

const HIDDEN: &str = "********";

/// The connection string with the values of `password` and `sslpassword` hidden.
pub(crate) fn hide_passwords(conninfo: &str) -> String {
    if conninfo.starts_with("postgresql://") || conninfo.starts_with("postgres://") {
        hide_in_uri(conninfo)
    } else {
        hide_in_keywords(conninfo)
    }
}

fn hide_in_uri(uri: &str) -> String {
    let (base, query) = match uri.split_once('?') {
        Some((base, query)) => (base, Some(query)),
        None => (uri, None),
    };
    // The authority ends at the first slash after `//`; a password may hold no bare `/` or `@`, but be generous.
    let mut shown = match base.split_once("://") {
        Some((scheme, rest)) => match rest.rsplit_once('@') {
            Some((user, host)) => match user.split_once(':') {
                Some((name, _)) => format!("{scheme}://{name}:{HIDDEN}@{host}"),
                None => base.to_owned(),
            },
            None => base.to_owned(),
        },
        None => base.to_owned(),
    };
    if let Some(query) = query {
        let pairs: Vec<String> = query
            .split('&')
            .map(|pair| match pair.split_once('=') {
                Some((name, _)) if is_secret(name) => format!("{name}={HIDDEN}"),
                _ => pair.to_owned(),
            })
            .collect();
        shown.push('?');
        shown.push_str(&pairs.join("&"));
    }
    shown
}

fn hide_in_keywords(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(equals) = rest.find('=') {
        let (before, after) = rest.split_at(equals + 1);
        let name = before[..equals].trim();
        let name = name.rsplit(char::is_whitespace).next().unwrap_or(name);
        let blanks = after.len() - after.trim_start().len();
        let (value, remaining) = after.split_at(blanks + value_length(&after[blanks..]));
        shown.push_str(before);
        shown.push_str(if is_secret(name) { HIDDEN } else { value });
        rest = remaining;
    }
    shown.push_str(rest);
    shown
}

/// Bytes of the value at the start of the text, by libpq's quoting.
fn value_length(text: &str) -> usize {
    let quoted = text.starts_with('\'');
    let mut escaped = false;
    for (position, character) in text.char_indices().skip(usize::from(quoted)) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\'' if quoted => return position + 1,
            blank if !quoted && blank.is_whitespace() => return position,
            _ => {}
        }
    }
    text.len()
}

fn is_secret(name: &str) -> bool {
    matches!(name, "password" | "sslpassword" | "oauth_client_secret")
}

#[cfg(test)]
mod tests {
    use super::hide_passwords;

    #[test]
    fn passwords_are_hidden_in_every_spelling() {
        for (written, shown) in [
            ("orders", "orders"),
            ("host=db password=s3cret user=u", "host=db password=******** user=u"),
            (r"password = 'a b\' c' host=db", "password =******** host=db"),
            ("host=db password='unfinished", "host=db password=********"),
            ("password=", "password=********"),
            ("postgresql://u:p@h/db", "postgresql://u:********@h/db"),
            ("postgresql://u@h/db", "postgresql://u@h/db"),
            ("postgres://h/db?user=u&password=p&port=1", "postgres://h/db?user=u&password=********&port=1"),
        ] {
            assert_eq!(hide_passwords(written), shown);
        }
    }
}
