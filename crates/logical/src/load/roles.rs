//! Roles in definitions: which are named, and other names for them.

use std::collections::BTreeSet;

use pgkeep_format::archive::{Text, TocEntry};

use super::lexer::{Kind, Sql};
use crate::quote;

/// Old and new names of roles; the old name `*` stands for every role without one of its own.
#[derive(Debug, Clone, Default)]
pub(super) struct RoleMap {
    named: Vec<(Vec<u8>, Vec<u8>)>,
    others: Option<Vec<u8>>,
}

impl RoleMap {
    pub(super) fn new(pairs: &[(String, String)]) -> RoleMap {
        let mut map = RoleMap::default();
        for (old, new) in pairs {
            let new = new.as_bytes().to_vec();
            if old == "*" {
                map.others = Some(new);
            } else {
                map.named.push((old.as_bytes().to_vec(), new));
            }
        }
        map
    }

    pub(super) fn get<'a>(&'a self, role: &'a [u8]) -> &'a [u8] {
        let named = self.named.iter().find(|(old, _)| old == role).map(|(_, new)| new);
        match named {
            Some(new) => new,
            // Owns the schema `public` in place of whoever owns the database.
            None if role == b"pg_database_owner" => role,
            None => self.others.as_deref().unwrap_or(role),
        }
    }
}

/// The tokens that name roles.
fn places(sql: &Sql<'_>, desc: &[u8]) -> Vec<usize> {
    let mut found = Vec::new();
    let mut begin = 0;
    while begin < sql.tokens.len() {
        let end =
            (begin..sql.tokens.len()).find(|index| sql.symbol(*index, b';')).unwrap_or(sql.tokens.len());
        if desc == b"POLICY" {
            list_behind(sql, begin, end, &["to"], &mut found);
        } else if sql.is(begin, "grant") || sql.is(begin, "revoke") {
            list_behind(sql, begin, end, &["to", "from", "by"], &mut found);
        } else if sql.are(begin, &["alter", "default", "privileges"]) {
            list_behind(sql, begin, end, &["role", "to", "from"], &mut found);
        } else if sql.are(begin, &["set", "session", "authorization"]) {
            list_behind(sql, begin, end, &["authorization"], &mut found);
        } else if sql.are(begin, &["create", "user", "mapping"]) {
            list_behind(sql, begin, end, &["for"], &mut found);
        } else if sql.are(begin, &["alter", "role"]) {
            found.push(begin + 2);
        }
        begin = end + 1;
    }
    found.retain(|index| {
        let is_no_role = ["public", "default", "current_user", "current_role", "session_user"];
        matches!(sql.kind(*index), Some(Kind::Word | Kind::Quoted))
            && !is_no_role.iter().any(|word| sql.is(*index, word))
    });
    found.sort_unstable();
    found.dedup();
    found
}

/// Names in lists behind one of the words, outside of parentheses.
fn list_behind(sql: &Sql<'_>, begin: usize, end: usize, words: &[&str], found: &mut Vec<usize>) {
    let mut depth = 0_i64;
    for index in begin..end {
        depth += i64::from(sql.symbol(index, b'(')) - i64::from(sql.symbol(index, b')'));
        if depth == 0 && words.iter().any(|word| sql.is(index, word)) {
            let mut at = index + 1;
            found.push(at);
            while sql.symbol(at + 1, b',') {
                at += 2;
                found.push(at);
            }
        }
    }
}

/// Whether definitions of the kind may name roles.
fn names_roles(entry: &TocEntry) -> bool {
    matches!(
        &entry.desc[..],
        b"ACL" | b"ACL LANGUAGE" | b"DEFAULT ACL" | b"POLICY" | b"USER MAPPING" | b"DATABASE PROPERTIES"
    )
}

/// Adds the roles that an entry names, its owner where `owners`.
pub(super) fn collect(entry: &TocEntry, owners: bool, standard_strings: bool, into: &mut BTreeSet<Vec<u8>>) {
    let has_owner = owners && entry.drop_statement.as_deref().is_some_and(|drop| !drop.is_empty());
    if let Some(owner) = entry.owner.as_deref().filter(|owner| has_owner && !owner.is_empty()) {
        into.insert(owner.to_vec());
    }
    if names_roles(entry) {
        let sql = Sql::new(entry.definition.as_deref().unwrap_or_default(), standard_strings);
        into.extend(
            places(&sql, &entry.desc)
                .into_iter()
                .filter_map(|index| sql.name(index))
                .map(|name| name.into_owned()),
        );
    }
}

/// Gives the roles that an entry names their other names.
pub(super) fn map(entry: &mut TocEntry, roles: &RoleMap, standard_strings: bool) {
    if let Some(owner) = entry.owner.as_deref().filter(|owner| !owner.is_empty()) {
        entry.owner = Some(Text::from(roles.get(owner)));
    }
    if !names_roles(entry) {
        return;
    }
    let Some(definition) = entry.definition.take() else { return };
    let sql = Sql::new(&definition, standard_strings);
    let edits: Vec<_> = places(&sql, &entry.desc)
        .into_iter()
        .filter_map(|index| {
            let name = sql.name(index)?;
            let new = roles.get(&name);
            (new != &name[..]).then(|| (index, quote::identifier(new)))
        })
        .collect();
    entry.definition = Some(sql.edited(&edits).into());
}

#[cfg(test)]
mod tests {
    use pgkeep_format::archive::{DumpId, Section};

    use super::*;

    fn entry(desc: &str, definition: &str) -> TocEntry {
        let mut entry = TocEntry::new(DumpId(1), desc, "t", Section::None);
        entry.definition = Some(definition.into());
        entry.owner = Some("ann".into());
        entry
    }

    fn mapped(desc: &str, definition: &str, pairs: &[(&str, &str)]) -> String {
        let pairs: Vec<_> = pairs.iter().map(|(old, new)| ((*old).to_owned(), (*new).to_owned())).collect();
        let mut entry = entry(desc, definition);
        map(&mut entry, &RoleMap::new(&pairs), true);
        entry.definition.unwrap().to_lossy().into_owned()
    }

    #[test]
    fn roles_of_privileges_are_mapped_and_columns_of_the_same_name_are_not() {
        assert_eq!(
            mapped(
                "ACL",
                "REVOKE ALL ON TABLE s.ann FROM ann;\nGRANT SELECT(ann) ON TABLE s.ann TO ann WITH GRANT OPTION;\nSET SESSION AUTHORIZATION ann;\nGRANT ALL ON FUNCTION s.f(ann integer) TO PUBLIC;\nRESET SESSION AUTHORIZATION;\n",
                &[("ann", "New ann")],
            ),
            "REVOKE ALL ON TABLE s.ann FROM \"New ann\";\nGRANT SELECT(ann) ON TABLE s.ann TO \"New ann\" WITH GRANT OPTION;\nSET SESSION AUTHORIZATION \"New ann\";\nGRANT ALL ON FUNCTION s.f(ann integer) TO PUBLIC;\nRESET SESSION AUTHORIZATION;\n"
        );
        assert_eq!(
            mapped(
                "DEFAULT ACL",
                "ALTER DEFAULT PRIVILEGES FOR ROLE ann IN SCHEMA s GRANT SELECT ON TABLES TO bob;\n",
                &[("ann", "x"), ("*", "y")]
            ),
            "ALTER DEFAULT PRIVILEGES FOR ROLE x IN SCHEMA s GRANT SELECT ON TABLES TO y;\n"
        );
        assert_eq!(
            mapped(
                "POLICY",
                "CREATE POLICY p ON s.t TO ann, bob USING ((who = CURRENT_USER));\n",
                &[("bob", "z")]
            ),
            "CREATE POLICY p ON s.t TO ann, z USING ((who = CURRENT_USER));\n"
        );
    }

    #[test]
    fn roles_that_are_named_are_found() {
        let mut found = BTreeSet::new();
        let mut table = entry("TABLE", "CREATE TABLE t (a integer DEFAULT 1);\n");
        table.drop_statement = Some("DROP TABLE t;\n".into());
        collect(&table, true, true, &mut found);
        collect(
            &entry("ACL", "GRANT SELECT ON TABLE s.t TO \"Bob\";\nREVOKE ALL ON TABLE s.t FROM PUBLIC;\n"),
            true,
            true,
            &mut found,
        );
        assert_eq!(found, BTreeSet::from([b"Bob".to_vec(), b"ann".to_vec()]));
    }
}
