//! The entries in front: encoding, settings, and the database with what is said about it.

use pgkeep_format::archive::{CatalogId, Section};
use pgkeep_tool::{Result, ToolError};

use super::{Definer, Draft};
use crate::dump::model::{Id, Privileges};
use crate::dump::session::{Session, optional, text};
use crate::dump::sql::parse_array;

/// `pg_largeobject`.
const LARGE_OBJECT_TABLE: u32 = 2613;
/// Its index.
const LARGE_OBJECT_INDEX: u32 = 2683;

impl Definer<'_> {
    /// Encoding, strings and search path: whatever reads the dump acts on them at once.
    pub(super) fn first_entries(&mut self, session: &mut Session) -> Result<()> {
        let strings = if self.quoting.standard_strings { "on" } else { "off" };
        let path = session.one("SELECT pg_catalog.current_schemas(false)")?;
        let schemas = parse_array(&path)
            .ok_or_else(|| ToolError::new("could not parse result of current_schemas()"))?;
        let path: Vec<String> = schemas.iter().map(|schema| self.quoting.name(schema)).collect();
        let encoding = self.quoting.literal(&session.encoding.name);
        let path = self.quoting.literal(&path.join(", "));
        for (name, definition) in [
            ("ENCODING", format!("SET client_encoding = {encoding};\n")),
            ("STDSTRINGS", format!("SET standard_conforming_strings = '{strings}';\n")),
            ("SEARCHPATH", format!("SELECT pg_catalog.set_config('search_path', {path}, false);\n")),
        ] {
            self.add(Draft {
                tag: name.to_owned(),
                desc: name,
                section: Some(Section::PreData),
                definition: Some(definition),
                ..Draft::default()
            });
        }
        Ok(())
    }

    pub(super) fn database(&mut self, session: &mut Session) -> Result<()> {
        let locale = match session.version {
            170_000.. => "datlocprovider, datlocale,",
            150_000.. => "datlocprovider, daticulocale AS datlocale,",
            _ => "'c' AS datlocprovider, NULL AS datlocale,",
        };
        let rules = if session.is_at_least(16) { "daticurules" } else { "NULL" };
        let version = if session.is_at_least(15) { "datcollversion" } else { "NULL" };
        let rows = session.query(&format!(
            "SELECT tableoid, oid, datname, datdba, pg_catalog.pg_encoding_to_char(encoding) AS encoding, \
             datcollate, datctype, datacl, pg_catalog.acldefault('d', datdba) AS acldefault, datistemplate, \
             datconnlimit, {locale} {rules} AS daticurules, {version} AS collversion, datfrozenxid, datminmxid, \
             (SELECT spcname FROM pg_catalog.pg_tablespace t WHERE t.oid = dattablespace) AS tablespace, \
             pg_catalog.shobj_description(oid, 'pg_database') AS description FROM pg_catalog.pg_database \
             WHERE datname = pg_catalog.current_database()"
        ))?;
        let row = rows.one()?;
        let database = text(row, "datname")?;
        let name = self.quoting.name(&database);
        let owner = self.model.role(row.parse("datdba")?)?;
        let mut sql = format!("CREATE DATABASE {name} WITH TEMPLATE = template0");
        if self.options.binary_upgrade {
            sql.push_str(&format!(" OID = {} STRATEGY = FILE_COPY", row.text("oid")?));
        }
        let mut option = |word: &str, value: &str| sql.push_str(&format!(" {word} = {value}"));
        option("ENCODING", &self.quoting.literal(row.text("encoding")?));
        let provider = row.text("datlocprovider")?;
        option(
            "LOCALE_PROVIDER",
            match provider {
                "b" => "builtin",
                "c" => "libc",
                "i" => "icu",
                other => return Err(ToolError::new(format!("unrecognized locale provider: {other}"))),
            },
        );
        let (collate, ctype) = (text(row, "datcollate")?, text(row, "datctype")?);
        if !collate.is_empty() && collate == ctype {
            option("LOCALE", &self.quoting.literal(&collate));
        } else {
            if !collate.is_empty() {
                option("LC_COLLATE", &self.quoting.literal(&collate));
            }
            if !ctype.is_empty() {
                option("LC_CTYPE", &self.quoting.literal(&ctype));
            }
        }
        if let Some(locale) = row.optional("datlocale")? {
            let word = if provider == "b" { "BUILTIN_LOCALE" } else { "ICU_LOCALE" };
            option(word, &self.quoting.literal(locale));
        }
        if let Some(rules) = row.optional("daticurules")? {
            option("ICU_RULES", &self.quoting.literal(rules));
        }
        if let Some(version) = row.optional("collversion")?.filter(|_| self.options.binary_upgrade) {
            option("COLLATION_VERSION", &self.quoting.literal(version));
        }
        let tablespace = text(row, "tablespace")?;
        if !tablespace.is_empty() && tablespace != "pg_default" && !self.options.no_tablespaces {
            option("TABLESPACE", &self.quoting.name(&tablespace));
        }
        sql.push_str(";\n");
        let catalog = CatalogId { table_oid: row.parse("tableoid")?, oid: row.parse("oid")? };
        let id = self.add(Draft {
            catalog,
            tag: database.clone(),
            desc: "DATABASE",
            section: Some(Section::PreData),
            definition: Some(sql),
            drop: Some(format!("DROP DATABASE {name};\n")),
            owner: Some(owner.clone()),
            ..Draft::default()
        });
        let description = text(row, "description")?;
        if !description.is_empty() && !self.options.no_comments {
            self.add(Draft {
                tag: format!("DATABASE {name}"),
                desc: "COMMENT",
                definition: Some(format!(
                    "COMMENT ON DATABASE {name} IS {};\n",
                    self.quoting.literal(&description)
                )),
                owner: Some(owner.clone()),
                dependencies: vec![id],
                ..Draft::default()
            });
        }
        let labels = self.label_commands(catalog, |_| Some(format!("DATABASE {name}")));
        if !labels.is_empty() {
            self.add(Draft {
                tag: format!("DATABASE {name}"),
                desc: "SECURITY LABEL",
                definition: Some(labels),
                owner: Some(owner.clone()),
                dependencies: vec![id],
                ..Draft::default()
            });
        }
        let privileges = Privileges {
            current: optional(row, "datacl")?,
            default: text(row, "acldefault")?,
            ..Privileges::default()
        };
        self.database_privileges(&name, &owner, &privileges, id)?;
        let (mut properties, drop) = self.database_properties(
            session,
            &database,
            catalog.oid,
            row.text("datconnlimit")?,
            row.boolean("datistemplate")?,
        )?;
        if self.options.binary_upgrade {
            properties.push_str(&format!(
                "\n-- For binary upgrade, set datfrozenxid and datminmxid.\nUPDATE pg_catalog.pg_database\n\
                 SET datfrozenxid = '{}', datminmxid = '{}'\nWHERE datname = {};\n",
                row.text("datfrozenxid")?,
                row.text("datminmxid")?,
                self.quoting.literal(&database)
            ));
        }
        if !properties.is_empty() {
            self.add(Draft {
                tag: database,
                desc: "DATABASE PROPERTIES",
                section: Some(Section::PreData),
                definition: Some(properties),
                drop: Some(drop),
                owner: Some(owner),
                ..Draft::default()
            });
        }
        if self.options.binary_upgrade {
            self.large_object_files(session)?;
        }
        Ok(())
    }

    /// Large objects are taken over as files: the table that holds them gets those of the old server.
    fn large_object_files(&mut self, session: &mut Session) -> Result<()> {
        let rows = session.query(&format!(
            "SELECT oid, relfilenode, relfrozenxid, relminmxid FROM pg_catalog.pg_class \
             WHERE oid IN ({LARGE_OBJECT_TABLE}, {LARGE_OBJECT_INDEX})"
        ))?;
        let mut files =
            String::from("\n-- For binary upgrade, preserve pg_largeobject and index relfilenodes\n");
        let mut horizons =
            String::from("\n-- For binary upgrade, set pg_largeobject relfrozenxid and relminmxid\n");
        for row in rows.iter() {
            let oid: u32 = row.parse("oid")?;
            let kind = if oid == LARGE_OBJECT_TABLE { "heap" } else { "index" };
            files.push_str(&format!(
                "SELECT pg_catalog.binary_upgrade_set_next_{kind}_relfilenode('{}'::pg_catalog.oid);\n",
                row.text("relfilenode")?
            ));
            horizons.push_str(&format!(
                "UPDATE pg_catalog.pg_class\nSET relfrozenxid = '{}', relminmxid = '{}'\nWHERE oid = {oid};\n",
                row.text("relfrozenxid")?,
                row.text("relminmxid")?
            ));
        }
        self.add(Draft {
            tag: "pg_largeobject".to_owned(),
            desc: "pg_largeobject",
            section: Some(Section::PreData),
            definition: Some(format!("{files}TRUNCATE pg_catalog.pg_largeobject;\n{horizons}")),
            ..Draft::default()
        });
        Ok(())
    }

    fn database_privileges(
        &mut self,
        name: &str,
        owner: &str,
        privileges: &Privileges,
        id: Id,
    ) -> Result<()> {
        let Some(current) = privileges.current.as_deref().filter(|_| !self.options.no_privileges) else {
            return Ok(());
        };
        if !self.options.schema {
            return Ok(());
        }
        let subject = crate::dump::privileges::Subject {
            kind: "DATABASE",
            name,
            column: None,
            schema: "",
            owner,
            prefix: "",
        };
        let commands =
            crate::dump::privileges::commands(self.quoting, &subject, current, &privileges.default)?;
        if !commands.is_empty() {
            self.add(Draft {
                tag: format!("DATABASE {name}"),
                desc: "ACL",
                definition: Some(commands),
                owner: Some(owner.to_owned()),
                dependencies: vec![id],
                ..Draft::default()
            });
        }
        Ok(())
    }

    /// What is set of a database after it was made, and what must be undone before it can be dropped.
    fn database_properties(
        &self,
        session: &mut Session,
        database: &str,
        oid: u32,
        connection_limit: &str,
        template: bool,
    ) -> Result<(String, String)> {
        let name = self.quoting.name(database);
        let mut sql = String::new();
        let mut drop = String::new();
        if connection_limit != "-1" {
            sql.push_str(&format!("ALTER DATABASE {name} CONNECTION LIMIT = {connection_limit};\n"));
        }
        if template {
            sql.push_str(&format!("ALTER DATABASE {name} IS_TEMPLATE = true;\n"));
            drop.push_str(&format!(
                "UPDATE pg_catalog.pg_database SET datistemplate = false WHERE datname = {};\n",
                self.quoting.literal(database)
            ));
        }
        let rows = session.query(&format!(
            "SELECT unnest(setconfig) AS setting FROM pg_catalog.pg_db_role_setting \
             WHERE setrole = 0 AND setdatabase = '{oid}'::pg_catalog.oid"
        ))?;
        let mut set = |target: String, setting: &str| {
            sql.push_str(&self.quoting.alter_setting(&target, setting).unwrap_or_default());
        };
        for row in rows.iter() {
            set(format!("DATABASE {name}"), row.text("setting")?);
        }
        let rows = session.query(&format!(
            "SELECT rolname, unnest(setconfig) AS setting FROM pg_catalog.pg_db_role_setting s, \
             pg_catalog.pg_roles r WHERE setrole = r.oid AND setdatabase = '{oid}'::pg_catalog.oid"
        ))?;
        for row in rows.iter() {
            let role = self.quoting.name(row.text("rolname")?);
            set(format!("ROLE {role} IN DATABASE {name}"), row.text("setting")?);
        }
        Ok((sql, drop))
    }
}
