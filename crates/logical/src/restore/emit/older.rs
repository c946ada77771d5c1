//! What an archive says in words that an older server does not know, in words that it does.
//!
//! Only where nothing is lost by it. An archive that says what the server cannot do is told by the server's own error.

use std::borrow::Cow;

use pgkeep_format::archive::TocEntry;

/// Servers from here on have more than one provider of locales, and a word for it (`CREATE DATABASE`, 15).
const LOCALE_PROVIDERS: u32 = 15;
/// The only provider of those before, named by every archive of PostgreSQL 15 and later.
const ONLY_PROVIDER: &[u8] = b" LOCALE_PROVIDER = libc";

/// The definition of an entry for a server of this major version.
pub(super) fn definition_for(entry: &TocEntry, major: u32) -> Cow<'_, [u8]> {
    let definition = entry.definition.as_deref().unwrap_or_default();
    if entry.desc == "DATABASE" && major < LOCALE_PROVIDERS {
        return without_provider(definition);
    }
    Cow::Borrowed(definition)
}

fn without_provider(definition: &[u8]) -> Cow<'_, [u8]> {
    let (head, options) = definition.split_at(database_name_length(definition));
    match options.windows(ONLY_PROVIDER.len()).position(|window| window == ONLY_PROVIDER) {
        Some(at) => {
            let (before, after) = options.split_at(at);
            let after = after.get(ONLY_PROVIDER.len()..).unwrap_or_default();
            Cow::Owned([head, before, after].concat())
        }
        None => Cow::Borrowed(definition),
    }
}

/// Bytes up to the end of the name in `CREATE DATABASE name …`, which may hold anything when it is quoted.
fn database_name_length(definition: &[u8]) -> usize {
    const COMMAND: &[u8] = b"CREATE DATABASE \"";
    if !definition.starts_with(COMMAND) {
        return 0;
    }
    let mut in_name = true;
    for (at, byte) in definition.iter().enumerate().skip(COMMAND.len()) {
        match byte {
            // Two of them within a name leave and enter it again.
            b'"' => in_name = !in_name,
            b' ' if !in_name => return at,
            _ => {}
        }
    }
    definition.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without(definition: &str) -> String {
        String::from_utf8(without_provider(definition.as_bytes()).into_owned()).unwrap()
    }

    #[test]
    fn the_provider_is_left_out_and_nothing_else() {
        assert_eq!(
            without(
                "CREATE DATABASE d WITH TEMPLATE = template0 ENCODING = 'UTF8' LOCALE_PROVIDER = libc LOCALE = 'C';\n"
            ),
            "CREATE DATABASE d WITH TEMPLATE = template0 ENCODING = 'UTF8' LOCALE = 'C';\n"
        );
        let icu = "CREATE DATABASE d WITH LOCALE_PROVIDER = icu LOCALE = 'C';\n";
        assert_eq!(without(icu), icu);
    }

    #[test]
    fn names_are_left_alone() {
        for name in ["\" LOCALE_PROVIDER = libc\"", "\"a\"\" LOCALE_PROVIDER = libc \"", "\"\"\"\"\"\""] {
            assert_eq!(
                without(&format!("CREATE DATABASE {name} WITH LOCALE_PROVIDER = libc LOCALE = 'C';\n")),
                format!("CREATE DATABASE {name} WITH LOCALE = 'C';\n")
            );
        }
        let open = "CREATE DATABASE \"never closed LOCALE_PROVIDER = libc";
        assert_eq!(without(open), open);
    }
}
