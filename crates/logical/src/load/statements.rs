//! What the definitions of constraints and sequences say, and how a constraint is made in steps that can run next to others.
//!
//! Only forms that are known to give the same catalog rows in steps are taken apart; everything else stays as it stands.

use pgkeep_format::archive::TocEntry;

use super::lexer::{Kind, QualifiedName, Sql};
use crate::quote;

/// Settings of a database that sessions which load it must not have: they say who the session is and what it may do.
const NOT_FOR_LOADS: [&str; 8] = [
    "client_encoding",
    "default_transaction_deferrable",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "role",
    "search_path",
    "session_authorization",
    "session_replication_role",
];

/// The settings that a database has, as commands for a session: `SET …;`. Rows and definitions may depend on them, as money
/// does on `lc_monetary`, long before the database itself gets them.
pub(super) fn session_settings(definition: &[u8], standard_strings: bool) -> Vec<Vec<u8>> {
    let sql = Sql::new(definition, standard_strings);
    let mut settings = Vec::new();
    let mut begin = 0;
    for end in (0..sql.tokens.len()).filter(|index| sql.symbol(*index, b';')) {
        let at = std::mem::replace(&mut begin, end + 1);
        if sql.are(at, &["alter", "database"]) && sql.is(at + 3, "set") {
            let name = sql.name(at + 4).unwrap_or_default().to_ascii_lowercase();
            if !NOT_FOR_LOADS.iter().any(|other| other.as_bytes() == name) {
                settings.extend(definition.get(sql.begin(at + 3)..sql.end(end)).map(<[u8]>::to_vec));
            }
        }
    }
    settings
}

/// A key as an index, and the constraint made of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct KeyInSteps {
    /// `CREATE UNIQUE INDEX …;`
    pub(super) build: Vec<u8>,
    /// `ALTER TABLE … ADD CONSTRAINT … USING INDEX …;`, and what followed the constraint.
    pub(super) attach: Vec<u8>,
}

/// Takes a PRIMARY KEY or UNIQUE apart. None for what an index alone would not make the same: INCLUDE, DEFERRABLE, NULLS
/// NOT DISTINCT, WITHOUT OVERLAPS, exclusion constraints. That the table is not partitioned, the caller knows.
pub(super) fn key_in_steps(definition: &[u8], standard_strings: bool) -> Option<KeyInSteps> {
    let sql = Sql::new(definition, standard_strings);
    let (table, at) = altered_table(&sql)?;
    if !sql.are(at, &["add", "constraint"]) {
        return None;
    }
    let name = sql.name(at + 2)?.into_owned();
    let (words, columns) = match () {
        () if sql.are(at + 3, &["primary", "key"]) => ("PRIMARY KEY", at + 5),
        () if sql.is(at + 3, "unique") => ("UNIQUE", at + 4),
        () => return None,
    };
    if !sql.symbol(columns, b'(') {
        return None;
    }
    let behind_columns = sql.behind_parentheses(columns)?;
    // Plain columns only: 18 has `… WITHOUT OVERLAPS` among them.
    for index in columns + 1..behind_columns - 1 {
        let is_column = (index - columns) % 2 == 1;
        let fits = if is_column { sql.name(index).is_some() } else { sql.symbol(index, b',') };
        if !fits {
            return None;
        }
    }
    let behind = if sql.is(behind_columns, "with") && sql.symbol(behind_columns + 1, b'(') {
        sql.behind_parentheses(behind_columns + 1)?
    } else {
        behind_columns
    };
    if !sql.symbol(behind, b';') {
        return None;
    }
    let table_text = quote::qualified(table.schema.as_deref(), &table.name);
    let name = quote::identifier(&name);
    let columns = definition.get(sql.begin(columns)..sql.end(behind - 1))?;
    let build = [b"CREATE UNIQUE INDEX ", &name[..], b" ON ", &table_text, b" USING btree ", columns, b";\n"];
    let rest = definition.get(sql.end(behind)..)?;
    let attach = [
        b"ALTER TABLE ONLY ",
        &table_text[..],
        b"\n    ADD CONSTRAINT ",
        &name,
        b" ",
        words.as_bytes(),
        b" USING INDEX ",
        &name,
        b";",
        rest,
    ];
    Some(KeyInSteps { build: build.concat(), attach: attach.concat() })
}

/// A foreign key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ForeignKey {
    /// The table that it leads to.
    pub(super) referenced: QualifiedName,
    /// In two steps, unless it was not valid, is not enforced, or is more than one command.
    pub(super) in_steps: Option<ForeignKeyInSteps>,
}

/// A foreign key that is checked later.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ForeignKeyInSteps {
    /// `… NOT VALID;`
    pub(super) add: Vec<u8>,
    /// `ALTER TABLE … VALIDATE CONSTRAINT …;`
    pub(super) validate: Vec<u8>,
}

/// Reads an `ALTER TABLE … ADD CONSTRAINT … FOREIGN KEY`.
pub(super) fn foreign_key(definition: &[u8], standard_strings: bool) -> Option<ForeignKey> {
    let sql = Sql::new(definition, standard_strings);
    let (table, at) = altered_table(&sql)?;
    if !sql.are(at, &["add", "constraint"]) || !sql.are(at + 3, &["foreign", "key"]) {
        return None;
    }
    let name = sql.name(at + 2)?.into_owned();
    let columns_end = sql.behind_parentheses(at + 5)?;
    if !sql.is(columns_end, "references") {
        return None;
    }
    let (referenced, behind) = sql.qualified(columns_end + 1)?;
    let last = sql.tokens.len().checked_sub(1)?;
    let is_one_command = sql.symbol(last, b';') && (behind..last).all(|index| !sql.symbol(index, b';'));
    let is_checked = (behind..last).all(|index| {
        !sql.are(index, &["not", "valid"])
            && !sql.are(index, &["not", "enforced"])
            && !sql.is(index, "period")
    });
    let in_steps = (is_one_command && is_checked).then(|| {
        let table = quote::qualified(table.schema.as_deref(), &table.name);
        ForeignKeyInSteps {
            add: [definition.get(..sql.begin(last)).unwrap_or_default(), b" NOT VALID;\n"].concat(),
            validate: [
                b"ALTER TABLE ONLY ",
                &table[..],
                b"\n    VALIDATE CONSTRAINT ",
                &quote::identifier(&name),
                b";\n",
            ]
            .concat(),
        }
    });
    Some(ForeignKey { referenced, in_steps })
}

/// The table and column that `ALTER SEQUENCE … OWNED BY …` names.
pub(super) fn owner_of_sequence(definition: &[u8], standard_strings: bool) -> Option<QualifiedName> {
    let sql = Sql::new(definition, standard_strings);
    let at = (0..sql.tokens.len()).find(|index| sql.are(*index, &["owned", "by"]))?;
    let (name, behind) = sql.qualified(at + 2)?;
    if sql.symbol(behind, b'.') {
        return Some(name);
    }
    // Archives of old leave the schema to the search path.
    Some(QualifiedName { schema: None, name: name.schema? })
}

/// Whether the entry is a partitioned table. Archives of before 17 do not say; then the definition does.
pub(super) fn is_partitioned(entry: &TocEntry, standard_strings: bool) -> bool {
    if entry.relkind != 0 {
        return entry.relkind == b'p';
    }
    let sql = Sql::new(entry.definition.as_deref().unwrap_or_default(), standard_strings);
    let mut depth = 0_i64;
    (0..sql.tokens.len()).any(|index| {
        depth += i64::from(sql.symbol(index, b'(')) - i64::from(sql.symbol(index, b')'));
        depth == 0 && sql.are(index, &["partition", "by"])
    })
}

/// Whether a crash of the server empties the table.
pub(super) fn is_unlogged(entry: &TocEntry) -> bool {
    entry.definition.as_deref().is_some_and(|text| text.starts_with(b"CREATE UNLOGGED TABLE "))
}

/// The table of `ALTER TABLE [ONLY] …`, and the token behind it.
fn altered_table(sql: &Sql<'_>) -> Option<(QualifiedName, usize)> {
    if !sql.are(0, &["alter", "table"]) {
        return None;
    }
    sql.qualified(if sql.is(2, "only") { 3 } else { 2 })
}

/// The text of the `CREATE DATABASE` with another name.
pub(super) fn create_database(definition: &[u8], name: &[u8], standard_strings: bool) -> Option<Vec<u8>> {
    let sql = Sql::new(definition, standard_strings);
    (sql.are(0, &["create", "database"]) && sql.name(2).is_some())
        .then(|| sql.edited(&[(2, quote::identifier(name))]))
}

/// The tablespace that a `CREATE DATABASE` names, and the command without it.
pub(super) fn tablespace_of_database(sql: &[u8], standard_strings: bool) -> Option<(Vec<u8>, Vec<u8>)> {
    let tokens = Sql::new(sql, standard_strings);
    // Not the third word, which is the database.
    let at =
        (3..tokens.tokens.len()).find(|at| tokens.is(*at, "tablespace") && tokens.symbol(at + 1, b'='))?;
    let name = tokens.name(at + 2)?.into_owned();
    Some((name, tokens.edited(&[(at, Vec::new()), (at + 1, Vec::new()), (at + 2, Vec::new())])))
}

/// Commands about a database with its name replaced: it follows the word DATABASE.
pub(super) fn about_database(definition: &[u8], old: &[u8], new: &[u8], standard_strings: bool) -> Vec<u8> {
    let sql = Sql::new(definition, standard_strings);
    let edits: Vec<_> = (1..sql.tokens.len())
        .filter(|index| {
            sql.is(index - 1, "database")
                && matches!(sql.kind(*index), Some(Kind::Word | Kind::Quoted))
                && sql.name(*index).as_deref() == Some(old)
        })
        .map(|index| (index, quote::identifier(new)))
        .collect();
    sql.edited(&edits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_a_database_are_taken_over_by_sessions_but_for_what_they_are() {
        let definition = b"ALTER DATABASE \"a; b\" IS_TEMPLATE = true;\n\
            ALTER DATABASE \"a; b\" SET \"test.allowed\" TO 'yes; no';\n\
            ALTER DATABASE \"a; b\" SET search_path TO 'x', 'y';\n\
            ALTER DATABASE \"a; b\" SET \"Default_Transaction_Read_Only\" TO 'on';\n\
            ALTER ROLE r IN DATABASE \"a; b\" SET work_mem TO '1GB';\n\
            ALTER DATABASE \"a; b\" SET \"DateStyle\" TO 'iso', 'dmy';\n";
        let settings = session_settings(definition, true);
        let expected: [&[u8]; 2] =
            [b"SET \"test.allowed\" TO 'yes; no';", b"SET \"DateStyle\" TO 'iso', 'dmy';"];
        assert_eq!(settings, expected);
    }

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_tablespace_of_a_database_is_found_and_left_out() {
        let sql =
            b"CREATE DATABASE \"tablespace\" WITH TEMPLATE = template0 TABLESPACE = \"My space\" OID = 5;\n";
        let (name, without) = tablespace_of_database(sql, true).unwrap();
        assert_eq!(text(&name), "My space");
        assert_eq!(
            text(&without).split_whitespace().collect::<Vec<_>>().join(" "),
            "CREATE DATABASE \"tablespace\" WITH TEMPLATE = template0 OID = 5;"
        );
        assert_eq!(tablespace_of_database(b"CREATE DATABASE tablespace WITH TEMPLATE = a;", true), None);
    }

    #[test]
    fn a_plain_key_becomes_an_index_and_a_constraint() {
        let key = key_in_steps(
            b"ALTER TABLE ONLY app.\"T\"\n    ADD CONSTRAINT t_pkey PRIMARY KEY (id, \"B\") WITH (fillfactor='70');\n\nALTER TABLE app.\"T\" CLUSTER ON t_pkey;\n",
            true,
        )
        .unwrap();
        assert_eq!(
            text(&key.build),
            "CREATE UNIQUE INDEX t_pkey ON app.\"T\" USING btree (id, \"B\") WITH (fillfactor='70');\n"
        );
        assert_eq!(
            text(&key.attach),
            "ALTER TABLE ONLY app.\"T\"\n    ADD CONSTRAINT t_pkey PRIMARY KEY USING INDEX t_pkey;\n\nALTER TABLE app.\"T\" CLUSTER ON t_pkey;\n"
        );
    }

    #[test]
    fn other_keys_stay_as_they_stand() {
        for rest in [
            "PRIMARY KEY (a) INCLUDE (b);",
            "UNIQUE (a) DEFERRABLE INITIALLY DEFERRED;",
            "UNIQUE NULLS NOT DISTINCT (a);",
            "PRIMARY KEY (a, b WITHOUT OVERLAPS);",
            "EXCLUDE USING gist (a WITH =);",
            "CHECK ((a > 0));",
        ] {
            let definition = format!("ALTER TABLE ONLY app.t\n    ADD CONSTRAINT c {rest}\n");
            assert_eq!(key_in_steps(definition.as_bytes(), true), None, "{rest}");
        }
    }

    #[test]
    fn a_foreign_key_is_added_and_validated() {
        let key = foreign_key(
            b"ALTER TABLE ONLY app.o\n    ADD CONSTRAINT o_u FOREIGN KEY (u) REFERENCES app.u(id) ON DELETE CASCADE;\n",
            true,
        )
        .unwrap();
        assert_eq!(key.referenced, QualifiedName { schema: Some(b"app".to_vec()), name: b"u".to_vec() });
        let steps = key.in_steps.unwrap();
        assert!(text(&steps.add).ends_with("ON DELETE CASCADE NOT VALID;\n"));
        assert_eq!(text(&steps.validate), "ALTER TABLE ONLY app.o\n    VALIDATE CONSTRAINT o_u;\n");
        for rest in ["NOT VALID", "NOT ENFORCED", "DEFERRABLE NOT VALID"] {
            let definition = format!(
                "ALTER TABLE ONLY app.o ADD CONSTRAINT c FOREIGN KEY (u) REFERENCES app.u(id) {rest};\n"
            );
            assert_eq!(foreign_key(definition.as_bytes(), true).unwrap().in_steps, None, "{rest}");
        }
    }

    #[test]
    fn the_owner_of_a_sequence_is_the_table() {
        let owner = owner_of_sequence(b"ALTER SEQUENCE a.s OWNED BY a.t.id;\n", true).unwrap();
        assert_eq!(owner, QualifiedName { schema: Some(b"a".to_vec()), name: b"t".to_vec() });
    }

    #[test]
    fn a_database_gets_another_name_where_it_is_meant() {
        let made =
            create_database(b"CREATE DATABASE \"My db\" WITH TEMPLATE = template0;\n", b"x y", true).unwrap();
        assert_eq!(text(&made), "CREATE DATABASE \"x y\" WITH TEMPLATE = template0;\n");
        let about = about_database(
            b"ALTER DATABASE d SET x TO 'd';\nALTER ROLE d IN DATABASE d SET y TO '1';\n",
            b"d",
            b"e",
            true,
        );
        assert_eq!(
            text(&about),
            "ALTER DATABASE e SET x TO 'd';\nALTER ROLE d IN DATABASE e SET y TO '1';\n"
        );
    }
}
